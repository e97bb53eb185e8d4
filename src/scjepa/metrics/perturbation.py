"""Scores of predicted perturbations, as GEARS and cell-eval define them, on mean profiles of conditions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scjepa._core.arrays import correlation
from scjepa._core.checks import one_of

if TYPE_CHECKING:
    from scjepa._core.arrays import Matrix

NAN_RULES = ("zero", "omit")
"""What a correlation counts for that is not defined, one side being constant."""

_ROUNDING = 1e-6
"""Differences below this share of control's highest mean are rounding: what differs by no more is constant."""


@dataclass(frozen=True)
class PerturbationReference:
    """What was measured, and which genes scores look at.

    Attributes
    ----------
    means
        Mean expression, conditions × genes, control not among them.
    control
        Mean expression of control, by gene.
    de
        The ``n_top`` genes of each condition that differ most from control: those of the largest absolute t of Welch's
        t-test on cells (``scanpy.tl.rank_genes_groups(method="t-test", rankby_abs=True)``).
    de_non_dropout
        The first ``n_top`` of that ranking that are no dropouts. A gene is a dropout of a condition if its mean is 0
        there and not 0 in control.
    n_top
        Genes in each of these lists, at most.
    """

    means: pd.DataFrame
    control: pd.Series
    de: Mapping[str, tuple[str, ...]]
    de_non_dropout: Mapping[str, tuple[str, ...]]
    n_top: int = 20


def perturbation_reference(
    expression: Matrix, conditions: Sequence[str], genes: Sequence[str], *, control: str = "ctrl", n_top: int = 20
) -> PerturbationReference:
    """Summarize measured cells: mean profiles and the genes that differ.

    Parameters
    ----------
    expression
        ``(n_cells, n_genes)`` log-normalized expression, dense or sparse.
    conditions
        ``(n_cells,)`` names of conditions.
    genes
        ``(n_genes,)`` names.
    control
        The condition that others are compared with.
    n_top
        Genes in the lists of those that differ.

    Raises
    ------
    ValueError
        If shapes do not fit, a gene is named twice, expression has NaN, control is not there, or a condition has fewer
        than two cells.
    """
    labels = np.asarray(conditions).astype(str)
    matrix = sparse.csr_matrix(expression) if sparse.issparse(expression) else np.asarray(expression)
    if matrix.shape != (len(labels), len(genes)):
        raise ValueError(f"expression is {matrix.shape}; there are {len(labels)} conditions and {len(genes)} genes.")
    _check_expression(matrix, genes)
    names, counts = np.unique(labels, return_counts=True)
    if control not in names:
        raise ValueError(f"No cell has the condition {control!r}; found {', '.join(map(repr, names[:5]))}.")
    if counts.min() < 2:
        few = str(names[counts.argmin()])
        raise ValueError(f"The condition {few!r} has one cell; a t-test takes two. Leave it out.")
    means = {str(name): np.asarray(matrix[labels == name].mean(axis=0)).ravel() for name in names}
    base = means.pop(control)
    ranked = _ranked(matrix, labels, genes, control, list(means))
    table = pd.DataFrame.from_dict(means, orient="index", columns=list(genes)).astype(np.float64)
    kept = {}
    for name, order in ranked.items():
        dropout = set(np.asarray(genes, dtype=object)[(means[name] == 0) & (base != 0)])
        kept[name] = tuple(gene for gene in order if gene not in dropout)[:n_top]
    top = {name: order[:n_top] for name, order in ranked.items()}
    return PerturbationReference(table, pd.Series(base, index=list(genes), dtype=np.float64), top, kept, n_top)


def _check_expression(matrix: Matrix, genes: Sequence[str]) -> None:
    """Raise if a gene is named twice or an expression is no number: scores would be silently of something else."""
    named, counts = np.unique(np.asarray(genes).astype(str), return_counts=True)
    if named.size and counts.max() > 1:
        raise ValueError(
            f"The gene {str(named[counts.argmax()])!r} is there {counts.max()} times. Call "
            "adata.var_names_make_unique(), or keep one of them."
        )
    found = sparse.coo_matrix(matrix)  # of a dense matrix its entries that are not 0; NaN is none of these
    bad = np.flatnonzero(~np.isfinite(found.data))
    if len(bad):
        raise ValueError(
            f"{len(bad)} values of expression are NaN or infinite, the first in cell {found.row[bad[0]]}, gene "
            f"{str(genes[found.col[bad[0]]])!r}. Leave those cells or genes out."
        )


def _ranked(
    matrix: Matrix, labels: np.ndarray, genes: Sequence[str], control: str, names: list[str]
) -> dict[str, tuple[str, ...]]:
    """Return all genes of each condition by falling |t| against control."""
    import scanpy as sc
    from anndata import AnnData

    obs = pd.DataFrame({"condition": pd.Categorical(labels)}, index=[str(i) for i in range(len(labels))])
    cells = AnnData(matrix.astype(np.float32), obs=obs, var=pd.DataFrame(index=list(genes)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # genes without variance: their t counts as 0
        warnings.simplefilter("ignore", pd.errors.PerformanceWarning)
        sc.tl.rank_genes_groups(
            cells, "condition", groups=names, reference=control, method="t-test", rankby_abs=True, n_genes=len(genes)
        )
    found = cells.uns["rank_genes_groups"]["names"]
    return {name: tuple(map(str, found[name])) for name in names}


def perturbation_scores(
    predicted: pd.DataFrame, reference: PerturbationReference, *, nan: str = "zero"
) -> pd.DataFrame:
    r"""Score predicted mean profiles against measured ones.

    For a condition let p be the predicted, t the measured and c control's mean profile. Over all genes, over the top
    ``n_top`` differing genes (``_de``), and over those without dropouts (``_top20_de_non_dropout``):

    - ``pearson``: correlation of p and t. High wherever genes keep their order, so no change at all scores high on it.
    - ``pearson_delta``: correlation of the changes, p - c and t - c.
    - ``mse``, ``mae``: mean of (p - t)², of \|p - t\|.

    and, of all genes, ``delta_size``, the length of p - c over that of t - c (0 for no change, 1 for changes of the
    right size), and ``de_recovery``, the share of the ``n_top`` differing genes that are among as many of largest
    \|p - c\|, NaN where no change is predicted.

    Parameters
    ----------
    predicted
        Conditions × genes, on the scale of the reference; all its genes must be there.
    reference
        What :func:`perturbation_reference` gave.
    nan
        A correlation with something constant is not defined, as that of the changes where no change is predicted.
        ``"zero"``: it counts as 0 (GEARS' rule); ``"omit"``: it is NaN, which means over conditions leave out.

    Returns
    -------
    pandas.DataFrame
        A row for each condition of ``predicted``, a column for each score.

    Raises
    ------
    ValueError
        If the rule is not known, or a condition or gene is missing.
    """
    one_of(*NAN_RULES)("nan", nan)
    genes = _check_predicted(predicted, reference)
    rows = [_scores_of(predicted.loc[name, genes], reference, str(name), nan) for name in predicted.index]
    return pd.DataFrame(rows, index=predicted.index)


def _check_predicted(predicted: pd.DataFrame, reference: PerturbationReference) -> pd.Index:
    """Return the genes that are scored, where all of them are predicted and the conditions were measured."""
    absent = [name for name in predicted.index if name not in reference.means.index]
    if absent:
        raise ValueError(f"The condition {absent[0]!r} was not measured; the reference has {len(reference.means)}.")
    genes = reference.means.columns
    lacking = genes.difference(predicted.columns)
    if len(lacking):
        raise ValueError(f"{len(lacking)} genes are not predicted, first {lacking[0]!r}.")
    return genes


def perturbation_discrimination(predicted: pd.DataFrame, reference: PerturbationReference) -> pd.Series:
    """Score whether a prediction is nearer to its own condition's measured profile than to those of others.

    Of each predicted profile the mean absolute differences from the measured profiles of all conditions of
    ``predicted`` are ranked, without the genes that the condition perturbs (which would give it away). The score is the
    share of other conditions that are farther than its own, ties counting half: 1 is best, 0.5 is chance, and is what
    one profile for all conditions has in the mean. So does the discrimination score of cell-eval (Arc), which divides
    by the number of conditions where this divides by that of the others.

    Parameters
    ----------
    predicted
        Conditions × genes, two conditions at least, on the scale of the reference; all its genes must be there.
    reference
        What :func:`perturbation_reference` gave.

    Returns
    -------
    pandas.Series
        By condition.

    Raises
    ------
    ValueError
        If there is one condition, or a condition or gene is missing.
    """
    import pandas as pd

    genes = _check_predicted(predicted, reference)
    if len(set(predicted.index)) < max(2, len(predicted)):
        raise ValueError(
            f"predicted has {len(predicted)} rows of {len(set(predicted.index))} conditions; a condition is told from "
            "others: pass two conditions or more, one row each."
        )
    truth = reference.means.loc[list(predicted.index)].to_numpy(dtype=np.float64)
    said = predicted[genes].to_numpy(dtype=np.float64)
    scores = []
    for row, name in enumerate(predicted.index):
        others = ~np.isin(genes, str(name).split("+"))
        away = np.abs(said[row, others] - truth[:, others]).mean(axis=1)
        farther = (away > away[row]).sum() + 0.5 * ((away == away[row]).sum() - 1)
        scores.append(farther / (len(away) - 1))
    return pd.Series(scores, predicted.index, name="discrimination", dtype=np.float64)


def _scores_of(profile: pd.Series, reference: PerturbationReference, name: str, nan: str) -> dict[str, float]:
    truth, base = reference.means.loc[name], reference.control
    least = _ROUNDING * float(np.abs(base).max())
    undefined = 0.0 if nan == "zero" else float("nan")
    dropout_free = f"_top{reference.n_top}_de_non_dropout"
    chosen = {"": list(profile.index), "_de": list(reference.de[name]), dropout_free: [*reference.de_non_dropout[name]]}
    scores = {}
    for suffix, genes in chosen.items():
        p, t, c = (each[genes].to_numpy(dtype=np.float64) for each in (profile, truth, base))
        scores[f"pearson{suffix}"] = correlation(p, t, undefined, least)
        scores[f"pearson_delta{suffix}"] = correlation(p - c, t - c, undefined, least)
        scores[f"mse{suffix}"] = float(np.mean((p - t) ** 2)) if len(p) else float("nan")
        scores[f"mae{suffix}"] = float(np.mean(np.abs(p - t))) if len(p) else float("nan")
    size = np.linalg.norm(truth - base)
    scores["delta_size"] = float(np.linalg.norm(profile - base) / size) if size > 0 else float("nan")
    changed = np.abs(profile - base).sort_values(ascending=False, kind="stable")
    found = set(changed.index[: len(reference.de[name])])
    told = float(changed.iloc[0]) > least and len(found) > 0
    scores["de_recovery"] = len(found.intersection(reference.de[name])) / len(found) if told else float("nan")
    return scores
