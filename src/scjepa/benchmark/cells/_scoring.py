"""How embeddings of cells are read out and scored, in the same way for every method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scjepa._core.options import unknown_name
from scjepa._core.plain import take_plain
from scjepa.metrics import average_bio
from scjepa.metrics.bio import RESOLUTIONS

PLAIN = "plain"
"""Read-out of methods that give one embedding."""

ALL = "all"
"""Group of scores that are of all cells."""

BEFORE, AFTER = "before fine-tuning", "fine-tuned"
"""Groups of the scores of fine-tuning; those of methods that are not fine-tuned are ``"fitted"`` and ``"own"``."""

KEPT = ("top", "spread")


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
        How many of a cell's expressed genes Cell-JEPA embeds, and which, as in :class:`~scjepa.CellTokenConfig`;
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
        if self.kept is not None and self.kept not in KEPT:
            raise ValueError(unknown_name("kept", self.kept, KEPT))
        if not all(resolution > 0 for resolution in self.resolutions):
            raise ValueError(f"Resolutions must be positive, found {self.resolutions}.")
        if not all(0 < fraction <= 1 for fraction in self.fractions):
            raise ValueError(f"Shares of molecules must lie in (0, 1], found {self.fractions}.")
        if not 0 < self.test_size < 1:
            raise ValueError(f"test_size must lie in (0, 1), found {self.test_size!r}.")
        for name, least in (("n_neighbors", 1), ("folds", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, found {getattr(self, name)!r}.")


def rows_of(scores: Mapping[str, Any], n_cells: int, readout: str, group: str = ALL, **more: Any) -> list[dict]:
    """Return a row for each score, as they are kept; scores that are NaN are left out."""
    case = {"readout": readout, "group": group, "n_cells": n_cells, **more}
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

    from sklearn.model_selection import StratifiedKFold
    from sklearn.neighbors import KNeighborsClassifier

    hits = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        parts = list(StratifiedKFold(folds).split(embedding, labels.astype(str)))
    for train, test in parts:
        vote = KNeighborsClassifier(min(n_neighbors, len(train)), algorithm="brute").fit(
            embedding[train], labels[train].astype(str)
        )
        hits.append(float((vote.predict(embedding[test]) == labels[test].astype(str)).mean()))
    return float(np.mean(hits))
