#!/usr/bin/env bash
# Set up .venv and build the documentation into docs/_build/html; a warning is an error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh doc
export MPLBACKEND=Agg
.venv/bin/python -m sphinx -W --keep-going -b html docs docs/_build/html "$@"
echo "open docs/_build/html/index.html; scripts/check_pages.py looks at every page in a browser"
