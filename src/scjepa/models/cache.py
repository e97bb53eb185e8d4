"""Tables that outlive a session: built once for the same data and options, then mapped from the cache folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from scjepa._core.counts import iter_rows
from scjepa._core.digest import digest
from scjepa._core.settings import settings
from scjepa.tokens.neighborhoods import NeighborTable
from scjepa.tokens.table import TokenTable

Table = TypeVar("Table", TokenTable, NeighborTable)


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


def counts_digest(counts: Any) -> str:
    """Return a hash of a matrix of counts: the same in memory and on disk, for every format and number type."""
    parts = []
    for start, rows in iter_rows(counts):
        lengths = np.diff(rows.indptr).astype(np.int32)
        parts.append(digest(start, lengths, rows.indices.astype(np.int32), rows.data.astype(np.float64)))
    return digest(parts, list(counts.shape))


def graph_digest(*matrices: Any) -> str:
    """Return a hash of sparse matrices, each of which may be ``None``."""
    parts = [None if m is None else digest(m.indptr.astype(np.int64), m.indices, m.data) for m in matrices]
    return digest(parts)
