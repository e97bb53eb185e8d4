"""How much a cell, and each ring around it, tells of the place it lies in: a rule from second moments alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_RINGS = 3
"""Rings that are looked at."""

_CELLS = 65_536
"""Cells whose products are added up at one time."""

_RIDGE = 1e-3
"""Ridge of a regression, as a share of the mean variance."""

_TOLERANCE = 0.02
"""A nearer ring is preferred to one that is more reliable by less than this share."""


@dataclass(frozen=True)
class Blocks:
    """The cell itself and the means of the rings around it: how each is weighed, and why.

    Attributes
    ----------
    reliability
        ``(n_rings + 1,)``: share of signal in the cell itself and in each ring, 1 without error.
    n_rings
        The reach: rings to stand beside the cell.
    weights
        ``(n_rings + 1,)``: weight of the cell and of each ring up to the reach; the largest of the rings is 1.
    signal
        Variance of what components say of places, summed over components.
    """

    reliability: np.ndarray
    n_rings: int
    weights: np.ndarray
    signal: float


def weigh(rings: np.ndarray, joined: np.ndarray, n_rings: int | None = None, own_weight: float | None = None) -> Blocks:
    r"""Choose the reach and the weights of the cell and of its rings, without labels.

    A component of a cell is taken for the sum of a signal, what the place tells, and an error that cells do not share,
    such as the cell's own type within a mixed neighborhood. With :math:`C_h` the covariance of a cell and the mean of
    its ring :math:`h`, :math:`C_0` its variance and :math:`V_h` the variance of the mean:

    - signal variance :math:`S = C_1^2 / C_2`, the course of :math:`C_h` continued to the cell itself, within
      :math:`[C_1, C_0]`;
    - squared error :math:`N_0 = C_0 - S` of the cell and :math:`N_h = V_h + S - 2 C_h` of ring :math:`h`, which holds
      what errors are left after averaging and how far the signal has changed by then.

    All are summed over components. The reach is the ring of the highest reliability :math:`S / (S + N_h)`, or the
    nearest that comes within 2%; a block weighs the inverse of its error, :math:`N_h^{-1/2}`. Where cells say much
    of their place (layers, spots) the cell itself weighs more; where types are mixed, or counts are few, it weighs
    less, and further rings are taken.

    Parameters
    ----------
    rings
        ``(n_rings + 1, n_cells, n_components)``: components of each cell, and their means over the rings around it.
    joined
        ``(n_cells,)`` bool, which cells have neighbors: the others take no part.
    n_rings, own_weight
        Reach, and weight of the cell itself against that of the rings, where they are not to be chosen.

    Returns
    -------
    Blocks
        What was chosen.
    """
    variance, shared = _moments(rings, joined)
    signal = _signal(shared)
    error = variance + signal - 2 * shared
    error[0] = shared[0] - signal
    total = signal.sum()
    errors = np.maximum(error.sum(axis=1), np.finfo(np.float32).eps * max(shared[0].sum(), np.finfo(np.float32).tiny))
    reliability = total / (total + errors)
    if n_rings is None:
        around = reliability[1:]
        n_rings = 1 + int(np.argmax(around >= (1 - _TOLERANCE) * around.max()))
    weights = errors[: n_rings + 1] ** -0.5
    weights /= weights[1:].max() if n_rings else weights[0]
    if own_weight is not None:
        weights[0] = own_weight
    return Blocks(reliability, n_rings, weights, float(total))


def predicted_share(blocks: np.ndarray, target: np.ndarray, joined: np.ndarray) -> float:
    """Return the share of the variance of ``target`` that a linear map of ``blocks`` predicts, for few cells corrected.

    Parameters
    ----------
    blocks
        ``(n_blocks, n_cells, n_components)``: what predicts.
    target
        ``(n_cells, n_dims)``: what is predicted.
    joined
        ``(n_cells,)`` bool, the cells that take part.

    Returns
    -------
    float
        1 less the error over the variance, both per degree of freedom; 0 for a target that does not vary.
    """
    width = blocks.shape[0] * blocks.shape[2]
    total = np.zeros(width + target.shape[1])
    product = np.zeros((len(total), len(total)))
    size = int(joined.sum())
    for start in range(0, len(target), _CELLS):
        rows = joined[start : start + _CELLS]
        parts = [*blocks[:, start : start + _CELLS][:, rows], target[start : start + _CELLS][rows]]
        both = np.hstack(parts).astype(np.float64)
        total += both.sum(axis=0)
        product += both.T @ both
    covariance = product / size - np.outer(total / size, total / size)
    within, across = covariance[:width, :width], covariance[:width, width:]
    variance = np.trace(covariance[width:, width:])
    if not variance > 0:
        return 0.0
    ridge = max(_RIDGE * np.trace(within) / width, np.finfo(np.float64).tiny)
    explained = np.trace(across.T @ np.linalg.solve(within + ridge * np.eye(width), across))
    freedom = (size - 1) / max(size - width - 1, 1)
    return float(1 - (1 - explained / variance) * freedom)


def _moments(rings: np.ndarray, joined: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return variance of each block and its covariance with the cell itself, each ``(n_rings + 1, n_components)``."""
    n_blocks, n_cells, n_components = rings.shape
    total = np.zeros((n_blocks, n_components))
    square, product = np.zeros_like(total), np.zeros_like(total)
    size = int(joined.sum())
    for start in range(0, n_cells, _CELLS):
        rows = rings[:, start : start + _CELLS][:, joined[start : start + _CELLS]].astype(np.float64)
        total += rows.sum(axis=1)
        square += np.einsum("bnk,bnk->bk", rows, rows)
        product += np.einsum("nk,bnk->bk", rows[0], rows)
    mean = total / size
    return np.maximum(square / size - mean**2, 0), product / size - mean[0] * mean


def _signal(shared: np.ndarray) -> np.ndarray:
    """Return the signal variance of each component from the covariances of the cell with itself, ring 1 and ring 2."""
    own, near = shared[0], np.maximum(shared[1], 0)
    far = np.maximum(shared[2], 0) if len(shared) > 2 else near
    continued = np.divide(near**2, far, out=near.copy(), where=far > 0)
    return np.minimum(np.clip(continued, near, None), np.maximum(own, 0))
