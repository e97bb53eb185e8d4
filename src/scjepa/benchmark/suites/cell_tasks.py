"""What methods are asked to do with labelled cells, and the scores of it. A new task is a class and a line below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from anndata import AnnData

from scjepa._core.options import unknown_name
from scjepa._core.plain import take_plain
from scjepa.benchmark.controls import Embed, pca_on_hvg
from scjepa.benchmark.method import OWN, Output, Part
from scjepa.benchmark.suites.cell_data import TargetCells
from scjepa.datasets import thin_counts
from scjepa.metrics import average_bio, label_transfer, neighbor_agreement, scib_suite
from scjepa.metrics.bio import RESOLUTIONS

ZERO_SHOT, DROPOUT, BATCHES, FINETUNE = "zero_shot", "dropout", "batches", "finetune"

PRETRAINED, UNTRAINED, FITTED = "pretrained", "untrained", "fitted"
"""How a method comes by what it knows: on other cells, not at all, on cells of the target."""

PLAIN = "plain"
"""Read-out of methods that give one embedding."""

ALL = "all"
"""Group of scores that are of all cells."""

BEFORE, AFTER = "before fine-tuning", "fine-tuned"
"""Groups of the scores of fine-tuning; those of methods that are not fine-tuned are ``"fitted"`` and ``"own"``."""

_KEPT = ("top", "spread")

Row = dict[str, object]


@dataclass(frozen=True)
class CellScoring:
    """How :func:`~scjepa.benchmark.run_cells` reads out and scores.

    Parameters
    ----------
    readouts
        Poolings of Cell-JEPA's token vectors: ``"cls"``, ``"genes"``. Other methods have one embedding, ``"plain"``.
    resolutions
        Leiden's resolutions; NMI and ARI are those of the resolution with the best NMI.
    fractions
        Shares of the molecules to which the target is thinned; all molecules are always a row.
    n_neighbors
        Neighbors that vote on a label, and that are compared between embeddings.
    n_tokens, kept
        How many of a cell's expressed genes Cell-JEPA embeds, and which, as in :class:`~scjepa.config.CellTokenConfig`;
        ``None``: as the model was trained.
    folds
        Parts of the cross-validation of the neighbors' vote.
    test_size
        Share of the target's cells that fine-tuning never sees.
    split_seed
        Seed of that split.

    Raises
    ------
    ValueError
        If a value cannot be used.
    """

    readouts: tuple[str, ...] = ("cls", "genes")
    resolutions: tuple[float, ...] = RESOLUTIONS
    fractions: tuple[float, ...] = (0.5, 0.25, 0.1)
    n_neighbors: int = 15
    n_tokens: int | None = 3000
    kept: str | None = "spread"
    folds: int = 5
    test_size: float = 0.1
    split_seed: int = 42

    def __post_init__(self) -> None:
        for name in ("readouts", "resolutions", "fractions"):
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))
        take_plain(self)
        for readout in self.readouts:
            if readout not in ("cls", "genes"):
                raise ValueError(unknown_name("read-out", readout, ("cls", "genes")))
        if not self.readouts or not self.resolutions:
            raise ValueError("There must be a read-out or more, and a resolution or more.")
        if self.kept is not None and self.kept not in _KEPT:
            raise ValueError(unknown_name("kept", self.kept, _KEPT))
        if not all(resolution > 0 for resolution in self.resolutions):
            raise ValueError(f"Resolutions must be positive, found {self.resolutions}.")
        if not all(0 < fraction <= 1 for fraction in self.fractions):
            raise ValueError(f"Shares of molecules must lie in (0, 1], found {self.fractions}.")
        if not 0 < self.test_size < 1:
            raise ValueError(f"test_size must lie in (0, 1), found {self.test_size!r}.")
        for name, least in (("n_neighbors", 1), ("folds", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, found {getattr(self, name)!r}.")


@dataclass(frozen=True)
class CellOutput(Output):
    """What a method gave on a task, and what it took."""

    seed: int
    parts: Sequence[Part]


class Fitted(Protocol):
    """A method, and how it is fitted in this comparison."""

    settings: str

    def embedders(self, fit: TargetCells, integrate: bool = False) -> dict[str, Embed]:
        """Return what embeds cells, by read-out; ``fit`` are the cells that the method may be fitted on."""

    def finetuned(self, fit: TargetCells) -> dict[str, Embed]:
        """Return what embeds cells after fine-tuning on labels, by read-out; nothing for what is not fine-tuned."""


class CellTask(Protocol):
    """Something that methods are asked to do with labelled cells."""

    keeps: bool
    """Whether embeddings are kept, for figures."""

    def embed(self, method: Fitted, target: TargetCells, scoring: CellScoring, seed: int) -> Iterator[Part]:
        """Embed what is scored."""

    def score(self, parts: Sequence[Part], target: TargetCells, scoring: CellScoring, seed: int) -> list[Row]:
        """Return a row for each score."""


class ZeroShot:
    """Embed the target: AvgBIO and its parts, and the accuracy of a vote of neighbors."""

    keeps = True

    def embed(self, method: Fitted, target: TargetCells, scoring: CellScoring, seed: int) -> Iterator[Part]:
        """Embed what is scored."""
        for readout, embed in method.embedders(target).items():
            yield Part(readout, ALL, embed(target.adata))

    def score(self, parts: Sequence[Part], target: TargetCells, scoring: CellScoring, seed: int) -> list[Row]:
        """Return a row for each score."""
        rows = []
        for part in parts:
            scores = bio_scores(part.values, target.labels, scoring)
            accuracy = knn_accuracy(part.values, target.labels, scoring.n_neighbors, scoring.folds)
            rows += rows_of({**scores, "knn_accuracy": accuracy}, len(target.labels), part)
        return rows


class Dropout:
    """Embed the target with fewer molecules: what is left of neighbors, of labels and of clusters."""

    keeps = False

    def embed(self, method: Fitted, target: TargetCells, scoring: CellScoring, seed: int) -> Iterator[Part]:
        """Embed what is scored."""
        fractions = sorted({1.0, *scoring.fractions}, reverse=True)
        for readout, embed in method.embedders(target).items():
            for fraction in fractions:
                cells: AnnData = target.adata if fraction == 1 else thin_counts(target.adata, fraction, seed=seed)
                yield Part(readout, f"{100 * fraction:g}%", embed(cells))

    def score(self, parts: Sequence[Part], target: TargetCells, scoring: CellScoring, seed: int) -> list[Row]:
        """Return a row for each score."""
        rows, k, labels = [], scoring.n_neighbors, target.labels
        whole = {part.readout: part.values for part in parts if part.group == "100%"}
        for part in parts:
            reference = whole[part.readout]
            voted = label_transfer(reference, labels, part.values, labels, n_neighbors=k, ignore=())
            bio = bio_scores(part.values, labels, scoring)
            scores = {
                "neighbors": neighbor_agreement(reference, part.values, n_neighbors=k),
                "label_accuracy": voted.accuracy,
                **{name: bio[name] for name in ("avg_bio", "nmi", "ari", "asw_scaled")},
            }
            rows += rows_of(scores, len(labels), part)
        return rows


class Batches:
    """Embed the target, batches integrated by what can: the suite of scib-metrics."""

    keeps = True

    def embed(self, method: Fitted, target: TargetCells, scoring: CellScoring, seed: int) -> Iterator[Part]:
        """Embed what is scored."""
        for readout, embed in method.embedders(target, integrate=True).items():
            yield Part(readout, ALL, embed(target.adata))

    def score(self, parts: Sequence[Part], target: TargetCells, scoring: CellScoring, seed: int) -> list[Row]:
        """Return a row for each score."""
        rows, uncorrected = [], pca_on_hvg(target.adata, seed)(target.adata)
        for part in parts:
            found = scib_suite(part.values, target.batches, target.labels, uncorrected=uncorrected, ignore=())
            rows += rows_of(found.to_dict(), len(target.labels), part)
        return rows


class Finetune:
    """Fine-tune on most of the target's labels, and carry them to the cells that were left out.

    Test cells are in no object that a method is pretrained (save on sets of one's own choice), fitted or fine-tuned on,
    and their labels are read by the scores alone.
    """

    keeps = False

    def embed(self, method: Fitted, target: TargetCells, scoring: CellScoring, seed: int) -> Iterator[Part]:
        """Embed what is scored."""
        fit = target.subset(split(target, scoring.test_size, scoring.split_seed)[0])
        group = method.settings if method.settings in (FITTED, OWN) else BEFORE
        for readout, embed in method.embedders(fit).items():
            yield Part(readout, group, embed(target.adata))
        for readout, embed in method.finetuned(fit).items():
            yield Part(readout, AFTER, embed(target.adata))

    def score(self, parts: Sequence[Part], target: TargetCells, scoring: CellScoring, seed: int) -> list[Row]:
        """Return a row for each score."""
        train, test = split(target, scoring.test_size, scoring.split_seed)
        known, labels, k, rows = target.labels[train], target.labels[test], scoring.n_neighbors, []
        for part in parts:
            voted = label_transfer(part.values[train], known, part.values[test], labels, n_neighbors=k, ignore=())
            scores = {name: getattr(voted, name) for name in ("accuracy", "macro_f1", "majority_rate")}
            rows += rows_of({**scores, **bio_scores(part.values[test], labels, scoring)}, voted.n_cells, part)
        return rows


TASKS: Mapping[str, CellTask] = {ZERO_SHOT: ZeroShot(), DROPOUT: Dropout(), BATCHES: Batches(), FINETUNE: Finetune()}
"""What methods are asked to do, by name."""


def chosen_tasks(tasks: str | Sequence[str], has_batches: bool) -> list[str]:
    """Return the tasks in their order; ``"auto"``: all that the data allow.

    Raises
    ------
    ValueError
        If one is not known, or needs batches where none were named.
    """
    wanted = [tasks] if isinstance(tasks, str) else list(tasks)
    for task in wanted:
        if task not in (*TASKS, "auto"):
            raise ValueError(unknown_name("task", task, (*TASKS, "auto")))
    if BATCHES in wanted and not has_batches:
        raise ValueError(f"The task {BATCHES!r} needs the obs column of batches: batch=... (--batch COLUMN).")
    if "auto" in wanted:
        wanted += [task for task in TASKS if has_batches or task != BATCHES]
    found = [task for task in TASKS if task in wanted]
    if not found:
        raise ValueError(f"Name a task or more: {', '.join(TASKS)}.")
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


def rows_of(scores: Mapping[str, float], n_cells: int, part: Part) -> list[Row]:
    """Return a row for each score, as they are kept; scores that are NaN are left out."""
    case = {"readout": part.readout, "group": part.group, "n_cells": n_cells}
    return [
        {**case, "metric": name, "value": float(value)} for name, value in scores.items() if np.isfinite(float(value))
    ]


def bio_scores(embedding: np.ndarray, labels: np.ndarray, scoring: CellScoring) -> dict[str, float]:
    """Return AvgBIO and its parts; ``best_resolution`` is that of the best NMI, chosen with the labels."""
    found = asdict(average_bio(embedding, labels, resolutions=scoring.resolutions, ignore=()))
    found["best_resolution"] = found.pop("resolution")
    return found


def knn_accuracy(embedding: np.ndarray, labels: np.ndarray, n_neighbors: int = 15, folds: int = 5) -> float:
    """Return the share of cells that a vote of their nearest cells in the other folds labels rightly.

    Parameters
    ----------
    embedding
        ``(n_cells, n_dims)``.
    labels
        ``(n_cells,)``.
    n_neighbors
        Cells that vote (Euclidean, one vote each).
    folds
        Parts of the cross-validation, each with labels in their shares; cells are not shuffled first.
    """
    import warnings

    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    names = labels.astype(str)
    least = len(names) - -(-len(names) // folds)  # cells that vote in the smallest training part
    vote = KNeighborsClassifier(min(n_neighbors, least), algorithm="brute")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        return float(cross_val_score(vote, embedding, names, cv=StratifiedKFold(folds)).mean())
