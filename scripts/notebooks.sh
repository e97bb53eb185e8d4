#!/usr/bin/env bash
# Set up .venv and execute the tutorials in place, or those named as arguments; the documentation shows what they hold.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh doc
# Of other packages, and nothing a reader can mend: docrep's docstrings, a notebook without ipywidgets.
export PYTHONWARNINGS="ignore::SyntaxWarning,ignore:IProgress not found"
shopt -s nullglob
[[ $# -gt 0 ]] || set -- tutorials/*.ipynb
for notebook in "$@"; do
    echo "executing $notebook"
    .venv/bin/jupyter-execute --inplace --timeout=1800 "$notebook"
    .venv/bin/python scripts/strip_progress.py "$notebook"
done
