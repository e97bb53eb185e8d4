#!/usr/bin/env bash
# Write constraints.txt anew: everything that the newest versions of the dependencies install, in a fresh environment.
# Make it with an early release of Python 3.11 (PYTHON=...): what runs on 3.11.2 runs on 3.11.9, and not always the other
# way around. Run `make test docs` with the new file before committing it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install --quiet --upgrade "pip>=25.1"
"${pip[@]}" install --quiet ${SCJEPA_TORCH_INDEX:+--extra-index-url "$SCJEPA_TORCH_INDEX"} "${SCJEPA_TORCH:-torch}"
"${pip[@]}" install --quiet ".[metrics]" --group dev --group doc
{
    echo "# The versions the tests of scjepa pass with (Linux, Python 3.11): every package that scjepa, its extras and its"
    echo "# dependency groups install. Used by scripts/setup.sh; users of the package are not bound by it."
    echo "# Made by \`make lock\`: pip freeze of a fresh environment, without scjepa and without PyTorch's CPU/CUDA suffix."
    "${pip[@]}" freeze --exclude scjepa | grep -v -e '^nvidia-' -e '^cuda-' -e '^triton==' | sed -E 's/^(torch==[^+]+)\+.*/\1/'
} >"$folder/constraints.txt"
mv "$folder/constraints.txt" constraints.txt
