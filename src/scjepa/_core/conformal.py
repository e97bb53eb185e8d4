"""Conformal prediction: how far held-out cells lie from what was fitted without them, and which cells lie farther."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

_QUANTILES = 1_001
"""Distances of held-out cells that are kept, evenly spaced in rank."""


@dataclass(frozen=True)
class HeldOut:
    """Distances of held-out cells.

    A new cell that is exchangeable with them exceeds the :meth:`threshold` of an error with that probability at most.

    Attributes
    ----------
    distances
        Distances of held-out cells, rising: all, or 1,001 evenly spaced in rank.
    n_cells
        Cells they are of.
    """

    distances: np.ndarray
    n_cells: int

    @classmethod
    def of(cls, distances: np.ndarray) -> Self:
        """Keep distances of held-out cells, in any order."""
        return cls(thinned(np.sort(distances), min(len(distances), _QUANTILES)), len(distances))

    def threshold(self, error: float) -> float:
        """Return the distance that a share ``error`` of the held-out cells exceeds.

        Raises
        ------
        ValueError
            If there are too few cells to tell.
        """
        rank = np.ceil((self.n_cells + 1) * (1 - error))
        if rank > self.n_cells:
            raise ValueError(
                f"error={error} cannot be told from {self.n_cells:,} held-out cells: it takes {int(1 / error):,} or "
                "more. Choose a larger error."
            )
        return float(self.distances[int(np.ceil((rank - 1) / max(self.n_cells - 1, 1) * (len(self.distances) - 1)))])

    def p_values(self, distance: np.ndarray) -> np.ndarray:
        """Return the share of held-out cells at each distance or farther, the cell itself counted among them."""
        farther = 1 - np.searchsorted(self.distances, distance, side="left") / len(self.distances)
        return ((farther * self.n_cells + 1) / (self.n_cells + 1)).astype(np.float32)


def thinned(rising: np.ndarray, number: int = _QUANTILES) -> np.ndarray:
    """Return so many of the sorted values, evenly spaced in rank, the least and the largest among them."""
    ranks = np.linspace(0, len(rising) - 1, number)
    found: np.ndarray = rising[np.round(ranks).astype(np.int64)]
    return found


def expected_calibration_error(correct: np.ndarray, confidence: np.ndarray, n_bins: int = 15) -> float:
    """Return by how much confidence and the share of right answers differ, cells in bins of equal width.

    Parameters
    ----------
    correct
        ``(n,)`` bool, whether each answer is right.
    confidence
        ``(n,)`` in [0, 1].
    n_bins
        Bins of [0, 1].

    Returns
    -------
    float
        Mean over bins of the distance of share right and mean confidence, weighted by their cells.

    Raises
    ------
    ValueError
        If there are no cells, lengths differ, or a confidence lies outside [0, 1].

    Examples
    --------
    >>> scjepa.metrics.expected_calibration_error([True, True, False, True], [0.7, 0.8, 0.8, 0.7])
    """
    right, sure = np.asarray(correct, dtype=np.float64), np.asarray(confidence, dtype=np.float64)
    if len(right) != len(sure) or not len(right):
        raise ValueError(f"correct has {len(right)} cells and confidence {len(sure)}; give both of the same cells.")
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError(f"confidence must lie in [0, 1], found {sure.min():.3g} to {sure.max():.3g}.")
    bins = np.minimum((sure * n_bins).astype(np.int64), n_bins - 1)
    return float(np.abs(np.bincount(bins, right - sure)).sum() / len(right))
