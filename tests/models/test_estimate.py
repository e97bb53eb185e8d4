"""What a run will take, told before it is started."""

from __future__ import annotations

import gc
import random
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from scjepa.config import TrainConfig
from scjepa.models import estimate as _estimate
from scjepa.models.estimate import Estimate, check_memory, count_steps, readable_seconds

pytestmark = pytest.mark.filterwarnings("ignore:This model is not trained")


@pytest.fixture(scope="module")
def estimated(trained):
    """Return a model, its estimate, and the seconds that took."""
    model, _ = trained
    model._own_tables()
    start = time.perf_counter()
    return model, model.estimate(), time.perf_counter() - start


def test_counts_and_sizes_are_exact(estimated):
    model, told, _ = estimated
    assert told.n_cells == model.adata.n_obs
    assert told.parameters == model.module.parameter_counts()
    parameters = sum(p.numel() for p in model.module.parameters())
    assert told.parameters["total"] == parameters
    data = model._own_tables()
    tokens = data.tokens.nbytes - data.tokens.n_expressed.nbytes
    assert told.table_bytes == tokens + data.neighbors.nbytes + data.technologies.nbytes
    assert told.result_bytes == model.get_latent_representation().nbytes
    assert told.n_steps == model.n_steps_


def test_memory_holds_what_is_needed_at_least(estimated):
    _, told, _ = estimated
    state = 4 * told.parameters["total"] + 12 * told.parameters["trained"]
    assert told.training_bytes > told.table_bytes + state
    assert told.embedding_bytes > told.table_bytes + 4 * told.parameters["total"]
    assert told.available_bytes > 0


def test_larger_batches_and_models_need_more(trained, make_model, adata):
    model, _ = trained
    source, config = model._source(None), model.config.training
    sizes = [_estimate.training_bytes(model.module, source, replace(config, batch_size=n)) for n in (4, 16, 64)]
    assert sizes == sorted(sizes)
    assert sizes[2] - sizes[1] > 2 * (sizes[1] - sizes[0])
    assert _estimate.embedding_bytes(model.module, source, 4) < _estimate.embedding_bytes(model.module, source, 64)
    wide = make_model(adata, encoder={"width": 128, "n_layers": 2, "n_heads": 4})
    assert _estimate.training_bytes(wide.module, wide._source(None), config) > sizes[1]


def test_times_are_of_the_right_order(estimated):
    model, told, seconds = estimated
    assert seconds < 10  # five and a little
    start = time.perf_counter()
    model.get_latent_representation()
    measured = time.perf_counter() - start
    assert told.embedding_seconds < 10 * measured  # a loaded machine is no stopwatch
    assert 0 < told.embedding_seconds < told.training_seconds


def test_nothing_is_changed(adata, make_model):
    model = make_model(adata, encoder={"width": 32, "n_layers": 1, "n_heads": 2, "dropout": 0.2})
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    told = model.estimate()
    assert torch.equal(states[0], torch.get_rng_state())
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert states[2] == random.getstate()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())
    assert all(p.grad is None for p in model.module.parameters())
    assert not model.module.training
    assert told.training_seconds > 0


def test_nothing_is_held_on_to(adata, make_model):
    """A step that is counted leaves nothing behind: what autograd kept of it is freed with it."""

    def in_graphs() -> int:
        gc.collect()
        return sum(1 for found in gc.get_objects() if isinstance(found, torch.Tensor) and found.grad_fn is not None)

    model = make_model(adata)
    source, before = model._source(None), in_graphs()
    assert _estimate.measured_training_bytes(model.module, source, model.config.training) > 0
    assert in_graphs() == before


def test_other_data_may_be_asked_for(trained, with_graph):
    model, adata = trained
    part = with_graph(adata[adata.obs["section"] == "s1"].copy())
    assert model.estimate(part).n_cells == part.n_obs


def test_it_reads_well():
    counts = {"encoder": 1000, "encoder_without_genes": 10, "objective": 5, "trained": 1005, "total": 2005}
    told = Estimate(12_000, "cpu", counts, 2**20, 2**30, 2**28, 2**21, 600, 90.0, 7300.0, None)
    assert str(told).splitlines() == [
        "Estimate for 12,000 cells on cpu",
        "  parameters  1,000 in the encoder, 1,005 trained, 2,005 with the EMA copy",
        "  tables      1.0 MiB",
        "  training    600 steps, about 90 s; 1.0 GiB at the peak",
        "  embedding   about 2.0 h; 256.0 MiB at the peak, and 2.0 MiB for the result",
        "  free        not known",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (119, "119 s"), (300, "5.0 min"), (86_400, "24.0 h"), (864_000, "10.0 days")]
)
def test_seconds_in_words(seconds, text):
    assert readable_seconds(seconds) == text


@pytest.mark.parametrize(
    ("options", "n_cells", "steps"),
    [
        ({"max_steps": 70}, 1000, 70),
        ({"max_steps": None, "max_epochs": 3, "batch_size": 10, "validation_size": 0.1}, 1000, 270),
        ({"max_steps": 50, "max_epochs": 3, "batch_size": 10, "validation_size": 0}, 1000, 50),
        ({"max_steps": None, "max_epochs": 3, "batch_size": 64}, 20, 3),
    ],
)
def test_steps_are_counted(options, n_cells, steps):
    assert count_steps(TrainConfig(**options), n_cells) == steps


def test_memory_that_will_not_do_is_told_before_anything_starts(trained, monkeypatch):
    model, _ = trained
    free = {"bytes": 2**20}
    monkeypatch.setattr(_estimate, "available_memory", lambda device: free["bytes"])
    with pytest.raises(
        ValueError, match=r"Training with batch_size=16 needs about .* left. Lower it, train\(batch_siz"
    ):
        model.train(accelerator="cpu", progress_bar=False)
    with pytest.raises(ValueError, match=r"Embedding with batch_size=64 needs .* pass batch_size='auto'"):
        model.get_latent_representation(batch_size=64)
    free["bytes"] = 100
    with pytest.raises(ValueError, match=r"The result, 120 cells × 32, needs .*out='latent.npy'"):
        model.get_latent_representation()
    monkeypatch.setattr(_estimate, "available_memory", lambda device: 1000)
    cpu = torch.device("cpu")
    with pytest.warns(UserWarning, match=r"It needs about 1.1 KiB of memory, and cpu has 1000 bytes left. Less"):
        check_memory(1100, cpu, "It", "Less.")
    with pytest.raises(ValueError, match="estimate"):
        check_memory(1301, cpu, "It", "Less.")
    with pytest.warns(UserWarning, match="meta has 1000 bytes left"):  # elsewhere the estimate is an upper bound
        check_memory(9999, torch.device("meta"), "It", "Less.")
