"""Small random cells and a small Cell-JEPA."""

from __future__ import annotations

import pytest
import torch

from scjepa.celljepa import CellBatch, CellJEPAModule
from scjepa.celljepa.config import CellJEPAConfig, resolve_cells

N_GENES = 30


def random_cells(seed: int = 0, lengths: tuple[int, ...] = (9, 1, 0, 14, 6)) -> CellBatch:
    """Return cells of these lengths, one without genes, with labels."""
    rng = torch.Generator().manual_seed(seed)
    genes = torch.cat([torch.randperm(N_GENES, generator=rng)[:n] for n in lengths])
    return CellBatch(
        genes=genes,
        values=torch.randint(1, 51, (len(genes),), generator=rng).float(),
        sequences=torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)),
        labels=torch.arange(len(lengths)) % 2,
    )


def cell_config(**parts) -> CellJEPAConfig:
    """Return a small configuration; ``parts`` override it."""
    base = resolve_cells(CellJEPAConfig(), encoder={"width": 32, "n_layers": 2, "n_heads": 2}, masking={"ratio": 0.4})
    return resolve_cells(base, **parts)


def small_module(seed: int = 0, **parts) -> CellJEPAModule:
    """Return a small model with seeded weights."""
    torch.manual_seed(seed)
    return CellJEPAModule(N_GENES, cell_config(**parts))


@pytest.fixture(scope="session")
def make_cells():
    """Return :func:`random_cells`."""
    return random_cells


@pytest.fixture(scope="session")
def make_module():
    """Return :func:`small_module`."""
    return small_module
