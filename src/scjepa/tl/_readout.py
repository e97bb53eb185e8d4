"""The read-out of an embedding: z-scores within groups, then principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa.tl._adata import as_embedding, embedding_of, groups_of, record, refuse_users

if TYPE_CHECKING:
    from anndata import AnnData

_CONSTANT = 1e-6
"""A dimension whose standard deviation is below this share of its root mean square is rounding noise (float32)."""


def canonical_order(embedding: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """Return the order of cells sorted by their coordinates (then group), which shuffling cells does not change."""
    keys = list(embedding.T[::-1])
    if groups is not None:
        keys.insert(0, groups)
    return np.lexsort(keys)


def _zscores(values: np.ndarray) -> np.ndarray:
    centered = values - values.mean(axis=0)
    std = centered.std(axis=0)
    varies = std > _CONSTANT * np.sqrt(np.square(values).mean(axis=0))
    return np.divide(centered, std, out=np.zeros_like(centered), where=varies)


def principal_axes(centered: np.ndarray, n_comps: int) -> np.ndarray:
    """Return the principal axes of centered values, (n_dims, n_comps), the largest loading of each positive."""
    _, axes = np.linalg.eigh(centered.T @ centered)
    axes = axes[:, ::-1][:, :n_comps]
    largest = np.abs(axes).argmax(axis=0)
    return axes * np.sign(axes[largest, np.arange(axes.shape[1])])


def principal_components(centered: np.ndarray, n_comps: int) -> np.ndarray:
    """Project centered values on their :func:`principal_axes`."""
    return centered @ principal_axes(centered, n_comps)


def readout(embedding: Any, groups: Any = None, n_comps: int | None = 30) -> np.ndarray:
    """Z-score an embedding within groups and project it on its principal components.

    Embeddings of several sections differ by a shift and a scale of each dimension (batch effects) that hide what the
    sections share; z-scores within each section remove both. Give every method that is compared the same read-out.

    Parameters
    ----------
    embedding
        Array of shape (n_cells, n_dims).
    groups
        Group of each cell, such as its section: array of length n_cells. ``None``: all cells are one group.
    n_comps
        Principal components to keep. ``None``, or as many as there are dimensions or more: the z-scores are returned
        unrotated.

    Returns
    -------
    numpy.ndarray
        float32 of shape (n_cells, min(n_comps, n_dims)). A dimension that is constant within a group is 0 there, and
        so is a group of one cell. The result does not depend on the order of the cells.

    Raises
    ------
    ValueError
        If a value is NaN or infinite, ``groups`` has another length or a missing value, or ``n_comps`` is not positive.
    """
    import pandas as pd

    embedding = as_embedding(embedding)
    n_cells, n_dims = embedding.shape
    if n_comps is not None and n_comps < 1:
        raise ValueError(f"n_comps must be positive or None, found {n_comps}.")
    codes = np.zeros(n_cells, dtype=np.int64)
    if groups is not None:
        if len(groups) != n_cells:
            raise ValueError(f"groups has {len(groups)} entries, the embedding {n_cells} cells.")
        codes = pd.factorize(np.asarray(groups).astype(object), sort=True)[0]
        if (codes < 0).any():
            raise ValueError(f"{(codes < 0).sum()} cells have no group; the first is row {(codes < 0).argmax()}.")

    order = canonical_order(embedding, codes)
    values, codes = embedding[order].astype(np.float64), codes[order]
    for code in np.unique(codes):
        rows = codes == code
        values[rows] = _zscores(values[rows])
    if n_comps is not None and n_comps < n_dims:
        values = principal_components(values, n_comps)
    result = np.empty(values.shape, dtype=np.float32)
    result[order] = values
    return result


def standardize(
    adata: AnnData,
    use_rep: str = "X_stjepa",
    *,
    by: str | None = None,
    n_comps: int | None = 30,
    key_added: str | None = None,
) -> None:
    """Write the read-out of an embedding: z-scores within each group of ``obs[by]``, then principal components.

    See :func:`readout`, which does the same on arrays.

    Parameters
    ----------
    adata
        Annotated data with ``obsm[use_rep]``.
    use_rep
        Key in ``adata.obsm`` of the embedding.
    by
        Column of ``adata.obs`` within whose groups each dimension is z-scored, such as ``"section"`` or
        ``"technology"``. ``None``: over all cells.
    n_comps
        Principal components to keep. ``None``, or as many as there are dimensions or more: no rotation.
    key_added
        Key in ``adata.obsm`` of the result; default ``f"{use_rep}_standardized"``.

    Returns
    -------
    None
        Writes ``adata.obsm[key_added]`` (float32) and ``adata.uns["scjepa"][key_added]`` (how it was made).

    Raises
    ------
    KeyError
        If ``use_rep`` or ``by`` is not there.
    ValueError
        If a cell has a NaN in the embedding or no group, or ``key_added`` is there and scjepa did not write it.
    """
    key = key_added or f"{use_rep}_standardized"
    refuse_users(adata, "obsm", key)
    result = readout(embedding_of(adata, use_rep), groups_of(adata, by), n_comps)
    adata.obsm[key] = result
    record(adata, key, slot="obsm", use_rep=use_rep, by=by, n_comps=n_comps)
