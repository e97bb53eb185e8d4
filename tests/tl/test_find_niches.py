"""Niches in one call, with a model or with none."""

from __future__ import annotations

import numpy as np
import pytest

import scjepa
from scjepa.tl import find_niches, niche_readout, niches


@pytest.fixture
def tissue(make_layers):
    return make_layers()


class Model:
    """What keeps what it was asked."""

    def niches(self, adata, n_niches, **options):
        self.asked = (adata, n_niches, options)


def test_without_a_model_it_is_the_read_out_of_expression_and_its_niches(tissue, snapshot):
    tissue.obsm["X_stjepa_cell"] = np.random.default_rng(0).normal(size=(600, 4))  # of some other model
    expected = tissue.copy()
    niche_readout(expected, "X")
    niches(expected, n_niches=3, key_added="domain")
    before = snapshot(tissue)
    find_niches(tissue, n_niches=3, key_added="domain")
    np.testing.assert_array_equal(tissue.obsm["X_stjepa_niche"], expected.obsm["X_stjepa_niche"])
    assert tissue.obs["domain"].tolist() == expected.obs["domain"].tolist()
    after = snapshot(tissue)
    assert {name for name in after if after[name] != before.get(name)} == {
        ("obsm", "X_stjepa_niche"),
        ("obs", "domain"),
        ("uns", "domain_colors"),
        ("uns", "scjepa"),
        ("uns", "scjepa_niche"),
        ("obsp", "scjepa_niche_distances"),
        ("obsp", "scjepa_niche_connectivities"),
    }


def test_layers_sections_and_graphs_are_taken_where_they_are_named(tissue):
    expected = tissue.copy()
    expected.obs["slide"] = np.repeat(["a", "b"], 300)
    graph = expected.obsp["spatial_connectivities"].tolil()
    graph[:300, 300:], graph[300:, :300] = 0, 0
    expected.obsp["near_connectivities"] = graph.tocsr()
    expected.layers["counts"] = expected.X.copy()
    expected.X = None
    given = expected.copy()
    options = {"layer": "counts", "neighbors_key": "near", "align": "center"}
    niche_readout(expected, "X", library_key="slide", **options)
    find_niches(given, resolution=0.5, library_key="slide", **options)
    np.testing.assert_array_equal(given.obsm["X_stjepa_niche"], expected.obsm["X_stjepa_niche"])
    assert given.uns["scjepa"]["niche"]["resolution"] == 0.5


def test_with_a_model_it_is_the_models_own_call(tissue):
    model = Model()
    find_niches(tissue, model, n_niches=4, use_rep="X_stjepa_cell", random_state=3)
    adata, n_niches, options = model.asked
    assert adata is tissue
    assert n_niches == 4
    assert options == {
        "method": "auto",
        "resolution": 1.0,
        "use_rep": "X_stjepa_cell",
        "align": "auto",
        "key_added": "niche",
        "random_state": 3,
    }
    for other in ({"layer": "counts"}, {"library_key": "slide"}, {"neighbors_key": "near"}):
        with pytest.raises(ValueError, match="a model has them from setup_anndata"):
            find_niches(tissue, model, **other)


def test_what_cannot_be_is_told_before_anything_is_done(tissue):
    tissue.obs["niche"] = "mine"
    with pytest.raises(ValueError, match="already has 'niche'"):
        find_niches(tissue)
    for n_niches, error in ((0, ValueError), (601, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="n_niches must"):
            find_niches(tissue, n_niches=n_niches, key_added="domain")
    with pytest.raises(TypeError, match=r"model must be a trained scjepa.STJEPA, or None; found str"):
        find_niches(tissue, "base", key_added="domain")
    with pytest.raises(TypeError, match="Expected an AnnData object"):
        find_niches(tissue.X)
    assert "X_stjepa_niche" not in tissue.obsm


@pytest.mark.data
def test_the_layers_of_visual_cortex_are_found_in_a_second(data_dir):
    import anndata as ad

    from scjepa._core.squidpy import spatial_graph

    adata = ad.read_h5ad(data_dir / "spatial" / "starmap_visual_cortex.h5ad")
    spatial_graph(adata, n_neighs=10)
    find_niches(adata, n_niches=7)
    assert scjepa.metrics.nmi(adata.obs["region"], adata.obs["niche"]) > 0.7
