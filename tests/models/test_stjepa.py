from __future__ import annotations

import numpy as np
import pytest
import torch

import scjepa
from scjepa._core.squidpy import spatial_graph

pytestmark = pytest.mark.filterwarnings("ignore:This model is not trained")


def _assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# -- invariants ---------------------------------------------------------------------------------------------------


def test_shuffled_cells_and_genes_give_the_same_embeddings(trained, with_graph):
    model, adata = trained
    rng = np.random.default_rng(1)
    cells, genes = rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)
    shuffled = with_graph(adata[cells][:, genes].copy())
    for scale in ("neighborhood", "cell"):
        _assert_close(
            model.get_latent_representation(shuffled, scale=scale), model.get_latent_representation(scale=scale)[cells]
        )


def test_a_model_trained_on_shuffled_genes_is_the_same_model(make_tissue, with_graph, make_model):
    a = make_tissue()
    b = a[:, np.random.default_rng(2).permutation(a.n_vars)].copy()
    embeddings = []
    for adata in (a, b):
        model = make_model(adata)
        model.train(accelerator="cpu", progress_bar=False)
        embeddings.append(model.get_latent_representation())
    _assert_close(*embeddings)


def test_batch_size_and_company_do_not_change_an_embedding(trained, with_graph):
    model, adata = trained
    reference = model.get_latent_representation()
    for size in (1, 7, 1000):
        _assert_close(model.get_latent_representation(batch_size=size), reference)
    one = adata[adata.obs["section"] == "s1"].copy()  # its neighborhoods are all in it
    _assert_close(model.get_latent_representation(one), reference[: one.n_obs])


@pytest.mark.parametrize("backend", ["padded", "per_sequence", "bucketed"])
def test_attention_backends_give_the_same_embeddings(adata, make_model, backend):
    encoder = {"width": 32, "n_layers": 2, "n_heads": 2}
    embeddings = [
        make_model(adata, encoder={**encoder, "attention": b}).get_latent_representation() for b in ("padded", backend)
    ]
    _assert_close(*embeddings)


def test_seeded_runs_repeat_and_seeds_differ(make_tissue, make_model):
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed + 10)  # the user's own random state does not matter
        model = make_model(make_tissue(), seed=seed)
        model.train(accelerator="cpu", progress_bar=False)
        results.append(model.get_latent_representation())
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.allclose(results[0], results[2])


def test_the_users_random_state_is_left_alone(adata, make_model):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = make_model(adata, encoder={"width": 32, "n_layers": 1, "n_heads": 2, "dropout": 0.1})
    assert torch.equal(before, torch.get_rng_state())
    model.train(max_steps=2, accelerator="cpu", progress_bar=False)
    assert torch.equal(before, torch.get_rng_state())


def test_nothing_of_the_users_is_changed(adata, make_model):
    adata.layers["mine"] = adata.X.copy()
    before = adata.copy()
    model = make_model(adata)
    model.train(accelerator="cpu", progress_bar=False)
    model.get_latent_representation()
    model.get_gene_representation()
    assert (adata.X != before.X).nnz == 0
    assert adata.obs.equals(before.obs)
    assert adata.var.equals(before.var)
    assert set(adata.obsm) == set(before.obsm)
    assert set(adata.layers) == set(before.layers)
    assert set(adata.uns) - set(before.uns) == {"_scvi_uuid", "_scvi_manager_uuid"}


# -- three scales -------------------------------------------------------------------------------------------------


def test_scales_have_their_shapes_and_order(trained):
    model, adata = trained
    for scale in ("neighborhood", "cell"):
        embedding = model.get_latent_representation(scale=scale)
        assert embedding.shape == (adata.n_obs, 32)
        assert embedding.dtype == np.float32
        assert np.isfinite(embedding).all()
    assert not np.allclose(model.get_latent_representation(scale="cell"), model.get_latent_representation())
    genes = model.get_gene_representation()
    assert genes.shape == (adata.n_vars, 32)


def test_gene_representation_follows_var_names(trained, make_tissue, with_graph, tmp_path):
    model, adata = trained
    model.save(tmp_path / "m")
    order = np.random.default_rng(0).permutation(adata.n_vars)
    again = scjepa.STJEPA.load(tmp_path / "m", with_graph(adata[:, order].copy()), accelerator="cpu")
    np.testing.assert_allclose(
        again.get_gene_representation(), model.get_gene_representation()[order], rtol=1e-4, atol=1e-5
    )


def test_key_added_writes_and_returns(trained):
    model, _ = trained
    query = model.adata.copy()
    out = model.get_latent_representation(query, key_added="X_new")
    np.testing.assert_array_equal(query.obsm["X_new"], out)
    assert "X_new" not in model.adata.obsm


def test_context_and_target_encoders_differ_after_training(trained):
    model, _ = trained
    assert not np.allclose(model.get_latent_representation(encoder="context"), model.get_latent_representation())


def test_shared_genes_are_those_of_all_panels(trained):
    model, adata = trained
    assert len(model.panels.shared()) == adata.n_vars - 4
    shared = model.get_latent_representation(genes="shared")
    names = [model.vocabulary.names[i] for i in model.panels.shared()]
    np.testing.assert_array_equal(shared, model.get_latent_representation(genes=names))
    assert not np.allclose(shared, model.get_latent_representation())


def test_panels_may_be_given(adata, make_model):
    import pandas as pd

    adata.varm["measured"] = pd.DataFrame({"A": True, "B": True}, index=adata.var_names)
    model = make_model(adata, setup={"technology_key": "technology", "library_key": "section", "panel_key": "measured"})
    assert len(model.panels.shared()) == adata.n_vars
    adata.varm["measured"] = pd.DataFrame({"A": True}, index=adata.var_names)
    with pytest.raises(KeyError, match="none for 'B'"):
        make_model(adata, setup={"technology_key": "technology", "library_key": "section", "panel_key": "measured"})


# -- one slide, other graphs, other data ----------------------------------------------------------------------------


def test_one_slide_without_any_key(adata, make_model):
    one = adata[adata.obs["section"] == "s1"].copy()
    model = make_model(one, setup={})
    model.train(accelerator="cpu", progress_bar=False)
    assert model.get_latent_representation().shape == (one.n_obs, 32)
    assert "1 section(s)" in repr(model)


def test_other_panel_is_aligned_by_name(trained, with_graph):
    model, adata = trained
    query = adata[:, :15].copy()
    query.var_names = [*query.var_names[:-2], "NewGene1", "NewGene2"]
    with pytest.warns(UserWarning, match="does not know"):
        embedding = model.get_latent_representation(with_graph(query))
    assert np.isfinite(embedding).all()


def test_unseen_technology_and_sections_are_embedded(trained, with_graph):
    model, adata = trained
    query = adata.copy()
    query.obs["technology"] = "unheard-of"
    _assert_close(model.get_latent_representation(with_graph(query)), model.get_latent_representation())


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
def test_count_dtypes_do_not_matter(trained, dtype):
    model, adata = trained
    query = adata.copy()
    query.X = query.X.astype(dtype)
    np.testing.assert_array_equal(model.get_latent_representation(query), model.get_latent_representation())


def test_dense_layer_and_csc_do_not_matter(trained, make_model, adata):
    adata.layers["counts"] = adata.X.toarray()
    adata.X = adata.X.tocsc()
    reference = make_model(adata).get_latent_representation()
    adata.X = adata.X * 0
    model = make_model(adata, setup={"layer": "counts", "technology_key": "technology", "library_key": "section"})
    np.testing.assert_array_equal(model.get_latent_representation(), reference)


def test_backed_file_gives_the_same_embeddings(adata, make_model, tmp_path):
    import anndata as ad

    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    np.testing.assert_array_equal(
        make_model(backed).get_latent_representation(), make_model(adata).get_latent_representation()
    )


def test_a_changed_graph_is_noticed(adata, make_model, with_graph):
    model = make_model(adata)
    before = model.get_latent_representation()
    with_graph(adata, k=2)
    with pytest.warns(UserWarning, match="fewer than"):
        after = model.get_latent_representation()
    assert not np.allclose(before, after)


# -- errors that help ---------------------------------------------------------------------------------------------


def test_missing_graph_names_the_call(adata):
    for key in list(adata.obsp):
        del adata.obsp[key]
    with pytest.raises(KeyError, match=r"sq\.gr\.spatial_neighbors"):
        scjepa.STJEPA.setup_anndata(adata, library_key="section")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"layer": "raw"}, KeyError, "layers"),
        ({"technology_key": "tech"}, KeyError, "'technology'"),
        ({"library_key": "slide"}, KeyError, "'section'"),
        ({"spatial_key": "xy"}, KeyError, "'spatial'"),
        ({"neighbors_key": "delaunay"}, KeyError, "spatial_connectivities"),
        ({"libary_key": "section"}, TypeError, "library_key"),
    ],
)
def test_missing_keys_are_named_with_what_is_there(adata, arguments, error, words):
    with pytest.raises(error, match=words):
        scjepa.STJEPA.setup_anndata(adata, **arguments)


def test_bad_data_is_refused_with_a_reason(adata, make_model, with_graph):
    with pytest.raises(ValueError, match=r"adata.copy\(\)"):
        scjepa.STJEPA.setup_anndata(adata[:50])
    duplicate = adata.copy()
    duplicate.var_names = ["same", "same", *duplicate.var_names[2:]]
    with pytest.raises(ValueError, match="same"):
        make_model(duplicate)
    nan_section = adata.copy()
    nan_section.obs["section"] = nan_section.obs["section"].astype(object)
    nan_section.obs.loc["cell3", "section"] = None
    with pytest.raises(ValueError, match="cell3"):
        make_model(nan_section)
    negative = adata.copy()
    negative.X = negative.X.astype(float)
    negative.X.data[5] = -1
    with pytest.raises(ValueError, match="negative"):
        make_model(negative).get_latent_representation()
    nan_place = adata.copy()
    nan_place.obsm["spatial"][7, 0] = np.nan
    with pytest.raises(ValueError, match="cell7"):
        make_model(nan_place).get_latent_representation()


def test_graph_across_sections_is_refused(adata, make_model):
    spatial_graph(adata, n_neighs=6)
    with pytest.raises(ValueError, match="library_key"):
        make_model(adata).get_latent_representation()


def test_subset_graph_is_warned_of(adata, make_model):
    thin = adata[np.random.default_rng(0).random(adata.n_obs) < 0.4].copy()
    model = make_model(thin)
    with pytest.warns(UserWarning, match="fewer than"):
        assert np.isfinite(model.get_latent_representation()).all()


def test_log_looking_counts_are_warned_of(adata, make_model):
    adata.X = adata.X.astype(np.float32)
    adata.X.data = np.log1p(adata.X.data)
    with pytest.warns(UserWarning, match="layer"):
        make_model(adata).get_latent_representation()


def test_cells_without_counts_are_told_and_zero_at_cell_scale(adata, make_model):
    adata.X[3] = 0
    adata.X.eliminate_zeros()
    model = make_model(adata)
    with pytest.warns(UserWarning, match="cell3"):
        cell = model.get_latent_representation(scale="cell")
    assert (cell[3] == 0).all()
    assert (model.get_latent_representation()[3] != 0).any()
    model.train(accelerator="cpu", progress_bar=False)


def test_empty_and_one_cell_sections_are_defined(adata, make_model):
    keep = np.flatnonzero(adata.obs["section"] == "s1")
    lone = [*keep.tolist(), int(np.flatnonzero(adata.obs["section"] == "s2")[0])]
    few = adata[lone].copy()
    few.obs["section"] = few.obs["section"].cat.add_categories(["empty"])
    model = make_model(few)
    with pytest.warns(UserWarning, match="fewer than"):
        embedding = model.get_latent_representation()
    assert np.isfinite(embedding).all()
    assert (embedding[-1] != 0).any()  # the lone cell is embedded by itself
    model.train(accelerator="cpu", progress_bar=False)


def test_more_neighbors_asked_than_cells(adata, make_model):
    model = make_model(adata, tokens={"n_tokens": 8, "n_neighbors": 500})
    with pytest.warns(UserWarning, match="fewer than"):
        assert model.get_latent_representation().shape == (adata.n_obs, 32)


def test_foreign_genes_are_refused_with_examples(trained, with_graph):
    model, adata = trained
    query = adata.copy()
    query.var_names = [name.upper() for name in query.var_names]
    with pytest.raises(ValueError, match="GENE"):
        model.get_latent_representation(with_graph(query))


def test_arguments_are_checked_by_name(trained, adata, make_model):
    model, _ = trained
    with pytest.raises(ValueError, match="Did you mean 'neighborhood'"):
        model.get_latent_representation(scale="neighbourhood")
    with pytest.raises(ValueError, match="'target' or 'context'"):
        model.get_latent_representation(encoder="teacher")
    with pytest.raises(ValueError, match="does not know"):
        model.get_latent_representation(genes=["Gene01", "Nope"])
    with pytest.raises(ValueError, match="Did you mean 'demo'"):
        scjepa.STJEPA(model.adata, "dema")
    with pytest.raises(ValueError, match="Did you mean 'n_layers'"):
        scjepa.STJEPA(model.adata, encoder={"n_layer": 2})


def test_untrained_models_embed_with_a_warning(adata, make_model):
    model = make_model(adata)
    with pytest.warns(UserWarning, match="not trained"):
        assert model.get_latent_representation().shape == (adata.n_obs, 32)
    assert "not trained" in repr(model)
    assert model.diagnose().verdict == "untrained"


def test_model_without_setup_says_so(make_tissue):
    with pytest.raises(ValueError, match="setup_anndata"):
        scjepa.STJEPA(make_tissue())
