from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scjepa

SETS = {f"programme {i}": [f"GENE{j}" for j in range(i, 45, 5)] for i in range(5)}
PARTS = {
    "encoder": {"width": 32, "n_layers": 1, "n_heads": 2},
    "training": {"max_steps": 12, "batch_size": 16, "learning_rate": 3e-3},
    "finetuning": {"training": {"max_epochs": 2, "batch_size": 16}},
}


def _model(adata, modules=SETS):
    scjepa.CellJEPA.setup_anndata(adata, labels_key="cell_type")
    return scjepa.CellJEPA(adata, "modules", modules=modules, **PARTS)


def test_a_module_model_trains_fine_tunes_and_survives_saving(adata, make_adata, quiet, tmp_path):
    model = _model(adata)
    model.train(**quiet)
    model.finetune(**quiet)
    assert "module_loss" in model.history
    assert "reconstruction_loss" not in model.history
    assert "in 5 modules" in model.summary()
    embedding = model.get_latent_representation()
    assert np.isfinite(embedding).all()
    shuffled = adata[::-1, ::-1].copy()
    np.testing.assert_allclose(model.get_latent_representation(shuffled)[::-1], embedding, rtol=1e-3, atol=1e-5)
    model.save(tmp_path / "model")
    loaded = scjepa.CellJEPA.load(tmp_path / "model", make_adata())
    np.testing.assert_array_equal(loaded.get_latent_representation(), embedding)
    assert loaded.modules == model.modules
    assert len(loaded.predict_labels()) == adata.n_obs
    with pytest.raises(ValueError, match="predict_expression needs a model with genes as tokens"):
        loaded.predict_expression(["GENE1"])
    with pytest.raises(ValueError, match="genes as tokens"):
        loaded.train_perturbation()


def test_modules_come_from_a_file_from_columns_and_from_co_expression(adata, tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_text("".join("\t".join([name, "about", *genes]) + "\n" for name, genes in SETS.items()))
    assert _model(adata, path).modules == _model(adata, str(path)).modules == _model(adata).modules
    adata.var["set"] = [f"s{i % 3}" for i in range(adata.n_vars)]
    adata.var["first"] = np.arange(adata.n_vars) < 10
    assert _model(adata, "set").modules.names == ("s0", "s1", "s2")
    assert _model(adata, ["set", "first"]).modules.names == ("set:s0", "set:s1", "set:s2", "first")
    scjepa.tl.gene_modules(adata, 4)
    assert len(_model(adata, "module").modules.names) >= 2


def test_columns_of_yes_and_no_may_be_missing_as_those_of_pandas_may(adata):
    first = np.arange(adata.n_vars) < 10
    adata.var["first"], adata.var["rest"] = pd.array(first, dtype="boolean"), pd.array(~first, dtype="boolean")
    adata.var.loc["GENE3", "first"] = pd.NA
    modules = _model(adata, ["first", "rest"]).modules
    assert modules.names == ("first", "rest")
    assert [len(genes) for genes in modules.genes] == [9, adata.n_vars - 10]
    adata.var["category"] = pd.Categorical(first)
    assert _model(adata, "category").modules.names == ("False", "True")


def test_what_is_wrong_with_modules_is_told(adata):
    with pytest.raises(ValueError, match="none were given"):
        _model(adata, None)
    with pytest.raises(ValueError, match="take preset='modules'"):
        scjepa.CellJEPA(adata, "demo", modules=SETS)
    with pytest.raises(ValueError, match=r"0 of 2 modules .*'ENSG1'.*'GENE0'"):
        _model(adata, {"a": ["ENSG1", "ENSG2"], "b": ["ENSG3"]})
    with pytest.raises(KeyError, match="gene_modules"):
        _model(adata, "nothing")
    with pytest.warns(UserWarning, match="1 of 6 modules"):
        _model(adata, {**SETS, "small": ["GENE1", "GENE2"]})
