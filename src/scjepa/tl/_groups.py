"""Groups of cells, such as sections, as codes."""

from __future__ import annotations

from typing import Any

import numpy as np

ALL_CELLS = "all"
"""Name of the group where no groups are told apart."""


def factorized(groups: Any, n_cells: int) -> tuple[list[str], np.ndarray]:
    """Return the names of the groups, sorted, and each cell's position among them; ``None`` is one group of all.

    Raises
    ------
    ValueError
        If there are not as many entries as cells, or an entry is missing.
    """
    import pandas as pd

    if groups is None:
        return [ALL_CELLS], np.zeros(n_cells, dtype=np.int64)
    if len(groups) != n_cells:
        raise ValueError(f"groups has {len(groups):,} entries, and there are {n_cells:,} cells.")
    values = pd.Series(np.asarray(groups).astype(object))
    missing = np.flatnonzero(values.isna())
    if len(missing):
        raise ValueError(f"{len(missing):,} cells have no group; the first is row {missing[0]}. Give each cell one.")
    codes, names = pd.factorize(values.astype(str), sort=True)
    return list(names), codes.astype(np.int64)
