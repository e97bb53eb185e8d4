"""Covariances of groups of cells made alike (CORAL; Sun, Feng and Saenko 2016)."""

from __future__ import annotations

import numpy as np

ALIGNMENTS = ("scale", "covariance", "center", "none")
"""What groups are made to have in common: mean and variance of each feature; covariances as well; means; nothing."""

_SHRINKAGE = 0.1
"""Weight of the mean variance in a group's covariance, so that directions it hardly varies in are not blown up."""


def power(covariance: np.ndarray, exponent: float) -> np.ndarray:
    """Return a power of a symmetric positive definite matrix."""
    variances, axes = np.linalg.eigh(covariance)
    # Rounding can make the smallest negative.
    variances = np.maximum(variances, np.finfo(np.float64).eps * max(variances[-1], np.finfo(np.float32).tiny))
    found: np.ndarray = (axes * variances**exponent) @ axes.T
    return found


def covariances_of(scores: np.ndarray, codes: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the covariance of each group, shrunk, ``(n_groups, n_dims, n_dims)``; 0 for a group of one cell."""
    n_dims = scores.shape[1]
    found = np.zeros((n_groups, n_dims, n_dims))
    for code in range(n_groups):
        values = scores[codes == code].astype(np.float64)
        own = np.cov(values.T, bias=True).reshape(n_dims, n_dims) if len(values) > 1 else np.zeros((n_dims, n_dims))
        found[code] = shrunk(own)
    return found


def shrunk(covariance: np.ndarray) -> np.ndarray:
    """Return a covariance shrunk towards a multiple of the identity."""
    n_dims = len(covariance)
    found: np.ndarray = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.trace(covariance) / n_dims * np.eye(n_dims)
    return found


def mean_covariance(covariances: np.ndarray) -> np.ndarray:
    """Return the mean of those that vary."""
    varied = np.trace(covariances, axis1=1, axis2=2) > 0
    found: np.ndarray = covariances[varied].mean(axis=0) if varied.any() else covariances[0]
    return found


def map_to(common: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the linear map after which a group with covariance ``own`` has ``common``; one without variance stays."""
    if not np.trace(own) > 0:
        return np.eye(len(own))
    return power(own, -0.5) @ power(common, 0.5)


def mapped(scores: np.ndarray, maps: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the scores of each group after its map, in the type of the scores."""
    found = scores.copy()
    for code in np.unique(codes):
        found[codes == code] = scores[codes == code] @ maps[code].astype(scores.dtype)
    return found
