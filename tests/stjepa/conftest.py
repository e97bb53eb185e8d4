"""Small random batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scjepa.stjepa import Batch, STJEPAModule
from scjepa.stjepa.config import resolve

N_GENES, N_NEIGHBORS, N_TOKENS = 30, 4, 8


def random_batch(seed: int = 0, n_sequences: int = 5, metatoken: bool = True, empty_cells: bool = True) -> Batch:
    """Return a batch of ragged neighborhoods; some cells are absent or without counts."""
    rng = np.random.default_rng(seed)
    genes, ranks, segments, sequences = [], [], [], []
    for row in range(n_sequences):
        for segment in range(N_NEIGHBORS + 1):
            low = 0 if empty_cells and segment else 1
            n = int(rng.integers(low, N_TOKENS + 1))
            genes.append(rng.choice(N_GENES, n, replace=False))
            ranks.append(np.arange(n))
            segments.append(np.full(n, segment))
            sequences.append(np.full(n, row))
        if metatoken:
            genes.append([0])
            ranks.append([0])
            segments.append([N_NEIGHBORS + 1])
            sequences.append([row])
    join = lambda parts: torch.from_numpy(np.concatenate(parts).astype(np.int64))  # noqa: E731
    batch = Batch(
        genes=join(genes),
        values=torch.zeros(0),
        ranks=join(ranks),
        segments=join(segments),
        sequences=join(sequences),
        technologies=torch.from_numpy(rng.integers(0, 2, n_sequences)),
        n_segments=N_NEIGHBORS + 1,
    )
    values = torch.from_numpy(rng.poisson(3, batch.n_tokens).astype(np.float32) + 1)
    values[batch.is_metatoken] = 0
    object.__setattr__(batch, "values", values)
    return batch


def small_config(**parts):
    """Return a small configuration; ``parts`` override it."""
    base = resolve(
        "demo",
        tokens={"n_tokens": N_TOKENS, "n_neighbors": N_NEIGHBORS},
        encoder={"width": 32, "n_layers": 2, "n_heads": 2},
        masking={"query_fraction": 1.0},
        objective={"nearby_weight": 0.0},
    )
    return resolve(base, **parts)


def small_model(seed: int = 0, **parts) -> STJEPAModule:
    """Return a small model with seeded weights."""
    torch.manual_seed(seed)
    return STJEPAModule(N_GENES, 2, small_config(**parts))


@pytest.fixture(scope="session")
def make_batch():
    """Return :func:`random_batch`."""
    return random_batch


@pytest.fixture(scope="session")
def make_config():
    """Return :func:`small_config`."""
    return small_config


@pytest.fixture(scope="session")
def make_model():
    """Return :func:`small_model`."""
    return small_model
