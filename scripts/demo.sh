#!/usr/bin/env bash
# Set up .venv and run the demo; arguments go to `scjepa demo`, the default is --out demo_out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
[[ $# -gt 0 ]] || set -- --out demo_out
exec .venv/bin/scjepa demo "$@"
