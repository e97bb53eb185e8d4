"""What a step of training waits for: a device that is asked for a number has to finish all that it was given before."""

from __future__ import annotations

import sys
from collections import Counter

import anndata as ad
import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from torch.utils._python_dispatch import TorchDispatchMode

import scjepa

SIZED = ("nonzero", "repeat_interleave")
"""What returns as many rows as its input says: packed tensors are as long as their sequences. No others."""
OF_DATA = (*SIZED, "bincount", "_unique2", "masked_select", "_local_scalar_dense", "equal")
BY_MASK = ("index", "index_put", "index_put_", "_index_put_impl_")


class Waits(TorchDispatchMode):
    """Counts the operations that a device would have to be waited for, by name and by the function that asks."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in BY_MASK and any(i is not None and i.dtype == torch.bool for i in args[1]):
            name = "nonzero"  # of the mask
        if name in OF_DATA:
            self.found[name, _asked_by(sys._getframe())] += 1
        return function(*args, **(kwargs or {}))


def _asked_by(frame) -> str:
    while frame is not None:
        path = frame.f_code.co_filename
        if "/scjepa/" in path or "/lightning/" in path:
            return f"{path.rsplit('/', 1)[1]}: {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


class OneStep(pl.Callback):
    """Watches the sixth step."""

    def __init__(self, waits: Waits):
        self.waits = waits

    def on_train_batch_start(self, trainer, *args) -> None:
        """Begin."""
        if trainer.global_step == 5:
            self.waits.__enter__()

    def on_train_batch_end(self, trainer, *args) -> None:
        """End."""
        if trainer.global_step == 6:
            self.waits.__exit__(None, None, None)


def waits_of_a_step(model) -> Counter[tuple[str, str]]:
    """Return what one step waits for."""
    waits = Waits()
    model.train(max_steps=8, monitor_every=50, accelerator="cpu", progress_bar=False, callbacks=[OneStep(waits)])
    assert len(model.history["loss"]) == 8
    return waits.found


def test_a_step_reads_no_number_and_waits_for_sizes_alone(adata, make_model):
    for changes in ({}, {"objective": {"sigreg_weight": 0.1}}, {"objective": "lejepa"}):
        found = waits_of_a_step(make_model(adata, **changes))
        assert {name for name, _ in found} <= set(SIZED), found
        # Of the CPU's attention, which pads by groups, some; 12 are of what is masked, visible, pooled and asked for.
        assert sum(n for (_, by), n in found.items() if not by.startswith("attention.py")) <= 12, found


def test_a_step_on_cells_reads_no_number():
    counts = np.random.default_rng(0).poisson(2, (60, 30))
    cells = ad.AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=[f"G{i}" for i in range(30)]))
    scjepa.CellJEPA.setup_anndata(cells)
    small = {"encoder": {"width": 16, "n_layers": 1, "n_heads": 2}, "training": {"batch_size": 16}}
    found = waits_of_a_step(scjepa.CellJEPA(cells, "demo", **small))
    assert {name for name, _ in found} <= set(SIZED), found
    assert sum(n for (_, by), n in found.items() if not by.startswith("attention.py")) <= 16, found


def test_what_waits_is_seen():
    with Waits() as waits:
        float(torch.ones(()))
        torch.arange(3)[torch.tensor([True, False, True])]
    assert {name for name, _ in waits.found} == {"_local_scalar_dense", "nonzero"}


def test_metrics_are_read_at_a_checkpoint_the_monitor_and_the_end(adata, make_model, tmp_path, monkeypatch):
    from scjepa.training.plan import JEPATrainingPlan

    read, at = JEPATrainingPlan.read_metrics, []
    monkeypatch.setattr(JEPATrainingPlan, "read_metrics", lambda plan: at.append(plan.global_step) or read(plan))
    make_model(adata).train(
        max_steps=12, monitor_every=5, checkpoint_dir=tmp_path, checkpoint_every=4, accelerator="cpu",
        progress_bar=False, plan_kwargs={"validation_size": 0},
    )  # fmt: skip
    assert {4, 5, 8, 10, 12} <= set(at)
    assert len(at) < 12


@pytest.mark.parametrize("monitor_every", [3, 1000])
def test_the_monitor_does_not_change_what_is_learned(adata, make_model, monitor_every):
    options = {"max_steps": 9, "accelerator": "cpu", "progress_bar": False}
    drops_out = {"encoder": {"width": 32, "n_layers": 1, "n_heads": 2, "dropout": 0.1}}
    plain, watched = make_model(adata, **drops_out), make_model(adata, **drops_out)
    plain.train(monitor_every=4, **options)
    watched.train(monitor_every=monitor_every, **options)
    for name, weight in plain.module.state_dict().items():
        assert torch.equal(weight, watched.module.state_dict()[name]), name
