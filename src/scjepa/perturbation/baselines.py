"""Baselines for every prediction of perturbations. Simple as they are, they are hard to beat.

Each takes the measured means of the conditions that are trained on, control's mean, and the conditions to predict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from scjepa._core.warn import warn
from scjepa.perturbation.conditions import CONTROL, condition_name, named_otherwise, parse_condition


def _filled(profile: pd.Series, conditions: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(np.tile(profile.to_numpy(), (len(conditions), 1)), list(conditions), profile.index)


def no_change(means: pd.DataFrame, control: pd.Series, conditions: Sequence[str]) -> pd.DataFrame:
    """Predict control's mean for every condition.

    Parameters
    ----------
    means
        Mean expression of the conditions that are trained on, conditions × genes, control not among them.
    control
        Mean expression of control, by gene.
    conditions
        Conditions to predict.

    Returns
    -------
    pandas.DataFrame
        Conditions × genes.
    """
    return _filled(control, conditions)


def train_mean(means: pd.DataFrame, control: pd.Series, conditions: Sequence[str]) -> pd.DataFrame:
    """Predict for every condition the mean of the training conditions' means, each of one weight.

    Parameters are those of :func:`no_change`.
    """
    return _filled(means.mean(axis=0), conditions)


def additive(
    means: pd.DataFrame, control: pd.Series, conditions: Sequence[str], *, unseen: str = "mean"
) -> pd.DataFrame:
    """Predict control plus the sum, over the perturbed genes, of what each changes alone.

    Parameters
    ----------
    means, control, conditions
        As in :func:`no_change`.
    unseen
        What a gene adds that was not perturbed alone in training: ``"mean"``, the mean change of the singles of
        training (of all its conditions if there is no single), or ``"zero"``, nothing. A single that was not seen is
        thus predicted as nearly the train mean, or as no change.

    Raises
    ------
    ValueError
        If ``unseen`` is not known.
    """
    if unseen not in ("mean", "zero"):
        raise ValueError(f"unseen must be 'mean' or 'zero', found {unseen!r}.")
    genes = {name: parse_condition(name, means.columns) for name in means.index}
    changes = means.sub(control, axis=1)
    single = {each[0]: changes.loc[name] for name, each in genes.items() if len(each) == 1}
    usual = pd.DataFrame(single).mean(axis=1) if single else changes.mean(axis=0)
    other = usual if unseen == "mean" else usual * 0.0
    rows = {}
    for name in conditions:
        parts = [single.get(gene, other) for gene in parse_condition(name, means.columns)]
        rows[name] = control.add(sum(parts)) if parts else control
    return pd.DataFrame(rows).T.loc[list(conditions), means.columns]


def linear(
    means: pd.DataFrame, control: pd.Series, conditions: Sequence[str], *, n_components: int = 10, ridge: float = 0.1
) -> pd.DataFrame:
    """Predict with the bilinear model of Ahlmann-Eltze et al. (2025), means = G W P + b, fitted by ridge regression.

    G, genes × components, are principal components of the training means, with genes as observations; P has for each
    condition the rows of G of its perturbed genes, added up; b is the train mean. A perturbed gene outside the panel
    has no row: a condition of such genes alone takes no part in the fit and is predicted as b.

    Parameters
    ----------
    means, control, conditions
        As in :func:`no_change`.
    n_components
        Components, at most one less than there are conditions.
    ridge
        Weight of the penalty, on either side.
    """
    y = means.to_numpy(dtype=np.float64).T
    usual = y.mean(axis=1)
    left, size, _ = np.linalg.svd(y - y.mean(axis=0), full_matrices=False)
    k = max(1, min(n_components, len(means) - 1))
    embedding = left[:, :k] * size[:k]
    place = {gene: i for i, gene in enumerate(means.columns)}

    def vectors(names: Sequence[str]) -> np.ndarray:
        rows = [[place[g] for g in parse_condition(name, means.columns) if g in place] for name in names]
        return np.stack([embedding[row].sum(axis=0) for row in rows]) if rows else np.zeros((0, k))

    fitted = [i for i, name in enumerate(means.index) if any(g in place for g in parse_condition(name, means.columns))]
    p = vectors([means.index[i] for i in fitted])
    penalty = ridge * np.eye(k)
    weights = np.linalg.solve(embedding.T @ embedding + penalty, embedding.T @ (y[:, fitted] - usual[:, None]) @ p)
    weights = np.linalg.solve(p.T @ p + penalty, weights.T).T
    found = usual + vectors(conditions) @ weights.T @ embedding.T
    return pd.DataFrame(found, index=list(conditions), columns=means.columns)


PERTURBATION_BASELINES: dict[str, Callable[[pd.DataFrame, pd.Series, Sequence[str]], pd.DataFrame]] = {
    "no_change": no_change,
    "train_mean": train_mean,
    "additive": additive,
    "linear": linear,
}
"""Baselines by name."""


def predict_baselines(means: pd.DataFrame, control: pd.Series, conditions: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return the predictions of all baselines.

    Parameters
    ----------
    means
        Mean expression of the conditions that are trained on, conditions × genes. Whatever is in here the baselines
        know: leave test conditions out.
    control
        Mean expression of control.
    conditions
        Conditions to predict, in the grammar of GEARS.

    Returns
    -------
    dict
        Conditions × genes by baseline. ``"no_change"``: control's mean. ``"train_mean"``: the mean of the training
        means. ``"additive"``: control plus what each perturbed gene changes alone; a gene that was not perturbed alone
        in training adds the mean change of the singles of training. ``"linear"``: means = G W P + b (Ahlmann-Eltze et
        al. 2025), with principal components of the training means as vectors of genes, 10 of them, and ridge 0.1; a
        condition whose genes are all outside the panel is predicted as the train mean.

    Raises
    ------
    ValueError
        If control is among the training conditions, or there are none.

    Warns
    -----
    UserWarning
        If perturbed genes seem to be in the panel by another name.
    """
    if not len(means):
        raise ValueError("There is no training condition to learn from.")
    if any(condition_name(parse_condition(name, means.columns)) == CONTROL for name in means.index):
        raise ValueError("Control is among the training conditions. Pass it as control, and the others as means.")
    tell_of_other_names(means, conditions)
    return {name: baseline(means, control, conditions) for name, baseline in PERTURBATION_BASELINES.items()}


def tell_of_other_names(means: pd.DataFrame, conditions: Sequence[str]) -> None:
    """Warn of perturbed genes that the panel has by another name: the linear model would take them for unmeasured."""
    panel = list(map(str, means.columns))
    perturbed = {gene for name in (*means.index, *conditions) for gene in parse_condition(name, means.columns)}
    outside = sorted(perturbed.difference(panel))
    call = "scjepa.perturbation.convert_conditions(names, genes={genes}), for the index of means and for conditions."
    told = named_otherwise(outside, panel, call, "means.columns") if outside else ""
    if told:
        warn(f"{len(outside):,} perturbed genes, first {outside[0]!r}, are not among the genes of means. {told}")
