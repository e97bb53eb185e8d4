from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import permutation_test, ttest_ind

from scjepa.tl import _conditions


def _values(n_first: int, n_second: int, n_features: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_first + n_second, n_features))


def test_few_samples_are_permuted_in_all_ways_as_scipy_does():
    values = _values(4, 5)
    splits, every = _conditions.splits_of(4, 5, 10_000, np.random.default_rng(0))
    assert every
    assert splits.shape == (126, 9)
    found = _conditions.permutation_p(values, 4, splits)
    theirs = [
        permutation_test(
            (values[4:, gene], values[:4, gene]),
            lambda one, other: abs(one.mean() - other.mean()),
            alternative="greater",
            n_resamples=np.inf,
        ).pvalue
        for gene in range(4)
    ]
    np.testing.assert_allclose(found, theirs)


def test_of_many_samples_ways_are_drawn_and_the_observed_one_counts():
    splits, every = _conditions.splits_of(10, 10, 200, np.random.default_rng(0))
    assert not every
    assert splits.shape == (201, 20)
    assert (splits.sum(axis=1) == 10).all()
    apart = _values(10, 10) + 100 * (np.arange(20) >= 10)[:, None]
    assert (_conditions.permutation_p(apart, 10, splits) <= 2 / 201).all()  # a draw may be its mirror image
    assert _conditions.smallest_p(10, 10, 200) == pytest.approx(1 / 201)


@pytest.mark.parametrize(("sizes", "least"), [((3, 3), 0.1), ((4, 4), 2 / 70), ((3, 4), 1 / 35)])
def test_the_smallest_p_value_is_known(sizes, least):
    assert _conditions.smallest_p(*sizes, 10_000) == pytest.approx(least)
    apart = np.arange(sum(sizes))[:, None] + 100.0 * (np.arange(sum(sizes)) >= sizes[0])[:, None]
    assert _conditions.p_values(apart, sizes[0], "permutation", 10_000, 0)[0] == pytest.approx(least)


def test_p_values_of_all_features_at_once_hold_the_error_and_leave_out_samples():
    least = [_conditions.joint_p(_values(4, 4, 30, seed), 4, 10_000, 0).min() for seed in range(100)]
    assert np.mean(np.array(least) <= 0.05) <= 0.1
    values = _values(4, 4, 30)
    values[4:, 3] += 100
    values[0, 5] = np.nan
    found = _conditions.joint_p(values, 4, 10_000, 0)
    assert found[3] == pytest.approx(2 / 70)
    assert np.delete(found, 3).min() > 0.05
    one = _conditions.joint_p(values[:, [0]], 4, 10_000, 0)
    splits = _conditions.splits_of(4, 4, 10_000, np.random.default_rng(0))[0]
    np.testing.assert_allclose(one, _conditions.permutation_p(values[:, [0]], 4, splits))


def test_welch_is_scipys_and_alike_samples_have_one():
    values = _values(4, 6)
    values[:, 0] = 2.0
    found = _conditions.p_values(values, 4, "welch", 100, 0)
    assert found[0] == 1
    np.testing.assert_allclose(found[1:], ttest_ind(values[4:, 1:], values[:4, 1:], equal_var=False).pvalue)


@pytest.mark.parametrize("method", ["permutation", "welch"])
def test_power_is_the_level_without_an_effect_and_grows(method):
    power = _conditions.power_of(1.0, np.array([0.0, 0.2, 0.5, 1.0, 1e9]), 6, 6, method, 0.05)
    assert power[0] == 1
    assert (np.diff(power) <= 0).all()
    assert 0.02 <= power[-1] <= 0.08
    assert _conditions.power_of(1.0, np.array([0.5]), 3, 3, "permutation", 0.05)[0] == 0


def test_joint_p_values_do_not_depend_on_how_many_splits_are_held(monkeypatch):
    values = _values(5, 5, 6)
    expected = _conditions.joint_p(values, 5, 200, 0)
    monkeypatch.setattr(_conditions, "_VALUES", 20)
    np.testing.assert_array_equal(_conditions.joint_p(values, 5, 200, 0), expected)
