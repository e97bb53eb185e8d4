"""The read-out of an embedding: groups aligned by z-scores or covariance, then principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core.columns import as_embedding, embedding_of, groups_of, record, refuse_users
from scjepa._core.options import unknown_name

if TYPE_CHECKING:
    from anndata import AnnData

_CONSTANT = 1e-6
"""A dimension whose standard deviation is below this share of its root mean square is rounding noise (float32)."""

ALIGNMENTS = ("scale", "covariance")
"""What groups are made to have in common: mean and variance of each dimension, or the covariance of all as well."""

_SHRINKAGE = 0.1
"""Weight of the mean variance in a group's covariance, so that directions it hardly varies in are not blown up."""


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


def _power(covariance: np.ndarray, exponent: float) -> np.ndarray:
    """Return a power of a symmetric positive definite matrix."""
    variances, axes = np.linalg.eigh(covariance)
    return (axes * variances**exponent) @ axes.T


def _with_one_covariance(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Map each group of centered values so that its covariance becomes the mean of the groups' (CORAL)."""
    rows = [codes == code for code in np.unique(codes)]
    n_dims = values.shape[1]
    found = []
    for group in rows:
        own = values[group].T @ values[group] / group.sum()
        found.append((1 - _SHRINKAGE) * own + _SHRINKAGE * np.trace(own) / n_dims * np.eye(n_dims))
    varied = [np.trace(own) > 0 for own in found]  # a group of one cell is 0 in all dimensions and stays so
    if sum(varied) < 2:
        return values
    common = _power(np.mean([own for own, yes in zip(found, varied, strict=True) if yes], axis=0), 0.5)
    aligned = values.copy()
    for group, own, yes in zip(rows, found, varied, strict=True):
        if yes:
            aligned[group] = values[group] @ _power(own, -0.5) @ common
    return aligned


def principal_axes(centered: np.ndarray, n_comps: int) -> np.ndarray:
    """Return the principal axes of centered values, (n_dims, n_comps), the largest loading of each positive."""
    _, axes = np.linalg.eigh(centered.T @ centered)
    axes = axes[:, ::-1][:, :n_comps]
    largest = np.abs(axes).argmax(axis=0)
    return axes * np.sign(axes[largest, np.arange(axes.shape[1])])


def principal_components(centered: np.ndarray, n_comps: int) -> np.ndarray:
    """Project centered values on their :func:`principal_axes`."""
    return centered @ principal_axes(centered, n_comps)


def readout(embedding: Any, groups: Any = None, n_comps: int | None = 30, align: str = "scale") -> np.ndarray:
    """Z-score an embedding within groups and project it on its principal components.

    Embeddings of several sections differ by a shift and a scale of each dimension (batch effects) that hide what the
    sections share; z-scores within each section remove both. Sections of different technologies also differ in which
    dimensions go together: ``align="covariance"`` removes that as well. Give every method that is compared the same
    read-out.

    Parameters
    ----------
    embedding
        Array of shape (n_cells, n_dims).
    groups
        Group of each cell, such as its section: array of length n_cells. ``None``: all cells are one group.
    n_comps
        Principal components to keep. ``None``, or as many as there are dimensions or more: the z-scores are returned
        unrotated.
    align
        ``"scale"``: z-scores. ``"covariance"``: z-scores, then a linear map of each group after which all groups have
        the mean of their covariances (CORAL; Sun, Feng and Saenko 2016; each covariance shrunk by 0.1 towards a
        multiple of the identity). It presumes that groups consist of the same kinds of cells in like shares. With one
        group the two are the same.

    Returns
    -------
    numpy.ndarray
        float32 of shape (n_cells, min(n_comps, n_dims)). A dimension that is constant within a group is 0 there, and
        so is a group of one cell. The result does not depend on the order of the cells.

    Raises
    ------
    ValueError
        If a value is NaN or infinite, ``groups`` has another length or a missing value, ``n_comps`` is not positive, or
        ``align`` is not known.
    """
    import pandas as pd

    embedding = as_embedding(embedding)
    n_cells, n_dims = embedding.shape
    if n_comps is not None and n_comps < 1:
        raise ValueError(f"n_comps must be positive or None, found {n_comps}.")
    if align not in ALIGNMENTS:
        raise ValueError(unknown_name("align", align, ALIGNMENTS))
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
    if align == "covariance":
        values = _with_one_covariance(values, codes)
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
    align: str = "scale",
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
    align
        ``"scale"`` or ``"covariance"``, what groups are made to have in common; see :func:`readout`.
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
        If a cell has a NaN in the embedding or no group, ``align`` is not known, or ``key_added`` is there and scjepa
        did not write it.
    """
    key = key_added or f"{use_rep}_standardized"
    refuse_users(adata, "obsm", key)
    result = readout(embedding_of(adata, use_rep), groups_of(adata, by), n_comps, align)
    adata.obsm[key] = result
    record(adata, key, slot="obsm", use_rep=use_rep, by=by, n_comps=n_comps, align=align)
