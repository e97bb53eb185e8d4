"""Labels by linear discriminants, with calibrated confidence, and a p-value that tells cells of no known label."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from scjepa._core.anndata import as_embedding
from scjepa._core.arrays import group_codes
from scjepa._core.conformal import HeldOut, expected_calibration_error
from scjepa.tl._kept import Kept

if TYPE_CHECKING:
    from scjepa._core.arrays import Labels, Matrix

_TYPICAL_CELLS, TOLD_CELLS = 5, 20
"""Cells of a label, held out and new, for its typical distance to be told."""

_HOTTEST, _COLDEST = 20.0, 0.2
"""Range in which the temperature is looked for."""


Refitted: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""From positions of cells to the embedding of all that is fitted on those alone."""

_Read: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Label codes of cells held out, their log-probabilities, and their distances."""


@dataclass(frozen=True)
class Calls:
    """What a classifier says of cells.

    Attributes
    ----------
    codes
        ``(n_cells,)`` position of the most probable label.
    probabilities
        ``(n_cells, n_labels)`` calibrated.
    distances
        ``(n_cells,)`` from the nearest label, squared Mahalanobis.
    p_values
        ``(n_cells,)`` share of held-out cells of known labels that lie as far from every label, or farther.
    """

    codes: np.ndarray
    probabilities: np.ndarray
    distances: np.ndarray
    p_values: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        """``(n_cells,)`` probability of the label."""
        return self.probabilities[np.arange(len(self.codes)), self.codes]


class LabelClassifier(Kept, BaseEstimator):
    r"""Linear discriminant analysis of labels on any embedding, calibrated on cells that it did not see.

    Each label is a Gaussian, all of one covariance (Ledoit-Wolf). Parts of the cells are held out in turn, whole
    batches (donors) where there are several. On them a temperature is fitted to the log-probabilities, so that the
    confidence is the share of right labels; and the distance of a held-out cell from the nearest label is what the
    distance of a new cell is compared with. Distances are squared and Mahalanobis, in the space that the means of the
    labels span.

    Where single cells were held out, for there is one batch, nothing is known of how batches differ. New cells then lie
    farther for that alone, those of all labels; so distances of new cells are divided by what those of most labels have
    in common, the lower median over labels of how much farther than held-out cells they lie, if that is above 1.

    Parameters
    ----------
    n_folds
        Parts that are held out in turn, at most.
    seed
        Seed of the parts where there is one batch.

    Attributes
    ----------
    labels_
        ``(n_labels,)`` names, sorted.
    coef_, intercept_
        ``(n_labels, n_dims)`` and ``(n_labels,)``: log-probabilities but for a constant.
    axes_, means_
        ``(n_dims, n_labels - 1)`` whitened axes that the means span, and ``(n_labels, n_labels - 1)`` means on them.
    temperature_
        What log-probabilities are divided by.
    distances_, n_held_out_
        Distances of held-out cells, rising, and how many they are of.
    typical_
        ``(n_labels,)`` median distance of held-out cells by the label they got; NaN of fewer than 5.
    accuracy_, ece_
        On held-out cells: share of right labels, and expected calibration error of the confidence.
    held_out_
        ``"batch"`` or ``"cell"``: what was held out.

    Examples
    --------
    >>> classifier = scjepa.tl.LabelClassifier().fit(reference.obsm["X_pca"], reference.obs["cell_type"])
    >>> classifier.predict(query.obsm["X_pca"]).confidence
    """

    def __init__(self, n_folds: int = 5, seed: int = 0) -> None:
        self.n_folds = n_folds
        self.seed = seed

    def fit(
        self, X: Matrix, labels: Labels, batches: Labels | None = None, *, refitted: Refitted | None = None
    ) -> LabelClassifier:
        """Fit labels, and calibrate them on held-out cells.

        Parameters
        ----------
        X
            ``(n_cells, n_dims)`` embedding.
        labels
            ``(n_cells,)`` label of each cell.
        batches
            ``(n_cells,)`` batch or donor of each; ``None``: one.
        refitted
            From positions of cells to the embedding of all cells that is fitted on those alone, so that what is held
            out has no say in it. Default: ``X`` serves all parts.

        Raises
        ------
        ValueError
            If there is one label, a label of one cell alone, or lengths differ.
        """
        self._check_whole("n_folds")
        values = as_embedding(X).astype(np.float64)
        codes, names = group_codes(labels, len(values), "labels", as_text=True)
        sizes = np.bincount(codes)
        if len(names) < 2:
            raise ValueError(f"All {len(codes):,} labelled cells are {names[0]!r}; a classifier needs two labels.")
        if sizes.min() < 2:
            few = [name for name, size in zip(names, sizes, strict=True) if size < 2]
            raise ValueError(f"Labels of one cell cannot be learned: {', '.join(map(repr, few[:5]))}. Leave them out.")
        groups = None if batches is None else group_codes(batches, len(values), "batches")[0]
        self.labels_ = np.array(names, dtype=object)
        self._take(Discriminants.fit(values, codes, len(names)))
        self._calibrate(refitted or (lambda train: values), codes, groups)
        return self

    def predict(self, X: Matrix, batches: Labels | None = None) -> Calls:
        """Return the label, probabilities and p-value of cells.

        Parameters
        ----------
        X
            ``(n_cells, n_dims)`` in the coordinates of the fit.
        batches
            ``(n_cells,)`` batch of each, for the p-values; ``None``: one.
        """
        check_is_fitted(self)
        values = as_embedding(X).astype(np.float64)
        if values.shape[1] != self.coef_.shape[1]:
            raise ValueError(
                f"The fit was on {self.coef_.shape[1]} dimensions, and these cells have {values.shape[1]}."
            )
        logits, distance = self._discriminants.read(values)
        probabilities = _softmax(logits / self.temperature_)
        codes = probabilities.argmax(axis=1)
        return Calls(codes, probabilities, distance, self.p_values(codes, distance, batches))

    def p_values(self, codes: np.ndarray, distances: np.ndarray, batches: Labels | None = None) -> np.ndarray:
        """Return the share of held-out cells that lie as far from every label, ``(n_cells,)`` float32.

        Parameters
        ----------
        codes, distances
            ``(n_cells,)`` most probable label of each cell, and distance from the nearest.
        batches
            ``(n_cells,)`` batch of each; ``None``: one.
        """
        found = np.asarray(distances, dtype=np.float64).copy()
        if self.held_out_ == "cell" and len(found):
            groups = np.zeros(len(found), int) if batches is None else group_codes(batches, len(found), "batches")[0]
            for group in np.unique(groups):
                own = groups == group
                found[own] /= drift(codes[own], found[own], self.typical_)
        return self.held_out.p_values(found)

    @property
    def held_out(self) -> HeldOut:
        """Distances of held-out cells."""
        return HeldOut(self.distances_, self.n_held_out_)

    @property
    def _discriminants(self) -> Discriminants:
        return Discriminants(self.coef_, self.intercept_, self.axes_, self.means_)

    def _take(self, found: Discriminants) -> None:
        self.coef_, self.intercept_, self.axes_, self.means_ = found.coef, found.intercept, found.axes, found.means

    def _calibrate(self, refitted: Refitted, codes: np.ndarray, groups: np.ndarray | None) -> None:
        read = [] if groups is None or groups.max() == 0 else self._read_held_out(refitted, codes, groups)
        self.held_out_ = "batch" if read else "cell"  # also where each batch has labels of its own
        read = read or self._read_held_out(refitted, codes, None)
        right, found, distances = (np.concatenate(part) for part in zip(*read, strict=True))
        kept = HeldOut.of(distances)
        self.distances_, self.n_held_out_ = kept.distances, kept.n_cells
        self.temperature_ = _temperature(found, right)
        sure = _softmax(found / self.temperature_)
        called = sure.argmax(axis=1)
        self.typical_ = typical(called, distances, len(self.labels_))
        correct = called == right
        self.accuracy_ = float(correct.mean())
        self.ece_ = expected_calibration_error(correct, sure.max(axis=1))

    def _read_held_out(self, refitted: Refitted, codes: np.ndarray, groups: np.ndarray | None) -> list[_Read]:
        """Return labels, log-probabilities and distances of cells of labels that the other parts have."""
        n_labels = len(self.labels_)
        parts = []
        for train, test in self._folds(codes, groups):
            values = refitted(train)
            known = np.bincount(codes[train], minlength=n_labels) > 1
            train, test = train[known[codes[train]]], test[known[codes[test]]]
            if known.sum() < 2 or not len(test):
                continue
            position = np.cumsum(known) - 1
            found, distance = Discriminants.fit(values[train], position[codes[train]], int(known.sum())).read(
                values[test]
            )
            whole = np.full((len(test), n_labels), -np.inf)
            whole[:, known] = found
            parts.append((codes[test], whole, distance))
        return parts

    def _folds(self, codes: np.ndarray, groups: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        from sklearn.model_selection import GroupKFold

        if groups is not None:
            return iter(GroupKFold(min(max(self.n_folds, 2), int(groups.max()) + 1)).split(codes, groups=groups))
        return stratified(codes, self.n_folds, self.seed)


@dataclass(frozen=True)
class Discriminants:
    coef: np.ndarray
    intercept: np.ndarray
    axes: np.ndarray
    means: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, codes: np.ndarray, n_labels: int) -> Discriminants:
        """Fit linear discriminants of one shrunk covariance; each of the labels has a cell or more."""
        means, inverse, sizes = within(values, codes, n_labels)
        coef = means @ inverse
        intercept = np.log(sizes / sizes.sum()) - 0.5 * (coef * means).sum(axis=1)
        white = np.linalg.cholesky(inverse)
        centered = (means - means.mean(axis=0)) @ white
        axes = np.linalg.svd(centered, full_matrices=False)[2][: n_labels - 1].T
        axes = white @ axes
        return cls(coef, intercept, axes, means @ axes)

    def read(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return log-probabilities but for a constant, and the distance from the nearest label."""
        places = values @ self.axes
        distance = (places**2).sum(axis=1)[:, None] - 2 * places @ self.means.T + (self.means**2).sum(axis=1)
        return values @ self.coef.T + self.intercept, np.maximum(distance.min(axis=1), 0)


def within(values: np.ndarray, codes: np.ndarray, n_labels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return means of labels, the inverse of their shrunk common covariance, and their sizes."""
    from sklearn.covariance import ledoit_wolf

    sizes = np.bincount(codes, minlength=n_labels).astype(np.float64)
    means = np.zeros((n_labels, values.shape[1]))
    np.add.at(means, codes, values)
    means /= sizes[:, None]
    covariance, _ = ledoit_wolf(values - means[codes], assume_centered=True)
    covariance *= len(codes) / max(len(codes) - n_labels, 1)
    covariance += np.eye(len(covariance)) * max(np.trace(covariance) / len(covariance), 1e-12) * 1e-6
    return means, np.linalg.inv(covariance), sizes


def typical(
    codes: np.ndarray, distances: np.ndarray, n_labels: int, share: float = 0.5, fewest: int = _TYPICAL_CELLS
) -> np.ndarray:
    """Return a quantile of the distances of each label's cells, ``(n_labels,)``, NaN of fewer cells than can tell."""
    found = np.full(n_labels, np.nan)
    for code in np.flatnonzero(np.bincount(codes, minlength=n_labels) >= fewest):
        found[code] = np.quantile(distances[codes == code], share)
    return found


def drift(codes: np.ndarray, distances: np.ndarray, usual: np.ndarray) -> float:
    """Return how much farther than usual the cells of most labels lie, 1 or more."""
    farther = typical(codes, distances, len(usual), fewest=TOLD_CELLS) / np.where(usual > 0, usual, np.nan)
    ratios = np.sort(farther[~np.isnan(farther)])
    return max(1.0, float(ratios[(len(ratios) - 1) // 2])) if len(ratios) else 1.0


def stratified(codes: np.ndarray, n_folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield training and held-out cells, of each label the same share in each."""
    import warnings

    from sklearn.model_selection import StratifiedKFold

    n_folds = min(max(n_folds, 2), int(np.bincount(codes).max()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        yield from StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(codes, codes)


def _temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """Return the temperature at which held-out labels are most probable."""
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        chosen = _softmax(logits / np.exp(log_temperature))[rows, truth]
        return float(-np.log(np.maximum(chosen, 1e-12)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log((_COLDEST, _HOTTEST)), method="bounded").x))


def _softmax(logits: np.ndarray) -> np.ndarray:
    from scipy.special import softmax

    return np.asarray(softmax(logits, axis=1))
