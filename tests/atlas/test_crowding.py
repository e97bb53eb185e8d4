"""A layer between two that an atlas has is near to both; it is told by how many cells of the new section lie there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import block_diag, csr_matrix

from scjepa.atlas import _cells
from scjepa.atlas._calibration import Calibration
from scjepa.atlas._cells import CROWDED, KeptCells, Places, _within


def places_of(layer: np.ndarray, seed: int) -> Places:
    """Return cells of layers along one direction, with as much noise in it as in 19 others."""
    values = np.random.default_rng(seed).normal(0, 0.5, (len(layer), 20))
    values[:, 0] += layer
    values = values.astype(np.float32)
    return Places(values[:, :5], values[:, :10], values.astype(np.float16))


@pytest.fixture
def section(make_section) -> tuple[np.ndarray, csr_matrix]:
    """The layer of each cell of a section, and its graph."""
    adata = make_section("new", 0)
    return adata.obs["layer"].astype(int).to_numpy(), csr_matrix(adata.obsp["spatial_connectivities"])


@pytest.fixture
def kept() -> KeptCells:
    """An atlas of the outer of three layers."""
    codes = np.repeat([0, 1], 300)
    return KeptCells.of(places_of(2 * codes, 1), codes, 2, 600)


def test_a_layer_between_two_others_is_crowded(section, kept, monkeypatch):
    layer, edges = section
    names = np.full(len(layer), "new")
    assert len(layer) < CROWDED[1].fewest
    assert not kept.crowding(places_of(layer, 2), names, edges)[:, 1].any()
    monkeypatch.setattr(_cells, "CROWDED", tuple(one._replace(fewest=100) for one in CROWDED))
    found, fine = kept.crowding(places_of(layer, 2), names, edges).T
    assert np.median(found[layer == 1]) > np.quantile(found[layer != 1], 0.95)
    assert np.median(fine[layer == 1]) > np.quantile(fine[layer != 1], 0.9)
    assert np.median(fine) == pytest.approx(0)
    outer = np.flatnonzero(layer != 1)
    familiar = kept.crowding(places_of(layer[outer], 3), names[outer], edges[outer][:, outer])[:, 0]
    assert np.median(found[layer == 1]) > np.quantile(familiar, 0.95)


def test_sections_are_looked_at_one_by_one(section, kept):
    layer, edges = section
    places, more = places_of(layer, 2), places_of(layer, 3)
    both = Places(*(np.concatenate(pair) for pair in zip(places, more, strict=True)))
    names = np.repeat(["one", "two"], len(layer))
    found = kept.crowding(both, names, csr_matrix(block_diag([edges, edges])))
    np.testing.assert_allclose(found[: len(layer)], kept.crowding(places, names[: len(layer)], edges))


def test_the_order_of_cells_changes_nothing(section, kept):
    layer, edges = section
    places, names = places_of(layer, 2), np.full(len(layer), "new")
    order = np.random.default_rng(0).permutation(len(layer))
    found = kept.crowding(places, names, edges)
    again = kept.crowding(places.some(order), names, edges[order][:, order])
    np.testing.assert_allclose(again, found[order], atol=1e-3)


def test_of_a_small_section_nothing_is_told(section, kept):
    layer, edges = section
    few = np.arange(99)
    assert not kept.crowding(places_of(layer[few], 2), np.full(99, "new"), edges[few][:, few]).any()
    assert not kept.crowding(places_of(layer, 2), None, edges).any()
    alike = kept.crowding(places_of(layer, 2), np.full(len(layer), "new"), csr_matrix(np.ones((480, 480))))
    np.testing.assert_allclose(alike, 0, atol=1e-9)  # every cell shares its surroundings with all others


def test_a_section_without_counts_is_not_crowded(section, kept):
    layer, edges = section
    places = Places(*(np.zeros_like(values) for values in places_of(layer, 2)))
    assert not kept.crowding(places, np.full(len(layer), "new"), edges).any()


def test_parts_that_are_too_small_for_fine_crowding_do_not_take_part_in_its_threshold():
    rising = np.linspace(0, 1, 1_001)
    large = np.stack([rising] * 3, axis=1)
    small = np.stack([rising, rising, np.zeros(1_001)], axis=1)
    alone = Calibration(rising, 1_001, "section", large[None], np.ones(1))
    among = Calibration(rising, 4_004, "section", np.stack([large, small, small, small]), np.ones(4))
    np.testing.assert_array_equal(among.thresholds(0.1), alone.thresholds(0.1))
    new = np.column_stack([np.zeros((11, 2)), np.linspace(0, 1, 11)])
    np.testing.assert_array_equal(among.p_values(new, 0.1), alone.p_values(new, 0.1))


def test_without_crowding_of_held_out_cells_distance_alone_tells():
    parts = np.stack([np.linspace(0, 1, 101), np.zeros(101)], axis=1)[None]
    calibration = Calibration(parts[0, :, 0], 101, "section", parts, np.ones(1))
    np.testing.assert_allclose(calibration.thresholds(0.1), [0.9, np.inf])
    new = np.array([[0.5, 3.0], [0.99, 0.0]])
    assert calibration.exceeded(new, 0.1).tolist() == [False, True]
    assert calibration.p_values(new, 0.1)[0] == pytest.approx(0.5, abs=0.02)
    assert calibration.p_values(new, 0.1)[1] < 0.1
    assert calibration.alarms(0.1) == pytest.approx(0.1, abs=0.01)


def test_each_measure_may_exceed_half_of_the_error_where_alarms_are_of_the_same_cells():
    one, other = np.linspace(0, 1, 1_001), np.linspace(1, 0, 1_001)
    alike = np.stack([one, one, one], axis=1)[None]
    assert Calibration(one, 1_001, "section", alike, np.ones(1)).share(0.1) == pytest.approx(0.05)
    apart = np.stack([one, other, np.roll(one, 500)], axis=1)[None]
    calibration = Calibration(one, 1_001, "section", apart, np.ones(1))
    assert calibration.share(0.1) == pytest.approx(0.1 / 3)
    assert calibration.alarms(0.1).max() <= 0.1
    called = calibration.exceeded(apart[0], 0.1)
    assert (called == (calibration.p_values(apart[0], 0.1) <= 0.1)).mean() > 0.99


@given(arrays(np.float64, 40, elements=st.floats(-5, 5)), st.floats(0.1, 10), st.floats(-10, 10))
def test_within_a_section_neither_unit_nor_zero_of_crowding_matter(values, unit, zero):
    assume(np.median(values) - np.quantile(values, 0.1) > 1e-3)
    found = _within(values)
    assert np.median(found) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(_within(unit * values + zero), found, atol=1e-6)


@given(st.lists(st.floats(0.5, 2), min_size=2, max_size=5))
def test_fine_crowding_is_compared_with_all_held_out_cells_and_the_rest_with_the_worst_section(spreads):
    rising = np.linspace(0, 1, 1_001)
    parts = np.stack([spread * np.stack([rising] * 3, axis=1) for spread in spreads])
    calibration = Calibration(rising, 1_001 * len(spreads), "section", parts, np.ones(len(spreads)))
    distance, coarse, fine = calibration.thresholds(0.1)
    each = np.quantile(parts[..., 0], 1 - calibration.share(0.1), axis=1, method="higher")
    assert distance == coarse == each.max()
    assert each.min() <= fine <= each.max()
    assert calibration.p_values(np.full((1, 3), max(spreads) + 1), 0.1) < 0.1
