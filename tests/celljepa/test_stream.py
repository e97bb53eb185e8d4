"""Cells that stay on disk give the batches, the training and the embeddings of cells in memory."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch
import zarr

import scjepa
from scjepa.celljepa.stream import corpus_of
from scjepa.training import BatchSchedule

KEYS = {"batch_key": "batch", "labels_key": "cell_type"}
CHUNKS = {"chunk_size": 16, "preload_nchunks": 3}


@pytest.fixture
def whole(make_adata):
    """Return the cells in memory."""
    return make_adata(300)


@pytest.fixture
def paths(whole, tmp_path):
    """Return a collection, as annbatch lays one out, and a file; one below the other they are the cells in memory."""
    folder = tmp_path / "collection.zarr"
    zarr.open_group(str(folder), mode="w", zarr_format=3)
    with ad.settings.override(zarr_write_format=3):
        for number, part in enumerate((whole[:50], whole[50:120])):
            part.copy().write_zarr(folder / f"dataset_{number}")
    whole[120:].copy().write_h5ad(tmp_path / "rest.h5ad")
    return [tmp_path / "collection.zarr", tmp_path / "rest.h5ad"]


@pytest.fixture
def lazy(paths):
    """Return the cells on disk."""
    return scjepa.CellJEPA.setup_annbatch(paths=paths, **KEYS, **CHUNKS)


def _on(lazy, **changes):
    small = {
        "tokens": {"n_tokens": 20},
        "encoder": {"width": 32, "n_layers": 1, "n_heads": 2},
        "training": {"max_steps": 12, "batch_size": 16, "learning_rate": 3e-3},
    }
    return scjepa.CellJEPA(lazy, "demo", **{**small, **changes})


def test_names_and_columns_are_those_of_the_stores(lazy, whole):
    assert list(lazy.obs_names) == list(whole.obs_names)
    assert list(lazy.var_names) == list(whole.var_names)
    assert lazy.obs["cell_type"].astype(str).tolist() == whole.obs["cell_type"].astype(str).tolist()
    np.testing.assert_array_equal(lazy.X.compute().toarray(), whole.X.toarray())


@pytest.mark.parametrize(
    "tokens", [{"n_tokens": 20}, {"n_tokens": 5, "kept": "spread"}, {"n_tokens": 5, "kept": "top"}]
)
def test_batches_are_those_of_cells_in_memory(lazy, whole, make_model, tokens):
    ours, theirs = _on(lazy, tokens=tokens)._source(), make_model(whole, tokens=tokens)._source()
    cells = torch.tensor([299, 0, 120, 119, 5, 260, 50, 49])
    for seed in (None, 1):
        drawn = [None if seed is None else torch.Generator().manual_seed(seed) for _ in range(2)]
        a, b = ours.batch(cells, drawn[0]), theirs.batch(cells, drawn[1])
        for name in ("genes", "values", "sequences", "labels"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_training_embedding_and_labels_work_and_memory_stays_bounded(lazy, whole, make_model, quiet, tmp_path):
    model, corpus = _on(lazy), corpus_of(lazy)
    most = []
    read = corpus._chunk
    corpus._chunk = lambda number: (read(number), most.append(len(corpus._read)))[0]
    model.train(max_epochs=2, **quiet)
    assert max(most) <= 2 * CHUNKS["preload_nchunks"] < len(corpus._starts) - 1
    held_out = set(corpus.chunks_of(model.validation_indices_))
    assert held_out
    assert not held_out & set(corpus.chunks_of(model.train_indices_))  # whole chunks
    twin = make_model(whole)
    twin.module.load_state_dict(model.module.state_dict())
    twin.is_trained_ = True
    before = corpus.n_read
    embedding = model.get_latent_representation(out=tmp_path / "latent.npy")
    assert corpus.n_read - before <= len(corpus._starts) - 1  # each chunk once
    np.testing.assert_allclose(embedding, twin.get_latent_representation(), atol=1e-5)
    model.finetune(max_epochs=1, **quiet)
    assert set(model.predict_labels()["label"].dropna()) <= {"T", "B", "NK"}
    model.save(tmp_path / "model")
    again = scjepa.CellJEPA.load(tmp_path / "model", lazy)
    np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())


def test_a_run_on_disk_resumes_exactly(lazy, quiet, tmp_path):
    whole, stopped = _on(lazy), _on(lazy)
    whole.train(max_steps=8, **quiet)
    stopped.train(max_steps=8, checkpoint_dir=tmp_path / "state", checkpoint_every=3, **quiet)
    resumed = _on(lazy)
    resumed.train(max_steps=8, checkpoint_dir=tmp_path / "state", ckpt_path="last", **quiet)
    for name, weight in whole.module.state_dict().items():
        assert torch.equal(weight, resumed.module.state_dict()[name]), name


def test_an_epoch_reads_each_chunk_once_and_shuffles_within_what_is_in_memory():
    chunks = np.repeat(np.arange(12), 10)
    schedule = BatchSchedule(np.arange(120), 5, seed=0, chunks=chunks, n_chunks=3)
    seen = [schedule.batch(1, index) for index in range(len(schedule))]
    assert sorted(torch.cat(seen).tolist()) == list(range(120))
    for first in range(0, 24, 6):  # three chunks at a time are six batches
        assert len(set(chunks[torch.cat(seen[first : first + 6]).numpy()])) == 3
    assert len(set(chunks[seen[0].numpy()])) > 1
    assert not torch.equal(seen[0], schedule.batch(2, 0))
    with pytest.raises(ValueError, match="read by chunks"):
        BatchSchedule(np.arange(120), 5, seed=0, groups=chunks, chunks=chunks)


def test_what_cannot_be_read_is_named(whole, paths, tmp_path, make_adata):
    setup = scjepa.CellJEPA.setup_annbatch
    with pytest.raises(FileNotFoundError, match="nowhere"):
        setup(paths=["nowhere.zarr"])
    with pytest.raises(ValueError, match="Name what is to be read"):
        setup()
    with pytest.raises(KeyError, match=r"no obs\['donor'\]. Columns there: 'batch', 'cell_type'"):
        setup(paths=paths, batch_key="donor")
    with pytest.raises(KeyError, match="layers/counts"):
        setup(paths=paths, layer="counts")
    make_adata(20, n_genes=30).write_zarr(tmp_path / "other.zarr")
    with pytest.raises(ValueError, match=r"other.zarr has other genes than .*\(30 and 45\)"):
        setup(paths=[*paths, tmp_path / "other.zarr"])
    by_genes = whole[:30].copy()
    by_genes.X = by_genes.X.tocsc()
    by_genes.write_zarr(tmp_path / "genes.zarr")
    with pytest.raises(ValueError, match="stored by genes"):
        setup(paths=[tmp_path / "genes.zarr"])
    with pytest.raises(FileNotFoundError, match="no collection"):
        setup(collection_path=tmp_path / "absent.zarr")
    with pytest.raises(TypeError, match="shuffle: these are for a collection"):
        setup(paths=paths, shuffle=True)


def test_screens_and_batches_of_one_section_want_cells_in_memory(lazy, quiet):
    model = _on(lazy)
    with pytest.raises(ValueError, match="stay on disk"):
        model.train_perturbation("cell_type", **quiet)
    with pytest.raises(ValueError, match="read by chunks"):
        model.train(plan_kwargs={"batches": "section"}, **quiet)


def test_a_collection_is_made_by_annbatch(whole, tmp_path, quiet):
    pytest.importorskip("annbatch")
    whole.write_h5ad(tmp_path / "cells.h5ad")
    made = scjepa.CellJEPA.setup_annbatch(tmp_path / "made.zarr", [tmp_path / "cells.h5ad"], **KEYS, **CHUNKS)
    assert sorted(made.obs_names) == sorted(whole.obs_names)
    np.testing.assert_array_equal(made.X.compute().toarray(), whole[made.obs_names].X.toarray())
    _on(made).train(**quiet)
    again = scjepa.CellJEPA.setup_annbatch(tmp_path / "made.zarr", **KEYS)
    assert list(again.obs_names) == list(made.obs_names)
