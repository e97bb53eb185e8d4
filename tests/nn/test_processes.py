"""Two processes with half of a batch each have the loss and the gradients of one process with the whole batch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from scjepa.celljepa import CellBatch, CellJEPAModule, GeneModuleJEPAModule
from scjepa.celljepa import module as cell_module
from scjepa.celljepa.config import resolve_cells
from scjepa.nn import gathered, mean_over_processes
from scjepa.nn.losses import own, together
from scjepa.stjepa import Batch, STJEPAModule, objectives
from scjepa.stjepa.config import resolve

N_PROCESSES, HALF = 2, 6
EVERY = {"query_fraction": 1.0}
OF_ST = {
    "ijepa with its guards": {"objective": {"sigreg_weight": 0.1}, "masking": {**EVERY, "n_masks": 2}},
    "ijepa, agreed": {"objective": {"pooled": "agreed"}, "masking": EVERY},
    "ijepa of the paper": {
        "masking": EVERY,
        "objective": {
            **dict.fromkeys(("cell_weight", "neighborhood_weight", "nearby_weight"), 0.0),
            **dict.fromkeys(("variance_weight", "covariance_weight"), 0.0),
        },
    },
    "lejepa": {"objective": {"name": "lejepa", "sigreg_share": 0.3}},
}
OF_CELLS = {
    "celljepa": {},
    "celljepa, fine-tuned": {
        "objective": {
            "cell_reconstruction_weight": 1.0,
            "cell_prompt_weight": 1.0,
            "contrast_weight": 1.0,
            "target_norm": "batch",
        }
    },
}


def neighborhoods(n: int) -> Batch:
    """Return neighborhoods of three cells with two to five tokens each; partners are within each half."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 6, 3 * n)
    block = np.repeat(np.arange(3 * n), lengths)
    ranks = np.arange(len(block)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    columns = {
        "genes": rng.integers(0, 20, len(block)),
        "values": rng.poisson(3, len(block)).astype(np.float32) + 1,
        "ranks": ranks,
        "segments": block % 3,
        "sequences": block // 3,
        "technologies": rng.integers(0, 2, n),
        "partners": np.concatenate([np.roll(np.arange(HALF), 2) + start for start in range(0, n, HALF)]),
    }
    return Batch(**{name: torch.from_numpy(x) for name, x in columns.items()}, n_segments=3)


def cells(n: int) -> CellBatch:
    """Return cells of three to nine genes, and one of one gene in the first half."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(3, 10, n)
    lengths[0] = 1
    columns = {
        "genes": rng.integers(0, 20, lengths.sum()),
        "values": rng.integers(1, 10, lengths.sum()).astype(np.float32),
        "sequences": np.repeat(np.arange(n), lengths),
        "labels": rng.integers(0, 3, n),
    }
    return CellBatch(**{name: torch.from_numpy(x) for name, x in columns.items()})


def part(batch, rank: int):
    """Return one half of a batch."""
    first = rank * HALF
    keep = (batch.sequences >= first) & (batch.sequences < first + HALF)
    rows = {"sequences": first, "partners": first}
    by_cell = {"technologies", "labels", "partners"}
    changes = {}
    for field in fields(batch):
        column = getattr(batch, field.name)
        if isinstance(column, Tensor):
            kept = column[first : first + HALF] if field.name in by_cell else column[keep]
            changes[field.name] = kept - rows.get(field.name, 0)
    return replace(batch, **changes)


def masked(batch, *_: object) -> Tensor:
    """Hide what its own values and genes decide, some and never all of a sequence."""
    keys = (batch.genes * 7 + batch.values.long() * 3) % 5
    hidden = keys < 2
    first = torch.ones(batch.n_tokens, dtype=torch.bool)
    first[1:] = batch.sequences[1:] != batch.sequences[:-1]
    return hidden & ~first


def losses_of(module, batch, *, share: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss, and the gradients by name, meaned over the processes that share the batch."""
    module.zero_grad()
    generator = torch.Generator().manual_seed(3)
    if share:
        with together():
            loss = module.loss(batch, generator).loss
    else:
        loss = module.loss(batch, generator).loss
    loss.backward()
    found = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            if share:
                dist.all_reduce(gradient)
                gradient /= N_PROCESSES
            found[name] = gradient
    return loss.detach(), found


def modules():
    """Yield a module of each objective, its name, and a batch."""
    tokens = {"n_tokens": 6, "n_neighbors": 2}
    size = {"width": 16, "n_layers": 1, "n_heads": 2}
    for name, parts in OF_ST.items():
        torch.manual_seed(0)
        yield name, STJEPAModule(20, 2, resolve("demo", tokens=tokens, encoder=size, **parts)), neighborhoods(2 * HALF)
    for name, parts in OF_CELLS.items():
        torch.manual_seed(0)
        yield name, CellJEPAModule(20, resolve_cells("demo", encoder=size, **parts)), cells(2 * HALF)
    torch.manual_seed(0)
    sets = [list(range(start, start + 5)) for start in range(0, 20, 5)]
    config = resolve_cells("modules", encoder=size, masking={"ratio": 0.5})
    yield "gene modules", GeneModuleJEPAModule(20, config, sets), cells(2 * HALF)


def in_process(rank: int, folder: str) -> None:
    """Compare, in one of two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=N_PROCESSES)
    objectives.draw_mask, cell_module.hide = masked, masked
    for name, module, whole in modules():
        module.train()
        if name == "gene modules":
            from scjepa.celljepa import gene_modules

            gene_modules.hide_modules = lambda n, m, *_: (torch.arange(n)[:, None] * 0 + torch.arange(m)) < 2
        loss, gradients = losses_of(module, whole, share=False)
        shared, meaned = losses_of(module, part(whole, rank), share=True)
        torch.testing.assert_close(shared, loss, rtol=1e-4, atol=1e-5, msg=f"loss of {name}")
        assert any(x.abs().sum() > 0 for x in gradients.values())
        for parameter, gradient in gradients.items():
            if gradient.abs().max() > 0 or meaned[parameter].abs().max() > 0:
                scale = float(gradient.abs().max())
                apart = float((meaned[parameter] - gradient).abs().max())
                assert apart <= 2e-4 * scale + 1e-6, (name, parameter, apart, scale)
    by_process = torch.arange(4.0).reshape(2, 2) + 10 * rank
    with together():
        rows = gathered(by_process)
        assert rows.tolist() == [[0, 1], [2, 3], [10, 11], [12, 13]]
        assert torch.equal(own(rows), by_process)
        assert gathered(by_process, n_copies=2)[:, 0].tolist() == [0, 10, 2, 12]
        mean = mean_over_processes(torch.tensor(float(rank)), 1 + 2 * rank)
        assert float(mean) == pytest.approx(0.75)
    assert torch.equal(gathered(by_process), by_process)  # outside each is by itself
    dist.destroy_process_group()


def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path):
    run = [sys.executable, __file__, str(tmp_path)]
    started = [subprocess.Popen([*run, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(N_PROCESSES)]
    told = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(told)


def test_alone_nothing_is_gathered():
    x = torch.ones(3, 2)
    with together():
        assert gathered(x) is x
        assert mean_over_processes(x.sum(), 3) is not None


if __name__ == "__main__":
    in_process(int(sys.argv[2]), sys.argv[1])
