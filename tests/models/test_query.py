"""Query models: new sections, panels and technologies."""

from __future__ import annotations

import copy
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scjepa

pytestmark = pytest.mark.filterwarnings("ignore:This model is not trained", "ignore:Genes the model does not know")
CPU = {"accelerator": "cpu"}
QUIET = {"accelerator": "cpu", "progress_bar": False}


def renamed(adata: ad.AnnData, **names: str) -> ad.AnnData:
    """Return a copy with genes and, by ``technology=``, all cells' technology renamed."""
    out = adata.copy()
    if "technology" in names:
        out.obs["technology"] = pd.Categorical([names.pop("technology")] * out.n_obs)
    out.var_names = [names.get(name, name) for name in out.var_names]
    return fresh(out)


def fresh(adata: ad.AnnData) -> ad.AnnData:
    """Drop what an earlier set-up wrote, as in another session."""
    for key in [key for key in adata.uns if key.startswith("_scvi")]:
        del adata.uns[key]
    return adata


def query_of(adata: ad.AnnData) -> ad.AnnData:
    """Return data with two unknown genes and an unknown technology."""
    return renamed(adata, Gene03="New1", Gene07="New2", technology="Visible")


def tokens_of(model: scjepa.STJEPA, encoder: str = "target") -> torch.Tensor:
    return model.module.encoder(encoder).embedding.gene.weight.detach()


# -- zero-shot ----------------------------------------------------------------------------------------------------


def test_the_references_own_genes_give_its_embeddings_bit_for_bit(trained):
    model, adata = trained
    query = scjepa.STJEPA.load_query_data(fresh(adata.copy()), model, **CPU)
    for scale in ("neighborhood", "cell"):
        np.testing.assert_array_equal(
            query.get_latent_representation(scale=scale), model.get_latent_representation(scale=scale)
        )
    assert query.vocabulary == model.vocabulary
    assert query.technologies == model.technologies
    assert query.is_trained
    assert query.diagnose() == model.diagnose()


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_part_of_the_references_panel_embeds_as_with_the_reference(trained, data):
    model, adata = trained
    genes = data.draw(st.lists(st.sampled_from(list(adata.var_names)), min_size=6, unique=True))
    part = fresh(adata[:, genes].copy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        query = scjepa.STJEPA.load_query_data(part, model, **CPU)
        np.testing.assert_array_equal(query.get_latent_representation(), model.get_latent_representation(part))


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 99))
def test_shuffled_genes_and_cells_give_the_same_query_model(trained, with_graph, seed):
    model, adata = trained
    one = query_of(adata)
    rng = np.random.default_rng(seed)
    cells, genes = rng.permutation(one.n_obs), rng.permutation(one.n_vars)
    other = fresh(with_graph(one[cells][:, genes].copy()))
    a, b = (scjepa.STJEPA.load_query_data(x, model, **CPU) for x in (one, other))
    assert a.vocabulary == b.vocabulary
    assert torch.equal(tokens_of(a), tokens_of(b))
    np.testing.assert_allclose(
        b.get_latent_representation(), a.get_latent_representation()[cells], rtol=1e-4, atol=1e-5
    )


def test_new_genes_do_not_change_old_rows_or_each_other(trained):
    model, adata = trained
    n = len(model.vocabulary)
    both = scjepa.STJEPA.load_query_data(query_of(adata), model, **CPU)
    one = scjepa.STJEPA.load_query_data(renamed(adata, Gene07="New2"), model, **CPU)
    assert both.vocabulary.names == (*model.vocabulary.names, "New1", "New2")
    for encoder in ("target", "context"):
        assert torch.equal(tokens_of(both, encoder)[:n], tokens_of(model, encoder))
        assert torch.equal(tokens_of(both, encoder)[n + 1], tokens_of(one, encoder)[n])
        assert torch.isfinite(tokens_of(both, encoder)).all()
    assert not torch.allclose(tokens_of(both)[n], tokens_of(both)[n + 1])


def test_new_vectors_follow_the_seed_and_what_is_known_does_not(trained):
    model, adata = trained
    n = len(model.vocabulary)
    a, b, c = (scjepa.STJEPA.load_query_data(query_of(adata), model, seed=s, **CPU) for s in (None, model.seed, 5))
    assert torch.equal(tokens_of(a), tokens_of(b))
    assert torch.equal(tokens_of(a)[:n], tokens_of(c)[:n])
    assert not torch.equal(tokens_of(a)[n:], tokens_of(c)[n:])


def test_a_new_technology_begins_as_the_mean_of_those_known(trained):
    model, adata = trained
    query = scjepa.STJEPA.load_query_data(query_of(adata), model, **CPU)
    assert query.technologies == ("A", "B", "Visible")
    known, rows = (m.module.target.embedding.technology.weight.detach() for m in (model, query))
    assert torch.equal(rows[:2], known)
    torch.testing.assert_close(rows[2], known.mean(0))
    measured = dict(zip(query.technologies, query.panels.measured, strict=True))
    assert not measured["A"][-2:].any()  # a gene the reference's technology did not have
    assert measured["Visible"][-2:].all()
    names = [query.vocabulary.names[i] for i in query.panels.shared()]
    assert names == [
        model.vocabulary.names[i] for i in model.panels.shared() if i not in model.vocabulary.ids(["Gene03", "Gene07"])
    ]


def test_the_reference_and_the_users_data_stay_as_they_are(trained):
    model, adata = trained
    weights = copy.deepcopy(model.module.state_dict())
    data = query_of(adata)
    before = data.copy()
    query = scjepa.STJEPA.load_query_data(data, model, **CPU)
    query.train(max_steps=2, **QUIET)
    assert all(torch.equal(weights[name], w) for name, w in model.module.state_dict().items())
    assert (data.X != before.X).nnz == 0
    assert data.obs.equals(before.obs)
    assert set(data.uns) - set(before.uns) == {"_scvi_uuid", "_scvi_manager_uuid"}


def test_a_saved_reference_gives_the_same_query_model(trained, tmp_path):
    model, adata = trained
    model.save(tmp_path / "m")
    live, saved = (scjepa.STJEPA.load_query_data(query_of(adata), m, **CPU) for m in (model, tmp_path / "m"))
    for encoder in ("target", "context"):
        np.testing.assert_array_equal(
            live.get_latent_representation(encoder=encoder), saved.get_latent_representation(encoder=encoder)
        )


def test_a_query_model_can_be_saved_loaded_and_queried(trained, tmp_path):
    model, adata = trained
    query = scjepa.STJEPA.load_query_data(query_of(adata), model, freeze="encoder", **CPU)
    query.save(tmp_path / "q")
    again = scjepa.STJEPA.load(tmp_path / "q", query_of(adata), **CPU)
    np.testing.assert_array_equal(again.get_latent_representation(), query.get_latent_representation())
    assert again.reference == query.reference
    before = tokens_of(again).clone()
    again.train(max_steps=3, **QUIET)
    assert torch.equal(tokens_of(again)[: len(model.vocabulary)], before[: len(model.vocabulary)])
    third = scjepa.STJEPA.load_query_data(renamed(adata, Gene01="New3"), again, **CPU)
    assert third.vocabulary.names == (*query.vocabulary.names, "New3")


# -- normalizations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "own"), [(120, True), (60, False)])
def test_statistics_of_a_new_technology_are_its_own_where_there_are_enough_cells(make_tissue, make_model, n, own):
    options = {"n_tokens": 8, "n_neighbors": 6, "ranks": "nonzero_mean", "values": "shifted_log"}
    model = make_model(make_tissue(), tokens=options)
    data = make_tissue(n, seed=3)
    data.X = data.X * 7
    query = scjepa.STJEPA.load_query_data(query_of(data), model, **CPU)
    known, found = (m.normalizations.to_arrays() for m in (model, query))
    np.testing.assert_array_equal(found["shifted_log"][[0, 1, 3]], known["shifted_log"])
    np.testing.assert_array_equal(found["nonzero_mean"][[0, 1, 3], :24], known["nonzero_mean"])
    assert (found["shifted_log"][2] > 4 * known["shifted_log"][2]) == own
    assert (found["shifted_log"][2] == known["shifted_log"][2]) != own
    assert found["nonzero_mean"].shape == (4, 26)
    assert (found["nonzero_mean"][:, 24:] >= 7).all()  # learned from the query, not 1
    assert np.isfinite(query.get_latent_representation()).all()


# -- fine-tuning --------------------------------------------------------------------------------------------------


def test_fine_tuning_goes_on_from_the_reference(trained):
    model, adata = trained
    query = scjepa.STJEPA.load_query_data(query_of(adata), model, **CPU)
    before = query.get_latent_representation()
    query.train(max_steps=3, **QUIET)
    assert query.n_steps_ == model.n_steps_ + 3
    assert not np.allclose(query.get_latent_representation(), before)
    assert len(query.history["loss"]) == len(model.history["loss"]) + 3


def test_with_a_frozen_encoder_only_what_is_new_changes(trained):
    model, adata = trained
    query = scjepa.STJEPA.load_query_data(query_of(adata), model, freeze="encoder", **CPU)
    before = copy.deepcopy(query.module.state_dict())
    query.train(max_steps=4, **QUIET)
    known = {"gene": len(model.vocabulary), "technology": len(model.technologies)}
    for name, w in query.module.state_dict().items():
        table = name.split(".")[-2] if "embedding.gene" in name or "embedding.technology" in name else None
        n = known.get(table, len(w) if w.ndim else None)
        assert torch.equal(w[:n] if w.ndim else w, before[name][:n] if w.ndim else before[name]), name
        if table is not None:
            assert not torch.equal(w[n:], before[name][n:]), name
    np.testing.assert_array_equal(query.get_latent_representation(adata), model.get_latent_representation())
    assert not np.array_equal(
        query.get_latent_representation(),
        scjepa.STJEPA.load_query_data(query_of(adata), model, **CPU).get_latent_representation(),
    )


def test_a_frozen_encoder_with_nothing_new_has_nothing_to_train(trained):
    model, adata = trained
    query = scjepa.STJEPA.load_query_data(fresh(adata.copy()), model, freeze="encoder", **CPU)
    with pytest.raises(ValueError, match="freeze='none'"):
        query.train(max_steps=1, **QUIET)
    assert "parameters" in str(query.estimate())
    assert np.isfinite(query.get_latent_representation()).all()


def test_a_loaded_model_does_not_train_on_a_technology_without_a_token(trained, tmp_path):
    model, adata = trained
    model.save(tmp_path / "m")
    loaded = scjepa.STJEPA.load(tmp_path / "m", renamed(adata, technology="Visible"), **CPU)
    with pytest.raises(ValueError, match=r"'Visible' \(known: A, B\).*load_query_data"):
        loaded.train(max_steps=1, **QUIET)


# -- other data -----------------------------------------------------------------------------------------------------


def test_lists_and_mappings_give_lists_and_mappings(trained, with_graph):
    model, adata = trained
    parts = {name: fresh(with_graph(adata[adata.obs["section"] == name].copy())) for name in ("s1", "s2")}
    by_name = model.get_latent_representation(parts, key_added="X_new")
    assert list(by_name) == ["s1", "s2"]
    listed = model.get_latent_representation(list(parts.values()))
    assert isinstance(listed, list)
    for (name, part), found in zip(parts.items(), listed, strict=True):
        np.testing.assert_array_equal(by_name[name], found)
        np.testing.assert_array_equal(part.obsm["X_new"], found)
        np.testing.assert_array_equal(found, model.get_latent_representation(part))
    with pytest.raises(ValueError, match="one by one"):
        model.get_latent_representation(parts, out="file.npy")


def test_data_without_the_models_columns_is_one_section_of_an_unknown_technology(trained):
    model, adata = trained
    plain = adata[adata.obs["section"] == "s1"].copy()
    expected = model.get_latent_representation(plain)
    del plain.obs["section"], plain.obs["technology"]
    fresh(plain)
    with pytest.warns(UserWarning, match=r"no 'section'.*taken as one section"):
        found = model.get_latent_representation(plain)
    np.testing.assert_array_equal(found, expected)
    with pytest.warns(UserWarning, match="technology, not known"):
        query = scjepa.STJEPA.load_query_data(plain, model, **CPU)
    assert query.technologies == ("A", "B", "unnamed")
    assert query.keys.technology_key is None


def test_columns_named_at_set_up_of_the_query_are_used(trained):
    model, adata = trained
    other = fresh(adata.copy())
    other.obs = other.obs.rename(columns={"section": "slide", "technology": "assay"})
    other.layers["raw"], other.X = other.X.copy(), other.X * 0
    scjepa.STJEPA.setup_anndata(other, layer="raw", technology_key="assay", library_key="slide")
    np.testing.assert_array_equal(model.get_latent_representation(other), model.get_latent_representation())
    query = scjepa.STJEPA.load_query_data(other, model, **CPU)
    assert query.technologies == model.technologies
    np.testing.assert_array_equal(query.get_latent_representation(), model.get_latent_representation())


@pytest.fixture
def in_layer(make_tissue, make_model):
    """Return a model of raw counts in a layer, its data with other values in X, and its embedding."""
    adata = make_tissue()
    adata.layers["counts"], adata.X = adata.X.copy(), adata.X[:, ::-1] * 3
    model = make_model(adata, {"layer": "counts", "technology_key": "technology", "library_key": "section"})
    return model, adata, model.get_latent_representation()


def test_what_set_up_was_told_of_a_copy_holds_for_no_other(in_layer, tmp_path):
    model, adata, expected = in_layer
    before, copied = adata.copy(), adata.copy()
    adata.write_h5ad(tmp_path / "a.h5ad")
    scjepa.STJEPA.setup_anndata(copied, technology_key="technology", library_key="section")
    others = {
        "an earlier copy": before,
        "a later copy": adata.copy(),
        "a view": adata[:],
        "a view's copy": adata[:].copy(),
        "a copy of what was set up": copied.copy(),
        "read again": ad.read_h5ad(tmp_path / "a.h5ad"),
        "the model's own": adata,
    }
    for name, other in others.items():
        np.testing.assert_array_equal(model.get_latent_representation(other), expected, err_msg=name)
    assert abs(model.get_latent_representation(copied) - expected).max() > 0.01  # read from X, as it was told
    query = scjepa.STJEPA.load_query_data(before, model, **CPU)
    assert query.keys == model.keys
    np.testing.assert_array_equal(query.get_latent_representation(), expected)


def test_a_copy_set_up_on_a_layer_does_not_send_others_there(make_tissue, make_model):
    adata = make_tissue()
    model = make_model(adata)
    copied, again = adata.copy(), adata.copy()
    copied.layers["counts"] = copied.X.copy()
    scjepa.STJEPA.setup_anndata(copied, layer="counts", technology_key="technology", library_key="section")
    expected = model.get_latent_representation()
    np.testing.assert_array_equal(model.get_latent_representation(again), expected)
    np.testing.assert_array_equal(model.get_latent_representation(copied), expected)


def test_what_was_set_up_is_read_as_told_though_a_copy_was_set_up_later(in_layer):
    model, adata, expected = in_layer
    first = adata.copy()
    first.layers["raw"] = first.layers.pop("counts")
    keys = {"technology_key": "technology", "library_key": "section"}
    scjepa.STJEPA.setup_anndata(first, layer="raw", **keys)
    scjepa.STJEPA.setup_anndata(first.copy(), **keys)
    np.testing.assert_array_equal(model.get_latent_representation(first), expected)
    np.testing.assert_array_equal(model.get_latent_representation(first[:]), expected)


def test_nothing_holds_on_to_what_was_set_up_but_scvi_tools(make_tissue):
    import gc
    import weakref

    adata = make_tissue()
    scjepa.STJEPA.setup_anndata(adata)
    gone = weakref.ref(adata)
    scjepa.STJEPA._setup_adata_manager_store.clear()
    del adata
    gc.collect()
    assert gone() is None


def test_embedding_other_data_leaves_it_and_lets_go_of_it(trained):
    import gc
    import weakref

    model, adata = trained
    other = fresh(adata.copy())
    model.get_latent_representation(other)
    assert "_scvi_uuid" not in other.uns
    gone = weakref.ref(other)
    del other
    gc.collect()
    assert gone() is None


def test_unseen_sections_in_a_view_are_embedded(trained):
    model, adata = trained
    other = fresh(adata.copy())
    other.obs["section"] = [f"new-{name}" for name in other.obs["section"]]
    view = other[other.obs["section"] == "new-s1"]
    rows = np.flatnonzero(adata.obs["section"] == "s1")
    np.testing.assert_allclose(
        model.get_latent_representation(view), model.get_latent_representation()[rows], rtol=1e-4, atol=1e-5
    )


# -- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (lambda names: [f"Other{i}" for i in range(len(names))], r"'Other0'.*'Gene00'.*var_names holds gene names"),
        (lambda names: [name.upper() for name in names], r"'GENE.*'Gene00'.*capitalize"),
        (lambda names: [f"ENSMUSG{i:011d}" for i in range(len(names))], "Ensembl ids in the data, gene symbols"),
    ],
)
def test_no_overlap_is_refused_with_examples_and_the_likely_cause(trained, names, words):
    model, adata = trained
    foreign = fresh(adata.copy())
    foreign.var_names = names(list(foreign.var_names))
    with pytest.raises(ValueError, match=words):
        scjepa.STJEPA.load_query_data(foreign, model, **CPU)
    assert "_scvi_uuid" not in foreign.uns


def test_some_genes_in_another_case_are_warned_of(trained):
    model, adata = trained
    with pytest.warns(UserWarning, match=r"1 genes count as new.*'GENE03' \(reference: 'Gene03'\)"):
        query = scjepa.STJEPA.load_query_data(renamed(adata, Gene03="GENE03"), model, **CPU)
    assert "GENE03" in query.vocabulary


@pytest.mark.parametrize(
    ("wrong", "words"),
    [("cells.h5ad", "read_h5ad"), (np.zeros((3, 3)), "found ndarray"), (type("SpatialData", (), {})(), "table_of")],
)
def test_what_is_no_anndata_is_refused_with_what_to_do(trained, wrong, words):
    model, _ = trained
    calls = (
        model.get_latent_representation,
        model.coverage,
        scjepa.STJEPA.setup_anndata,
        lambda adata: scjepa.STJEPA.load_query_data(adata, model),
    )
    for call in calls:
        with pytest.raises(TypeError, match=words):
            call(wrong)


def test_arguments_are_checked(trained):
    model, adata = trained
    with pytest.raises(ValueError, match="Did you mean 'encoder'"):
        scjepa.STJEPA.load_query_data(adata.copy(), model, freeze="encode")
    with pytest.raises(TypeError, match="a folder or the name of a checkpoint, found dict"):
        scjepa.STJEPA.load_query_data(adata.copy(), {})
    with pytest.raises(FileNotFoundError, match="no folder 'nowhere'"):
        scjepa.STJEPA.load_query_data(adata.copy(), "nowhere")
    with pytest.raises(ValueError, match=r"adata.copy\(\)"):
        scjepa.STJEPA.load_query_data(fresh(adata.copy())[:50], model)
    graphless = fresh(adata.copy())
    for key in list(graphless.obsp):
        del graphless.obsp[key]
    with pytest.raises(KeyError, match=r"sq\.gr\.spatial_neighbors"):
        scjepa.STJEPA.load_query_data(graphless, model)
    with pytest.raises(KeyError, match=r"sq\.gr\.spatial_neighbors"):
        model.get_latent_representation(graphless)
