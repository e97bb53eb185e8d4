"""What users give as arrays, checked once: embeddings, groups, coordinates; their order, their axes, and samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def slices(n: int, step: int) -> Iterator[slice]:
    """Yield slices of at most ``step`` rows that make up ``n`` of them."""
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def members(codes: np.ndarray, n_groups: int) -> sparse.csr_array:
    """Return which cells each group has, ones of shape (n_groups, n_cells): its product with values are their sums."""
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(codes)), (codes, np.arange(len(codes)))), (n_groups, len(codes)))


def votes(labels: np.ndarray, n_labels: int) -> np.ndarray:
    """Return how many of each cell's labels, (n_cells, n_voters), are which, (n_cells, n_labels)."""
    at = labels + n_labels * np.arange(len(labels))[:, None]
    return np.bincount(at.ravel(), minlength=n_labels * len(labels)).reshape(len(labels), n_labels)


def correlation(x: np.ndarray, y: np.ndarray, undefined: float = np.nan, least: float = 0.0) -> float:
    """Return Pearson's correlation; ``undefined`` where a side has one value, or varies by no more than ``least``."""
    if len(x) < 2 or np.ptp(x) <= least or np.ptp(y) <= least:
        return undefined
    return float(np.corrcoef(x, y)[0, 1])


# -- a sample of cells that stands for all, drawn block by block from arrays that may lie on disk ----------------------

_ROWS = 65_536
"""Rows that are in memory at one time."""

_PLACES = 256
"""Places of an embedding that are told apart, at most."""

_CELLS_OF_PLACE = 100
"""Cells of the sample that a place has on average, at least."""

_KEPT_OF_PLACE = 4
"""A place keeps as many cells as a fourth of an equal share, where it has them."""


def blocks_of(values: object, what: str = "the embedding") -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row and the values of blocks of an embedding, checked to be finite.

    Parameters
    ----------
    values
        Embedding of shape (n_cells, n_dims) that can be sliced by rows: an array, also a memory-mapped one, a data
        set of an h5ad or a zarr file, a data frame.
    what
        What the values are called in an error.

    Raises
    ------
    ValueError
        If the shape is another, or a value is NaN or infinite.
    TypeError
        If ``values`` cannot be sliced, or is AnnData.
    """
    shape = getattr(values, "shape", None)
    if shape is None:
        values = as_embedding(values, what=what)
        shape = values.shape
    rows: Any = getattr(values, "iloc", values)  # of a data frame, rows by position
    for start in range(0, max(shape[0], 1), _ROWS):
        yield start, as_embedding(rows[start : start + _ROWS], what=what, first=start)


def sketch(values: object, n_cells: int, seed: int = 0) -> np.ndarray:
    """Draw cells so that each place of an embedding keeps some, and the rest by density.

    Places are those of a k-means. A place gets its share of the sample, but a fourth of an equal share at least, or all
    its cells: what is rare and apart keeps enough cells to be a cluster. Which cells are drawn follows from their
    values and the seed, not from their order.

    Parameters
    ----------
    values
        As in :func:`blocks_of`; read six times.
    n_cells
        Cells to draw, about; all cells where there are no more.
    seed
        Seed of the draw.

    Returns
    -------
    numpy.ndarray
        The values of the cells drawn, ``(n_drawn, n_dims)``, in an order that does not depend on that of the cells.
    """
    keys = _keys_of(values, seed)
    if len(keys) <= n_cells:
        return _rows(values, np.argsort(keys, kind="stable"))
    n_places = max(1, min(_PLACES, n_cells // _CELLS_OF_PLACE))
    places = _places_of(values, keys, n_places, n_cells, seed)
    numbers = _shares(np.bincount(places, minlength=n_places), n_cells, n_cells // (_KEPT_OF_PLACE * n_places))
    members = [np.flatnonzero(places == place) for place in range(n_places)]
    lowest = [cells[_lowest(keys[cells], number)] for cells, number in zip(members, numbers, strict=True)]
    drawn = np.concatenate(lowest)
    return _rows(values, drawn[np.argsort(keys[drawn], kind="stable")])


def _places_of(values: object, keys: np.ndarray, n_places: int, n_cells: int, seed: int) -> np.ndarray:
    """Return the place of each cell, by a k-means of cells drawn evenly and of half as many that are far from these.

    Of cells drawn evenly, those of a rare place may have none, and no place then. As in scalable k-means++ the others
    are drawn by their squared distance from the places of the first.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import pairwise_distances_argmin_min

    def fitted(sample: np.ndarray) -> np.ndarray:
        found = MiniBatchKMeans(n_places, random_state=seed, n_init=1, batch_size=4096).fit(sample)
        return found.cluster_centers_

    places, distances = np.empty(len(keys), dtype=np.int16), np.empty(len(keys))

    def assign(centers: np.ndarray) -> None:
        for start, block in blocks_of(values):
            rows = slice(start, start + len(block))
            places[rows], distances[rows] = pairwise_distances_argmin_min(block, centers)

    even = _rows(values, _lowest(keys, n_cells))
    assign(fitted(even))
    uniform = (keys.astype(np.float64) + 1) / 2**64
    waiting = np.divide(-np.log(uniform), distances**2, out=np.full(len(keys), np.inf), where=distances > 0)
    assign(fitted(np.concatenate([even, _rows(values, _lowest(waiting, n_cells // 2))])))
    return places


def _shares(sizes: np.ndarray, n_cells: int, least: int) -> np.ndarray:
    """Return how many cells of each place are drawn: in proportion to its size, but ``least`` or all it has."""
    fixed = np.minimum(sizes, least)
    share = (n_cells - fixed.sum()) / max(int((sizes - fixed).sum()), 1)
    return fixed + np.floor(share * (sizes - fixed)).astype(np.int64)


def _keys_of(values: object, seed: int) -> np.ndarray:
    """Return a random number of each cell, uint64, that follows from its values; equal cells have different ones."""
    import pandas as pd

    parts = [pd.util.hash_pandas_object(pd.DataFrame(block), index=False) for _, block in blocks_of(values)]
    found = np.concatenate([part.to_numpy() for part in parts])
    order = np.argsort(found, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(found[order]) != 0])
    number = np.empty(len(found), dtype=np.uint64)  # which of the cells of equal values a cell is
    number[order] = np.arange(len(found)) - np.repeat(starts, np.diff(np.r_[starts, len(found)]))
    seeded = pd.util.hash_array(number + pd.util.hash_array(np.array([seed], dtype=np.int64)))
    return pd.util.hash_array(found ^ seeded)


def _lowest(keys: np.ndarray, number: int) -> np.ndarray:
    """Return the rows of the lowest of random numbers, in the order of these."""
    if number < len(keys):
        rows = np.argpartition(keys, number)[:number]
        return rows[np.argsort(keys[rows], kind="stable")]
    return np.argsort(keys, kind="stable")


def _rows(values: object, rows: np.ndarray) -> np.ndarray:
    """Return the values of these rows, read block by block."""
    order = np.argsort(rows)
    found: list[np.ndarray] = []
    for start, block in blocks_of(values):
        low, high = np.searchsorted(rows[order], [start, start + len(block)])
        found.append(block[rows[order[low:high]] - start])
    return np.concatenate(found)[np.argsort(order)]
