"""Cell types by labelled cells, without a network: principal components of variable genes, linear discriminants."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from scjepa._core.arrays import positive
from scjepa._core.checks import between
from scjepa._core.counts import TARGET_SUM
from scjepa._core.keys import UNKNOWN
from scjepa.tl._kept import Kept
from scjepa.tl._label_classifier import LabelClassifier
from scjepa.tl._moments import Features

if TYPE_CHECKING:
    from scjepa._core.arrays import Labels

LARGEST = 10.0
"""Standard deviations beyond which expression says no more: a rare gene in one cell is not to turn a component."""

LEAST_SCALE = 1e-2
"""Added to standard deviations, in log counts, for the same reason."""


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
