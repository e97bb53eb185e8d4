"""Shallower sequencing of the same cells, by binomial thinning of their counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scjepa._core.anndata import counts_of, require_anndata
from scjepa._core.counts import NAN, OTHER, advice_on, read_counts

if TYPE_CHECKING:
    from anndata import AnnData


def thin_counts(adata: AnnData, fraction: float, *, layer: str | None = None, seed: int = 0) -> AnnData:
    """Return the cells as if sequenced less deeply: each molecule is kept with probability ``fraction``.

    A count n becomes a draw of Binomial(n, ``fraction``), each by itself, so a cell loses weak genes first, as it does
    to dropout. ``adata`` is not changed.

    Parameters
    ----------
    adata
        Cells × genes with whole, non-negative counts.
    fraction
        Share of the molecules to keep, in (0, 1]; 1 keeps all.
    layer
        Layer of counts. Default: ``X``.
    seed
        Seed of the draws. With one seed and several fractions the draws are not nested.

    Returns
    -------
    AnnData
        A new object with the thinned counts in ``X`` (int32, CSR), and copies of ``obs`` and ``var``. Cells may have no
        count left; they stay.

    Raises
    ------
    ValueError
        If ``fraction`` is not in (0, 1], or a value is negative or not whole.
    KeyError
        If there is no such layer.

    Examples
    --------
    >>> shallow = scjepa.datasets.thin_counts(adata, 0.25)
    """
    import anndata as ad

    require_anndata(adata)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], the share of molecules to keep; found {fraction!r}.")
    counts = read_counts(counts_of(adata, layer))
    wrong = ~((counts.data >= 0) & (counts.data == np.floor(counts.data)))
    if wrong.any():
        cell = int(np.searchsorted(counts.indptr, wrong.argmax(), side="right")) - 1
        value = counts.data[wrong.argmax()]
        raise ValueError(
            f"Molecules can only be drawn from whole, non-negative counts; cell {adata.obs_names[cell]!r} has the "
            f"value {value}. {advice_on(adata, layer)(NAN if np.isnan(value) else OTHER)}"
        )
    drawn = np.random.default_rng(seed).binomial(counts.data.astype(np.int64), fraction).astype(np.int32)
    thinned = sparse.csr_matrix((drawn, counts.indices, counts.indptr), shape=counts.shape)
    thinned.eliminate_zeros()
    return ad.AnnData(thinned, obs=adata.obs.copy(), var=adata.var.copy())
