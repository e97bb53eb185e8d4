from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from sklearn.linear_model import LogisticRegression

from scjepa.datasets import Geometry, simulated_tissue
from scjepa.datasets._tissue import SmoothField, draw_cell_types, draw_composition, plant_niches, scatter_cells


def sections_of(adata):
    return adata.obs.groupby("section", observed=True).indices.values()


@pytest.fixture(scope="module")
def tissue():
    return simulated_tissue(6000, difficulty="easy")


def test_niches_are_contiguous(tissue):
    for rows in sections_of(tissue):
        points, niches = tissue.obsm["spatial"][rows], tissue.obs["region"].cat.codes.to_numpy()[rows]
        neighbors = cKDTree(points).query(points, 11)[1][:, 1:]
        alike = (niches[neighbors] == niches[:, None]).mean()
        chance = (np.bincount(niches) ** 2).sum() / len(niches) ** 2
        assert alike > 0.85 > 2 * chance


def test_every_niche_is_in_every_section_and_sections_differ(tissue):
    first, second, _ = sections_of(tissue)
    niches = tissue.obs["region"].cat.codes.to_numpy()
    assert set(niches[first]) == set(niches[second]) == set(range(6))
    nearest = cKDTree(tissue.obsm["spatial"][first]).query(tissue.obsm["spatial"][second])[1]
    assert (niches[first][nearest] == niches[second]).mean() < 0.6


def linear_border_error(warp: float) -> float:
    """Share of cells on the wrong side of the best straight border between two niches."""
    errors = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        points = scatter_cells(rng, 2000)
        niches = plant_niches(rng, points, 2, Geometry(warp=warp))
        errors.append(1 - LogisticRegression(C=1e6).fit(points, niches).score(points, niches))
    return float(np.mean(errors))


def test_borders_are_curved_by_the_warp():
    assert linear_border_error(0.0) < 0.005
    assert linear_border_error(0.35) > 0.02


def test_patches_split_niches():
    rng = np.random.default_rng(0)
    points = scatter_cells(rng, 3000)
    niches = plant_niches(rng, points, 3, Geometry(patches=3))
    neighbors = cKDTree(points).query(points, 7)[1]
    one = [np.flatnonzero(niches == niche) for niche in range(3)]
    n = len(points)
    graph = csr_matrix((np.ones(7 * n), neighbors.ravel(), np.arange(0, 7 * n + 1, 7)), shape=(n, n))
    pieces = [np.bincount(connected_components(graph[rows][:, rows], directed=False)[1]) for rows in one]
    assert sum((sizes > 50).sum() for sizes in pieces) > 3  # neighboring patches of one niche may touch


def test_density_and_spacing_are_those_of_tissue(tissue):
    for rows in sections_of(tissue):
        points = tissue.obsm["spatial"][rows]
        distances = cKDTree(points).query(points, 2)[0][:, 1]
        assert 7 < np.median(distances) < 12  # µm, at 5,000 cells per mm²
        assert distances.min() > 2  # no two cells in one place
        assert distances.std() > 0.15 * distances.mean()  # and no lattice
        assert points.min() >= 0
    dense = simulated_tissue(2000, n_genes=10, n_sections=1, geometry=Geometry(density=20000.0)).obsm["spatial"]
    assert np.ptp(dense, axis=0).mean() == pytest.approx(
        np.ptp(simulated_tissue(2000, n_genes=10, n_sections=1).obsm["spatial"], axis=0).mean() / 2
    )


def test_composition_differs_by_niche(tissue):
    types, niches = tissue.obs["cell_type"].cat.codes.to_numpy(), tissue.obs["region"].cat.codes.to_numpy()
    shares = np.stack([np.bincount(types[niches == k], minlength=12) / (niches == k).sum() for k in range(6)])
    distances = np.abs(shares[:, None] - shares[None]).sum(axis=-1) / 2
    assert distances[np.triu_indices(6, 1)].min() > 0.2


def test_sharpness_zero_gives_one_mix():
    rng = np.random.default_rng(0)
    shares = draw_composition(rng, 5, 7, 0.0)
    np.testing.assert_allclose(shares, np.broadcast_to(shares[0], shares.shape))
    niches = np.repeat(np.arange(5), 20000)
    drawn = draw_cell_types(rng, niches, shares)
    np.testing.assert_allclose(np.bincount(drawn, minlength=7) / len(drawn), shares[0], atol=0.01)


@settings(max_examples=25, deadline=None)
@given(n_cells=st.integers(1, 400), seed=st.integers(0, 2**16), n_niches=st.integers(1, 9), patches=st.integers(1, 3))
def test_any_size_of_section(n_cells, seed, n_niches, patches):
    rng = np.random.default_rng(seed)
    points = scatter_cells(rng, n_cells)
    niches = plant_niches(rng, points, n_niches, Geometry(patches=patches))
    assert points.shape == (n_cells, 2)
    assert np.isfinite(points).all()
    assert len(np.unique(points, axis=0)) == n_cells
    assert niches.min() >= 0
    assert niches.max() < n_niches


def test_smooth_field_is_smooth_and_standardized():
    rng = np.random.default_rng(0)
    values = np.stack([SmoothField.draw(rng, 1.0)(np.array([[0.0, 0.0], [0.02, 0.0]])) for _ in range(2000)])
    assert values[:, 0].mean() == pytest.approx(0, abs=0.1)
    assert values[:, 0].std() == pytest.approx(1, abs=0.1)
    assert np.abs(values[:, 0] - values[:, 1]).mean() < 0.15
