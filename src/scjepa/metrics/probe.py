"""What can be read from an embedding, by a straight line or by neighbors, and scores of predicted labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from scjepa._core import keys as _keys
from scjepa._core.arrays import group_codes, tissue, varied_embedding
from scjepa._core.conformal import expected_calibration_error
from scjepa._core.html import as_html
from scjepa._core.keys import UNLABELLED
from scjepa._core.neighbors import nearest_places, spatial_blocks
from scjepa._core.plain import whole
from scjepa.metrics.clustering import _labelled

if TYPE_CHECKING:
    from scjepa._core.arrays import Ignored, Labels, Matrix


_MOST_ITERATIONS = 1000
_FEWEST_IN_BLOCK = 50
_BLOCKS = 50


@dataclass(frozen=True)
class Probe:
    """Scores of a linear probe on cells that it did not see.

    Attributes
    ----------
    accuracy
        Share of the labelled cells whose label was found; every cell is a test cell once.
    balanced_accuracy
        Mean over labels of the share found.
    macro_f1
        Mean over labels of the F1 score.
    majority_rate
        Share of the commonest label: the accuracy of always saying it.
    n_cells
        Labelled cells.
    n_blocks
        Spatial blocks.
    folds
        One row for each fold: ``fold``, ``n_train``, ``n_test``, ``accuracy``, ``balanced_accuracy``, ``macro_f1``,
        the last two over the labels among its test cells.
    predicted
        Label found for each cell while it was a test cell; ``None`` for cells without a label. Shape (n_cells,).
    """

    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    majority_rate: float
    n_cells: int
    n_blocks: int
    folds: pd.DataFrame
    predicted: np.ndarray

    _repr_html_ = as_html


def block_probe(
    embedding: Matrix,
    labels: Labels,
    coordinates: Matrix,
    sections: Labels | None = None,
    *,
    n_folds: int = 5,
    block_size: int | None = None,
    margin: int = 10,
    seed: int = 0,
    ignore: Ignored = UNLABELLED,
) -> Probe:
    """Cross-validate a linear classifier of labels over compact spatial blocks.

    Multinomial logistic regression (scikit-learn, L2 penalty with C = 1) on dimensions z-scored by the training
    cells. Neighbors share most of their neighborhood, so a random split of cells would let the probe remember places.
    Here whole blocks of tissue are test cells, and training cells next to them are left out.

    Parameters
    ----------
    embedding
        Array of shape (n_cells, n_dims).
    labels
        Known label of each cell, such as region or cell type.
    coordinates
        Array of shape (n_cells, 2 or 3), any unit.
    sections
        Section of each cell; ``None``: one section.
    n_folds
        Folds; blocks are dealt to folds so that labels are spread evenly.
    block_size
        Most cells of a block. Default: a fiftieth of the labelled cells, at least 50. A label found in one block only
        cannot be learned.
    margin
        A training cell is left out of a fold when a test cell is among its ``margin`` nearest labelled cells or it
        among those of a test cell. 0: none is left out.
    seed
        Which blocks go to which fold.
    ignore
        Labels that mean "no label". Cells with these labels or NaN are left out.

    Returns
    -------
    Probe
        ``accuracy``, ``balanced_accuracy``, ``macro_f1`` over all cells, ``majority_rate``, ``n_cells``,
        ``n_blocks``, ``folds`` (data frame) and ``predicted``.

    Raises
    ------
    ValueError
        If the embedding or coordinates have NaN, the embedding is constant, lengths differ, there is one label, there
        are fewer blocks than folds, or a margin leaves a fold without training cells.
    """
    values = varied_embedding(embedding)
    _labelled(labels, ignore, len(values))
    folds = block_folds(
        labels, coordinates, sections, n_folds=n_folds, block_size=block_size, margin=margin, seed=seed, ignore=ignore
    )
    kept, truth, values = folds.kept, folds.truth, values[folds.kept]
    found = np.full(len(values), -1)
    rows = []
    for fold, (train, test) in enumerate(folds):
        found[test] = _fit_predict(values[train], truth[train], values[test])
        rows.append({"fold": fold, "n_train": len(train), "n_test": len(test), **_scores(truth[test], found[test])})
    predicted = np.full(len(kept), None, dtype=object)
    predicted[kept] = np.array(folds.names, dtype=object)[found]
    return Probe(
        **_scores(truth, found),
        majority_rate=float(np.bincount(truth).max() / len(truth)),
        n_cells=len(truth),
        n_blocks=folds.n_blocks,
        folds=pd.DataFrame(rows),
        predicted=predicted,
    )


@dataclass(frozen=True)
class BlockFolds:
    """Labelled cells dealt to folds by whole blocks of tissue; iterating yields training and test cells of each fold.

    Attributes
    ----------
    kept
        Which cells have a label, ``(n_cells,)`` bool. What follows counts these cells alone.
    truth
        Their labels as codes, ``(n_kept,)``.
    names
        The labels that the codes stand for.
    n_blocks
        Spatial blocks.
    splits
        Training and test cells of each fold, positions among the kept cells. Test cells are disjoint between folds.
    """

    kept: np.ndarray
    truth: np.ndarray
    names: list[object]
    n_blocks: int
    splits: list[tuple[np.ndarray, np.ndarray]]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield training and test cells of each fold."""
        return iter(self.splits)

    def __len__(self) -> int:
        """Return the number of folds."""
        return len(self.splits)


def block_folds(
    labels: Labels,
    coordinates: Matrix,
    sections: Labels | None = None,
    *,
    n_folds: int = 5,
    block_size: int | None = None,
    margin: int = 10,
    seed: int = 0,
    ignore: Ignored = UNLABELLED,
) -> BlockFolds:
    """Deal labelled cells to folds by whole blocks of tissue, with a margin between training and test cells.

    The folds of :func:`block_probe`, for a classifier of one's own. Parameters and errors are those of
    :func:`block_probe`.

    Parameters
    ----------
    labels, coordinates, sections, n_folds, block_size, margin, seed, ignore
        As :func:`block_probe` takes them.

    Returns
    -------
    BlockFolds
        Iterate over it for ``(train, test)`` positions among the cells that have a label.
    """
    places, codes = tissue(coordinates, sections, len(labels))
    _, kept = _labelled(labels, ignore)
    truth, names = group_codes(np.asarray(labels, dtype=object)[kept], int(kept.sum()), "labels")
    if len(names) < 2:
        raise ValueError(f"A probe needs two labels or more; all {kept.sum()} labelled cells are {names[0]!r}.")
    places, codes = places[kept], codes[kept]
    usual = max(_FEWEST_IN_BLOCK, len(truth) // _BLOCKS)
    blocks = spatial_blocks(places, codes, usual if block_size is None else whole("block_size", block_size, least=1))
    splits = list(_splits(truth, blocks, n_folds, seed, _near(places, codes, margin)))
    return BlockFolds(kept, truth, list(names), int(blocks.max()) + 1, splits)


def _near(places: np.ndarray, sections: np.ndarray, margin: int) -> csr_matrix:
    """Return a symmetric csr matrix of which cells are near which."""
    margin = whole("margin", margin, least=0)
    near = csr_matrix((len(places), len(places)))
    if margin == 0:
        return near
    for cells, neighbors, _ in nearest_places(places, sections, margin):
        rows = np.repeat(cells, neighbors.shape[1])
        near += csr_matrix((np.ones(neighbors.size), (rows, neighbors.ravel())), shape=near.shape)
    return near + near.T


def _splits(
    truth: np.ndarray, blocks: np.ndarray, n_folds: int, seed: int, near: csr_matrix
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield training and test cells of each fold."""
    n_blocks = int(blocks.max()) + 1
    if not 2 <= n_folds <= n_blocks:
        raise ValueError(
            f"n_folds must lie between 2 and the number of blocks ({n_blocks}), found {n_folds}. "
            "Give a smaller block_size for more blocks."
        )
    counts = np.zeros((n_blocks, int(truth.max()) + 1))
    np.add.at(counts, (blocks, truth), 1)
    # Blocks of the same commonest label, in random order, are dealt in turn: each label gets into every fold it can.
    order = np.lexsort((np.random.default_rng(seed).permutation(n_blocks), counts.argmax(axis=1)))
    folds = np.empty(n_blocks, dtype=np.int64)
    folds[order] = np.arange(n_blocks) % n_folds
    for fold in range(n_folds):
        train, test = np.flatnonzero(folds[blocks] != fold), np.flatnonzero(folds[blocks] == fold)
        tested = np.zeros(len(truth))
        tested[test] = 1
        apart = train[(near @ tested)[train] == 0]
        if not len(apart):
            raise ValueError(
                f"All training cells of a fold are near its {len(test)} test cells. "
                "Give a smaller margin or a larger block_size."
            )
        yield apart, test


def _fit_predict(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if (labels == labels[0]).all():
        return np.full(len(test), labels[0])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_MOST_ITERATIONS))
    return model.fit(train.astype(np.float64), labels).predict(test.astype(np.float64))


def _scores(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score, recall_score

    present = np.unique(truth)
    return {
        "accuracy": float(accuracy_score(truth, found)),
        "balanced_accuracy": float(recall_score(truth, found, labels=present, average="macro", zero_division=0)),
        "macro_f1": float(f1_score(truth, found, labels=present, average="macro", zero_division=0)),
    }


@dataclass(frozen=True)
class LabelTransfer:
    """Scores of labels carried from reference to query cells.

    Attributes
    ----------
    accuracy
        Share of the scored query cells whose label was found.
    macro_f1
        Mean over ``labels`` of the F1 score.
    majority_rate
        Share of the scored query cells that have the commonest label of theirs: the accuracy of always saying it.
    n_cells
        Query cells that were scored: those whose label the reference has.
    n_left_out
        Labelled query cells that were not scored, for the reference lacks their label.
    n_reference
        Labelled cells of the reference.
    labels
        Labels present on both sides, sorted.
    """

    accuracy: float
    macro_f1: float
    majority_rate: float
    n_cells: int
    n_left_out: int
    n_reference: int
    labels: tuple[object, ...]

    _repr_html_ = as_html


def label_transfer(
    reference_embedding: Matrix,
    reference_labels: Labels,
    query_embedding: Matrix,
    query_labels: Labels,
    *,
    n_neighbors: int = 15,
    ignore: Ignored = UNLABELLED,
) -> LabelTransfer:
    """Carry labels from reference to query cells by a vote of nearest neighbors, and score them.

    Each query cell takes the commonest label among its ``n_neighbors`` nearest labelled cells of the reference
    (Euclidean, one vote each; the first in sorted order wins a tie). All labels of the reference may win, also those
    the query lacks.

    Parameters
    ----------
    reference_embedding, query_embedding
        Arrays of shape (n_cells, n_dims), of the same dimensions. Give both the same read-out first.
    reference_labels, query_labels
        Known label of each cell.
    n_neighbors
        Neighbors that vote, at most as many as the reference has labelled cells.
    ignore
        Labels that mean "no label". Cells with these labels or NaN are left out on both sides.

    Returns
    -------
    LabelTransfer
        ``accuracy``, ``macro_f1``, ``majority_rate``, ``n_cells``, ``n_left_out``, ``n_reference``, ``labels``.

    Raises
    ------
    ValueError
        If an embedding has NaN or is constant, dimensions or lengths differ, a side has no label, or the two sides
        share none.
    """
    from sklearn.neighbors import KNeighborsClassifier

    n_neighbors = whole("n_neighbors", n_neighbors, least=1)
    reference, known = _side(reference_embedding, reference_labels, ignore, "reference")
    query, truth = _side(query_embedding, query_labels, ignore, "query")
    if reference.shape[1] != query.shape[1]:
        raise ValueError(
            f"The reference has {reference.shape[1]} dimensions, the query {query.shape[1]}: embed both with one model."
        )
    shared = sorted(set(known) & set(truth), key=str)
    if not shared:
        raise ValueError(
            f"Reference and query share no label. Reference: {_examples(known)}. Query: {_examples(truth)}."
        )
    names = sorted(set(known), key=str)
    number = {name: i for i, name in enumerate(names)}
    scored = np.array([name in number for name in truth])
    codes = np.array([number[name] for name in truth[scored]])
    vote = KNeighborsClassifier(n_neighbors=min(n_neighbors, len(reference)), algorithm="brute")
    found = vote.fit(reference, np.array([number[name] for name in known])).predict(query[scored])
    scores = _scores(codes, found)
    return LabelTransfer(
        accuracy=scores["accuracy"],
        macro_f1=scores["macro_f1"],
        majority_rate=float(np.bincount(codes).max() / len(codes)),
        n_cells=len(codes),
        n_left_out=int((~scored).sum()),
        n_reference=len(known),
        labels=tuple(shared),
    )


def _side(embedding: Matrix, labels: Labels, ignore: Ignored, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the embedding and the labels of the labelled cells."""
    values = varied_embedding(embedding, what=f"the embedding of the {side}")
    if len(labels) != len(values):
        raise ValueError(f"The embedding of the {side} has {len(values)} cells, its labels {len(labels)}.")
    _, kept = _labelled(labels, ignore)
    return values[kept], np.asarray(labels, dtype=object)[kept]


def _examples(labels: np.ndarray) -> str:
    names = sorted(set(labels), key=str)
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


# -- predicted labels --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnnotationScores:
    """Scores of predicted labels.

    Attributes
    ----------
    accuracy
        Share of the scored cells whose label was found; ``"unknown"`` is not right.
    macro_f1
        Mean over the labels among the scored cells of the F1 score.
    calibration_error
        Expected calibration error of the confidence; NaN without one.
    unknown
        Share of the scored cells called ``"unknown"``: false alarms where the reference has their labels.
    found_unknown
        Share of the cells of labels that the reference lacks that were called ``"unknown"``; NaN where there are none.
    n_cells, n_new
        Cells that were scored, and cells of labels that the reference lacks.
    labels
        One row for each label: ``n_cells``, ``precision``, ``recall``, ``f1``, ``unknown``.
    """

    accuracy: float
    macro_f1: float
    calibration_error: float
    unknown: float
    found_unknown: float
    n_cells: int
    n_new: int
    labels: pd.DataFrame


def annotation_scores(
    truth: Labels,
    predicted: Labels,
    confidence: np.ndarray | pd.Series | None = None,
    *,
    known: Labels | None = None,
    ignore: Ignored = _keys.UNLABELLED,
) -> AnnotationScores:
    """Score predicted labels against known ones.

    Parameters
    ----------
    truth
        ``(n_cells,)`` label of each cell.
    predicted
        ``(n_cells,)`` label that was found, ``"unknown"`` or missing where none was.
    confidence
        ``(n_cells,)`` probability of the label, in [0, 1].
    known
        Labels that the reference has; cells of others are scored by ``found_unknown`` alone. Default: all.
    ignore
        Labels in ``truth`` that mean "no label". Cells with these or NaN are left out.

    Raises
    ------
    ValueError
        If lengths differ, no cell has a label that the reference has, or a confidence lies outside [0, 1].

    Examples
    --------
    >>> scores = scjepa.metrics.annotation_scores(truth, adata.obs["predicted_label"], known=["B", "T"])
    >>> scores.labels
    """
    from sklearn.metrics import precision_recall_fscore_support

    _, kept = _labelled(truth, ignore)
    if len(predicted) != len(kept):
        raise ValueError(f"truth has {len(kept)} cells, predicted {len(predicted)}.")
    right = np.asarray(truth, dtype=object)[kept].astype(str)
    found = pd.Series(np.asarray(predicted, dtype=object)[kept]).fillna(_keys.UNKNOWN).astype(str).to_numpy()
    has = np.ones(len(right), dtype=bool) if known is None else np.isin(right, np.unique(np.asarray(known, dtype=str)))
    if not has.any():
        raise ValueError("No cell has a label that the reference has: are they spelt alike?")
    is_unknown = found == _keys.UNKNOWN
    present = np.unique(right[has])
    precision, recall, f1, sizes = precision_recall_fscore_support(
        right[has], found[has], labels=present, zero_division=0
    )
    error = np.nan
    if confidence is not None:
        error = expected_calibration_error((right == found)[has], np.asarray(confidence)[kept][has])
    alarms = pd.Series(is_unknown[has]).groupby(right[has]).mean()[present].to_numpy()
    table = {"n_cells": sizes, "precision": precision, "recall": recall, "f1": f1, "unknown": alarms}
    return AnnotationScores(
        accuracy=float((right == found)[has].mean()),
        macro_f1=float(f1.mean()),
        calibration_error=error,
        unknown=float(is_unknown[has].mean()),
        found_unknown=float(is_unknown[~has].mean()) if (~has).any() else np.nan,
        n_cells=int(has.sum()),
        n_new=int((~has).sum()),
        labels=pd.DataFrame(table, index=pd.Index(present, name="label")),
    )
