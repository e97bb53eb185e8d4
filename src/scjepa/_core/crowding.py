"""How crowded cells are: how much nearer the others of their batch lie than those of a reference."""

from __future__ import annotations

import numpy as np

from scjepa._core.arrays import slices

_COMPARED, _LIKE, _FEWEST = 2_500, 0.05, 5
"""Cells of either side that others are compared with, at most; the share that counts as near, and the fewest."""

_CLOSEST = 0.1
"""Least distance: cells in the very place of others say no more than that they are near."""

_ROWS = 4_096
"""Cells whose distances are held at one time."""


def crowding(own: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return how much nearer each cell's own batch is than a reference.

    The logarithm of the mean distance to the nearest 5 % of the reference, over that to the nearest 5 % of the other
    cells of the batch. It is told as how far it lies above the median of the batch, in units of how far the lowest
    tenth lies below: every batch is nearer to itself than to others, some more, some less.

    Parameters
    ----------
    own
        ``(n_cells, n_dims)`` places of the cells of one batch.
    reference
        ``(n_reference, n_dims)`` places in the same coordinates.
    """
    center = reference.mean(axis=0)  # float32 is exact enough near the middle
    own, reference = ((values - center).astype(np.float32) for values in (own, reference))
    chosen, others = evenly(len(own)), reference[evenly(len(reference))]
    itself = np.full(len(own), -1)
    itself[chosen] = np.arange(len(chosen))
    found = np.zeros(len(own))
    for rows in slices(len(own), _ROWS):
        to_own = squares(own[rows], own[chosen])
        sampled = np.flatnonzero(itself[rows] >= 0)
        to_own[sampled, itself[rows][sampled]] = np.inf
        found[rows] = np.log(nearest(squares(own[rows], others)) / nearest(to_own))
    return within_batch(found)


def evenly(n: int) -> np.ndarray:
    """Return the positions of cells to compare with, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, _COMPARED)).round().astype(np.int64))


def squares(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return squared distances, a rounding error under 0 at least; a fourth of the time of scikit-learn, in float32."""
    found: np.ndarray = -2 * values @ others.T
    found += np.square(values).sum(axis=1)[:, None]
    found += np.square(others).sum(axis=1)
    return found


def nearest(squares: np.ndarray) -> np.ndarray:
    """Return the mean distance to the nearest 5 % of the columns, or to 5 of them."""
    number = min(max(_FEWEST, round(_LIKE * squares.shape[1])), squares.shape[1])
    near = np.partition(squares, number - 1, axis=1)[:, :number]
    found: np.ndarray = np.sqrt(np.maximum(near, _CLOSEST**2)).mean(axis=1)
    return found


def within_batch(values: np.ndarray) -> np.ndarray:
    """Return how far values lie above their median, in units of how far the lowest tenth lies below."""
    lowest, median = np.quantile(values, [0.1, 0.5])
    found: np.ndarray = (values - median) / max(median - lowest, 1e-6)
    return found


def whitening(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return axes along which values vary alike within groups, ``(n_dims, n_dims)``, half shrunk."""
    rest = values.astype(np.float64)
    for code in np.unique(codes):
        rest[codes == code] -= rest[codes == code].mean(axis=0)
    lengths, axes = np.linalg.eigh(rest.T @ rest / len(rest))
    shrunk = (np.maximum(lengths, 0) + lengths.mean()) / 2
    found: np.ndarray = axes / np.sqrt(np.maximum(shrunk, 1e-12))
    return found
