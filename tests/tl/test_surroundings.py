"""The rule for reach and weights, from second moments alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scjepa.tl import NicheReadout
from scjepa.tl import _niche_estimator as surroundings
from scjepa.tl._aggregate import hops_of
from scjepa.tl._niche_estimator import MAX_RINGS, RingSums, weigh


def _fields(make_graph, error: float, side: int = 40, n: int = 4, seed: int = 0) -> np.ndarray:
    """Return rings of components with a smooth signal of variance 1 and an error that cells do not share."""
    rng = np.random.default_rng(seed)
    graph = make_graph(side, side)
    row, column = np.divmod(np.arange(side**2), side)
    waves = [np.sin(2 * np.pi * (row * a + column * b) / side + c) for a, b, c in rng.normal(size=(n, 3))]
    signal = np.stack(waves, axis=1)
    signal = (signal - signal.mean(axis=0)) / signal.std(axis=0)
    values = (signal + error * rng.normal(size=signal.shape)).astype(np.float32)
    return hops_of(values, graph, MAX_RINGS)


@pytest.fixture
def everyone():
    return np.ones(1600, dtype=bool)


def test_signal_and_error_are_told_apart(make_graph, everyone):
    for error in (0.5, 1.0, 2.0):
        found = weigh(RingSums.of(_fields(make_graph, error), everyone))
        assert found.signal == pytest.approx(4, rel=0.15)
        assert found.reliability[0] == pytest.approx(1 / (1 + error**2), rel=0.15)


def test_the_more_a_cell_errs_the_less_it_weighs_and_the_farther_it_looks(make_graph, everyone):
    found = [weigh(RingSums.of(_fields(make_graph, error), everyone)) for error in (0.2, 1.0, 3.0)]
    own = [one.weights[0] for one in found]
    reach = [one.n_rings for one in found]
    assert own == sorted(own, reverse=True)
    assert own[0] > 2 * own[2]
    assert reach == sorted(reach)
    assert reach[2] > 1


def test_layers_weigh_the_cell_more_than_mixed_types_and_few_counts(make_layers):
    def readout(**how):
        adata = make_layers(24, 36, **how)
        return NicheReadout(4).fit({"X": adata.X}, adata.obsp["spatial_connectivities"])

    layers, mixed, thin = readout(), readout(mixed=0.7), readout(depth=0.1)
    for other in (mixed, thin):
        assert other.weights_[0, 0] < layers.weights_[0, 0]
        assert other.n_rings_[0] >= layers.n_rings_[0]
        assert other.reliability_[0, 0] < layers.reliability_[0, 0]
    assert max(mixed.n_rings_[0], thin.n_rings_[0]) > layers.n_rings_[0]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    error=st.floats(0, 4),
    n_rings=st.none() | st.integers(0, 3),
    own_weight=st.none() | st.floats(0.01, 5),
    chunk=st.integers(1, 200),
)
def test_what_it_gives_is_defined_and_depends_on_the_data_alone(make_graph, seed, error, n_rings, own_weight, chunk):
    rng = np.random.default_rng(seed)
    rings = _fields(make_graph, error, side=12, n=2, seed=seed)
    joined = rng.random(144) < 0.9
    found = weigh(RingSums.of(rings, joined), n_rings, own_weight)
    order, size = rng.permutation(144), float(rng.uniform(0.01, 100))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surroundings, "_CELLS", chunk)
        again = weigh(RingSums.of(size * rings[:, order], joined[order]), n_rings, own_weight)
    assert again.n_rings == found.n_rings
    np.testing.assert_allclose(again.reliability, found.reliability, rtol=1e-3, atol=1e-6)
    if error > 0.1:
        np.testing.assert_allclose(again.weights, found.weights, rtol=1e-2)
    assert found.weights.shape == (found.n_rings + 1,)
    assert (found.weights >= 0).all()
    assert np.isfinite(found.weights).all()
    assert ((found.reliability >= 0) & (found.reliability <= 1)).all()
    if found.n_rings:
        assert found.weights[1:].max() == pytest.approx(1)
    if n_rings is not None:
        assert found.n_rings == n_rings
    if own_weight is not None:
        assert found.weights[0] == own_weight


def test_cells_without_neighbors_take_no_part(make_graph):
    rings = _fields(make_graph, 1.0, side=12)
    more = np.concatenate([rings, np.full((4, 10, 4), 100.0, np.float32)], axis=1)
    found = weigh(RingSums.of(more, np.arange(154) < 144))
    np.testing.assert_allclose(found.weights, weigh(RingSums.of(rings, np.ones(144, bool))).weights)


def test_components_that_say_nothing_are_defined():
    found = weigh(RingSums.of(np.zeros((4, 10, 2), np.float32), np.ones(10, bool)))
    assert (found.n_rings, found.signal) == (1, 0.0)
    np.testing.assert_array_equal(found.weights, [1, 1])
