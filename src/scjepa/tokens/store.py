"""Tables on disk: one safetensors file each, whole or not there, known again by what it was made from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Self, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy import sparse

from scjepa._core.counts import CountMatrix, iter_rows
from scjepa._core.files import digest, whole
from scjepa._core.plain import Facts, plain
from scjepa._core.settings import settings

FORMAT = 2
"""Tables of format 1 were folders of ``.npy`` files; a cache has none of those names, so they are built anew."""

_SIZE = 8
"""Bytes at the beginning of a safetensors file that say how long its header is."""
_DTYPES = {"I16": np.int16, "I32": np.int32, "I64": np.int64, "U16": np.uint16, "F32": np.float32}
"""Types of the arrays of tables, as the header has them."""

_AGAIN = "Delete the file and run again: the table is then built anew"


@dataclass(frozen=True, eq=False)
class StoredTable:
    """Base of tables, dataclasses of arrays and numbers, that can be written to a file and mapped from it."""

    kind: ClassVar[str]

    def save(self, path: str | Path, fingerprint: Mapping[str, object] | None = None) -> None:
        """Write the table to a file, whole or not at all.

        Parameters
        ----------
        path
            File to make. If it holds a table of this kind and fingerprint already, that one is kept.
        fingerprint
            What the table was made from, by name, as JSON can hold it; :meth:`load` compares it.

        Raises
        ------
        ValueError
            If the file holds something else.
        """
        path = Path(path)
        if path.exists():
            _description(path, self.kind, fingerprint)
            return
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        arrays = {name: np.ascontiguousarray(x) for name, x in values.items() if isinstance(x, np.ndarray)}
        about = {
            "format": FORMAT,
            "kind": self.kind,
            "fingerprint": dict(fingerprint or {}),
            "facts": plain({name: x for name, x in values.items() if name not in arrays}),
            "digests": {name: digest(array) for name, array in arrays.items()},
        }
        with whole(path) as draft:
            save_file(arrays, draft, {"scjepa": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path, mmap: bool = True, fingerprint: Mapping[str, object] | None = None) -> Self:
        """Read a table that :meth:`save` wrote.

        Parameters
        ----------
        path
            The file.
        mmap
            Map the arrays into memory rather than read them, so that a table may be larger than memory. Changes to them
            stay in this process.
        fingerprint
            What the table has to have been made from; names that are left out are not compared.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the table is damaged, truncated, foreign, newer than this version, or made from something else.
        """
        path = Path(path)
        about = _description(path, cls.kind, fingerprint)
        arrays = _arrays(path, mmap)
        for name, wanted in about["digests"].items():
            if name not in arrays or digest(arrays[name]) != wanted:
                raise ValueError(f"{path} is damaged: its {name} are not what was written. {_AGAIN}.")
        return cls(**about["facts"], **arrays)


def _description(path: Path, kind: str, fingerprint: Mapping[str, object] | None) -> Facts:
    """Return what the table in a file says of itself, after checking that it is the one wanted."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and a table is a file. Name a file, such as {path}.safetensors.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Write the table there first: table.save(path).")
    try:
        with safe_open(path, framework="numpy") as file:
            found = (file.metadata() or {}).get("scjepa")
        about: Facts = {} if found is None else json.loads(found)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or truncated: {error}. {_AGAIN}.") from error
    if found is None:
        raise ValueError(f"{path} is not a table that scjepa wrote. Name another file.")
    if about["format"] > FORMAT:
        raise ValueError(
            f"{path} was written by a newer scjepa (table format {about['format']}, this version reads {FORMAT}). "
            "Upgrade scjepa: pip install -U scjepa. Or name another file."
        )
    if about["kind"] != kind:
        raise ValueError(f"{path} holds a table of {about['kind']}, not of {kind}. Name another file.")
    for name, value in json.loads(json.dumps(dict(fingerprint or {}))).items():
        made_from = about["fingerprint"].get(name)
        if made_from != value:
            raise ValueError(
                f"The table in {path} was made from other data or options: its {name} is {made_from!r}, expected "
                f"{value!r}. Name another file, or delete this one and run again."
            )
    return about


def _arrays(path: Path, mmap: bool) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file, mapped copy on write: torch wants arrays that it may write to."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_SIZE), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__")
    arrays = {}
    for name, entry in header.items():
        dtype, shape, (first, last) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        if first == last:  # nothing cannot be mapped
            arrays[name] = np.empty(shape, dtype)
            continue
        mapped = np.memmap(path, dtype, "c", offset=_SIZE + length + first, shape=shape)
        arrays[name] = mapped if mmap else np.array(mapped)
    return arrays


Table = TypeVar("Table", bound=StoredTable)


def through_cache(kind: type[Table], marks: Callable[[], dict[str, str]], build: Callable[[], Table]) -> Table:
    """Return the table of ``marks`` from ``scjepa.settings.cache_dir``, built and written there if it is not.

    Without a cache folder the table is built and stays in memory. Each combination of marks has a file of its own, so
    nothing is ever replaced, and several runs may share a cache.

    Parameters
    ----------
    kind
        The class of the table.
    marks
        Gives what the table is made from, by name.
    build
        Makes it.

    Raises
    ------
    ValueError
        If the table in the cache is damaged, foreign or newer than this version.
    """
    if settings.cache_dir is None:
        return build()
    fingerprint = marks()
    file = Path(settings.cache_dir) / f"{kind.kind}-{digest(fingerprint)}.safetensors"
    if not file.exists():
        build().save(file, fingerprint)
    return kind.load(file, mmap=True, fingerprint=fingerprint)


def counts_digest(counts: CountMatrix) -> str:
    """Return a hash of a matrix of counts: the same in memory and on disk, for every format and number type."""
    parts = []
    for start, rows in iter_rows(counts):
        lengths = np.diff(rows.indptr).astype(np.int32)
        parts.append(digest(start, lengths, rows.indices.astype(np.int32), rows.data.astype(np.float64)))
    return digest(parts, list(counts.shape))


def graph_digest(*matrices: sparse.csr_matrix | None) -> str:
    """Return a hash of sparse matrices, each of which may be ``None``."""
    parts = [None if m is None else digest(m.indptr.astype(np.int64), m.indices, m.data) for m in matrices]
    return digest(parts)
