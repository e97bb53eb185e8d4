"""Words for cells that a model has nothing to read of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scjepa._core.counts import iter_rows


def why_empty(empty: np.ndarray, names: Sequence[str], counts: Any, without: str) -> str:
    """Return why cells have no token: no counts at all, or none of a gene that could be one.

    Parameters
    ----------
    empty
        ``(n_cells,)`` bool, true for at least one cell.
    names
        Of all cells.
    counts
        Raw counts of all cells and genes.
    without
        What the cells of the second kind lack, and the next call.
    """
    counted = np.concatenate([np.diff(rows.indptr) > 0 for _, rows in iter_rows(counts)])
    kinds = (
        (empty & ~counted, "have no counts at all: sc.pp.filter_cells(adata, min_counts=1) drops them."),
        (empty & counted, f"have counts, but {without}"),
    )
    return " ".join(
        f"{cells.sum():,} of them, first {names[int(cells.argmax())]!r}, {text}" for cells, text in kinds if cells.any()
    )
