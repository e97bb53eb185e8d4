"""How much nearer the own batch is than a reference."""

from __future__ import annotations

import numpy as np

from scjepa._core.crowding import crowding, whitening


def groups(rng, centers, n=200):
    return np.concatenate([rng.normal(center, 1, (n, 4)) for center in centers])


def test_a_group_that_the_reference_lacks_is_crowded():
    """It lies between two that are known, and its cells are no farther from them than many are from each other."""
    rng = np.random.default_rng(0)
    own, reference = groups(rng, (-2, 0, 2, 8, 11)), groups(rng, (-2, 2, 8, 11))
    found = crowding(own, reference)
    new = np.arange(len(own)) // 200 == 1
    assert np.median(found[new]) > 2 * np.quantile(found[~new], 0.95)
    np.testing.assert_allclose(np.quantile(found, [0.1, 0.5]), [-1, 0], atol=1e-9)


def test_scale_place_and_order_change_nothing():
    rng = np.random.default_rng(1)
    own, reference = groups(rng, (0, 4)), groups(rng, (0, 4))
    order = rng.permutation(len(own))
    np.testing.assert_allclose(crowding(own[order] + 100, reference + 100), crowding(own, reference)[order], atol=1e-3)
    np.testing.assert_allclose(crowding(own * 3, reference * 3), crowding(own, reference), atol=1e-3)


def test_some_cells_tell_of_many():
    rng = np.random.default_rng(2)
    own, reference = groups(rng, (-2, 0, 2), 3000), groups(rng, (-2, 2), 3000)
    rows = rng.permutation(len(own))
    found = crowding(own[rows], reference[rng.permutation(len(reference))])
    some = crowding(own[rows[:2000]], reference[rng.permutation(len(reference))[:2000]])
    assert np.corrcoef(found[:2000], some)[0, 1] > 0.95


def test_cells_that_are_all_the_same_are_alike():
    same = np.repeat(np.random.default_rng(3).normal(size=(1, 4)), 150, axis=0)
    np.testing.assert_array_equal(crowding(same, same + 1), 0)


def test_groups_vary_alike_along_whitened_axes():
    rng = np.random.default_rng(4)
    codes = np.repeat([0, 1], 500)
    values = rng.normal(size=(1000, 3)) * [5, 5, 1] + codes[:, None] * 50
    spread = (values @ whitening(values, codes))[codes == 0].std(axis=0)
    assert spread.max() / spread.min() < 3.5  # half shrunk: 5 before
