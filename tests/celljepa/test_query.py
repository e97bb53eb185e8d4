"""Cell-JEPA taken to other cells, and checkpoints of it that travel."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import scjepa

CPU = {"accelerator": "cpu"}
CARD = {"description": "For tests.", "license": "CC0-1.0", "data": [{"name": "toy", "cells": 150}]}


@pytest.fixture
def with_new_genes(make_adata):
    """Return other cells: the genes backwards, five of them renamed."""
    cells = make_adata(80, seed=3)
    cells.var_names = [f"NEW{i}" if i >= 40 else f"GENE{i}" for i in range(45)]
    return cells[:, ::-1].copy()


def test_genes_are_taken_in_and_cells_without_them_embed_as_before(finetuned, make_adata, with_new_genes, fresh):
    model, _ = finetuned
    query = scjepa.CellJEPA.load_query_data(with_new_genes, model, **CPU)
    assert len(query.vocabulary) == 50
    assert query.vocabulary.names[:45] == model.vocabulary.names
    assert "50 genes, of them 45 of the reference" in repr(query)
    known = make_adata(30, seed=4)
    np.testing.assert_array_equal(
        query.get_latent_representation(fresh(known)), model.get_latent_representation(fresh(known))
    )
    with pytest.warns(UserWarning, match="left out.*load_query_data"):
        without = model.get_latent_representation(fresh(with_new_genes))
    with pytest.warns(UserWarning, match=r"left out.*model\.train\(\)"):
        own = query.get_latent_representation()
    np.testing.assert_array_equal(own, without)  # until they are trained


def test_vectors_of_new_genes_depend_on_seed_and_name_alone_and_embeddings_on_neither(finetuned, with_new_genes, fresh):
    model, _ = finetuned
    shuffled = fresh(with_new_genes[:, np.random.default_rng(0).permutation(45)].copy())
    one, two = (scjepa.CellJEPA.load_query_data(cells, model, **CPU) for cells in (fresh(with_new_genes), shuffled))
    other = scjepa.CellJEPA.load_query_data(fresh(with_new_genes), model, seed=5, **CPU)
    names = list(with_new_genes.var_names)
    vectors = [
        query.module.target.embedding.gene.weight[query.vocabulary.ids(names)].detach() for query in (one, two, other)
    ]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.allclose(vectors[0], vectors[2], atol=1e-3)
    embedded = [query.get_latent_representation() for query in (one, two, other)]
    np.testing.assert_allclose(embedded[0], embedded[1], atol=1e-5)
    np.testing.assert_array_equal(embedded[0], embedded[2])
    with pytest.raises(ValueError, match="does not know"):
        one.get_latent_representation(genes=["GENE1", "NEW40"])


def test_new_genes_take_part_once_they_are_trained(finetuned, with_new_genes, tmp_path, quiet, fresh):
    query = scjepa.CellJEPA.load_query_data(with_new_genes, finetuned[0], **CPU)
    query.train(max_steps=2, **quiet)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        every = query.get_latent_representation()
    without = query.get_latent_representation(fresh(with_new_genes[:, with_new_genes.var_names.str.match("GENE")]))
    assert not np.allclose(every, without, atol=1e-3)


def test_a_query_model_trains_fine_tunes_saves_and_leaves_the_reference(
    finetuned, with_new_genes, tmp_path, quiet, fresh
):
    model, _ = finetuned
    before = model.get_latent_representation()
    query = scjepa.CellJEPA.load_query_data(with_new_genes, model, **CPU)
    query.train(max_steps=3, **quiet)
    query.finetune(max_epochs=1, **quiet)
    assert query.n_steps_ > model.n_steps_ + 3
    np.testing.assert_array_equal(model.get_latent_representation(), before)
    query.save(tmp_path / "query")
    loaded = scjepa.CellJEPA.load(tmp_path / "query", fresh(with_new_genes), **CPU)
    assert loaded.reference == query.reference
    np.testing.assert_array_equal(loaded.get_latent_representation(), query.get_latent_representation())


def test_labels_of_the_reference_are_voted_until_the_query_trains(finetuned, with_new_genes, quiet, fresh):
    model, _ = finetuned
    unlabelled = fresh(with_new_genes)
    unlabelled.obs = unlabelled.obs[[]]
    query = scjepa.CellJEPA.load_query_data(unlabelled, model, **CPU)
    found = query.predict_labels()
    assert (found["label"].astype(str) == with_new_genes.obs["cell_type"].astype(str).to_numpy()).mean() > 0.8
    with pytest.warns(UserWarning, match="nothing to compare with"):
        query.train(max_steps=1, **quiet)


def test_a_frozen_encoder_trains_new_genes_alone(finetuned, make_adata, with_new_genes, quiet, fresh):
    model, _ = finetuned
    query = scjepa.CellJEPA.load_query_data(with_new_genes, model, freeze="encoder", **CPU)
    known = make_adata(30, seed=4)
    before, own = query.get_latent_representation(fresh(known)), query.get_latent_representation()
    query.train(max_steps=5, **quiet)
    np.testing.assert_array_equal(query.get_latent_representation(fresh(known)), before)
    assert not np.array_equal(query.get_latent_representation(), own)
    same = scjepa.CellJEPA.load_query_data(make_adata(30, seed=4), model, freeze="encoder", **CPU)
    with pytest.raises(ValueError, match="has none that the reference did not know"):
        same.train(max_steps=1, **quiet)


def test_what_was_learned_of_perturbations_is_not_taken_over(
    make_adata, make_model, with_new_genes, tmp_path, quiet, fresh
):
    adata = make_adata()
    adata.obs["condition"] = pd.Categorical(np.array(["ctrl", "GENE1+ctrl", "GENE2+ctrl"])[np.arange(150) % 3])
    model = make_model(adata, {})
    model.train(max_steps=1, **quiet)
    model.train_perturbation("condition", max_epochs=1, **quiet)
    model.save(tmp_path / "model")
    model.save_pretrained(tmp_path / "shared")
    for source in (model, tmp_path / "model", tmp_path / "shared"):
        query = scjepa.CellJEPA.load_query_data(fresh(with_new_genes), source, **CPU)
        assert query.perturbation_ is None


def test_modules_keep_their_genes(make_adata, with_new_genes, make_model, quiet):
    modules = {f"m{k}": [f"GENE{i}" for i in range(k, 45, 3)] for k in range(3)}
    scjepa.CellJEPA.setup_anndata(adata := make_adata())
    model = scjepa.CellJEPA(adata, "modules", modules=modules, encoder={"width": 32, "n_layers": 1, "n_heads": 2})
    model.train(max_steps=1, **quiet)
    with pytest.warns(UserWarning, match="left out"):
        query = scjepa.CellJEPA.load_query_data(with_new_genes, model, **CPU)
    assert query.vocabulary.names == model.vocabulary.names
    assert query.modules == model.modules


def test_a_checkpoint_embeds_bit_for_bit_and_holds_no_cell(finetuned, tmp_path, quiet, fresh):
    model, adata = finetuned
    model.save_pretrained(tmp_path / "toy", CARD)
    names = set(load_file(tmp_path / "toy" / "weights.safetensors"))
    assert names == {name for name in model.module.state_dict() if not name.startswith("context.")}
    facts = json.loads((tmp_path / "toy" / "model.json").read_text())
    assert "labels" not in facts
    assert "loss" not in facts["history"]
    loaded = scjepa.CellJEPA.from_pretrained(tmp_path / "toy", fresh(adata), **CPU)
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    assert loaded.card.license == "CC0-1.0"
    assert loaded.is_finetuned_
    loaded.finetune(max_epochs=1, **quiet)
    assert loaded.n_steps_ > model.n_steps_


def test_the_card_tells_how_to_use_it(finetuned, tmp_path):
    finetuned[0].save_pretrained(tmp_path / "toy", CARD)
    text = (tmp_path / "toy" / "README.md").read_text()
    assert 'scjepa.CellJEPA.from_pretrained("toy", adata)' in text
    assert 'adata.obsm["X_celljepa"]' in text
    assert '"single-cell"' in text
    assert "| genes | 45 |" in text
    assert "technologies" not in text


def test_what_cannot_be_a_reference_is_named(finetuned, make_adata, with_new_genes, tmp_path):
    model, _ = finetuned
    with pytest.raises(ValueError, match="choice of freeze"):
        scjepa.CellJEPA.load_query_data(with_new_genes, model, freeze="all")
    with pytest.raises(TypeError, match="must be a CellJEPA model"):
        scjepa.CellJEPA.load_query_data(with_new_genes, model.module)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        scjepa.CellJEPA.from_pretrained("nowhere", with_new_genes)
    foreign = make_adata(20)
    foreign.var_names = [f"ENSG{i:011d}" for i in range(45)]
    with pytest.raises(ValueError, match="ENSG"):
        scjepa.CellJEPA.load_query_data(foreign, model, **CPU)
    with pytest.raises(ValueError, match="'STJEPA' model; load it with that class"):
        scjepa.CellJEPA.from_pretrained("mouse-brain-small", with_new_genes)


def test_what_set_up_was_told_of_a_copy_holds_for_no_other(make_adata, make_model):
    adata = make_adata()
    adata.layers["counts"], adata.X = adata.X.copy(), adata.X[:, ::-1] * 3
    model = make_model(adata, {"layer": "counts"})
    expected = model.get_latent_representation()
    other, copied = adata.copy(), adata.copy()
    scjepa.CellJEPA.setup_anndata(copied)
    for one in (other, adata[:], adata[:].copy()):
        np.testing.assert_array_equal(model.get_latent_representation(one), expected)
    assert abs(model.get_latent_representation(copied) - expected).max() > 0.01
    assert scjepa.CellJEPA.load_query_data(other, model, **CPU).keys == model.keys


def test_cells_of_unknown_genes_are_told_from_cells_without_counts(finetuned, make_adata):
    model, _ = finetuned
    cells = make_adata(20, seed=5)
    cells.X[3] = 0
    cells.X[4, :40] = 0
    cells.X[4, 44] = 1
    cells.var_names = [f"NEW{i}" if i >= 40 else f"GENE{i}" for i in range(45)]
    with pytest.warns(UserWarning, match="no count of a gene the model knows") as caught:
        model.get_latent_representation(cells)
    (told,) = [str(one.message) for one in caught if "no count of" in str(one.message)]
    assert told.startswith("2 cells ")
    assert "1 of them, first 'cell3', have no counts at all: sc.pp.filter_cells" in told
    assert "1 of them, first 'cell4', have counts, but not of a gene the model knows: CellJEPA.load_query" in told
