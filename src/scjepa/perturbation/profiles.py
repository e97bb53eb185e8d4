"""Mean profiles of conditions and how far to trust them, and vectors of perturbed genes: what a stack is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scjepa.perturbation.conditions import CONTROL, Conditions, canonical
from scjepa.perturbation.expression import cell_sizes, log_normalized, target_size

if TYPE_CHECKING:
    from scjepa._core.arrays import Matrix


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
        of_condition = sparse.csr_array((np.ones(len(codes)), (codes, np.arange(len(codes)))), (n, len(codes)))
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
        If a condition has no cells, there is no control, conditions are in another grammar, or values are no counts.
    """
    found = Conditions.of_adata(adata, condition_key)
    wanted = list(found.names) if conditions is None else [CONTROL, *map(canonical, conditions)]
    absent = [name for name in wanted if name not in found.names]
    if absent:
        raise ValueError(
            f"No cell of adata.obs[{condition_key!r}] has the condition {absent[0]!r} ({len(absent)} have none); there "
            f"are {', '.join(map(repr, found.names[:5]))}. Leave them out of conditions=..."
        )
    cells = found.cells(wanted)
    part = adata[cells].to_memory() if adata.isbacked else adata[cells]
    total = target_size(cell_sizes(part, layer, size_key), target_sum)
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
