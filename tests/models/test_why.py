"""Why a trained model puts a cell in its niche: hiding, editing, surprise, and confidence by an atlas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import scjepa
from scjepa.stjepa import explain
from scjepa.tl.evidence import Sampled


@pytest.fixture(scope="module")
def explained(trained, fresh):
    model, adata = trained
    adata = fresh(adata)
    adata.obs["niche"] = adata.obs["region"]
    adata.obs["cell_type"] = pd.Categorical(np.where(np.arange(adata.n_obs) % 3 == 0, "rare", "common"))
    adata.obsm["X_stjepa"] = model.get_latent_representation(adata)
    return model, adata


def test_the_table_is_that_of_the_linear_method(explained):
    model, adata = explained
    found = model.explain(adata, n_cells=12, n_permutations=20)
    scjepa.tl.niche_readout(adata, key_added="linear")
    linear = scjepa.tl.niche_drivers(adata, key="linear", n_cells=12, n_permutations=20)
    assert list(found.columns) == list(linear.columns)
    assert set(found["kind"]) == {"neighbor", "gene"}
    assert set(found["ring"].dropna()) == {0, 1, 2}
    assert np.isfinite(found[["effect", "shift", "z", "p_value"]].to_numpy(dtype=float)).all()
    assert (found["shift"] > 0).all()
    again = model.explain(adata, n_cells=12, n_permutations=20)
    np.testing.assert_allclose(again["effect"], found["effect"], atol=1e-5)


def test_hiding_is_embedding_without_those_tokens(explained):
    model, adata = explained
    reader = explain.Reader.of_model(model, adata)
    values = adata.obsm["X_stjepa"]
    codes = adata.obs["niche"].cat.codes.to_numpy().astype(np.int64)
    zeros, halves = np.zeros(len(codes), dtype=np.int64), np.arange(len(codes)) % 2
    sampled = Sampled(["left", "right"], codes, np.arange(5), zeros, halves)
    evidence = sampled.evidence(values)
    batch = reader.source.batch(torch.arange(5))
    hidden = explain.hide_neighbors(reader, sampled, evidence, values)
    pair = int(np.flatnonzero((hidden.cell == 3) & (hidden.ring > 0))[1])
    segment = int(np.flatnonzero(reader.source.neighbors_of(np.array([3]))[0] == hidden.neighbor[pair])[0])
    kept = ~((batch.sequences == 3) & (batch.segments == segment))
    genes = explain.hide_genes(reader, sampled, evidence, values)
    one = int(np.flatnonzero(genes.cell == 3)[0])
    without = ~((batch.sequences == 3) & (batch.genes == int(genes.gene[one])))
    with torch.inference_mode():
        moved = [
            model.module.embed(batch.select(keep), "target", "neighborhood")[3].numpy() for keep in (kept, without)
        ]
    for shift, vector in zip((hidden.shift[pair], genes.shift[one]), moved, strict=True):
        assert shift == pytest.approx(np.linalg.norm(vector - values[3]) / evidence.spread, rel=1e-3)


def test_edits_put_other_cells_in_the_place_of_neighbors(explained):
    model, adata = explained
    found = model.edit_neighborhood(adata, replace={"rare": "common"}, n_cells=15)
    assert list(found.cells.columns[:3]) == ["niche", "n_edited", "shift"]
    assert (found.cells["shift"] > 0).all()
    np.testing.assert_allclose(found.before.sum(axis=1), 1)
    reader = explain.Reader.of_model(model, adata)
    cells = np.array([4, 9])
    same = explain.embed_edited(reader, cells, reader.source.neighbors_of(cells)[:, 1:])
    np.testing.assert_allclose(same, adata.obsm["X_stjepa"][cells], atol=1e-5)
    other = explain.embed_edited(reader, cells, np.full((2, reader.source.n_neighbors), -1))
    assert not np.allclose(other, same, atol=1e-3)
    assert (model.edit_neighborhood(adata, add="rare", n_added=2, n_cells=5).cells["n_edited"] == 2).all()


def test_surprise_is_told_by_cell_and_written_where_asked(explained):
    model, adata = explained
    found = model.get_surprise(adata, key_added="odd")
    assert list(found.columns) == ["surprise", "surprise_p_value"]
    assert found.index.equals(adata.obs_names)
    assert found["surprise_p_value"].between(0, 1).all()
    np.testing.assert_allclose(adata.obs["odd"], found["surprise"], rtol=1e-5)
    adata.obs["mine"] = 0.0
    with pytest.raises(ValueError, match="'mine'"):
        model.get_surprise(adata, key_added="mine")
    with pytest.raises(KeyError, match=r"no 'kind'.*cell_type_key=None"):
        model.get_surprise(adata, cell_type_key="kind")


@pytest.mark.parametrize("call", ["explain", "edit"])
def test_other_models_versions_and_missing_parts_are_refused(explained, make_model, fresh, call):
    model, adata = explained
    adata = fresh(adata)

    def run(model: scjepa.STJEPA, **how):
        return (
            model.explain(adata, **how) if call == "explain" else model.edit_neighborhood(adata, remove="rare", **how)
        )

    other = make_model(fresh(adata), seed=1)
    with pytest.warns(UserWarning, match="not trained"), pytest.raises(ValueError, match="not what this model makes"):
        run(other)
    with pytest.raises(ValueError, match="'nowhere' does not exist"):
        run(model, niches=["nowhere"])
    with pytest.raises(KeyError, match="'kind'"):
        run(model, by="kind")
    del adata.obsm["X_stjepa"]
    with pytest.raises(KeyError, match="get_latent_representation"):
        run(model)
    del adata.obs["niche"]
    with pytest.raises(KeyError, match="no 'niche'"):
        run(model)


def test_a_model_that_sums_neighbors_says_what_to_use(adata, make_model):
    model = make_model(adata, tokens={"n_tokens": 8, "n_neighbors": 6, "tokenizer": "neighborhood"})
    adata.obs["niche"] = adata.obs["region"]
    for call in (model.explain, model.get_surprise, lambda: model.edit_neighborhood(remove="left", by="region")):
        with pytest.raises(ValueError, match=r"tells no cells of a neighborhood apart.*niche_drivers"):
            call()


@pytest.mark.filterwarnings("ignore:The section", "ignore:.*genes of the atlas are not there")
@pytest.mark.parametrize("drop_genes", [0, 2])
def test_confidence_of_niches_of_an_atlas(trained, fresh, drop_genes, monkeypatch):
    monkeypatch.setattr("scjepa.tl._niche_estimator._AS_WELL", 0.0)  # so that both sources are read
    model, adata = trained
    adata = fresh(adata)
    adata.obsm["X_stjepa_cell"] = model.get_latent_representation(adata, scale="cell")
    scjepa.tl.niche_readout(adata, ["X", "X_stjepa_cell"], align="scale")
    scjepa.tl.niches(adata, n_niches=2)
    atlas = scjepa.NicheAtlas.fit(adata)
    new = fresh(adata[:, drop_genes:].copy())
    for key in ("X_stjepa_niche", "X_stjepa_cell"):
        del new.obsm[key]
    del new.uns["scjepa"], new.obs["niche"]
    new.obsm["X_stjepa_cell"] = model.get_latent_representation(new, scale="cell")
    atlas.predict(new)
    new.obs.loc[new.obs_names[:3], "niche"] = "unknown"
    scjepa.tl.niche_confidence(new, model.get_masked_representations(new, n_masks=2))
    found = new.obs["niche_confidence"]
    assert found[new.obs["niche"] == "unknown"].isna().all()
    assert found[new.obs["niche"] != "unknown"].between(0, 1).all()
