"""The closed-form prediction that ships: linear models, weighed by cross-validation over training conditions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Self, overload

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from scjepa._core.arrays import correlation
from scjepa._core.warn import warn
from scjepa.perturbation.baselines import additive, linear, no_change, tell_of_other_names, train_mean
from scjepa.perturbation.conditions import CONTROL, condition_name, named_otherwise, parse_condition, parse_wanted

Genes = tuple[str, ...]

_VIEWS = ("single", "combo_seen0", "combo_seen1", "combo_seen2")
_PSEUDO = 5.0
"""How many conditions the prior weights count for, and the pooled ones against those of one kind of condition."""
_SIZE_OF_TWO = 1.5
"""Usual change of a combo of two genes over that of a single: between one gene's change and both added up."""
_OTHER_KIND = 0.5
"""What conditions of another number of genes count for in the usual change."""
_INTERACTION = 0.2
"""Variance of what a condition's genes do together only, over that of their own effects."""
_MOST_LEFT_OUT = 60
"""Conditions to leave out, at most: enough to weigh six columns."""


@dataclass(frozen=True)
class Known:
    """Training conditions that a column of the stack may look at.

    Attributes
    ----------
    means
        Conditions × genes.
    control
        By gene.
    genes
        Perturbed genes of each condition.
    noise
        Mean sampling variance of each condition's means.
    vectors
        Of length 1, genes × dimensions; ``None`` where none are given.
    """

    means: pd.DataFrame
    control: pd.Series
    genes: tuple[Genes, ...]
    noise: np.ndarray
    vectors: pd.DataFrame | None = None

    @cached_property
    def changes(self) -> np.ndarray:
        """``(n_conditions, n_genes)`` changes from control."""
        return self.means.to_numpy() - self.control.to_numpy()

    @cached_property
    def importance(self) -> np.ndarray:
        """One over the length of each change: with it, one strong condition does not speak for all."""
        lengths = np.linalg.norm(self.changes, axis=1)
        return 1 / np.maximum(lengths, 1e-3 * max(float(lengths.max()), 1e-9))

    def only(self, rows: np.ndarray) -> Known:
        """Return some of the conditions."""
        genes = tuple(self.genes[i] for i in np.flatnonzero(rows))
        return Known(self.means.loc[rows], self.control, genes, self.noise[rows], self.vectors)


Column = Callable[[Known, Sequence[Genes]], np.ndarray]


def _baseline(function: Callable[[pd.DataFrame, pd.Series, Sequence[str]], pd.DataFrame]) -> Column:
    def changes(known: Known, wanted: Sequence[Genes]) -> np.ndarray:
        found = function(known.means, known.control, [condition_name(genes) for genes in wanted])
        return found.to_numpy(dtype=np.float64) - known.control.to_numpy()

    return changes


def _usual(known: Known, wanted: Sequence[Genes]) -> np.ndarray:
    """Return the mean change for as many genes, weighted by importance: near the spatial median."""
    numbers = np.array([len(genes) for genes in known.genes])
    sizes = numbers ** np.log2(_SIZE_OF_TWO)
    found = np.zeros((len(wanted), known.changes.shape[1]))
    for number in {len(genes) for genes in wanted} - {0}:
        weights = known.importance * np.where(numbers == number, 1.0, _OTHER_KIND)
        change = (weights * sizes) @ known.changes / (weights @ sizes**2)
        found[[len(genes) == number for genes in wanted]] = number ** np.log2(_SIZE_OF_TWO) * change
    return found


def _gene_effects(known: Known, wanted: Sequence[Genes], vectors: pd.DataFrame | None = None) -> np.ndarray:
    """Predict with an effect of each gene about the usual change, by best linear unbiased prediction.

    A condition's change is the usual one, plus the sum of its genes' effects, plus noise: what sampled cells leave, and
    an interaction. Effects have one variance; with ``vectors``, half of it is shared by their cosines,
    so that a gene never perturbed has an effect too.
    """
    every = sorted({gene for genes in (*known.genes, *wanted) for gene in genes})
    place = {gene: i for i, gene in enumerate(every)}

    def indicator(conditions: Sequence[Genes]) -> np.ndarray:
        found = np.zeros((len(conditions), len(every)))
        for row, genes in enumerate(conditions):
            found[row, [place[gene] for gene in genes]] = 1.0
        return found

    left = known.changes - _usual(known, known.genes)
    total = float((left**2).mean())
    spread = max(total - float(known.noise.mean()), 0.01 * total, 1e-12)
    shared = np.eye(len(every))
    if vectors is not None:
        of_genes = vectors.reindex(every, fill_value=0.0).to_numpy()
        shared = (shared + of_genes @ of_genes.T) / 2
        np.fill_diagonal(shared, 1.0)
    seen, asked = indicator(known.genes), indicator(wanted)
    covariance = spread * seen @ shared @ seen.T + np.diag(known.noise + _INTERACTION * spread)
    effects = spread * asked @ shared @ seen.T @ np.linalg.solve(covariance, left)
    return _usual(known, wanted) + effects


def _vectors(known: Known, wanted: Sequence[Genes]) -> np.ndarray:
    return _gene_effects(known, wanted, known.vectors)


PERTURBATION_COLUMNS: dict[str, Column] = {
    "mean": _baseline(train_mean),
    "usual": _usual,
    "additive": _baseline(additive),
    "linear": _baseline(linear),
    "genes": _gene_effects,
    "vectors": _vectors,
}
"""Columns of :class:`PerturbationStack` by name."""


def _own_genes(conditions: Sequence[Genes], control: pd.Series) -> np.ndarray:
    """Return ``(n_conditions, n_genes)`` control's expression at the genes that a condition perturbs, 0 elsewhere."""
    found = np.zeros((len(conditions), len(control)))
    place = {gene: i for i, gene in enumerate(control.index)}
    for row, genes in enumerate(conditions):
        columns = [place[gene] for gene in genes if gene in place]
        found[row, columns] = control.to_numpy()[columns]
    return found


def _folds(conditions: Sequence[Genes]) -> list[tuple[int, str, np.ndarray]]:
    """Return condition, kind and the conditions that may be looked at, the way the split ``simulation`` leaves out."""
    found, sets = [], [set(genes) for genes in conditions]
    chosen = np.unique(np.linspace(0, len(sets) - 1, _MOST_LEFT_OUT).round().astype(int))
    for row in map(int, chosen):
        apart = np.array([not (each & sets[row]) for each in sets])
        if len(sets[row]) == 1:
            found.append((row, "single", apart))
            continue
        found += [(row, "combo_seen2", np.arange(len(sets)) != row), (row, "combo_seen0", apart)]
        found += [(row, "combo_seen1", np.array([gene not in each for each in sets])) for gene in conditions[row]]
    return [fold for fold in found if fold[2].sum() >= 2]


@dataclass(frozen=True)
class _Left:
    """A condition that was left out: what the columns said of it, and what it was."""

    row: int
    view: str
    columns: np.ndarray
    change: np.ndarray
    importance: float
    gram: np.ndarray = field(init=False)
    side: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        weighted = self.importance * self.columns
        object.__setattr__(self, "gram", weighted @ self.columns.T)
        object.__setattr__(self, "side", weighted @ self.change)


def _weights(left: Sequence[_Left], prior: np.ndarray, pull: float) -> np.ndarray:
    """Return weights, none below 0, of least squared error and of ``pull`` times their squared way from ``prior``.

    A condition that was left out in several ways counts once. All but the last add up to 1 at most.
    """
    times = np.bincount([each.row for each in left], minlength=1)
    gram = sum((each.gram / times[each.row] for each in left), pull * np.eye(len(prior)))
    side = sum((each.side / times[each.row] for each in left), pull * prior)
    root = np.linalg.cholesky(gram)
    found = nnls(root.T, np.linalg.solve(root, side))[0]
    found[:-1] /= max(1.0, float(found[:-1].sum()))  # shrunk, never blown up
    return found


class PerturbationStack:
    """Predict mean profiles of conditions by a combination of closed-form models: in a second, without a network.

    Columns of the combination are the train mean (``"mean"``), the ``"additive"`` and the ``"linear"`` model of
    :func:`predict_baselines`, the ``"usual"`` change (a train mean in which a condition counts by one over the length
    of its change, and those of another number of genes by half of that), and effects of genes about it (``"genes"``,
    best linear unbiased prediction: singles and combos speak of one gene together, shrunk the more the fewer cells
    there are). ``"vectors"``, where vectors are given, is the latter with effects shared among genes alike. ``"own"``
    is beside them: perturbed genes of the panel lose or gain a share of control's expression, one for all.

    Weights, none below 0, are those of least squared error on training conditions left out one at a time, with all
    others of the same genes: singles of a gene not seen, combos of which none, one or both genes are seen. Squared
    errors count by one over the length of the measured change. The weights are drawn to all on ``"genes"`` (or
    ``"vectors"``), and those of one kind of condition to those of all kinds, as if five conditions more spoke for
    these. They add up to 1 at most. A condition that was trained on is predicted as measured, shrunk to the usual
    change by the noise of its cells.

    Parameters
    ----------
    columns
        Names of the columns to weigh. Default: all that the data allow.

    Attributes
    ----------
    weights_
        Kind of condition, and ``"all"``, × column.
    scores_
        Of conditions left out, by kind and column, with ``"stack"`` (weights without the condition): ``pearson_delta``
        and ``mae``, means.
    conditions_
        Those it was fitted on.

    Examples
    --------
    >>> known = scjepa.perturbation.condition_profiles(adata, "condition", conditions=split.train)
    >>> stack = scjepa.perturbation.PerturbationStack().fit(known.means, known.control, known.noise)
    >>> predicted, error = stack.predict(["KLF1", "KLF1+MAP2K6"], return_std=True)
    """

    weights_: pd.DataFrame
    scores_: pd.DataFrame
    conditions_: tuple[str, ...]

    def __init__(self, columns: Sequence[str] | None = None) -> None:
        chosen = None if columns is None else tuple(columns)
        unknown = [name for name in chosen or () if name not in PERTURBATION_COLUMNS]
        if unknown or chosen == ():
            there = ", ".join(map(repr, PERTURBATION_COLUMNS))
            raise ValueError(f"columns must be some of {there}, found {unknown[0] if unknown else chosen!r}.")
        self.columns = chosen
        self._known: Known | None = None

    def fit(
        self,
        means: pd.DataFrame,
        control: pd.Series,
        noise: pd.DataFrame | None = None,
        *,
        vectors: pd.DataFrame | None = None,
    ) -> Self:
        """Fit on measured means of training conditions.

        Parameters
        ----------
        means
            Conditions × genes, log-normalized. All in here is known: leave out control and what is to be tested.
        control
            Mean expression of control, by gene.
        noise
            Sampling variance of ``means``, as :class:`ConditionProfiles` has it. Default: none is known, so that
            nothing is shrunk for it.
        vectors
            Vectors of genes, the perturbed ones above all, genes × dimensions: of gene sets
            (:func:`gene_set_vectors`), of a model, components of control cells. Genes without one are like no other.
            Default: no vectors.

        Raises
        ------
        ValueError
            If there is no condition, one is control or there twice, a value is no number, or genes of
            ``means`` are missing elsewhere.

        Warns
        -----
        UserWarning
            If perturbed genes seem to be in the panel by another name.
        """
        names = PERTURBATION_COLUMNS if self.columns is None else self.columns
        if vectors is None and self.columns is not None and "vectors" in names:
            raise ValueError("The column 'vectors' needs vectors of genes: fit(..., vectors=genes × dimensions).")
        known = _checked(means, control, noise, vectors)
        tell_of_other_names(known.means, [])
        perturbed = sorted({gene for genes in known.genes for gene in genes})
        if known.vectors is not None and not known.vectors.index.isin(perturbed).any():
            such = ", ".join(map(repr, known.vectors.index[:3]))
            warn(
                f"None of the {len(perturbed)} perturbed genes, first {perturbed[0]!r}, has a vector; vectors are of "
                f"{such}, ... They tell nothing. Name genes as conditions do."
            )
        of_means = 0.0 * known.means if noise is None else noise.loc[means.index, means.columns]
        self._keep(known, of_means, [name for name in names if name != "vectors" or vectors is not None])
        self._weigh(known)
        return self

    def _columns(self, known: Known, wanted: Sequence[Genes]) -> np.ndarray:
        """Return ``(n_columns, n_conditions, n_genes)`` changes."""
        at = _own_genes(known.genes, known.control)
        beyond = at * (known.changes - _usual(known, known.genes))
        share = float(beyond.sum() / ((at**2).sum() + 1e-2))  # of genes hardly expressed no share is told
        own = share * _own_genes(wanted, known.control)
        return np.stack([*(PERTURBATION_COLUMNS[name](known, wanted) for name in self._names[:-1]), own])

    def _weigh(self, known: Known) -> None:
        """Leave conditions out, and find the weights of columns that would have predicted them."""
        left = []
        for row, view, rows in _folds(known.genes):
            said = self._columns(known.only(rows), [known.genes[row]])[:, 0]
            left.append(_Left(row, view, said, known.changes[row], float(known.importance[row])))
        n = len(self._names) - 1
        first = next((name for name in ("vectors", "genes") if name in self._names), None)
        self._prior = np.array([float(name == first) if first else 1 / n for name in self._names[:-1]] + [1.0])
        of_one = [float(np.trace(each.gram[:-1, :-1])) / n for each in left]  # one condition's worth of curvature
        self._pull = _PSEUDO * (float(np.mean(of_one)) if of_one else 0.0) or 1.0
        self.weights_ = pd.DataFrame(self._weights_of(left), index=list(self._names)).T.rename_axis("kind")
        self._score(left, known)

    def _weights_of(self, left: Sequence[_Left]) -> dict[str, np.ndarray]:
        pooled = _weights(left, self._prior, self._pull)
        of_view = {view: [each for each in left if each.view == view] for view in _VIEWS}
        return {"all": pooled} | {view: _weights(each, pooled, self._pull) for view, each in of_view.items()}

    def _score(self, left: Sequence[_Left], known: Known) -> None:
        """Score columns and stack on what was left out, and keep the stack's squared errors."""
        rows: list[tuple[str, str, float, float]] = []
        squares: dict[str, list[np.ndarray]] = {view: [] for view in _VIEWS}
        without = {row: self._weights_of([e for e in left if e.row != row]) for row in {e.row for e in left}}
        for each in left:
            stack = without[each.row][each.view] @ each.columns
            squares[each.view].append((stack - each.change) ** 2)
            for name, change in zip((*self._names[:-1], "stack"), (*each.columns[:-1], stack), strict=True):
                away = float(np.abs(change - each.change).mean())
                rows.append((each.view, name, correlation(change, each.change, undefined=0.0), away))
        table = pd.DataFrame(rows, columns=["kind", "column", "pearson_delta", "mae"])
        self.scores_ = table.groupby(["kind", "column"], sort=False).mean()
        every = [square for found in squares.values() for square in found] or list(known.changes**2)
        pooled = np.mean(every, axis=0)
        pooled = (pooled + pooled.mean()) / 2  # a gene's own errors count for half: few conditions are left out
        self._squares = {
            view: (np.sum(found, axis=0) + _PSEUDO * pooled) / (len(found) + _PSEUDO) for view, found in squares.items()
        }

    def kind_of(self, condition: str) -> str:
        """Return what is known of a condition.

        ``"measured"``: it was trained on, or is control; ``"single"``; or, by how many of its genes are perturbed in
        any training condition, none, some or all, ``"combo_seen0"``, ``"combo_seen1"``, ``"combo_seen2"``.
        """
        known = self._fitted()
        genes = parse_condition(condition, known.means.columns)
        if condition_name(genes) in (*self.conditions_, CONTROL):
            return "measured"
        if len(genes) == 1:
            return "single"
        seen = {gene for each in known.genes for gene in each}
        n_seen = sum(gene in seen for gene in genes)
        return f"combo_seen{2 if n_seen == len(genes) else min(n_seen, 1)}"

    @overload
    def predict(
        self, conditions: Sequence[str], *, method: str = ..., return_std: Literal[False] = ...
    ) -> pd.DataFrame: ...

    @overload
    def predict(
        self, conditions: Sequence[str], *, method: str = ..., return_std: Literal[True]
    ) -> tuple[pd.DataFrame, pd.DataFrame]: ...

    def predict(
        self, conditions: Sequence[str], *, method: str = "stack", return_std: bool = False
    ) -> pd.DataFrame | tuple[pd.DataFrame, pd.DataFrame]:
        """Predict mean profiles.

        Parameters
        ----------
        conditions
            ``"A"`` (or ``"A+ctrl"``), ``"A+B"``, ``"ctrl"``; genes need not have been perturbed, nor measured.
        method
            ``"stack"``; one of its columns alone, or ``"no_change"``.
        return_std
            Return too what the stack was wrong by, root mean square by gene, on training conditions of the same kind
            left out; of a measured condition, the sampling error of its mean.

        Returns
        -------
        pandas.DataFrame
            Conditions × genes; with ``return_std`` this and a second one of its shape.

        Raises
        ------
        ValueError
            If it is not fitted, conditions are in another grammar, or the method is not known or has no error.
        """
        known = self._fitted()
        wanted = parse_wanted(conditions, known.means.columns)
        names, index = (*self._names[:-1], "stack", "no_change"), list(conditions)
        if method not in names:
            raise ValueError(f"method must be one of {', '.join(map(repr, names))}, found {method!r}.")
        if return_std and method != "stack":
            raise ValueError(
                f"method {method!r} has no error of its own: predict(..., method='stack', return_std=True)."
            )
        _tell_of_strangers(known, wanted)
        if method == "no_change":
            return no_change(known.means, known.control, index)
        if method != "stack":
            changes = PERTURBATION_COLUMNS[method](known, wanted)
            changes[[not genes for genes in wanted]] = 0.0
            return pd.DataFrame(changes + known.control.to_numpy(), index, known.means.columns)
        changes, errors = self._stacked(known, wanted)
        found = pd.DataFrame(changes + known.control.to_numpy(), index, known.means.columns)
        return (found, pd.DataFrame(errors, index, known.means.columns)) if return_std else found

    def _stacked(self, known: Known, wanted: Sequence[Genes]) -> tuple[np.ndarray, np.ndarray]:
        """Return changes and their usual errors."""
        columns, errors = self._columns(known, wanted), np.zeros((len(wanted), known.means.shape[1]))
        changes, noise = np.zeros_like(errors), self._noise.to_numpy(dtype=np.float64)
        for row, genes in enumerate(wanted):
            name = condition_name(genes)
            kind = self.kind_of(name)
            if kind != "measured":
                changes[row] = self.weights_.loc[kind].to_numpy() @ columns[:, row]
                errors[row] = np.sqrt(self._squares[kind])
            elif name != CONTROL:
                at = self.conditions_.index(name)
                measured, usual = known.changes[at], _usual(known, [genes])[0]
                away = float(((measured - usual) ** 2).mean())
                kept = max(0.0, 1 - float(known.noise[at]) / away) if away > 0 else 1.0
                changes[row] = usual + kept * (measured - usual)
                errors[row] = np.sqrt(noise[at])
        return changes, errors

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all that :meth:`from_arrays` makes the fitted stack of, in arrays of numbers."""
        known = self._fitted()
        names = {
            "conditions": list(known.means.index),
            "genes": list(known.means.columns),
            "columns": self._names[:-1],
            "vectors": None if known.vectors is None else list(known.vectors.index),
            "scores": self.scores_.reset_index().to_dict("list"),
        }
        return {
            "means": known.means.to_numpy(),
            "control": known.control.to_numpy(),
            "noise": self._noise.to_numpy(dtype=np.float64),
            "vectors": np.zeros((0, 0)) if known.vectors is None else known.vectors.to_numpy(),
            "weights": self.weights_.to_numpy(),
            "squares": np.stack([self._squares[view] for view in _VIEWS]),
            "names": np.frombuffer(json.dumps(names).encode(), dtype=np.uint8).copy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Build a fitted stack from what :meth:`arrays` gave."""
        names = json.loads(np.asarray(arrays["names"]).tobytes().decode())
        conditions, genes, columns = names["conditions"], names["genes"], names["columns"]
        vectors = None if names["vectors"] is None else pd.DataFrame(arrays["vectors"], names["vectors"])
        noise = pd.DataFrame(arrays["noise"], conditions, genes)
        means, control = pd.DataFrame(arrays["means"], conditions, genes), pd.Series(arrays["control"], genes)
        found = cls(columns)
        found._keep(_checked(means, control, noise, vectors), noise, columns)
        found.weights_ = pd.DataFrame(arrays["weights"], ["all", *_VIEWS], list(found._names)).rename_axis("kind")
        found._squares = dict(zip(_VIEWS, arrays["squares"], strict=True))
        found.scores_ = pd.DataFrame(names["scores"]).set_index(["kind", "column"])
        return found

    def _keep(self, known: Known, noise: pd.DataFrame, columns: Sequence[str]) -> None:
        self._known, self._noise, self._names = known, noise, (*columns, "own")
        self.conditions_ = tuple(condition_name(genes) for genes in known.genes)

    def _fitted(self) -> Known:
        if self._known is None:
            raise ValueError("The stack is not fitted. Call fit(means, control) first.")
        return self._known


def _tell_of_strangers(known: Known, wanted: Sequence[Genes]) -> None:
    """Warn of genes that are neither measured nor perturbed, but differ from one that is in case or version only."""
    there = list(dict.fromkeys([*map(str, known.means.columns), *(gene for genes in known.genes for gene in genes)]))
    new = sorted({gene for genes in wanted for gene in genes}.difference(there))
    call = "conditions = scjepa.perturbation.convert_conditions(pandas.Series(conditions), genes={genes})."
    told = named_otherwise(new, there, call, "adata.var_names") if new else ""
    if told:
        warn(f"{len(new):,} genes to perturb, first {new[0]!r}, are not known, and nothing is known of them. {told}")


def _checked(
    means: pd.DataFrame, control: pd.Series, noise: pd.DataFrame | None, vectors: pd.DataFrame | None
) -> Known:
    """Return what is known, where it fits together."""
    genes = tuple(parse_condition(name, means.columns) for name in means.index)
    names = [condition_name(each) for each in genes]
    if not names:
        raise ValueError("There is no training condition to learn from.")
    if CONTROL in names:
        raise ValueError("Control is among the training conditions. Pass it as control, and the others as means.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"The condition {twice!r} is there {names.count(twice)} times. Pass the mean of all its cells."
        )
    for what, columns in (("control", control.index), *([] if noise is None else [("noise", noise.columns)])):
        lacking = means.columns.difference(columns)
        if len(lacking):
            raise ValueError(f"{len(lacking)} genes of means are not in {what}, first {lacking[0]!r}. Pass them too.")
    if noise is not None and len(means.index.difference(noise.index)):
        raise ValueError(f"The condition {means.index.difference(noise.index)[0]!r} has no row in noise.")
    values, base = means.astype(np.float64), control.loc[list(means.columns)].astype(np.float64)
    spread = np.zeros(len(means)) if noise is None else noise.loc[means.index, means.columns].to_numpy().mean(axis=1)
    if not (np.isfinite(values.to_numpy()).all() and np.isfinite(base.to_numpy()).all() and np.isfinite(spread).all()):
        raise ValueError("means, control or noise have values that are NaN or infinite. Leave those genes out.")
    return Known(values, base, genes, spread, None if vectors is None else _unit(vectors))


def _unit(vectors: pd.DataFrame) -> pd.DataFrame:
    """Return vectors of length 1."""
    found = vectors[~vectors.index.duplicated()]
    values = found.to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("vectors have values that are NaN or infinite. Leave those genes out.")
    return pd.DataFrame(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12), found.index)
