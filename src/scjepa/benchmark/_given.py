"""What one's own function gave, as an array in the order of the cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scjepa.benchmark.methods._result import MethodError


def part_of(found: Any, cells: pd.Index) -> dict[str, Any]:
    """Return clusters, which have one dimension, or else an embedding.

    Parameters
    ----------
    found
        What the function gave.
    cells
        Names of the cells that it was given, in their order.

    Raises
    ------
    MethodError
        If it is no array, or names other cells.
    """
    if found is None:
        return {"embedding": None}
    if isinstance(found, pd.DataFrame | pd.Series):
        found = _in_order(found, cells)
    values = _array_of(found, len(cells))
    return {"clusters" if values.ndim == 1 else "embedding": values}


def _in_order(table: pd.DataFrame | pd.Series, cells: pd.Index) -> pd.DataFrame | pd.Series:
    """Return rows in the order of the cells that the index names; where it only counts rows, they stay."""
    index = table.index
    counted = isinstance(index, pd.RangeIndex) and (index.start, index.step) == (0, 1)
    if counted or index.equals(cells):
        return table
    what = f"The index of the {type(table).__name__}"
    other, missing = index[~index.isin(cells)].tolist(), cells[~cells.isin(index)].tolist()
    if other:
        raise MethodError(
            f"{what} has {other[0]!r}, which is none of the cells ({cells[0]!r}, ...). Return it with adata.obs_names "
            "as index, or as an array in the order of the cells."
        )
    if missing:
        raise MethodError(f"{what} has {index.nunique()} of {len(cells)} cells; {missing[0]!r} is not among them.")
    twice = [*index[index.duplicated()], *cells[cells.duplicated()]]
    if twice:
        raise MethodError(f"{what} has {twice[0]!r} twice. Return an array in the order of the cells.")
    return table.loc[cells]


def _array_of(found: Any, n_cells: int) -> np.ndarray:
    is_several = isinstance(found, tuple) and len(found) != n_cells and any(np.ndim(part) for part in found)
    if not is_several and not isinstance(found, AnnData | Mapping):
        try:
            return np.asarray(found)
        except ValueError:  # rows of different lengths
            pass
    raise MethodError(
        f"The method returned a {type(found).__name__}; return one array: (n_cells, n_dims) for an embedding, or "
        "(n_cells,) for clusters."
    )
