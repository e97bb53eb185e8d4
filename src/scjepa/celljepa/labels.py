"""Labels from labelled cells nearby: a vote of the nearest neighbors among embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

MOST_CELLS = 50_000
"""Labelled cells that are kept to compare with, at most."""


@dataclass(frozen=True)
class LabelReference:
    """Embeddings of labelled cells.

    Attributes
    ----------
    embedding
        ``(n, width)`` float32.
    codes
        ``(n,)`` int64 label codes.
    names
        Labels in the order of their codes.
    cells
        ``(n,)`` int64 which cells of their data these are.
    source
        Hash of those data's tables.
    """

    embedding: np.ndarray
    codes: np.ndarray
    names: tuple[str, ...]
    cells: np.ndarray
    source: str

    @classmethod
    def of(cls, embedding: np.ndarray, codes: np.ndarray, names: tuple[str, ...], source: str, seed: int) -> Self:
        """Keep the cells that have a label and counts, or so many of them, drawn at random."""
        cells = np.flatnonzero((codes >= 0) & embedding.any(axis=1))  # without counts a cell is near to all others
        if len(cells) > MOST_CELLS:
            cells = np.sort(np.random.default_rng(seed).choice(cells, MOST_CELLS, replace=False))
        return cls(embedding[cells], codes[cells], names, cells, source)

    def facts(self) -> dict[str, Any]:
        """Return what JSON can hold of it."""
        return {"names": list(self.names), "source": self.source}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return its arrays, by the names they are saved under."""
        return {f"reference_{name}": getattr(self, name) for name in ("embedding", "codes", "cells")}

    @classmethod
    def from_saved(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        """Build it from what :meth:`facts` and :meth:`arrays` gave."""
        own = {name: arrays[f"reference_{name}"] for name in ("embedding", "codes", "cells")}
        return cls(names=tuple(facts["names"]), source=facts["source"], **own)

    def vote(self, query: np.ndarray, n_neighbors: int, *, own: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return the commonest label among the nearest neighbors (by cosine), and the share of them that have it.

        Parameters
        ----------
        query
            ``(m, width)`` embeddings.
        n_neighbors
            Neighbors, at most as many as there are.
        own
            Whether the query's cells are all cells of these data, in their order: no cell then votes on itself.

        Returns
        -------
        tuple
            ``(m,)`` codes, -1 where nobody votes, and ``(m,)`` float64 shares. Of labels with as many votes the one
            with the nearer neighbors (by the sum of their cosines) wins.
        """
        spare = int(own)
        k = min(n_neighbors + spare, len(self.codes))
        finder = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(normalize(self.embedding))
        distance, near = finder.kneighbors(normalize(query))
        counts = np.ones_like(distance)
        if own:
            itself = self.cells[near] == np.arange(len(query))[:, None]
            if k > n_neighbors:  # a cell that is not among them leaves out the last
                itself[:, -1] |= ~itself.any(axis=1)
            counts[itself] = 0.0
        cosine = 1 - distance**2 / 2
        votes, nearness = np.zeros((2, len(query), len(self.names)))
        rows = np.arange(len(query))[:, None]
        np.add.at(votes, (rows, self.codes[near]), counts)
        np.add.at(nearness, (rows, self.codes[near]), counts * (1 + cosine))
        winner = (votes + nearness / (4 * k)).argmax(axis=1)  # 1 + cosine is 2 at most: ties only
        voters = counts.sum(axis=1)
        return np.where(voters > 0, winner, -1), votes[rows[:, 0], winner] / np.maximum(voters, 1)
