#!/usr/bin/env bash
# Set up .venv and run the tests, two processes of one thread each; arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh test
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 MPLBACKEND=Agg
exec .venv/bin/python -m pytest -n "${SCJEPA_TEST_PROCESSES:-2}" "$@"
