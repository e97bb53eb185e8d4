"""What closed-form predictions are given: expression, mean profiles of conditions, and vectors of perturbed genes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scjepa._core.anndata import column_of, counts_of, require_anndata
from scjepa._core.arrays import members
from scjepa._core.counts import check_of, iter_rows
from scjepa._core.counts import log_normalized as log_normalized_rows
from scjepa._core.warn import warn
from scjepa.perturbation.conditions import CONTROL, Conditions, canonical

if TYPE_CHECKING:
    from scjepa._core.arrays import Matrix


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


@dataclass(frozen=True)
class ConditionProfiles:
    """Measured mean expression of conditions: what :class:`PerturbationStack` is fitted on.

    Attributes
    ----------
    means
        Conditions × genes, control not among them.
    control
        Mean expression of control, by gene.
    noise
        Sampling variance of ``means``: variance of cells over their number; conditions × genes.
    n_cells
        Cells of each condition, control among them.
    target_sum
        The size that expression was normalized to, where that is known.
    """

    means: pd.DataFrame
    control: pd.Series
    noise: pd.DataFrame
    n_cells: pd.Series
    target_sum: float | None = None

    @classmethod
    def of(
        cls,
        expression: Matrix,
        codes: np.ndarray,
        names: Sequence[str],
        genes: Sequence[str],
        target_sum: float | None = None,
    ) -> Self:
        """Summarize cells × genes of log-normalized expression; ``codes`` are places of cells' conditions in ``names``.

        Conditions without cells are left out. The variance of a single cell is that of the cells of all conditions.
        """
        matrix, n = sparse.csr_array(expression, dtype=np.float64), len(names)
        of_condition = members(codes, n)
        counts = np.bincount(codes, minlength=n)
        there, divisor = counts > 0, np.maximum(counts, 1)[:, None]
        means = (of_condition @ matrix).toarray() / divisor
        squares = np.maximum((of_condition @ matrix.power(2)).toarray() / divisor - means**2, 0.0)
        usual = (squares * counts[:, None]).sum(axis=0) / max(1, len(codes) - int(there.sum()))
        variance = np.where(divisor > 1, squares * divisor / np.maximum(divisor - 1, 1), usual)
        table = pd.DataFrame(means, list(names), list(genes))
        kept = [name for name, some in zip(names, there, strict=True) if some and name != CONTROL]
        noise = pd.DataFrame(variance / divisor, list(names), list(genes))
        sizes = pd.Series(counts, list(names))[there]
        return cls(table.loc[kept], table.loc[CONTROL], noise.loc[kept], sizes, target_sum)


def condition_profiles(
    adata: AnnData,
    condition_key: str = "condition",
    *,
    conditions: Iterable[str] | None = None,
    layer: str | None = None,
    size_key: str | None = None,
    target_sum: float | None = None,
) -> ConditionProfiles:
    """Return mean profiles of the conditions of a screen, log(1 + count / size · target_sum).

    Parameters
    ----------
    adata
        Cells × genes, raw counts; not changed.
    condition_key
        ``obs`` column of conditions: ``"ctrl"``, ``"A+ctrl"`` (or ``"A"``), ``"A+B"``.
    conditions
        Conditions to summarize, such as ``split.train``; control comes in any case. Cells of others are not looked at.
        Default: all.
    layer, size_key, target_sum
        As in :func:`log_normalized`; the median is that of the cells that are summarized.

    Raises
    ------
    KeyError
        If a column is not there.
    ValueError
        If a condition has no cells, there is no control, conditions are in another grammar, a gene occurs twice, or
        values are no counts.

    Warns
    -----
    UserWarning
        If cells have no counts; they are left out.
    """
    found = Conditions.of_adata(adata, condition_key)
    if not adata.var_names.is_unique:
        raise ValueError("Gene names of the screen are not unique: adata.var_names_make_unique().")
    wanted = list(found.names) if conditions is None else [CONTROL, *map(canonical, conditions)]
    absent = [name for name in wanted if name not in found.names]
    if absent:
        raise ValueError(
            f"No cell of adata.obs[{condition_key!r}] has the condition {absent[0]!r} ({len(absent)} have none); there "
            f"are {', '.join(map(repr, found.names[:5]))}. Leave them out of conditions=..."
        )
    cells = found.cells(wanted)
    part = adata[cells].to_memory() if adata.isbacked else adata[cells]
    sizes = cell_sizes(part, layer, size_key)
    total, empty = target_size(sizes, target_sum), sizes == 0
    if empty.any():
        warn(f"{empty.sum():,} cells have no counts, first {str(part.obs_names[empty.argmax()])!r}; they are left out.")
        part, cells = part[~empty], cells[~empty]
        if not (found.codes[cells] == found.control).any():
            raise ValueError("No control cell has counts. Changes are measured from control cells.")
    expression = log_normalized(part, layer=layer, size_key=size_key, target_sum=total)
    return ConditionProfiles.of(expression, found.codes[cells], found.names, list(adata.var_names), total)


def gene_set_vectors(sets: Mapping[str, Iterable[str]], genes: Iterable[str]) -> pd.DataFrame:
    """Return vectors of genes by the gene sets that have them, for ``PerturbationStack().fit(..., vectors=...)``.

    Genes of the same pathways tend to do alike when they are perturbed. A set counts by the logarithm of how rare it
    is, log(genes in any set / genes in the set).

    Parameters
    ----------
    sets
        Genes by the name of the set, such as :func:`scjepa.datasets.read_gmt` reads them.
    genes
        Perturbed genes, of training and of conditions to predict. Those in no set are like no other.

    Returns
    -------
    pandas.DataFrame
        Genes × sets that have at least one of them.

    Raises
    ------
    ValueError
        If no gene is in a set.
    """
    wanted = list(dict.fromkeys(map(str, genes)))
    members = {name: set(map(str, each)) for name, each in sets.items()}
    known = set().union(*members.values()) if members else set()
    if not known.intersection(wanted):
        of_sets = ", ".join(map(repr, sorted(known)[:3])) or "none"
        raise ValueError(
            f"None of {len(wanted)} genes, first {wanted[0] if wanted else None!r}, is in one of {len(members)} sets, "
            f"which name {of_sets}. Take sets that call genes as conditions do: symbols or Ensembl ids, of one species."
        )
    found = {
        name: np.array([gene in each for gene in wanted]) * np.log(len(known) / len(each))
        for name, each in members.items()
        if each.intersection(wanted)
    }
    return pd.DataFrame(found, index=wanted, dtype=np.float64)
