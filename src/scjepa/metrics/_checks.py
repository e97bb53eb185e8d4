"""What the metrics take, checked once: embeddings, groups of cells, coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np

from scjepa._core.anndata import refuse_adata
from scjepa._core.columns import as_embedding


def varied_embedding(values: Any, n_cells: int | None = None, what: str = "the embedding") -> np.ndarray:
    """Return a finite array of shape (n_cells, n_dims) in which not all cells are the same.

    Raises
    ------
    ValueError
        If a value is NaN or infinite, the number of cells is not ``n_cells``, or all cells have the same embedding.
    """
    embedding = as_embedding(values, what=what)
    if n_cells is not None and len(embedding) != n_cells:
        raise ValueError(f"{what} has {len(embedding)} cells, {n_cells} were expected: give one row for every cell.")
    if len(embedding) > 1 and (embedding == embedding[0]).all():
        raise ValueError(
            f"All {len(embedding)} cells have the same values in {what}, so nothing can be measured in it. "
            "The model may have collapsed: see model.diagnose()."
        )
    return embedding


def group_codes(values: Any, n_cells: int, what: str) -> tuple[np.ndarray, list[Any]]:
    """Return int64 codes of the groups in sorted order, and their names.

    Raises
    ------
    ValueError
        If the length is not ``n_cells`` or a cell has no group.
    TypeError
        If ``values`` is AnnData.
    """
    import pandas as pd

    refuse_adata(values, what)
    if len(values) != n_cells:
        raise ValueError(f"{what} has {len(values)} entries for {n_cells} cells.")
    codes, names = pd.factorize(pd.Series(np.asarray(values, dtype=object)), sort=True)
    missing = np.flatnonzero(codes < 0)
    if len(missing):
        raise ValueError(
            f"{len(missing)} cells have no value in {what}; the first is row {missing[0]}. Leave these cells out."
        )
    return codes.astype(np.int64), list(names)


def tissue(coordinates: Any, sections: Any, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Return finite float64 coordinates of shape (n_cells, n_axes) and int64 codes of the sections.

    Raises
    ------
    ValueError
        If a length is not ``n_cells``, a coordinate is NaN or infinite, or a cell has no section.
    """
    places = as_embedding(coordinates, what="coordinates").astype(np.float64)
    if len(places) != n_cells:
        raise ValueError(f"coordinates has {len(places)} rows for {n_cells} cells.")
    if sections is None:
        return places, np.zeros(n_cells, dtype=np.int64)
    return places, group_codes(sections, n_cells, "sections")[0]
