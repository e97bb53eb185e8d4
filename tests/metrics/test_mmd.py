"""Tests of :func:`scjepa.metrics.mmd` (in integration.py); iLISI has a file of its own, for it needs scib-metrics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scjepa.metrics import mmd


def _naive(x: np.ndarray, y: np.ndarray, bandwidths: tuple[float, ...]) -> float:
    both = [*x, *y]
    distance = lambda a, b: float(np.sqrt(((a - b) ** 2).sum()))  # noqa: E731
    median = np.median([distance(a, b) for i, a in enumerate(both) for b in both[:i]])
    kernel = lambda a, b: np.mean([np.exp(-((distance(a, b) / (f * median)) ** 2) / 2) for f in bandwidths])  # noqa: E731
    within = [np.mean([kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    return sum(within) - 2 * np.mean([kernel(a, b) for a in x for b in y])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 8), m=st.integers(2, 8), shift=st.floats(0, 5))
def test_it_is_the_definition(seed, n, m, shift):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 3)), rng.normal(size=(m, 3)) + shift
    found = mmd(np.vstack([x, y]), ["a"] * n + ["b"] * m)
    assert found == pytest.approx(_naive(x, y, (0.25, 0.5, 1, 2, 4)))
    assert mmd(np.vstack([x, y]), [0] * n + [1] * m, bandwidths=(1,)) == pytest.approx(_naive(x, y, (1,)))


def test_more_than_two_batches_are_the_mean_over_pairs():
    rng = np.random.default_rng(0)
    parts = {name: rng.normal(size=(8, 2)) + i for i, name in enumerate("abc")}
    pairs = [_naive(parts[i], parts[j], (0.5, 2)) for i, j in ("ab", "ac", "bc")]
    found = mmd(np.vstack(list(parts.values())), np.repeat(list("abc"), 8), bandwidths=(0.5, 2))
    assert found == pytest.approx(np.mean(pairs))


def test_the_same_is_near_zero_apart_is_not_and_scale_does_not_matter():
    rng = np.random.default_rng(1)
    points, batches = rng.normal(size=(600, 4)), np.tile([0, 1], 300)
    assert abs(mmd(points, batches)) < 0.005
    shifted = points + 2.0 * batches[:, None]
    assert mmd(shifted, batches) > 0.3
    assert mmd(1000 * shifted, batches) == pytest.approx(mmd(shifted, batches))
    assert mmd(points + 1e3 * batches[:, None], batches) < 2


def test_the_draw_repeats_whatever_the_order_of_cells():
    rng = np.random.default_rng(2)
    points, batches = rng.normal(size=(300, 3)), rng.integers(2, size=300)
    points[batches == 1] += 0.5
    order = rng.permutation(300)
    drawn = mmd(points, batches, n_cells=50)
    assert mmd(points[order], batches[order], n_cells=50) == pytest.approx(drawn, abs=1e-12)
    assert mmd(points, batches, n_cells=50, seed=1) != drawn
    assert drawn == pytest.approx(mmd(points, batches), abs=0.1)


def test_bad_input_is_told():
    points = np.arange(12.0).reshape(6, 2)
    with pytest.raises(ValueError, match="two batches or more; all 6 cells are of batch 'a'"):
        mmd(points, ["a"] * 6)
    with pytest.raises(ValueError, match="Batch 'b' has a single cell"):
        mmd(points, [*"aaaaa", "b"])
    with pytest.raises(ValueError, match="All 6 cells have the same values"):
        mmd(np.ones((6, 2)), [*"aaabbb"])
    with pytest.raises(ValueError, match="Most cells of 'a' and 'b' have the same embedding"):
        mmd(np.vstack([np.ones((5, 2)), points[:1]]), [*"aaabbb"])
    with pytest.raises(ValueError, match="NaN or infinite"):
        mmd(np.where(points == 3, np.inf, points), [*"aaabbb"])
    with pytest.raises(ValueError, match="1 cells have no value in batches; the first is row 5"):
        mmd(points, [*"aaabb", np.nan])
    with pytest.raises(ValueError, match="bandwidths must be positive"):
        mmd(points, [*"aaabbb"], bandwidths=(1, 0))
    with pytest.raises(ValueError, match="n_cells must be"):
        mmd(points, [*"aaabbb"], n_cells=1)
