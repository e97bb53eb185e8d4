#!/usr/bin/env bash
# Set up .venv and run the demo; arguments go to `scjepa demo`, the default is --out demo_out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
# Threads that wait without spinning: on a machine that does other work too, spinning makes each step many times slower.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
[[ $# -gt 0 ]] || set -- --out demo_out
exec .venv/bin/scjepa demo "$@"
