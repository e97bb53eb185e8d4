#!/usr/bin/env bash
# Make the environment of the peers that benchmarks compare with (CellCharter, Banksy, Novae, GraphST, Harmony):
#
#   bash benchmarks/peers/setup.sh [FOLDER]
#   export SCJEPA_PEERS_PYTHON=FOLDER/bin/python
#
# FOLDER is ~/.cache/scjepa/peers by default: outside the repository, some 3 GB, and rebuilt only when the pinned
# versions change. Settings, all optional:
#   PYTHON               the interpreter to build from (3.11); default: python3.11
#   SCJEPA_TORCH_INDEX   an extra index for PyTorch, such as https://download.pytorch.org/whl/cpu
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
folder="${1:-${XDG_CACHE_HOME:-$HOME/.cache}/scjepa/peers}"
python="${PYTHON:-python3.11}"

say() { printf '[peers] %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

command -v "$python" >/dev/null || die "$python is not there. Name a Python 3.11: PYTHON=/path/to/python3.11 bash $0"

wanted="$(cat "$here/requirements.txt" "$here/constraints.txt" | "$python" -c \
    'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')"
if [[ "$(cat "$folder/.ready" 2>/dev/null)" == "$wanted" ]]; then
    say "ready: $folder/bin/python"
    exit 0
fi

mkdir -p "$folder"
log="$folder/setup.log"
: >"$log"
pip_install() { # WHAT ARGUMENTS...
    say "installing $1 ..."
    shift
    "$folder/bin/python" -m pip install --no-input --disable-pip-version-check --progress-bar off \
        -c "$here/constraints.txt" "$@" >>"$log" 2>&1 ||
        { tail -n 30 "$log" >&2; die "pip failed; the whole log is $log"; }
}

"$folder/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$folder" || die "no venv in $folder"
mkdir -p "$folder"
pip_install "pip" --upgrade "pip>=25.1"
# First and alone: what comes later must find this build, not fetch another.
pip_install "PyTorch" ${SCJEPA_TORCH_INDEX:+--extra-index-url "$SCJEPA_TORCH_INDEX"} torch
pip_install "the peers" -r "$here/requirements.txt"
say "checking that they import ..."
MPLBACKEND=Agg "$folder/bin/python" - <<'PYTHON' >>"$log" 2>&1 || { tail -n 15 "$log" >&2; die "a peer does not import"; }
import banksy.initialize_banksy, cellcharter, harmonypy, novae, scvi, squidpy
from GraphST import GraphST
PYTHON
echo "$wanted" >"$folder/.ready"
say "ready: $folder/bin/python"
say "use it: export SCJEPA_PEERS_PYTHON=$folder/bin/python"
