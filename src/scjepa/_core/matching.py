"""Which labels go together: tables of how many cells, or edges, have each pair of labels."""

from __future__ import annotations

import numpy as np


def contingency(first: np.ndarray, second: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return how many cells have each pair of codes, int64 of ``shape``; cells with a code of -1 are left out."""
    both = (first >= 0) & (second >= 0)
    counts = np.zeros(shape, dtype=np.int64)
    np.add.at(counts, (first[both], second[both]), 1)
    return counts


def best_matching(counts: np.ndarray) -> dict[int, int]:
    """Return the one-to-one matching of rows with columns that shares most cells; pairs that share none are left out.

    Where there are more rows than columns or the reverse, some stay without a partner.
    """
    from scipy.optimize import linear_sum_assignment

    pairs = zip(*linear_sum_assignment(counts, maximize=True), strict=True)
    return {int(row): int(column) for row, column in pairs if counts[row, column]}


def border_shares(counts: np.ndarray) -> np.ndarray:
    """Return the edges between niches as shares of those that leave the row's; NaN rows where none does."""
    others = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    leaving = others.sum(axis=1, keepdims=True)
    return np.divide(others, leaving, out=np.full(others.shape, np.nan), where=leaving > 0)
