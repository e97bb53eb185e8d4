"""What users give as arrays, checked once: embeddings, groups of cells, coordinates; and their order and axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from scjepa._core.anndata import as_embedding, refuse_adata

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

    Matrix: TypeAlias = np.ndarray | pd.DataFrame | sparse.spmatrix | sparse.sparray
    Labels: TypeAlias = Sequence[object] | np.ndarray | pd.Series | pd.Categorical | pd.Index
    Ignored: TypeAlias = str | Sequence[object]


LEAVE_OUT = "Leave these cells out before the graph is computed: adata = adata[np.isfinite(coordinates).all(axis=1)]."
"""What to do about cells without a place."""


def varied_embedding(values: object, n_cells: int | None = None, what: str = "the embedding") -> np.ndarray:
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


def group_codes(
    values: Labels, n_cells: int, what: str = "groups", *, as_text: bool = False
) -> tuple[np.ndarray, list[Any]]:
    """Return int64 codes of the groups in sorted order, and their names.

    Parameters
    ----------
    values
        Group of each cell.
    n_cells
        Cells there are.
    what
        What the groups are called in an error.
    as_text
        Names, and their order, are those of text.

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
    column = pd.Series(np.asarray(values, dtype=object))
    missing = np.flatnonzero(column.isna())
    if len(missing):
        raise ValueError(
            f"{len(missing)} cells have no value in {what}; the first is row {missing[0]}. Leave these cells out."
        )
    codes, names = pd.factorize(column.astype(str) if as_text else column, sort=True)
    return codes.astype(np.int64), list(names)


def tissue(coordinates: object, sections: Labels | None, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Return finite float64 coordinates of shape (n_cells, n_axes) and int64 codes of the sections.

    Raises
    ------
    ValueError
        If a length is not ``n_cells``, a coordinate is NaN or infinite, or a cell has no section.
    """
    places = as_embedding(coordinates, what="coordinates", then=LEAVE_OUT).astype(np.float64)
    if len(places) != n_cells:
        raise ValueError(f"coordinates has {len(places)} rows for {n_cells} cells.")
    if sections is None:
        return places, np.zeros(n_cells, dtype=np.int64)
    return places, group_codes(sections, n_cells, "sections")[0]


def canonical_order(embedding: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """Return the order of cells sorted by their coordinates (then group), which shuffling cells does not change."""
    keys = list(embedding.T[::-1])
    if groups is not None:
        keys.insert(0, groups)
    return np.lexsort(keys)


def principal_axes(centered: np.ndarray, n_comps: int) -> np.ndarray:
    """Return the principal axes of centered values, (n_dims, n_comps), the largest loading of each positive."""
    _, axes = np.linalg.eigh(centered.T @ centered)
    return positive(axes[:, ::-1][:, :n_comps])


def principal_components(centered: np.ndarray, n_comps: int) -> np.ndarray:
    """Project centered values on their :func:`principal_axes`."""
    return centered @ principal_axes(centered, n_comps)


def positive(axes: np.ndarray) -> np.ndarray:
    """Return axes (columns) whose loading of largest size is positive."""
    largest = np.abs(axes).argmax(axis=0)
    return axes * np.where(axes[largest, np.arange(axes.shape[1])] < 0, -1.0, 1.0)


def first_components(values: np.ndarray) -> np.ndarray:
    """Return two principal components; the second of an embedding of one dimension is 0."""
    centered = (values - values.mean(axis=0)).astype(np.float64)
    found = principal_components(centered, 2)
    return np.pad(found, [(0, 0), (0, 2 - found.shape[1])])
