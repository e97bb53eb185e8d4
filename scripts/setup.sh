#!/usr/bin/env bash
# Make .venv ready: the package (editable), and the dependency groups named as arguments (test, dev, doc).
#
#   bash scripts/setup.sh [GROUP ...]
#
# Calling it again costs nothing until pyproject.toml or the pinned versions change. Settings, all optional:
#   PYTHON               the interpreter to build .venv from (3.11 to 3.13); default: python3.11, python3.12, python3.13,
#                        python3, the first that will do
#   SCJEPA_CONSTRAINTS   the file of versions to install; default: constraints.txt on Python 3.11, constraints-newest.txt
#                        on newer ones; constraints-lowest.txt has the lowest that pyproject.toml allows
#   SCJEPA_TORCH_INDEX   an extra index for PyTorch; without an NVIDIA GPU, https://download.pytorch.org/whl/cpu
#                        saves gigabytes of CUDA libraries
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
log="$venv/setup.log"

say() { printf '[setup] %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

is_usable() { # PYTHON: new enough, and able to make environments
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate
    if [[ -n "${PYTHON:-}" ]]; then
        is_usable "$PYTHON" && { echo "$PYTHON"; return; }
        command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON is not a program."
        die "PYTHON=$PYTHON is not a Python 3.11 or newer with the venv module ($("$PYTHON" --version 2>&1 | head -n 1))."
    fi
    for candidate in python3.11 python3.12 python3.13 python3; do
        is_usable "$candidate" && { echo "$candidate"; return; }
    done
    if python3.11 --version >/dev/null 2>&1; then
        die "python3.11 lacks the venv module. On Debian and Ubuntu: apt-get install python3.11-venv"
    fi
    die "No Python 3.11 or newer found ($(python3 --version 2>&1 | head -n 1)). Install one, or name it: PYTHON=/path/to/python3.11 make ..."
}

fingerprint() { # what an installation depends on; the folder too, as .venv cannot be moved
    { echo "$root"; cat "$root/pyproject.toml" "$constraints"; } | "$venv/bin/python" -c \
        'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}

install() { # WHAT ARGUMENTS...: pip, its output kept in the log and shown only if it fails
    # Modules are compiled when they are first imported: of 22,000, most never are, and compiling all takes a minute and a half.
    local what="$1" begin="$SECONDS"
    shift
    say "installing $what ..."
    if ! "$venv/bin/python" -m pip install --no-input --no-compile --disable-pip-version-check --progress-bar off \
        -c "$constraints" "$@" >>"$log" 2>&1; then
        grep -v -e 'is ignored' -e 'already satisfied' "$log" | tail -n 30 >&2
        die "pip could not install $what; the whole log is $log"
    fi
    say "installing $what: done in $((SECONDS - begin)) s"
}

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python="$(find_python)"
    say "making $venv with $("$python" --version); the first time takes some minutes"
    "$python" -m venv --clear "$venv"
fi

newest="$("$venv/bin/python" -c 'import sys; print("" if sys.version_info < (3, 12) else "-newest")')"
constraints="$root/${SCJEPA_CONSTRAINTS:-constraints$newest.txt}"
[[ -f "$constraints" ]] || die "SCJEPA_CONSTRAINTS=${SCJEPA_CONSTRAINTS:-}: there is no $constraints"
wanted="$(fingerprint)"
missing=()
for group in package "$@"; do
    [[ "$(cat "$venv/.ready-$group" 2>/dev/null)" == "$wanted" ]] || missing+=("$group")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

cd "$root"
: >"$log"
if [[ "${missing[0]}" == package ]]; then
    # PyTorch comes first and alone, so that its index is asked for nothing else. --group needs pip 25.1.
    install "pip" --upgrade "pip>=25.1"
    install "PyTorch" ${SCJEPA_TORCH_INDEX:+--extra-index-url "$SCJEPA_TORCH_INDEX"} torch
fi
groups=()
for group in "${missing[@]}"; do
    [[ "$group" == package ]] || groups+=(--group "$group")
done
install "scjepa and what it needs (${missing[*]})" -e . ${groups[@]+"${groups[@]}"}
for group in "${missing[@]}"; do
    echo "$wanted" >"$venv/.ready-$group"
done
say "ready: $venv"
