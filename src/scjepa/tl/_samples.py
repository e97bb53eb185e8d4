"""Two groups of samples compared, feature by feature: permutation of samples, Welch's test, and power by simulation."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np

PERMUTATION, WELCH = "permutation", "welch"

_SIMULATED = 1_000
"""Pairs of groups that are drawn for each size of an effect."""

_SIZES = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 100.0])
"""Effects, in standard deviations between samples, at which power is simulated; between them it is interpolated."""

_SPLITS_FOR_POWER = 500
"""Splits of a permutation test while power is simulated."""

_VALUES = 2**22
"""Splits × features that are held at one time."""

_TIE = 1e-9
"""Share by which differences may fall apart by rounding and still count as equal."""


def splits_of(n_first: int, n_second: int, most: int, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """Return the ways to draw the second group among all samples, and whether these are all there are.

    Returns
    -------
    tuple
        bool of shape (n_splits, n_first + n_second), the second group true. All ways where there are at most ``most``;
        else as many drawn at random, in front of which the observed one stands.
    """
    n_samples = n_first + n_second
    if comb(n_samples, n_second) <= most:
        chosen = np.array(list(combinations(range(n_samples), n_second)))
        splits = np.zeros((len(chosen), n_samples), dtype=bool)
        splits[np.arange(len(chosen))[:, None], chosen] = True
        return splits, True
    observed = np.arange(n_samples) >= n_first
    drawn = rng.permuted(np.tile(observed, (most, 1)), axis=1)
    return np.vstack([observed, drawn]), False


def permutation_p(values: np.ndarray, n_first: int, splits: np.ndarray) -> np.ndarray:
    """Return two-sided p-values of the difference in means: the share of splits in which it is as large.

    Parameters
    ----------
    values
        (n_samples, n_features), the first group first.
    n_first
        Samples of the first group.
    splits
        Of :func:`splits_of`; the observed one is among them, so that no p-value is 0.
    """
    weights = np.where(splits, 1 / splits.sum(axis=1, keepdims=True), -1 / (~splits).sum(axis=1, keepdims=True))
    observed = np.abs(values[n_first:].mean(axis=0) - values[:n_first].mean(axis=0))
    as_large = np.zeros(values.shape[1])
    for start in range(0, len(weights), 1_000):
        as_large += (np.abs(weights[start : start + 1_000] @ values) >= observed * (1 - _TIE)).sum(axis=0)
    return as_large / len(splits)


def joint_p(values: np.ndarray, n_first: int, most: int, seed: int) -> np.ndarray:
    """Return p-values of features, adjusted by permutation of all at once (Westfall and Young 1993, step-down).

    Whole samples change sides, and the largest t-statistic of all features is what each is compared with, so that the
    chance of any false finding is held, and a few samples suffice for many features: the smallest value is that of one
    feature.

    Parameters
    ----------
    values
        (n_samples, n_features), the first group first; NaN in samples in which a feature is not used.
    n_first
        Samples of the first group.
    most
        Splits: all where there are at most so many, else as many at random.
    seed
        Seed of these.
    """
    splits, _ = splits_of(n_first, len(values) - n_first, most, np.random.default_rng(seed))
    observed = _squared_t(values, (np.arange(len(values)) >= n_first)[None, :])[0]
    order = np.argsort(-observed, kind="stable")
    as_large = np.zeros(len(order))
    step = max(1, min(200, _VALUES // max(1, values.shape[1])))
    for start in range(0, len(splits), step):
        found = _squared_t(values[:, order], splits[start : start + step])
        largest = np.maximum.accumulate(found[:, ::-1], axis=1)[:, ::-1]
        as_large += (largest >= observed[order] * (1 - _TIE)).sum(axis=0)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(as_large / len(splits))
    return adjusted


def _squared_t(values: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """Return the squared t-statistic of pooled variance for each split and feature; 0 where a group has no sample."""
    there = np.isfinite(values)
    known = np.where(there, values, 0.0) - np.where(there, values, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    known = np.where(there, known, 0.0)
    second = splits.astype(np.float64)
    n_second, n_all = second @ there, there.sum(axis=0)
    n_first, total = n_all - n_second, second @ known
    with np.errstate(divide="ignore", invalid="ignore"):
        between = total**2 * (1 / n_first + 1 / n_second)  # values are centered: the first group's total is its mirror
        within = (known**2).sum(axis=0) - between
        found = between * (n_all - 2) / np.maximum(within, _TIE * (known**2).sum(axis=0))
    return np.where((n_first > 0) & (n_second > 0), np.nan_to_num(found), 0.0)


def welch_p(values: np.ndarray, n_first: int) -> np.ndarray:
    """Return two-sided p-values of Welch's t-test; 1 where no sample differs from another."""
    from scipy.stats import ttest_ind

    with np.errstate(divide="ignore", invalid="ignore"):
        found = ttest_ind(values[n_first:], values[:n_first], equal_var=False).pvalue
    alike = np.ptp(values, axis=0) == 0
    return np.where(alike, 1.0, found)


def p_values(values: np.ndarray, n_first: int, method: str, most: int, seed: int) -> np.ndarray:
    """Return the p-values of features by ``"permutation"`` or ``"welch"``."""
    if method == WELCH:
        return welch_p(values, n_first)
    splits, _ = splits_of(n_first, len(values) - n_first, most, np.random.default_rng(seed))
    return permutation_p(values, n_first, splits)


def smallest_p(n_first: int, n_second: int, most: int) -> float:
    """Return the smallest p-value that permutation of so many samples can give."""
    ways = comb(n_first + n_second, n_second)
    if ways > most:
        return 1 / (most + 1)
    return (2 if n_first == n_second else 1) / ways


def spread_of(values: np.ndarray, n_first: int) -> np.ndarray:
    """Return the standard deviation between samples of one group, pooled over the two."""
    rest = np.concatenate([part - part.mean(axis=0) for part in (values[:n_first], values[n_first:])])
    return np.sqrt((rest**2).sum(axis=0) / (len(values) - 2))


def power_of(
    effect: float | np.ndarray, spread: np.ndarray, n_first: int, n_second: int, method: str, level: float
) -> np.ndarray:
    """Return the chance to find ``effect`` at ``level``, by simulation of Gaussian samples of the given spread."""
    found = _power_by_size(n_first, n_second, method, level)
    sizes = np.divide(effect, spread, out=np.full(len(spread), _SIZES[-1]), where=spread > 0)
    return np.interp(sizes, _SIZES, found)


@lru_cache(maxsize=64)
def _power_by_size(n_first: int, n_second: int, method: str, level: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(n_first + n_second, _SIMULATED))
    test: Callable[[np.ndarray], np.ndarray]
    if method == WELCH:
        test = lambda values: welch_p(values, n_first)  # noqa: E731 - one of two tests
    else:
        splits, _ = splits_of(n_first, n_second, _SPLITS_FOR_POWER, rng)
        test = lambda values: permutation_p(values, n_first, splits)  # noqa: E731
    second = (np.arange(n_first + n_second) >= n_first)[:, None]
    return np.array([(test(noise + size * second) <= level).mean() for size in _SIZES])
