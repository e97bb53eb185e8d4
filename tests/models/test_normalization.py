"""Fitted normalizations belong to the model: a cell's embedding does not depend on the cells beside it."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import scjepa
from scjepa.models import store as _store
from scjepa.tokens import build_token_table

pytestmark = pytest.mark.filterwarnings("ignore:This model is not trained")

CONFIGS = [("nonzero_mean", "shifted_log"), ("shifted_log", "nonzero_mean"), ("counts", "shifted_log")]


@pytest.fixture(params=CONFIGS, ids="-".join)
def model(request, make_tissue, make_model, with_graph):
    """Return an untrained model whose tokens are normalized, with two sections of each technology."""
    adata = make_tissue()
    adata.obs["section"] = adata.obs["section"].cat.rename_categories({"s1": "a", "s2": "b"}).astype(str)
    adata.obs["section"] = (adata.obs["section"] + np.where(np.arange(adata.n_obs) % 3, "1", "2")).astype("category")
    return _model(with_graph(adata), make_model, *request.param)


def _model(adata, make_model, ranks="nonzero_mean", values="shifted_log"):
    return make_model(adata, tokens={"n_tokens": 8, "n_neighbors": 6, "ranks": ranks, "values": values})


def _assert_close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def _section(adata, name):
    """Return one section, whose neighborhoods are all in it, and its rows in the whole."""
    rows = np.flatnonzero(adata.obs["section"] == name)
    return adata[rows].copy(), rows


def test_a_section_embeds_as_it_does_among_all(model):
    for scale in ("neighborhood", "cell"):
        every = model.get_latent_representation(scale=scale)
        for name in ("a1", "a2", "b2"):
            section, rows = _section(model.adata, name)
            _assert_close(model.get_latent_representation(section, scale=scale), every[rows])


def test_a_few_cells_have_the_tokens_they_have_among_all(model, with_graph):
    rows = np.random.default_rng(0).permutation(model.adata.n_obs)[:60]
    every = model._own_tables().tokens.subset(rows)
    few = with_graph(model.adata[rows].copy())
    some = model._tables_of(few).tokens
    for name in ("offsets", "genes", "values", "n_expressed"):
        np.testing.assert_array_equal(getattr(some, name), getattr(every, name), err_msg=name)


def test_company_of_other_cells_does_not_matter(model, with_graph):
    query = model.adata.copy()
    crowd = query.copy()
    crowd.obs_names = [f"other-{name}" for name in crowd.obs_names]
    crowd.obs["section"] = "c"
    crowd.X = crowd.X * 50
    both = ad.concat([query, crowd])
    both.obs["section"] = both.obs["section"].astype("category")
    both = with_graph(both)
    _assert_close(model.get_latent_representation(both)[: query.n_obs], model.get_latent_representation())


def test_order_of_cells_and_genes_does_not_matter(model, with_graph):
    rng = np.random.default_rng(1)
    cells, genes = rng.permutation(model.adata.n_obs), rng.permutation(model.adata.n_vars)
    shuffled = with_graph(model.adata[cells][:, genes].copy())
    _assert_close(model.get_latent_representation(shuffled), model.get_latent_representation()[cells])


def test_chosen_genes_keep_their_statistics(model):
    shared = model.panels.shared()
    every, some = model._own_tables().tokens, model._tables_of(model.adata, shared).tokens
    assert set(some.genes) <= set(shared)
    for cell in range(every.n_cells):
        known, few = (
            dict(zip(t.genes[own].tolist(), t.values[own].tolist(), strict=True))
            for t, own in ((t, slice(t.offsets[cell], t.offsets[cell + 1])) for t in (every, some))
        )
        assert all(few[gene] == value for gene, value in known.items() if gene in few)
    section, rows = _section(model.adata, "b2")
    _assert_close(
        model.get_latent_representation(section, genes="shared"), model.get_latent_representation(genes="shared")[rows]
    )


def test_an_unseen_technology_gets_the_statistics_of_all(model):
    query = model.adata.copy()
    query.obs["technology"] = "unheard-of"
    embedding = model.get_latent_representation(query)
    assert np.isfinite(embedding).all()
    section, rows = _section(query, "a2")
    _assert_close(model.get_latent_representation(section), embedding[rows])

    config = model.config.tokens
    ids = model.vocabulary.ids(query.var_names)
    together = build_token_table(query.X, ids, len(model.vocabulary), config)  # fitted on all, as one technology
    tokens = model._tables_of(query).tokens
    np.testing.assert_array_equal(tokens.genes, together.genes)
    np.testing.assert_array_equal(tokens.values, together.values)
    known = model._own_tables().tokens
    assert not (np.array_equal(tokens.genes, known.genes) and np.array_equal(tokens.values, known.values))


def test_a_query_with_half_a_panel_is_normalized_by_gene_name(make_tissue, make_model):
    model = _model(make_tissue(), make_model, values="nonzero_mean")
    half = model.adata[:, ::-2].copy()
    some = model._tables_of(half, None).tokens
    every = model._tables_of(model.adata, model.vocabulary.ids(half.var_names)).tokens
    np.testing.assert_array_equal(some.genes, every.genes)
    np.testing.assert_array_equal(some.values, every.values)


def test_statistics_stay_when_the_models_counts_change(make_tissue, make_model):
    model = _model(make_tissue(), make_model, values="nonzero_mean")
    before = model._own_tables().tokens
    model.adata.X = model.adata.X * 3
    after = model._own_tables().tokens
    np.testing.assert_array_equal(after.genes, before.genes)
    np.testing.assert_allclose(after.values, before.values * 3, rtol=1e-6)


def test_saved_and_loaded_on_a_section_embeds_bit_for_bit(model, tmp_path):
    model.train(max_steps=3, accelerator="cpu", progress_bar=False)
    model.save(tmp_path / "m")
    for name in ("a1", "a2", "b2"):
        section, rows = _section(model.adata, name)
        loaded = scjepa.STJEPA.load(tmp_path / "m", section.copy(), accelerator="cpu")
        own = loaded.get_latent_representation()
        np.testing.assert_array_equal(own, model.get_latent_representation(section))
        _assert_close(own, model.get_latent_representation()[rows])
        np.testing.assert_array_equal(
            loaded.get_latent_representation(model.adata.copy()), model.get_latent_representation()
        )
    loaded.save(tmp_path / "again")  # from one section, with the statistics of all
    again = scjepa.STJEPA.load(tmp_path / "again", model.adata.copy(), accelerator="cpu")
    np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())


def test_statistics_are_beside_the_weights_and_only_where_something_was_learned(make_tissue, make_model, tmp_path):
    saved = {}
    for ranks, values in [("nonzero_mean", "shifted_log"), ("counts", "counts")]:
        _model(make_tissue(), make_model, ranks, values).save(tmp_path / ranks)
        weights = load_file(tmp_path / ranks / _store.WEIGHTS_FILE)
        saved[ranks] = {name: tuple(w.shape) for name, w in weights.items() if name.startswith("statistics.")}
        assert "statistics" not in json.loads((tmp_path / ranks / _store.MODEL_FILE).read_text())
    assert saved == {
        "nonzero_mean": {"statistics.nonzero_mean": (3, 24), "statistics.shifted_log": (3,)},
        "counts": {},
    }


def test_a_file_without_its_statistics_is_refused(make_tissue, make_model, tmp_path, change_saved):
    _model(make_tissue(), make_model).save(tmp_path / "m")
    file = tmp_path / "m" / _store.WEIGHTS_FILE
    save_file({name: w for name, w in load_file(file).items() if name != "statistics.nonzero_mean"}, file)
    change_saved(tmp_path / "m")
    with pytest.raises(ValueError, match="no statistics of the normalization 'nonzero_mean'"):
        scjepa.STJEPA.load(tmp_path / "m", make_tissue(), accelerator="cpu")


def test_fitting_checks_counts_when_the_model_is_made(make_tissue, make_model):
    adata = make_tissue()
    adata.X = adata.X.astype(np.float32)
    adata.X.data[0] = np.nan
    with pytest.raises(ValueError, match="Cell 'cell0' has the value nan"):
        _model(adata, make_model)
