"""Tables on disk: one ``.npy`` file an array and a description beside them, written whole or not at all.

A folder is written under a hidden name next to its own and renamed in one step, so a reader never finds half a table.
Of two runs that write one folder the first to finish wins, and the other's copy is dropped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scjepa._core.plain import plain

FORMAT = 1
DESCRIPTION = "table.json"

_BLOCK = 2**26
"""Bytes that are read at once for a checksum: a table larger than memory passes through piece by piece."""

_AGAIN = "Delete the folder and run again: the table is then built anew"


def digest(*parts: object) -> str:
    """Return a hash of arrays, strings and values that JSON can hold, in the order given."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype != object:
            state.update(f"{part.dtype.str}{part.shape}".encode())
            for block in _blocks(part):
                state.update(block)
        else:
            values = part.tolist() if isinstance(part, np.ndarray) else part
            state.update(json.dumps(values, sort_keys=True, default=str).encode())
        state.update(b"\0")
    return state.hexdigest()


def _blocks(array: np.ndarray) -> Iterable[memoryview]:
    """Yield the bytes of ``array`` in pieces."""
    flat = array.reshape(-1)
    step = max(1, _BLOCK // max(1, array.itemsize))
    for start in range(0, flat.size, step):
        yield np.ascontiguousarray(flat[start : start + step]).view(np.uint8).data


def _checksum(array: np.ndarray) -> int:
    value = 0
    for block in _blocks(array):
        value = zlib.crc32(block, value)
    return value


def write_table(
    folder: str | Path,
    kind: str,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, object],
    fingerprint: Mapping[str, object] | None = None,
) -> None:
    """Write a table to ``folder``, unless it is there already.

    Parameters
    ----------
    folder
        Folder to make. If it holds a table of this kind and fingerprint, that one is kept.
    kind
        What the table is, ``"tokens"`` or ``"neighbors"``.
    arrays
        The arrays by name.
    facts
        What else the table knows, as JSON can hold it.
    fingerprint
        What the table was made from, by name, as JSON can hold it.

    Raises
    ------
    ValueError
        If the folder holds something else.
    """
    folder = Path(folder)
    if folder.exists():
        read_description(folder, kind, fingerprint)
        return
    description = {
        "format": FORMAT,
        "kind": kind,
        "fingerprint": dict(fingerprint or {}),
        "facts": plain(facts),
        "arrays": {
            name: {"dtype": array.dtype.str, "shape": list(array.shape), "crc32": _checksum(array)}
            for name, array in arrays.items()
        },
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, array in arrays.items():
            np.save(draft / f"{name}.npy", array)
        (draft / DESCRIPTION).write_text(json.dumps(description, indent=1))
        draft.chmod(0o755)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            read_description(folder, kind, fingerprint)  # another run was first
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_description(folder: str | Path, kind: str, fingerprint: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Return the description of the table in ``folder`` after checking that it is the one wanted.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it holds no table, a damaged or newer one, one of another kind, or one made from something else.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}. Write the table there first: table.save(folder).")
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ValueError(f"{folder} holds no {DESCRIPTION}: it is not a table that scjepa wrote. Name another folder.")
    try:
        description = json.loads(path.read_text())
        found_format, found_kind = description["format"], description["kind"]
        found, _, _ = description["fingerprint"], description["facts"], description["arrays"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}. {_AGAIN}.") from error
    if found_format > FORMAT:
        raise ValueError(
            f"{folder} was written by a newer scjepa (table format {found_format}, this version reads {FORMAT}). "
            f"Upgrade scjepa: pip install -U scjepa. Or name another folder."
        )
    if found_kind != kind:
        raise ValueError(f"{folder} holds a table of {found_kind}, not of {kind}. Name another folder.")
    wanted = json.loads(json.dumps(dict(fingerprint or {})))
    for name, value in wanted.items():
        if found.get(name) != value:
            raise ValueError(
                f"The table in {folder} was made from other data or options: its {name} is {found.get(name)!r}, "
                f"expected {value!r}. Name another folder, or delete this one and run again."
            )
    return description


def read_table(
    folder: str | Path, kind: str, mmap: bool = True, fingerprint: Mapping[str, object] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what :func:`write_table` wrote: the arrays by name, and the facts.

    Parameters
    ----------
    mmap
        Map the arrays into memory rather than read them; changes to them then stay in this process.
    fingerprint
        What the table has to have been made from; names that are not given are not compared.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`read_description`, and if an array is missing, truncated or damaged.
    """
    folder = Path(folder)
    description = read_description(folder, kind, fingerprint)
    arrays = {name: _read_array(folder, name, entry, mmap) for name, entry in description["arrays"].items()}
    return arrays, description["facts"]


def _read_array(folder: Path, name: str, entry: Mapping[str, Any], mmap: bool) -> np.ndarray:
    path = folder / f"{name}.npy"
    mapped = mmap and 0 not in entry["shape"]  # nothing cannot be mapped
    try:
        # Copy on write: torch wants arrays it may write to, and the file stays as it is.
        array = np.load(path, mmap_mode="c" if mapped else None, allow_pickle=False)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing. {_AGAIN}.") from error
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged or truncated: {error}. {_AGAIN}.") from error
    if array.dtype.str != entry["dtype"] or list(array.shape) != entry["shape"]:
        raise ValueError(
            f"{path} holds {array.dtype.str} of shape {array.shape}, its description says {entry['dtype']} of shape "
            f"{tuple(entry['shape'])}. {_AGAIN}."
        )
    if _checksum(array) != entry["crc32"]:
        raise ValueError(f"{path} is damaged: its checksum is not the one it was written with. {_AGAIN}.")
    return array
