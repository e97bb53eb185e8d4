"""What to do about values that are no counts: where the raw ones are, and the call that takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core.anndata import counts_of, in_memory, layers_of

if TYPE_CHECKING:
    from anndata import AnnData

_LOOKED_AT = 512
"""Cells that are looked at to tell whether a matrix holds counts."""

_CHUNK = 4096
"""Cells in which genes with NaN are looked for at once."""

NAN, OTHER = "nan", "other"
"""What is wrong with a value: it is NaN; it is negative, infinite or no whole number."""

Advice = Callable[[str], str]
"""From what is wrong with a value to the next call, a sentence."""


def usual_advice(kind: str) -> str:
    """Return what to do about values of which nothing else is known."""
    if kind == NAN:
        return (
            "NaN is what anndata.concat(join='outer') leaves of genes that a panel lacks: join objects with "
            "scjepa.concat, or with fill_value=0."
        )
    return "Pass raw counts, e.g. layer='counts'."


def advice_on(adata: AnnData, layer: str | None, of: str = "adata") -> Advice:
    """Return what tells the next call where values of an AnnData object are no counts. It looks when it is asked.

    Parameters
    ----------
    layer
        Layer that the values were read from; ``None``: ``X``.
    of
        What the object is called.
    """

    def advise(kind: str) -> str:
        counts = counts_of(adata, layer)
        if kind == NAN:
            place = f"{of}.X" if layer is None else f"{of}.layers[{layer!r}]"
            told = about_nan(*genes_with_nan(counts))
            if not isinstance(counts, np.ndarray):
                return told
            return f"{told} Or count them as zeros: {place} = numpy.nan_to_num({place})."
        return _where_counts_are(adata, layer, of)

    return advise


def _where_counts_are(adata: AnnData, layer: str | None, of: str) -> str:
    there = [name for name in layers_of(adata) if name != layer and holds_counts(adata.layers[name])]
    if there:
        return f"Raw counts are in {of}.layers[{there[0]!r}]: pass layer={there[0]!r}."
    if layer is not None and holds_counts(adata.X):
        return f"Raw counts are in {of}.X: leave the layer out."
    if adata.raw is not None and holds_counts(adata.raw.X):
        return (
            f"Raw counts are in {of}.raw: {of} = {of}.raw.to_adata() puts them in X and keeps obs, obsm, obsp and uns."
        )
    names = ", ".join(map(repr, layers_of(adata))) or "none"
    return (
        f"No raw counts are in {of}.X, its layers ({names}) or {of}.raw: take them from the file that these values "
        "were made from."
    )


def about_nan(n_nan: int, n_genes: int) -> str:
    """Return what to do about counts that are NaN in some genes, or in all."""
    if n_nan == n_genes:
        return f"All {n_genes:,} genes have NaN: leave out the cells that were not measured, or pass other counts."
    return (
        f"{n_nan:,} of {n_genes:,} genes have NaN, as anndata.concat(join='outer') leaves genes that a panel lacks. "
        "Join the objects with scjepa.concat, which notes what each technology measured, or with fill_value=0."
    )


def genes_with_nan(counts: Any) -> tuple[int, int]:
    """Return how many genes have NaN in some cell, and how many there are."""
    n_cells, n_genes = counts.shape
    found = np.zeros(n_genes, dtype=bool)
    for start in range(0, n_cells, _CHUNK):
        rows = in_memory(counts[start : start + _CHUNK])
        if hasattr(rows, "tocoo"):
            entries = rows.tocoo()
            found[entries.col[np.isnan(entries.data)]] = True
        else:
            found |= np.isnan(np.asarray(rows)).any(axis=0)
    return int(found.sum()), n_genes


def holds_counts(matrix: Any) -> bool:
    """Return whether a matrix, in memory, on disk or lazy, has whole numbers from 0 on and not zeros alone.

    The first cells tell.
    """
    if matrix is None or len(matrix.shape) != 2 or not matrix.shape[0]:
        return False
    rows = in_memory(matrix[: min(_LOOKED_AT, matrix.shape[0])])
    values = np.asarray(rows.data if hasattr(rows, "tocsr") else rows)
    if values.dtype.kind not in "uif" or not values.size:
        return False
    with np.errstate(invalid="ignore"):
        return bool((values >= 0).all() and (values == np.rint(values)).all() and np.isfinite(values).all()) and bool(
            values.any()
        )
