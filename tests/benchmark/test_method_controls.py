"""The controls, through the same call as every method."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.benchmark import METHODS, run_method

SMALL = {"preset": "demo", "tokens": {"n_tokens": 8, "n_neighbors": 5}, "encoder": {"width": 16, "n_heads": 2}}


def log_counts(adata):
    counts = adata.X.toarray().astype(float)
    return np.log1p(counts / counts.sum(1, keepdims=True).clip(1e-9) * 1e4)


def means(adata):
    graph = (adata.obsp["spatial_connectivities"] > 0).toarray() + np.eye(adata.n_obs)
    return graph @ log_counts(adata) / graph.sum(1, keepdims=True)


def principal(values, n):
    u, s, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
    return np.abs(u[:, :n] * s[:n])


def test_neighborhood_pca_is_the_benchmarks(tissue):
    result = run_method("neighborhood_pca", tissue, options={"n_comps": 4})
    assert result.error is None
    np.testing.assert_array_equal(result.embedding, scjepa.benchmark.neighborhood_pca(tissue, n_comps=4))
    assert result.seconds > 0
    assert result.peak_gib > 0.05
    assert result.info == {"n_components": 4}
    assert "scanpy" in result.versions


def test_linear_is_the_read_out_of_expression_alone(tissue):
    result = run_method("linear", tissue)
    assert result.error is None
    scjepa.tl.niche_readout(tissue, "X", library_key="section")
    np.testing.assert_array_equal(result.embedding, tissue.obsm["X_stjepa_niche"])
    assert result.info == {"chosen": tissue.uns["scjepa"]["X_stjepa_niche"]["chosen"]}
    assert result.cell_embedding is None
    own = run_method("linear", tissue, options={"n_comps": 3, "n_rings": 2, "own_weight": 0.5, "align": "none"})
    assert own.embedding.shape == (80, 9)
    assert "2 rings, own weight 0.50; align 'none'" in own.info["chosen"]


def test_section_zscored_pca_is_pca_of_genes_z_scored_in_each_section(tissue):
    result = run_method("section_zscored_pca", tissue, options={"n_comps": 4})
    values = means(tissue)
    for name in ("s1", "s2"):
        rows = (tissue.obs["section"] == name).to_numpy()
        values[rows] = (values[rows] - values[rows].mean(0)) / values[rows].std(0)
    np.testing.assert_allclose(np.abs(result.embedding), principal(values, 4), rtol=1e-2, atol=1e-2)


def test_section_zscored_pca_forgets_shift_and_scale_of_a_section(tissue):
    mixed = tissue.copy()
    mixed.X = mixed.X.toarray()
    before = scjepa.benchmark.section_zscored_pca(mixed, library_key="section", n_comps=3)
    centers = [before[(mixed.obs["section"] == name).to_numpy()].mean(0) for name in ("s1", "s2")]
    np.testing.assert_allclose(centers, 0, atol=1e-3)
    with pytest.raises(KeyError, match="slide"):
        scjepa.benchmark.section_zscored_pca(mixed, library_key="slide")


def model(adata, seed, **encoder):
    scjepa.STJEPA.setup_anndata(adata, technology_key="technology", library_key="section")
    parts = {**SMALL, "encoder": {**SMALL["encoder"], **encoder}}
    return scjepa.STJEPA(adata, parts.pop("preset"), seed=seed, **parts)


def test_untrained_is_the_model_before_training(tissue):
    result = run_method("untrained", tissue, seed=5, options=SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = model(tissue, 5).get_latent_representation()
        other = run_method("untrained", tissue, seed=6, options=SMALL)
    np.testing.assert_array_equal(result.embedding, expected)
    assert np.abs(other.embedding - expected).max() > 1e-2
    assert result.info["steps"] == 0
    assert result.info["verdict"] == "untrained"
    assert result.info["config.encoder"]["width"] == 16


def test_pooled_input_is_the_mean_of_gene_times_log_count(tissue):
    options = {**SMALL, "tokens": {"n_tokens": 15, "n_neighbors": 5}}
    result = run_method("pooled_input", tissue, seed=2, options=options)
    assert result.error is None
    weights = model(tissue, 2, rank="none", segment="none", n_layers=1).module.target.embedding.gene.weight
    vocabulary = scjepa.tokens.Vocabulary.from_panels([tissue.var_names])
    genes = weights.detach().numpy()[vocabulary.ids(tissue.var_names)]
    counts = tissue.X.toarray().astype(float)
    graph = (tissue.obsp["spatial_connectivities"] > 0).toarray() + np.eye(tissue.n_obs)
    expected = graph @ (np.log1p(counts) @ genes) / (graph @ (counts > 0).sum(1))[:, None]
    np.testing.assert_allclose(result.embedding, expected, rtol=1e-4, atol=1e-5)


def test_stjepa_trains_on_the_data(tissue):
    options = {**SMALL, "training": {"max_steps": 4, "batch_size": 8}, "accelerator": "cpu"}
    result = run_method("stjepa", tissue, seed=1, options=options)
    assert result.error is None
    assert result.info["steps"] == 4
    assert result.info["verdict"] in ("healthy", "shrinking", "not learning", "collapsed")
    assert result.embedding.shape == (80, 16)
    untrained = run_method("untrained", tissue, seed=1, options=SMALL).embedding
    assert np.abs(result.embedding - untrained).max() > 1e-4


def test_precomputed_is_what_is_there(tissue):
    tissue.obsm["X_mine"] = np.random.default_rng(0).normal(size=(80, 3))
    tissue.obs["mine"] = np.arange(80) % 4
    result = run_method("precomputed", tissue, options={"obsm_key": "X_mine", "obs_key": "mine"})
    np.testing.assert_array_equal(result.embedding, tissue.obsm["X_mine"].astype(np.float32))
    assert list(result.clusters) == [str(i % 4) for i in range(80)]
    assert run_method("precomputed", tissue, options={"obs_key": "mine"}).embedding is None
    assert "obsm_key" in run_method("precomputed", tissue).error
    with pytest.raises(KeyError, match=r"obsm\['X_yours'\] does not exist"):
        run_method("precomputed", tissue, options={"obsm_key": "X_yours"})


def test_components_in_common_are_of_two_technologies(tissue):
    both = scjepa.datasets.simulated_tissue(
        n_cells=800, n_sections=2, n_niches=3, n_genes=80, technologies=("A", "B"), panel_overlap=0.3
    )
    spatial_graph(both, n_neighs=8, library_key="section")
    result = run_method("shared_components", both, library_key="section", technology_key="technology")
    assert result.error is None
    assert result.embedding.shape[0] == 800
    assert len(result.info["correlations"]) == 20
    assert "one" in run_method("shared_components", tissue).error


def test_a_constant_embedding_passes_and_one_with_nan_does_not(tissue):
    tissue.obsm["constant"] = np.ones((80, 2))
    tissue.obsm["holes"] = np.where(np.arange(80)[:, None] < 5, np.nan, np.ones((80, 2)))
    assert run_method("precomputed", tissue, options={"obsm_key": "constant"}).ok
    assert "5 of 80 cells" in run_method("precomputed", tissue, options={"obsm_key": "holes"}).error


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.in_session and method.packages])
def test_methods_do_not_depend_on_the_order_of_the_cells(tissue, name):
    options = {**SMALL, "training": {"max_steps": 0}} if name == "stjepa" else SMALL
    if "pca" in name or name == "linear":
        options = {"n_comps": 3}
    if name == "harmony_pca":
        pytest.skip("Harmony draws where its clusters begin by cell number")
    if name == "shared_components":
        pytest.skip("it takes two technologies; tests/tl has the order")
    if name == "stjepa":
        pytest.skip("batches are drawn by cell number, so training is another draw; tests/models has the embedding")
    order = np.random.default_rng(1).permutation(80)
    plain = run_method(name, tissue, options=options)
    shuffled = run_method(name, tissue[order].copy(), options=options)
    assert plain.error is None
    assert shuffled.error is None
    if "pca" in name:  # components may turn round
        np.testing.assert_allclose(np.abs(shuffled.embedding), np.abs(plain.embedding[order]), atol=2e-2)
    else:
        np.testing.assert_allclose(shuffled.embedding, plain.embedding[order], atol=1e-4)
