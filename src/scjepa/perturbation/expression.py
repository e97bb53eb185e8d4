"""Expression on the scale on which changes are predicted and scored: logarithms of normalized counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scjepa._core.anndata import column_of, counts_of, require_anndata
from scjepa._core.counts import check_of, iter_rows
from scjepa._core.counts import log_normalized as log_normalized_rows


def cell_sizes(adata: AnnData, layer: str | None = None, size_key: str | None = None) -> np.ndarray:
    """Return what each cell's counts are divided by, ``(n_cells,)`` float64: 0 for cells without counts.

    Parameters
    ----------
    adata
        Cells × genes.
    layer
        Layer of raw counts; default: ``X``.
    size_key
        ``obs`` column of sizes, such as counts over all genes where ``adata`` has a panel of them. Default: the cell's
        sum over the genes of ``adata``.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If a size is not a positive number, or a value cannot be a count.
    """
    if size_key is None:
        sums, check = [], check_of(adata, layer)
        for start, rows in iter_rows(counts_of(adata, layer)):
            check.see(rows, start)
            sums.append(np.asarray(rows.sum(axis=1), dtype=np.float64))
        return np.concatenate(sums)
    then = "Name a column of sizes, or leave size_key out to use the sums of the counts."
    column = pd.to_numeric(column_of(adata, size_key, then), errors="coerce")  # what is no number is NaN
    sizes = column.to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = ~(np.isfinite(sizes) & (sizes > 0))
    if wrong.any():
        cell = int(wrong.argmax())
        raise ValueError(
            f"Cell {adata.obs_names[cell]!r} has the size {float(sizes[cell])!r} in {size_key!r}; sizes are positive. "
            "Leave size_key out to use the sums of the counts."
        )
    return sizes


def target_size(sizes: np.ndarray, target_sum: float | None = None) -> float:
    """Return ``target_sum``, or the median of the sizes of cells that have counts.

    Raises
    ------
    ValueError
        If it is not positive, or no cell has counts.
    """
    if target_sum is not None:
        if not (np.isfinite(target_sum) and target_sum > 0):
            raise ValueError(f"target_sum must be a positive number, or None for the median, found {target_sum!r}.")
        return float(target_sum)
    if not (sizes > 0).any():
        raise ValueError("No cell has counts. Pass raw counts, e.g. layer='counts'.")
    return float(np.median(sizes[sizes > 0]))


def log_scaled(counts: np.ndarray, sizes: np.ndarray, target_sum: float) -> np.ndarray:
    """Return log(1 + count / size · target_sum), float32; sizes as many as counts, none of them 0."""
    return np.log1p(counts * (target_sum / sizes)).astype(np.float32)


def log_normalized(
    adata: AnnData, *, layer: str | None = None, size_key: str | None = None, target_sum: float | None = None
) -> sparse.csr_array:
    """Return log(1 + count / size · target_sum): what :meth:`scjepa.CellJEPA.predict_perturbation` predicts.

    Parameters
    ----------
    adata
        Cells × genes; not changed.
    layer
        Layer of raw counts; default: ``X``.
    size_key
        ``obs`` column of each cell's size. Default: its sum of counts.
    target_sum
        Size to bring all cells to. Default: the median size of the cells that have counts.

    Returns
    -------
    scipy.sparse.csr_array
        ``(n_cells, n_genes)`` float32.

    Raises
    ------
    KeyError, ValueError
        If sizes are missing or not positive, or a value cannot be a count.

    Warns
    -----
    UserWarning
        If values are not whole numbers.
    """
    require_anndata(adata)
    counts = counts_of(adata, layer)
    sizes = cell_sizes(adata, layer, size_key)
    total = target_size(sizes, target_sum)
    parts, check = [], check_of(adata, layer)
    for start, rows in iter_rows(counts):
        check.see(rows, start)
        parts.append(log_normalized_rows(rows, total, sizes[start : start + rows.shape[0]]))
    check.tell()
    return sparse.vstack(parts).tocsr() if len(parts) > 1 else parts[0]
