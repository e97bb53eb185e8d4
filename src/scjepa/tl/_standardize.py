"""Embeddings of several sections on one scale: groups aligned by z-scores or covariance, then principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.anndata import as_embedding, embedding_of, groups_of, is_array, record, refuse_users
from scjepa._core.arrays import canonical_order, group_codes, principal_components
from scjepa._core.options import unknown_name
from scjepa._core.renamed import renamed
from scjepa.tl._moments import ALIGNMENTS, covariances_of, map_to, mapped, mean_covariance

if TYPE_CHECKING:
    from anndata import AnnData

    from scjepa._core.arrays import Labels

_CONSTANT = 1e-6
"""A dimension whose standard deviation is below this share of its root mean square is rounding noise (float32)."""


@renamed(by="library_key=")
def standardize(
    data: AnnData | Any,
    use_rep: str = _keys.EMBEDDING,
    *,
    library_key: str | None = None,
    groups: Labels | None = None,
    n_comps: int | None = 30,
    align: str = "scale",
    key_added: str | None = None,
) -> Any:
    """Z-score an embedding within sections and project it on its principal components.

    Embeddings of several sections differ by a shift and a scale of each dimension (batch effects) that hide what the
    sections share; z-scores within each section remove both. Sections of different technologies also differ in which
    dimensions go together: ``align="covariance"`` removes that as well. Give every method that is compared the same
    read-out.

    Parameters
    ----------
    data
        Annotated data with ``obsm[use_rep]``, or the embedding itself, an array of shape (n_cells, n_dims).
    use_rep
        Key in ``adata.obsm`` of the embedding.
    library_key
        Column of ``adata.obs`` within whose groups each dimension is z-scored, such as ``"section"`` or
        ``"technology"``. ``None``: over all cells.
    groups
        Beside an array: the group of each cell, such as its section. ``None``: all cells are one group.
    n_comps
        Principal components to keep. ``None``, or as many as there are dimensions or more: no rotation.
    align
        What groups are made to have in common. ``"scale"``: mean and variance (z-scores). ``"covariance"``: z-scores,
        then a linear map of each group after which all groups have the mean of their covariances (CORAL; Sun, Feng and
        Saenko 2016; each covariance shrunk by 0.1 towards a multiple of the identity). It presumes that groups consist
        of the same kinds of cells in like shares. ``"center"``: means alone. ``"none"``: nothing; each dimension is
        z-scored over all cells. With one group all are the same.
    key_added
        Key in ``adata.obsm`` of the result; default ``f"{use_rep}_standardized"``.

    Returns
    -------
    numpy.ndarray or None
        Of an array: float32 of shape (n_cells, min(n_comps, n_dims)). A dimension that is constant within a group is 0
        there, and so is a group of one cell. The result does not depend on the order of the cells. Of annotated data
        nothing: it is written to ``adata.obsm[key_added]``, and how it was made to
        ``adata.uns["scjepa"][key_added]``.

    Raises
    ------
    KeyError
        If ``use_rep`` or ``library_key`` is not there.
    ValueError
        If a value is NaN or infinite, a cell has no group, ``groups`` has another length, ``n_comps`` is not positive,
        ``align`` is not known, or ``key_added`` is there and scjepa did not write it.

    Examples
    --------
    >>> scjepa.tl.standardize(adata, "X_stjepa", library_key="section")
    >>> scjepa.tl.niches(adata, "X_stjepa_standardized", n_niches=12)
    """
    if is_array(data):
        return standardized(as_embedding(data), groups, n_comps, align)
    key = key_added or f"{use_rep}_standardized"
    refuse_users(data, "obsm", key)
    data.obsm[key] = standardized(embedding_of(data, use_rep), groups_of(data, library_key), n_comps, align)
    record(data, key, slot="obsm", use_rep=use_rep, library_key=library_key, n_comps=n_comps, align=align)
    return None


def standardized(
    embedding: np.ndarray, groups: Labels | None = None, n_comps: int | None = 30, align: str = "scale"
) -> np.ndarray:
    """Return what :func:`standardize` gives of an array."""
    n_cells, n_dims = embedding.shape
    if n_comps is not None and n_comps < 1:
        raise ValueError(f"n_comps must be positive or None, found {n_comps}.")
    if align not in ALIGNMENTS:
        raise ValueError(unknown_name("align", align, ALIGNMENTS))
    codes = np.zeros(n_cells, dtype=np.int64) if groups is None else group_codes(groups, n_cells)[0]
    order = canonical_order(embedding, codes)
    values, codes = embedding[order].astype(np.float64), codes[order]
    values = _aligned(values, np.zeros_like(codes) if align == "none" else codes, align)
    if n_comps is not None and n_comps < n_dims:
        values = principal_components(values, n_comps)
    result = np.empty(values.shape, dtype=np.float32)
    result[order] = values
    return result


def _aligned(values: np.ndarray, codes: np.ndarray, align: str) -> np.ndarray:
    for code in np.unique(codes):
        rows = codes == code
        values[rows] = values[rows] - values[rows].mean(axis=0) if align == "center" else _zscores(values[rows])
    if align == "center":
        return _zscores(values)
    if align == "covariance":
        covariances = covariances_of(values, codes, int(codes.max()) + 1)
        if (np.trace(covariances, axis1=1, axis2=2) > 0).sum() > 1:
            common = mean_covariance(covariances)
            values = mapped(values, np.array([map_to(common, own) for own in covariances]), codes)
    return values


def _zscores(values: np.ndarray) -> np.ndarray:
    # scikit-learn's StandardScaler takes no share of the mean square for rounding noise, which float32 needs.
    centered = values - values.mean(axis=0)
    std = centered.std(axis=0)
    varies = std > _CONSTANT * np.sqrt(np.square(values).mean(axis=0))
    return np.divide(centered, std, out=np.zeros_like(centered), where=varies)
