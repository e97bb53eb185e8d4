from __future__ import annotations

import numpy as np
import pytest

from scjepa.metrics import ilisi


def _lisi(points: np.ndarray, batches: np.ndarray, n_neighbors: int) -> np.ndarray:
    """LISI cell by cell: bisect the kernel's width for the perplexity, then the inverse Simpson index."""
    perplexity = n_neighbors // 3
    distances = np.sqrt(((points[:, None] - points) ** 2).sum(-1))
    values = []
    for cell, row in enumerate(distances):
        others = np.argsort(row + np.where(np.arange(len(row)) == cell, -1, 0))[1:n_neighbors]
        low, high = 1e-6, 1e6
        for _ in range(200):
            beta = np.sqrt(low * high)
            weights = np.exp(-beta * (row[others] - row[others].min()))
            weights /= weights.sum()
            entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum()
            low, high = (beta, high) if entropy > np.log(perplexity) else (low, beta)
        shares = np.array([weights[batches[others] == batch].sum() for batch in np.unique(batches)])
        values.append(1 / (shares**2).sum())
    return np.array(values)


def _sections(n_cells: int = 150, n_batches: int = 3, shift: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    batches = rng.integers(n_batches, size=n_cells)
    points = rng.normal(size=(n_cells, 4))
    points[:, 0] += shift * batches
    return points, batches


@pytest.mark.parametrize("n_neighbors", [30, 90])
def test_it_is_the_median_inverse_simpson_index_scaled(n_neighbors):
    points, batches = _sections()
    expected = (np.median(_lisi(points, batches, n_neighbors)) - 1) / 2
    assert ilisi(points, batches, n_neighbors=n_neighbors) == pytest.approx(expected, abs=2e-3)
    names = np.array(["osmFISH", "STARmap", "MERFISH"])[batches]
    assert ilisi(points, names, n_neighbors=n_neighbors) == pytest.approx(expected, abs=2e-3)


def test_within_labels_it_is_the_mean_over_labels_weighted_by_cells():
    points, batches = _sections(160)
    labels = np.array(["L1"] * 50 + ["L2/3"] * 70 + ["one batch"] * 15 + ["few"] * 5 + ["unlabelled"] * 20)
    batches[120:135] = 0
    expected = []
    for label in ("L1", "L2/3"):
        cells = labels == label
        batches[np.flatnonzero(cells)[:3]] = [0, 1, 2]
        lisi = _lisi(points[cells], batches[cells], 60 if cells.sum() > 60 else cells.sum())
        expected.append((np.median(lisi) - 1) / 2)
    found = ilisi(points, batches, labels=labels, n_neighbors=60)
    assert found == pytest.approx(np.average(expected, weights=[50, 70]), abs=2e-3)


def test_a_label_is_scaled_by_the_batches_that_have_it():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(120, 3))
    batches = np.r_[np.tile([0, 1], 30), np.tile([0, 2], 30)]
    labels = np.repeat(["a", "b"], 60)
    assert ilisi(points, batches, labels=labels) > 0.85  # of two batches each, though there are three in all


def test_mixed_is_near_one_and_apart_is_zero():
    rng = np.random.default_rng(2)
    points, batches = rng.normal(size=(300, 2)), np.tile([0, 1], 150)
    assert ilisi(points, batches) > 0.9
    assert ilisi(points + 1000.0 * batches[:, None], batches) == pytest.approx(0, abs=1e-6)


def test_mixing_of_niches_does_not_count_within_niches():
    rng = np.random.default_rng(3)
    labels, batches = np.repeat([0, 1], 200), np.tile([0, 1], 200)
    apart = rng.normal(size=(400, 2)) + 100.0 * np.c_[batches, batches]
    assert ilisi(apart, batches, labels=labels) == pytest.approx(0, abs=1e-6)
    niches = rng.normal(size=(400, 2)) + 100.0 * np.c_[labels, labels]
    assert ilisi(niches, batches, labels=labels) > 0.9


def test_the_order_of_cells_does_not_matter():
    points, batches = _sections()
    order = np.random.default_rng(5).permutation(len(batches))
    assert ilisi(points[order], batches[order]) == pytest.approx(ilisi(points, batches), abs=1e-6)


def test_bad_input_is_told():
    points, batches = _sections(40)
    with pytest.raises(ValueError, match="two batches or more; all 40 cells are of batch 'a'"):
        ilisi(points, ["a"] * 40)
    with pytest.raises(ValueError, match="All 40 cells have the same values"):
        ilisi(np.ones((40, 3)), batches)
    with pytest.raises(ValueError, match=r"1 of 40 cells have NaN .* row 3"):
        ilisi(np.where(np.arange(40)[:, None] == 3, np.nan, points), batches)
    with pytest.raises(ValueError, match=r"1 cells have no value in batches; the first is row 0"):
        ilisi(points, [None, *batches[1:]])
    with pytest.raises(ValueError, match="batches has 39 entries for 40 cells"):
        ilisi(points, batches[1:])
    with pytest.raises(ValueError, match="No label has 10 cells of 2 batches"):
        ilisi(points, np.repeat([0, 1], 20), labels=np.repeat(["a", "b"], 20))
    with pytest.raises(ValueError, match="fewer than 10 cells"):
        ilisi(points[:6], [0, 1] * 3)
    with pytest.raises(ValueError, match="None of the 40 cells has a label"):
        ilisi(points, batches, labels=[None] * 40)
    with pytest.raises(ValueError, match="n_neighbors must be a whole number of at least 10, found 5"):
        ilisi(points, batches, n_neighbors=5)
