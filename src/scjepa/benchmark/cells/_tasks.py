"""What methods are asked to do with a labelled set, and the scores of it. A new task is a function and a line below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from scjepa.benchmark.cells._baselines import pca_on_hvg
from scjepa.benchmark.cells._data import TargetCells
from scjepa.benchmark.cells._embed import Bench, Took
from scjepa.benchmark.cells._methods import BATCHES, DROPOUT, FINETUNE, FITTED, OWN, ZERO_SHOT
from scjepa.benchmark.cells._plan import CellEntry
from scjepa.benchmark.cells._pretrained import embedder, quiet, with_labels
from scjepa.benchmark.cells._scoring import AFTER, BEFORE, bio_scores, knn_accuracy, rows_of
from scjepa.datasets import thin_counts
from scjepa.metrics import label_transfer, neighbor_agreement, scib_suite


@dataclass
class Found:
    """Scores, embeddings by read-out, and the time of the method."""

    rows: list[dict] = field(default_factory=list)
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)
    took: Took = field(default_factory=Took)


def zero_shot(bench: Bench, entry: CellEntry, seed: int) -> Found:
    """Embed the target: AvgBIO and its parts, and the accuracy of a vote of neighbors."""
    found, target, scoring = Found(), bench.target, bench.scoring
    for readout, embed in bench.embedders(entry, seed, target, found.took).items():
        embedding = found.embeddings[readout] = embed(target.adata)
        scores = bio_scores(embedding, target.labels, scoring)
        scores["knn_accuracy"] = knn_accuracy(embedding, target.labels, scoring.n_neighbors, scoring.folds)
        found.rows += rows_of(scores, len(target.labels), readout)
    return found


def dropout(bench: Bench, entry: CellEntry, seed: int) -> Found:
    """Embed the target with fewer molecules: what is left of neighbors, of labels and of clusters."""
    found, target, scoring = Found(), bench.target, bench.scoring
    fractions = sorted({1.0, *scoring.fractions}, reverse=True)
    for readout, embed in bench.embedders(entry, seed, target, found.took).items():
        whole = embed(target.adata)
        for fraction in fractions:
            thinned = target.adata if fraction == 1 else thin_counts(target.adata, fraction, seed=seed)
            embedding = whole if fraction == 1 else embed(thinned)
            n_neighbors = scoring.n_neighbors
            voted = label_transfer(whole, target.labels, embedding, target.labels, n_neighbors=n_neighbors, ignore=())
            bio = bio_scores(embedding, target.labels, scoring)
            scores = {
                "neighbors": neighbor_agreement(whole, embedding, n_neighbors=n_neighbors),
                "label_accuracy": voted.accuracy,
                **{name: bio[name] for name in ("avg_bio", "nmi", "ari", "asw_scaled")},
            }
            found.rows += rows_of(scores, len(target.labels), readout, share(fraction))
    return found


def share(fraction: float) -> str:
    """Return a share of molecules as the group that its scores have: ``"25%"``."""
    return f"{100 * fraction:g}%"


def batches(bench: Bench, entry: CellEntry, seed: int) -> Found:
    """Embed the target, batches integrated by what can: the suite of scib-metrics."""
    found, target = Found(), bench.target
    uncorrected = pca_on_hvg(target.adata, seed)(target.adata)
    for readout, embed in bench.embedders(entry, seed, target, found.took, integrate=True).items():
        embedding = found.embeddings[readout] = embed(target.adata)
        scores = scib_suite(embedding, target.batches, target.labels, uncorrected=uncorrected, ignore=())
        found.rows += rows_of(scores.to_dict(), len(target.labels), readout)
    return found


def finetune(bench: Bench, entry: CellEntry, seed: int) -> Found:
    """Fine-tune on most of the target's labels, and tell those of the cells that were left out.

    Test cells are in no object that a method is pretrained (save on sets of one's own choice), fitted or fine-tuned on,
    and their labels are read by the scores alone.
    """
    found, target, scoring = Found(), bench.target, bench.scoring
    train, test = split(target, scoring.test_size, scoring.split_seed)
    fit = target.subset(train)

    def told(embedding: np.ndarray, readout: str, group: str) -> list[dict]:
        """Return scores of the labels that training cells tell of test cells."""
        labels = target.labels[test]
        k = scoring.n_neighbors
        voted = label_transfer(embedding[train], fit.labels, embedding[test], labels, n_neighbors=k, ignore=())
        scores = {name: getattr(voted, name) for name in ("accuracy", "macro_f1", "majority_rate")}
        scores.update(bio_scores(embedding[test], labels, scoring))
        return rows_of(scores, voted.n_cells, readout, group)

    for readout, embed in bench.embedders(entry, seed, fit, found.took).items():
        group = entry.settings if entry.settings in (FITTED, OWN) else BEFORE
        found.rows += told(embed(target.adata), readout, group)
    if entry.config is None:
        return found
    labelled = with_labels(fit.adata, fit.labels)
    model = bench.pretraining.on_cells(entry, bench.corpus_for(fit), seed, labelled)
    with found.took.counting(), quiet():
        model.finetune(validation_size=0, accelerator=bench.pretraining.accelerator, progress_bar=False)
    for readout in scoring.readouts:
        with found.took.counting():
            embedding = embedder(model, scoring, readout)(target.adata)
        found.rows += told(embedding, readout, AFTER)
    return found


def split(target: TargetCells, test_size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of training and of test cells, drawn within labels; a label of one cell is for training.

    Raises
    ------
    ValueError
        If a side has too few cells for that.
    """
    from sklearn.model_selection import train_test_split

    names, codes, sizes = np.unique(target.labels.astype(str), return_inverse=True, return_counts=True)
    cells, single = np.flatnonzero(sizes[codes] > 1), np.flatnonzero(sizes[codes] == 1)
    try:
        train, test = train_test_split(cells, test_size=test_size, random_state=seed, stratify=codes[cells])
    except ValueError as error:
        raise ValueError(
            f"{len(cells)} cells of {len(names)} labels cannot be split with {test_size:g} of them for testing: {error}"
        ) from error
    return np.sort(np.r_[train, single]), np.sort(test)


TASK_FUNCTIONS: Mapping[str, Callable[[Bench, CellEntry, int], Found]] = {
    ZERO_SHOT: zero_shot,
    DROPOUT: dropout,
    BATCHES: batches,
    FINETUNE: finetune,
}
"""What is done for each task."""
