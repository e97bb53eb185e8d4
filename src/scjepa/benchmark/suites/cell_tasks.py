"""The cells of a comparison, and what methods are asked to do with them. A new task is a class and a line below."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from scjepa._core.anndata import missing_key, text_of, warn_of_words
from scjepa._core.options import unknown_name
from scjepa._core.plain import take_plain
from scjepa.benchmark.controls import BATCH, pca_on_hvg
from scjepa.benchmark.inputs import Data, counts_only, digest, digest_of_texts, read_named
from scjepa.benchmark.method import OWN, Output, Part
from scjepa.datasets import thin_counts
from scjepa.metrics import average_bio, label_transfer, neighbor_agreement, scib_suite
from scjepa.metrics.embeddings import RESOLUTIONS

if TYPE_CHECKING:
    from scjepa.benchmark.suites.cell_models import Fitting

LABEL = "label"
"""``obs`` column of labels in training cells of fine-tuning, empty elsewhere."""


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
class TargetCells:
    """The cells that are scored.

    Attributes
    ----------
    name
        What they are called in tables.
    adata
        Whole counts in CSR, and ``obs["batch"]`` where batches were named. It holds no label.
    labels
        ``(n_cells,)`` texts.
    batches
        ``(n_cells,)`` texts, or ``None``.
    """

    name: str
    adata: AnnData
    labels: np.ndarray
    batches: np.ndarray | None = None

    @cached_property
    def digest(self) -> str:
        """Checksum of the cells, and of the labels they are scored with."""
        return f"{digest(self.adata)[:16]}-{digest_of_texts(self.labels)}"

    def subset(self, cells: np.ndarray) -> TargetCells:
        """Return some of the cells, in that order."""
        batches = None if self.batches is None else self.batches[cells]
        return TargetCells(self.name, self.adata[cells].copy(), self.labels[cells], batches)


@dataclass(frozen=True)
class Corpus:
    """The cells that models are pretrained on.

    Attributes
    ----------
    name
        Of the sets.
    adata
        Whole counts; all genes of any set, ``obs["batch"]`` the set, ``obs["label"]`` empty.
    """

    name: str
    adata: AnnData

    @cached_property
    def digest(self) -> str:
        """Checksum of the cells."""
        return digest(self.adata)[:16]


def read_target(
    target: Data, label: str, batch: str | None = None, layer: str | None = None, no_label: Sequence[str] = ()
) -> TargetCells:
    """Return the cells that have a label and a count.

    Parameters
    ----------
    target
        AnnData, the path of an h5ad file, or one of them by name.
    label, batch
        ``obs`` columns.
    layer
        Layer of raw counts; default: ``X``.
    no_label
        Labels that name nothing. Cells with them, or without a label, are left out.

    Raises
    ------
    FileNotFoundError, KeyError, TypeError, ValueError
        If something is not there, values are no counts, or there are fewer than two labels.
    """
    named = read_named(target, "target")
    if len(named) != 1:
        raise ValueError(f"There is one target, found {len(named)}: {', '.join(named)}. Run the command for each.")
    ((name, adata),) = named.items()
    if label == batch:
        raise ValueError(f"{label!r} is named as label and as batch. Labels must stay out of training: name another.")
    for what, column in (("label", label), ("batch", batch)):
        if column is not None and column not in adata.obs:
            raise missing_key("obs", column, adata.obs.columns, f"Name the column of the {what}.", name)
    labels = text_of(adata.obs[label])
    cells = counts_only(name, adata, layer)
    has = np.array([one is not None and one not in set(map(str, no_label)) for one in labels], dtype=bool)
    warn_of_words(labels[has], "label", label)
    kept = np.flatnonzero(has & (np.asarray(cells.X.sum(axis=1)).ravel() > 0))
    found = sorted(set(labels[kept]))
    if not 2 <= len(found) < len(kept):
        raise ValueError(
            f"{name!r}: {len(kept)} cells with counts have a label obs[{label!r}], of {len(found)} kinds "
            f"({', '.join(found[:5]) or 'none'}). Two or more are needed, and fewer than there are cells."
        )
    cells, batches = cells[kept].copy(), None
    if batch is not None:
        batches = _batches(name, adata, batch)[kept]
        cells.obs[BATCH] = pd.Categorical(batches)
    return TargetCells(name, cells, labels[kept], batches)


def _batches(name: str, adata: AnnData, batch: str) -> np.ndarray:
    column = adata.obs[batch]
    if column.isna().any():
        raise ValueError(
            f"{name!r}: {column.isna().sum()} cells have no batch obs[{batch!r}], first "
            f"{column.index[column.isna()][0]!r}. Fill it in, or leave these cells out."
        )
    return text_of(column)


def read_corpus(pretrain: Data, target: TargetCells, layer: str | None = None) -> Corpus:
    """Return sets to pretrain on as one: all genes of any of them.

    A gene that a set did not measure counts as not expressed in its cells; Cell-JEPA sees expressed genes alone.

    Raises
    ------
    FileNotFoundError, KeyError, TypeError, ValueError
        If something is not there, values are no counts, or a set has no gene of the target.
    """
    import anndata as ad

    parts = {}
    for name, adata in read_named(pretrain, "pretraining").items():
        cells = counts_only(name, adata, layer)
        if not cells.var_names.isin(target.adata.var_names).any():
            sides = [f"{', '.join(names[:3])}, ..." for names in (cells.var_names, target.adata.var_names)]
            raise ValueError(
                f"{name!r} has no gene of the target {target.name!r} ({sides[0]} against {sides[1]}). Gene names must "
                "be of one kind and one species; without sets to pretrain on, models are trained on the target itself."
            )
        cells = cells[np.asarray(cells.X.sum(axis=1)).ravel() > 0].copy()
        if cells.n_obs == 0:
            raise ValueError(f"{name!r} has no cell with a count.")
        parts[name] = cells
    joined = ad.concat(parts, join="outer", label=BATCH, fill_value=0, index_unique="-")
    joined.X = joined.X.tocsr().astype(np.int32)
    return Corpus(" + ".join(parts), without_labels(joined))


def without_labels(adata: AnnData) -> AnnData:
    """Return the cells with an empty column of labels, so that a model set up on them can be fine-tuned later."""
    adata.obs[LABEL] = pd.Categorical([None] * adata.n_obs, categories=[])
    return adata


def corpus_of(cells: TargetCells) -> Corpus:
    """Return cells of the target to pretrain on, where no other sets were named."""
    adata = cells.adata.copy()
    adata.obs = pd.DataFrame(index=adata.obs_names)
    return Corpus(cells.name, without_labels(adata))


# -- how they are scored, and the tasks -----------------------------------------------------------------------------


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


class CellTask:
    """Something that methods are asked to do with labelled cells."""

    keeps = True
    """Whether embeddings are kept, for figures."""

    integrates = False
    """Whether methods that can are to integrate batches."""

    def embed(self, method: Fitting, target: TargetCells, scoring: CellScoring, seed: int) -> Iterator[Part]:
        """Embed what is scored."""
        for readout, embed in method.embedders(target, self.integrates).items():
            yield Part(readout, ALL, embed(target.adata))

    def score(self, parts: Sequence[Part], target: TargetCells, scoring: CellScoring, seed: int) -> list[Row]:
        """Return a row for each score."""
        raise NotImplementedError


class ZeroShot(CellTask):
    """Embed the target: AvgBIO and its parts, and the accuracy of a vote of neighbors."""

    def score(self, parts: Sequence[Part], target: TargetCells, scoring: CellScoring, seed: int) -> list[Row]:
        """Return a row for each score."""
        rows = []
        for part in parts:
            scores = bio_scores(part.values, target.labels, scoring)
            accuracy = knn_accuracy(part.values, target.labels, scoring.n_neighbors, scoring.folds)
            rows += rows_of({**scores, "knn_accuracy": accuracy}, len(target.labels), part)
        return rows


class Dropout(CellTask):
    """Embed the target with fewer molecules: what is left of neighbors, of labels and of clusters."""

    keeps = False

    def embed(self, method: Fitting, target: TargetCells, scoring: CellScoring, seed: int) -> Iterator[Part]:
        """Embed what is scored."""
        fractions = sorted({1.0, *scoring.fractions}, reverse=True)
        for readout, embed in method.embedders(target).items():
            for fraction in fractions:
                cells = target.adata if fraction == 1 else thin_counts(target.adata, fraction, seed=seed)
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


class Batches(CellTask):
    """Embed the target, batches integrated by what can: the suite of scib-metrics."""

    integrates = True

    def score(self, parts: Sequence[Part], target: TargetCells, scoring: CellScoring, seed: int) -> list[Row]:
        """Return a row for each score."""
        rows, uncorrected = [], pca_on_hvg(target.adata, seed)(target.adata)
        for part in parts:
            found = scib_suite(part.values, target.batches, target.labels, uncorrected=uncorrected, ignore=())
            rows += rows_of(found.to_dict(), len(target.labels), part)
        return rows


class Finetune(CellTask):
    """Fine-tune on most of the target's labels, and carry them to the cells that were left out.

    Test cells are in no object that a method is pretrained (save on sets of one's own choice), fitted or fine-tuned on,
    and their labels are read by the scores alone.
    """

    keeps = False

    def embed(self, method: Fitting, target: TargetCells, scoring: CellScoring, seed: int) -> Iterator[Part]:
        """Embed what is scored."""
        fit = target.subset(split(target, scoring.test_size, scoring.split_seed)[0])
        settings = method.entry.settings
        group = settings if settings in (FITTED, OWN) else BEFORE
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
        raise ValueError(f"The task {BATCHES!r} needs the obs column of batches: batch=... (--batch-key COLUMN).")
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
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    names = labels.astype(str)
    least = len(names) - -(-len(names) // folds)  # cells that vote in the smallest training part
    vote = KNeighborsClassifier(min(n_neighbors, least), algorithm="brute")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        return float(cross_val_score(vote, embedding, names, cv=StratifiedKFold(folds)).mean())
