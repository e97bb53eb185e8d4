"""Whether a label learned on one section or technology is found again on another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core.arrays import varied_embedding
from scjepa._core.keys import UNLABELLED
from scjepa.metrics.clustering import _labelled

if TYPE_CHECKING:
    from scjepa._core.arrays import Ignored, Labels, Matrix


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
    labels: tuple[Any, ...]


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
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.neighbors import KNeighborsClassifier

    if n_neighbors < 1:
        raise ValueError(f"n_neighbors must be 1 or more, found {n_neighbors}.")
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
    vote.fit(reference, np.array([number[name] for name in known]))
    found = vote.predict(query[scored])
    kept = [number[name] for name in shared]
    return LabelTransfer(
        accuracy=float(accuracy_score(codes, found)),
        macro_f1=float(f1_score(codes, found, labels=kept, average="macro", zero_division=0)),
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
