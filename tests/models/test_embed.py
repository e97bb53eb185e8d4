"""Embedding in batches, into what the user gives, and after a killed run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from scjepa.models import embed as _embed
from scjepa.models import estimate as _estimate
from scjepa.stjepa import TokenSource
from scjepa.stjepa import module as stjepa_module

pytestmark = pytest.mark.filterwarnings("ignore:This model is not trained")


@pytest.fixture
def small_chunks(monkeypatch):
    """Let chunks be small, so that there are several."""
    monkeypatch.setattr(_embed, "CHUNK", 50)


def source_of(model):
    data = model._own_tables()
    return TokenSource(data.tokens, data.neighbors, data.technologies)


@pytest.mark.parametrize("batch_size", [1, 13, "auto"])
def test_every_cell_is_in_one_batch_and_budgets_hold(trained, batch_size):
    source = source_of(trained[0])
    lengths = source.neighborhood_lengths()
    budget = 3 * int(lengths.max())
    taken = []
    for cells, batch in _embed.batches(source, np.arange(10, 90), batch_size, budget):
        assert batch.lengths.tolist() == lengths[cells].tolist()
        assert batch.n_tokens <= budget if batch_size == "auto" else len(cells) <= batch_size
        assert sorted(batch.lengths.tolist()) == batch.lengths.tolist()
        taken += cells.tolist()
    assert sorted(taken) == list(range(10, 90))
    assert len(list(_embed.batches(source, np.arange(10), "auto", 1))) == 10  # one cell is the least


def test_batches_and_chunks_do_not_matter(trained, monkeypatch):
    model, _ = trained
    reference = model.get_latent_representation(batch_size=40)
    for chunk, budget in ((7, 100), (10_000, 10**9)):
        monkeypatch.setattr(_embed, "CHUNK", chunk)
        monkeypatch.setattr(_embed, "token_budget", lambda config, device, budget=budget: budget)
        np.testing.assert_allclose(model.get_latent_representation(), reference, rtol=1e-4, atol=1e-5)
    genes = model.get_gene_representation()
    monkeypatch.undo()
    np.testing.assert_allclose(model.get_gene_representation(batch_size=9), genes, rtol=1e-4, atol=1e-5)


def test_budget_follows_memory(trained, monkeypatch):
    encoder = trained[0].config.encoder
    monkeypatch.setattr(_estimate, "available_memory", lambda device: 1000 * _estimate.bytes_per_token(encoder))
    assert _estimate.token_budget(encoder, torch.device("cpu")) == 250
    monkeypatch.setattr(_estimate, "available_memory", lambda device: None)
    assert _estimate.token_budget(encoder, torch.device("cpu")) * _estimate.bytes_per_token(encoder) <= 2**27


def test_out_is_written_in_place(trained, tmp_path):
    model, adata = trained
    reference = model.get_latent_representation()
    array = np.empty((adata.n_obs, 32), dtype=np.float32)
    assert model.get_latent_representation(out=array) is array
    np.testing.assert_array_equal(array, reference)
    mapped = np.lib.format.open_memmap(tmp_path / "m.npy", mode="w+", dtype=np.float32, shape=(adata.n_obs, 32))
    model.get_latent_representation(out=mapped)
    mapped.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "m.npy"), reference)


def test_out_that_does_not_fit_is_refused(trained, tmp_path):
    model, adata = trained
    for out in (np.empty((3, 32), np.float32), np.empty((adata.n_obs, 32))):
        with pytest.raises(ValueError, match=r"np.empty\(\(120, 32\), dtype=np.float32\)"):
            model.get_latent_representation(out=out)
    fixed = np.empty((adata.n_obs, 32), np.float32)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="cannot be written to"):
        model.get_latent_representation(out=fixed)
    with pytest.raises(TypeError, match="memory map or the path"):
        model.get_latent_representation(out=[1, 2])
    with pytest.raises(ValueError, match=r"path of a .npy file"):
        model.get_latent_representation(out=tmp_path / "latent.csv")
    for size in (0, -1, "large", 2.5, True):
        with pytest.raises(ValueError, match="batch_size must be 'auto' or a positive"):
            model.get_latent_representation(batch_size=size)


def test_a_path_is_written_whole_and_found_done(trained, tmp_path, small_chunks, monkeypatch):
    model, _ = trained
    path = tmp_path / "new" / "latent.npy"
    reference = model.get_latent_representation()
    out = model.get_latent_representation(out=path)
    assert isinstance(out, np.memmap)
    np.testing.assert_array_equal(out, reference)
    assert sorted(p.name for p in path.parent.iterdir()) == ["latent.npy", "latent.npy.json"]
    monkeypatch.setattr(stjepa_module, "pool", None)  # nothing is computed again
    np.testing.assert_array_equal(model.get_latent_representation(out=str(path)), reference)


class Killed(BaseException):
    pass


def kill_after(n, monkeypatch):
    """Let the run die in its ``n``-th batch."""
    from scjepa.stjepa import pool

    calls = []

    def dying(*args):
        calls.append(1)
        if len(calls) == n:
            raise Killed
        return pool(*args)

    monkeypatch.setattr(stjepa_module, "pool", dying)
    return calls


def test_a_killed_run_is_resumed_and_nothing_is_lost(trained, tmp_path, small_chunks, monkeypatch):
    model, adata = trained
    reference = model.get_latent_representation(batch_size=10)
    path = tmp_path / "latent.npy"
    kill_after(8, monkeypatch)  # in the second of three chunks
    with pytest.raises(Killed):
        model.get_latent_representation(out=path, batch_size=10)
    assert not path.exists()
    assert json.loads((tmp_path / "latent.npy.json").read_text())["done"] == 50
    with pytest.raises(FileExistsError, match="scale differ"):
        model.get_latent_representation(out=path, scale="cell")
    calls = kill_after(0, monkeypatch)
    np.testing.assert_array_equal(model.get_latent_representation(out=path, batch_size=10), reference)
    assert len(calls) == 7  # 70 of 120 cells
    assert len(reference) == adata.n_obs


def test_files_of_another_model_or_other_data_are_kept(trained, adata, make_model, tmp_path):
    model, _ = trained
    path = tmp_path / "latent.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(
        FileExistsError, match=r"weights, options, data, scale, shape differ. Name another file, or delete"
    ):
        model.get_latent_representation(out=path)
    assert np.load(path).shape == (3,)
    path.unlink()
    model.get_latent_representation(out=path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="weights differ"):
        make_model(adata, seed=5).get_latent_representation(out=path)
    with pytest.raises(FileExistsError, match="data differ"):
        model.get_latent_representation(out=path, genes="shared")
    heads = {"encoder": {"width": 32, "n_layers": 1, "n_heads": 4}}  # of the same weights, which begin alike
    one, other = make_model(adata), make_model(adata, **heads)
    one.get_latent_representation(out=tmp_path / "untrained.npy")
    with pytest.raises(FileExistsError, match="made by this call: options differ"):
        other.get_latent_representation(out=tmp_path / "untrained.npy")
    (tmp_path / "latent.npy.json").write_text("{")
    with pytest.raises(FileExistsError, match="Name another file"):
        model.get_latent_representation(out=path)
    assert path.read_bytes() == before
