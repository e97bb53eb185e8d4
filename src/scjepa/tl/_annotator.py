"""Labels of cells by labelled cells, without a network: linear discriminants of counts, or of any embedding."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from scjepa._core.anndata import as_embedding
from scjepa._core.arrays import group_codes, positive
from scjepa._core.checks import between
from scjepa._core.conformal import HeldOut, expected_calibration_error
from scjepa._core.counts import TARGET_SUM
from scjepa._core.keys import UNKNOWN
from scjepa.tl._kept import Kept
from scjepa.tl._moments import Features

if TYPE_CHECKING:
    from scjepa._core.arrays import Labels, Matrix


LARGEST = 10.0
"""Standard deviations beyond which expression says no more: a rare gene in one cell is not to turn a component."""

LEAST_SCALE = 1e-2
"""Added to standard deviations, in log counts, for the same reason."""

_TYPICAL_CELLS, TOLD_CELLS = 5, 20
"""Cells of a label, held out and new, for its typical distance to be told."""

_HOTTEST, _COLDEST = 20.0, 0.2
"""Range in which the temperature is looked for."""


Refitted: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""From positions of cells to the embedding of all that is fitted on those alone."""

_Read: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Label codes of cells held out, their log-probabilities, and their distances."""


class CellAnnotator(Kept, BaseEstimator):
    """Labels of cells from labelled cells, closed form: seconds for thousands of cells, with what speaks for each call.

    Counts are log-normalized over the genes given, standardized by the labelled cells, and projected on the principal
    components of the genes that vary most; there :class:`LabelClassifier` tells the labels, how sure they are, and
    which cells are of none.

    Parameters
    ----------
    n_genes
        Highly variable genes, at most all.
    n_comps
        Principal components, at most one fewer than there are cells or genes.
    error
        Share of cells of known labels that may be called ``"unknown"``, between 0 and 1.
    n_evidence
        Genes that are named for each call.
    n_folds, seed
        As :class:`LabelClassifier` has them.

    Attributes
    ----------
    classifier_
        The fitted :class:`LabelClassifier`.
    feature_names_in_
        ``(n_features,)`` names of the genes that a size is made of; ``None`` where none were given.
    variable_
        ``(n_variable,)`` positions of the highly variable ones among them.
    mean_, scale_
        ``(n_variable,)`` of their log-normalized counts.
    axes_
        ``(n_variable, n_comps)`` principal axes.

    Examples
    --------
    >>> annotator = scjepa.tl.CellAnnotator().fit(reference, reference.obs["cell_type"])
    >>> annotator.predict(query)
    >>> annotator.markers("B")
    """

    def __init__(
        self,
        n_genes: int = 2000,
        n_comps: int = 50,
        *,
        error: float = 0.1,
        n_evidence: int = 3,
        n_folds: int = 5,
        seed: int = 0,
    ) -> None:
        self.n_genes = n_genes
        self.n_comps = n_comps
        self.error = error
        self.n_evidence = n_evidence
        self.n_folds = n_folds
        self.seed = seed

    def fit(
        self, X: object, labels: Labels, batches: Labels | None = None, *, feature_names: Sequence[str] | None = None
    ) -> CellAnnotator:
        """Fit on labelled cells.

        Parameters
        ----------
        X
            Raw counts, cells × genes (in memory, backed or Dask; an AnnData object's ``X``).
        labels
            ``(n_cells,)`` label of each cell.
        batches
            ``(n_cells,)`` batch or donor of each, held out in turn to calibrate; ``None``: one.
        feature_names
            Names of the genes, so that other cells are read by name.

        Raises
        ------
        ValueError
            If there is one label, a label of one cell, an option is out of its range, or no gene varies.
        """
        self._check_whole("n_genes", "n_comps", "n_evidence")
        between(0, 1)("error", self.error)
        if (np.asarray(labels, dtype=object) == UNKNOWN).any():
            raise ValueError(f"The label {UNKNOWN!r} is what cells of no label are called. Leave such cells out.")
        features = Features.of(X, TARGET_SUM, feature_names)
        self.feature_names_in_ = features.names
        self.variable_ = variable_genes(
            sparse.vstack([logged for _, logged in features.chunks()], format="csr"), self.n_genes
        )
        if not len(self.variable_):
            raise ValueError(
                "No gene varies among the labelled cells: are these raw counts, and of more than one cell?"
            )
        chunks = list(features.showing(self.variable_).chunks())  # sparse, of few genes
        self.mean_, self.scale_ = _moments([logged for _, logged in chunks])
        product = self._product(chunks)
        n_comps = min(self.n_comps, features.n_cells - 1, len(self.variable_))
        self.axes_ = leading(product, n_comps)

        def places(axes: np.ndarray) -> np.ndarray:
            return np.concatenate([self._dense(logged) @ axes for _, logged in chunks])

        def refitted(train: np.ndarray) -> np.ndarray:
            out = np.ones(features.n_cells, dtype=bool)
            out[train] = False
            return places(leading(product - self._product(chunks, out), min(n_comps, len(train))))

        classifier = LabelClassifier(self.n_folds, self.seed)
        self.classifier_ = classifier.fit(places(self.axes_), labels, batches, refitted=refitted)
        self.classifier_.held_out.threshold(self.error)
        return self

    def predict(
        self, X: object, batches: Labels | None = None, *, feature_names: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Return what each cell is.

        Parameters
        ----------
        X
            Raw counts, as in :meth:`fit`.
        batches
            ``(n_cells,)`` batch of each cell, where there are several; see :class:`LabelClassifier`.
        feature_names
            Names of the genes; those of the fit must be among them.

        Returns
        -------
        pandas.DataFrame
            By cell ``"label"``, ``"unknown"`` for cells of none; ``"confidence"``, the calibrated probability of the
            most probable label; ``"distance"`` from the nearest label, and ``"p_value"``, the share of held-out cells
            that lie as far from every label; ``"evidence"``, the expressed genes that speak most for the label against
            the second; and ``"nearest"``, the most probable label also where it is unknown. Cells without a count have
            no label and a confidence of 0.
        """
        return self.predict_with_probabilities(X, batches, feature_names=feature_names)[0]

    def predict_with_probabilities(
        self, X: object, batches: Labels | None = None, *, feature_names: Sequence[str] | None = None
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """Return what :meth:`predict` does, and ``(n_cells, n_labels)`` probabilities of ``classifier_.labels_``."""
        check_is_fitted(self)
        features = Features.of(X, TARGET_SUM, feature_names)
        n_features = len(self.feature_names_in_) if self.feature_names_in_ is not None else features.n_features
        shown = features.taken(self.feature_names_in_, n_features).showing(self.variable_)
        labels, weights = self.classifier_.labels_, self._weights
        codes = np.empty(features.n_cells, dtype=np.int64)
        distances = np.empty(features.n_cells, dtype=np.float32)
        probabilities = np.empty((features.n_cells, len(labels)), dtype=np.float32)
        evidence = np.full(features.n_cells, "", dtype=object)
        empty = np.zeros(features.n_cells, dtype=bool)
        for rows, logged in shown.chunks():
            values = self._dense(logged)
            found = self.classifier_.predict(values @ self.axes_)
            codes[rows], distances[rows], probabilities[rows] = found.codes, found.distances, found.probabilities
            empty[rows] = np.diff(logged.indptr) == 0
            evidence[rows] = self._evidence(values, logged, found.probabilities, weights)
        p_values = self.classifier_.p_values(codes, distances, batches)
        nearest = labels[codes]
        told = np.where(p_values < self.error, UNKNOWN, nearest).astype(object)
        confidence = probabilities[np.arange(len(codes)), codes]
        told[empty], nearest[empty], evidence[empty], confidence[empty], p_values[empty] = None, None, "", 0.0, np.nan
        probabilities[empty] = 0.0
        columns = {
            "label": pd.Categorical(told, categories=[*labels, UNKNOWN]),
            "confidence": confidence,
            "p_value": p_values,
            "distance": distances,
            "evidence": evidence,
            "nearest": pd.Categorical(nearest, categories=list(labels)),
        }
        return pd.DataFrame(columns, index=getattr(X, "obs_names", None)), probabilities

    def places(self, features: Features) -> np.ndarray:
        """Return ``(n_cells, n_comps)`` principal components of cells with the genes of the fit."""
        shown = features.showing(self.variable_)
        return np.concatenate([self._dense(logged) @ self.axes_ for _, logged in shown.chunks()])

    def markers(self, label: str, n_genes: int = 20) -> pd.Series:
        """Return the genes that speak most for a label against the mean of the others, by weight.

        Raises
        ------
        KeyError
            If there is no such label.
        """
        check_is_fitted(self)
        labels = list(self.classifier_.labels_)
        if label not in labels:
            raise KeyError(f"{label!r} is no label of the reference: {', '.join(map(repr, labels))}.")
        own = np.arange(len(labels)) == labels.index(label)
        weights = self._weights[own][0] - self._weights[~own].mean(axis=0)
        order = np.argsort(-weights)[:n_genes]
        return pd.Series(weights[order], index=self._names[order], name=label)

    def _restored(self, name: str, value: Any) -> Any:
        return LabelClassifier.from_dict(value) if name == "classifier_" else super()._restored(name, value)

    @property
    def _weights(self) -> np.ndarray:
        """``(n_labels, n_variable)`` weight of each standardized gene in the log-probability of each label."""
        weights: np.ndarray = self.classifier_.coef_ @ self.axes_.T
        return weights

    @property
    def _names(self) -> np.ndarray:
        names = self.feature_names_in_
        return self.variable_.astype(str).astype(object) if names is None else names[self.variable_]

    def _dense(self, logged: Any) -> np.ndarray:
        values: np.ndarray = logged.toarray()
        values -= self.mean_.astype(np.float32)
        values /= self.scale_.astype(np.float32)
        return np.clip(values, -LARGEST, LARGEST, out=values)

    def _product(self, chunks: Sequence[tuple[slice, Any]], kept: np.ndarray | None = None) -> np.ndarray:
        """Return the products of genes with genes over cells, all or those that are kept."""
        found = np.zeros((len(self.variable_), len(self.variable_)))
        for rows, logged in chunks:
            values = self._dense(logged if kept is None else logged[np.flatnonzero(kept[rows])])
            found += values.T @ values
        return found

    def _evidence(self, values: np.ndarray, logged: Any, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return, by cell, the expressed genes that speak most for the first label against the second."""
        first, second = np.argsort(-probabilities, axis=1)[:, :2].T
        names = self._names
        told = np.full(len(values), "", dtype=object)
        pairs = first * probabilities.shape[1] + second
        for pair in np.unique(pairs):
            cells = np.flatnonzero(pairs == pair)
            a, b = divmod(int(pair), probabilities.shape[1])
            speaks = logged[cells].copy()
            speaks.data = np.ones_like(speaks.data)
            speaks = speaks.multiply(values[cells] * (weights[a] - weights[b]).astype(np.float32)).toarray()
            for cell, weight in zip(cells, speaks, strict=True):
                genes = np.flatnonzero(weight > 0)
                told[cell] = ", ".join(names[genes[np.argsort(-weight[genes])[: self.n_evidence]]])
        return told


def variable_genes(whole: sparse.csr_matrix, n_genes: int) -> np.ndarray:
    """Return positions of the genes that vary most, as scanpy finds them in log-normalized counts."""
    import scanpy as sc
    from anndata import AnnData

    cells = AnnData(sparse.csr_matrix(whole))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of small panels, of which all are taken
            sc.pp.highly_variable_genes(cells, n_top_genes=min(n_genes, cells.n_vars))
    except (IndexError, ValueError):  # so few genes or cells that scanpy has nothing to rank
        return np.flatnonzero(np.asarray(whole.max(axis=0).toarray() > whole.min(axis=0).toarray()).ravel())
    chosen = cells.var["highly_variable"].to_numpy()
    found: np.ndarray = np.flatnonzero(chosen & (np.bincount(whole.indices, minlength=cells.n_vars) > 0))
    return found


def _moments(chunks: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each gene, the latter with a little added."""
    n_cells = sum(logged.shape[0] for logged in chunks)
    mean = sum(np.asarray(logged.sum(axis=0, dtype=np.float64)).ravel() for logged in chunks) / n_cells
    square = sum(np.asarray(logged.power(2).sum(axis=0, dtype=np.float64)).ravel() for logged in chunks) / n_cells
    return mean, np.sqrt(np.maximum(square - mean**2, 0)) + LEAST_SCALE


def leading(product: np.ndarray, n_axes: int) -> np.ndarray:
    """Return the leading axes of a matrix of products, the largest loading of each positive."""
    from scipy.linalg import eigh

    size = len(product)
    _, axes = eigh(product, subset_by_index=[size - n_axes, size - 1])
    return positive(axes[:, ::-1])


# -- labels of any embedding -------------------------------------------------------------------------------------------


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
