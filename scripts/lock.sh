#!/usr/bin/env bash
# Write the versions that the tests run with anew, each file by itself or all of them:
#
#   bash scripts/lock.sh [FILE ...]
#
#   constraints.txt          the newest versions for Python 3.11, of which scripts/setup.sh makes .venv
#   constraints-newest.txt   the newest for Python 3.12 and 3.13, which the documentation is built with
#   constraints-lowest.txt   the lowest that pyproject.toml allows, on Python 3.11
#
# uv works them out, without installing any. Run the tests with a new file before committing it.
# LOCK_CONSTRAINTS, optional: a file of versions to keep.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check install --quiet "uv>=0.8"

lock() { # FILE PYTHON RESOLUTION GROUPS...: without what PyTorch brings for GPUs and its CPU/CUDA suffix
    local file="$1" python="$2" resolution="$3" group
    shift 3
    local groups=()
    for group in "$@"; do groups+=(--group "$group"); done
    "$folder/venv/bin/uv" pip compile pyproject.toml "${groups[@]}" --quiet --no-header --no-annotate \
        --python-version "$python" --python-platform x86_64-manylinux_2_28 --resolution "$resolution" \
        ${LOCK_CONSTRAINTS:+--constraint "$LOCK_CONSTRAINTS"} --output-file "$folder/found.txt"
    {
        sed '/^[^#]/,$d' "$file" # the file says itself what it is
        grep -v -e '^nvidia-' -e '^cuda-' -e '^triton==' "$folder/found.txt" | sed -E 's/^(torch==[^+]+)\+.*/\1/'
    } >"$folder/new.txt"
    mv "$folder/new.txt" "$file"
    rm "$folder/found.txt"
}

[[ $# -gt 0 ]] || set -- constraints.txt constraints-newest.txt constraints-lowest.txt
for file in "$@"; do
    case "$file" in
        # An early release: what runs on 3.11.2 runs on 3.11.9, and not always the other way around.
        constraints.txt) lock "$file" 3.11.2 highest dev doc ;;
        constraints-newest.txt) lock "$file" 3.12 highest dev doc ;;
        constraints-lowest.txt) lock "$file" 3.11.2 lowest-direct test ;;
        *) echo "there is no $file to lock" >&2; exit 2 ;;
    esac
done
