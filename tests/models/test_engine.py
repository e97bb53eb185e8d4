"""What both models get of the engine: one look at the counts a call, memory told from sizes, the same words."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse

import scjepa
from scjepa.models import estimate as _estimate
from scjepa.models import setup as _setup

pytestmark = pytest.mark.filterwarnings("ignore:This model is not trained", "ignore:Genes the model does not know")

QUIET = {"accelerator": "cpu", "progress_bar": False}


def cells(n: int = 80, n_genes: int = 60, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    adata = ad.AnnData(
        sparse.csr_matrix(rng.poisson(1.5, (n, n_genes)).astype(np.int32) + np.eye(n, n_genes, dtype=int))
    )
    adata.var_names = [f"GENE{i}" for i in range(n_genes)]
    adata.obs["kind"] = np.where(np.arange(n) % 2, "a", "b")
    adata.obs["condition"] = np.where(np.arange(n) % 3, "ctrl", "GENE1+ctrl")
    return adata


def cell_model(adata: ad.AnnData | None = None, preset: str = "demo", **changes) -> scjepa.CellJEPA:
    adata = cells() if adata is None else adata
    scjepa.CellJEPA.setup_anndata(adata, labels_key="kind" if "kind" in adata.obs else None)
    small = {"training": {"max_steps": 2, "batch_size": 16}, "encoder": {"width": 32, "n_layers": 1, "n_heads": 2}}
    small["finetuning"] = small["perturbation"] = {"training": {"max_steps": 2, "max_epochs": None, "batch_size": 16}}
    return scjepa.CellJEPA(adata, preset, **{**small, **changes})


@pytest.fixture
def looks(monkeypatch):
    """Return how often counts were looked at since the last time it was asked."""
    seen = []
    mark = _setup.counts_mark
    monkeypatch.setattr(_setup, "counts_mark", lambda *a: seen.append(a) or mark(*a))

    def asked() -> int:
        n = len(seen)
        seen.clear()
        return n

    return asked


def test_a_call_looks_at_the_counts_of_a_tissue_once(adata, make_model, looks, tmp_path):
    model = make_model(adata)
    calls = {
        "train": lambda: model.train(max_steps=1, **QUIET),
        "diagnose": model.diagnose,
        "estimate": model.estimate,
        "embed": model.get_latent_representation,
        "genes": model.get_gene_representation,
        "masked": lambda: list(model.get_masked_representations(n_masks=1)),
        "niches": lambda: model.niches(n_niches=2, progress_bar=False),
        "coverage": model.coverage,
        "save": lambda: model.save(tmp_path / "model"),
    }
    for name, call in calls.items():
        call()
        assert looks() <= 1, name


def test_a_call_looks_at_the_counts_of_cells_once(looks, tmp_path):
    model, other = cell_model(), cells(seed=1)
    calls = {
        "train": lambda: model.train(**QUIET),
        "labels": model.predict_labels,
        "labels again": model.predict_labels,
        "labels of others": lambda: model.predict_labels(other),
        "finetune": lambda: model.finetune(**QUIET),
        "labels of others, finetuned": lambda: model.predict_labels(other),
        "embed": model.get_latent_representation,
        "expression": lambda: model.predict_expression(["GENE1"]),
        "perturbation": lambda: model.train_perturbation(**QUIET),
        "predict": lambda: model.predict_perturbation(["GENE1"], method="network"),
        "save": lambda: model.save(tmp_path / "model"),
        "estimate": model.estimate,
    }
    for name, call in calls.items():
        call()
        assert looks() <= 1, name


def test_counts_on_disk_are_not_read_to_see_whether_they_changed(tmp_path):
    adata = cells()
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    mark = _setup.counts_mark(backed, None)
    assert str(tmp_path / "a.h5ad") in map(str, mark)
    assert mark == _setup.counts_mark(backed, None)


def test_a_zarr_store_is_known_by_its_metadata(tmp_path):
    zarr = pytest.importorskip("zarr")
    matrix = zarr.open_array(str(tmp_path / "x.zarr"), mode="w", shape=(4, 3), dtype="f4")
    mark = _setup.checksum(matrix)
    assert mark == _setup.checksum(zarr.open_array(str(tmp_path / "x.zarr"), mode="r"))
    zarr.open_array(str(tmp_path / "x.zarr"), mode="w", shape=(5, 3), dtype="f4")
    assert mark != _setup.checksum(zarr.open_array(str(tmp_path / "x.zarr"), mode="r"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"encoder": {"n_layers": 6, "width": 64, "n_heads": 4}},
        {"objective": "lejepa", "encoder": {"n_layers": 2, "width": 64, "n_heads": 4}},
        {"masking": {"n_masks": 2}},
        {"encoder": {"dropout": 0.1, "n_layers": 3, "width": 64}},
    ],
)
def test_memory_of_training_is_told_from_sizes(adata, make_model, changes):
    model = make_model(adata, **changes)
    assert 1 / 1.6 < _told_by_measured(model, model._source()) < 1.6


@pytest.mark.parametrize("preset", ["demo", "base", "paper", "modules"])
def test_memory_of_training_on_cells_is_told_from_sizes(preset):
    modules = {f"m{j}": [f"GENE{i}" for i in range(j, 300, 10)] for j in range(10)}
    more = {"modules": modules} if preset == "modules" else {}
    size = {"width": 64, "n_layers": 2, "n_heads": 2}
    model = cell_model(cells(200, 300), preset, encoder=size, **more)
    model._begin("pretraining")
    assert 1 / 1.6 < _told_by_measured(model, model._source()) < 1.6


def _told_by_measured(model, source) -> float:
    """Return what is told that a token keeps for the way back, over what it keeps in a large batch."""
    batch = _estimate._batch(model.module, source, _estimate._light(model.module), 0)
    kept = _estimate._kept_by_autograd(_estimate._twin(model.module), batch, 0) / batch.n_tokens
    return _estimate.kept_bytes(model.module) / kept


@pytest.mark.parametrize(("old", "new"), [("pooling", "scale"), ("gene_table", "gene_names")])
def test_an_argument_by_its_old_name_is_refused_with_the_new(old, new):
    with pytest.raises(TypeError, match=rf"no argument '{old}': it is called {new}="):
        cell_model().get_latent_representation(**{old: "genes"})


def test_both_models_have_the_same_words(adata, make_model):
    import inspect

    spatial, dissociated = (
        set(inspect.signature(model.get_latent_representation).parameters) for model in (scjepa.STJEPA, scjepa.CellJEPA)
    )
    assert {"adata", "scale", "encoder", "genes", "batch_size", "out", "key_added"} <= spatial & dissociated
    for verb in ("coverage", "estimate", "diagnose", "on", "train", "load_query_data", "from_pretrained", "summary"):
        assert callable(getattr(scjepa.STJEPA, verb))
        assert callable(getattr(scjepa.CellJEPA, verb))


def test_several_sets_of_cells_are_embedded_at_once():
    model, one, two = cell_model(), cells(20, seed=1), cells(30, seed=2)
    single = [model.get_latent_representation(x) for x in (one, two)]
    listed = model.get_latent_representation([one, two], key_added="X_cells")
    named = model.get_latent_representation({"one": one, "two": two})
    for found, expected in zip(
        [*listed, *named.values(), one.obsm["X_cells"]], [*single, *single, single[0]], strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="out takes the result of one"):
        model.get_latent_representation([one, two], out="x.npy")


def test_genes_of_cells_may_be_named_and_their_values_stay():
    model = cell_model()
    half = [f"GENE{i}" for i in range(30)]
    ids = model.vocabulary.ids(half)
    some, every = model._tables_of(None, ids).tokens, model._own_tables().tokens
    shown = np.isin(every.genes, ids)
    np.testing.assert_array_equal(some.genes, every.genes[shown])
    np.testing.assert_array_equal(some.values, every.values[shown])
    assert not np.allclose(model.get_latent_representation(genes=half), model.get_latent_representation())
    with pytest.raises(ValueError, match="does not know 1 of the genes"):
        model.get_latent_representation(genes=["GENE1", "XYZ"])


def test_how_many_genes_of_a_cell_are_read_may_be_asked_for():
    model = cell_model(tokens={"n_embedded": 5, "kept": "top"})
    other = cell_model(tokens={"n_embedded": 50, "kept": "spread"})
    found = model.get_latent_representation(n_tokens=50, kept="spread")
    np.testing.assert_array_equal(found, other.get_latent_representation())
    with pytest.raises(ValueError, match="kept"):
        model.get_latent_representation(kept="some")


def test_a_model_is_taken_to_other_cells_as_if_saved_and_loaded(tmp_path):
    model, other = cell_model(), cells(40, seed=5)
    model.train(**QUIET)
    model.save(tmp_path / "model")
    taken, loaded = model.on(other), scjepa.CellJEPA.load(tmp_path / "model", other.copy())
    taken.finetune(**QUIET)
    loaded.finetune(**QUIET)
    assert taken.adata is other
    np.testing.assert_array_equal(taken.get_latent_representation(), loaded.get_latent_representation())
    assert not model.is_finetuned_


def test_tokens_as_they_are_given_to_the_encoder_can_be_pooled(adata, make_model):
    model = make_model(adata)
    plain = model.get_latent_representation(contextual=False)
    batch = model._source().batch(torch.arange(3))
    vectors = model.module.target.embedding(batch).detach().numpy()
    np.testing.assert_allclose(plain[0], vectors[batch.sequences == 0].mean(axis=0), rtol=1e-4, atol=1e-5)
    assert not np.allclose(plain, model.get_latent_representation())


def test_coverage_of_cells_is_told():
    model = cell_model()
    model.train(**QUIET)
    other = cells(30)[:, :40].copy()
    other.var_names = [*other.var_names[:-1], "STRANGER"]
    told = model.coverage(other, cost=True, n_cells=20)
    assert (told.n_matched, told.n_query, told.n_model) == (39, 40, 60)
    assert told.cost.scale == "cls"
    assert "39 genes matched" in str(told)


def test_a_state_of_training_is_kept_by_task(tmp_path):
    model = cell_model()
    model.train(checkpoint_dir=tmp_path, checkpoint_every=1, **QUIET)
    with pytest.raises(ValueError, match="state of another training"):
        model.finetune(checkpoint_dir=tmp_path, ckpt_path="last", **QUIET)
