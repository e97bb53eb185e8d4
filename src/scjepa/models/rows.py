"""Rows of embedding tables: vectors of genes and technologies a model has not seen, and known ones kept as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

_MOST_KNOWN = 2048
"""Known rows that a new one is mixed from, at most: more would not change their mean and covariance much."""


def rows_like(known: Sequence[Tensor], names: Sequence[str], seed: int) -> list[Tensor]:
    """Return vectors for new names, drawn from the Gaussian with the mean and the covariance of the known vectors.

    A draw is the mean of the known rows plus a random combination of their deviations from it, with standard normal
    coefficients over √(n - 1): it has exactly their covariance, whatever the number of rows. The coefficients of a
    name come from the seed and the name alone, so a gene's vector does not depend on its column or on the other new
    genes.

    Parameters
    ----------
    known
        Tables ``(n_known, width)`` of the same rows, such as those of context and target encoder. A new row has the
        same coefficients in each, so what belongs together stays together.
    names
        New names.
    seed
        Seed of the coefficients.

    Returns
    -------
    list
        For each table, ``(n_known + len(names), width)``: the known rows, untouched, and the new ones.
    """
    n_known = len(known[0])
    chosen = np.unique(np.linspace(0, n_known - 1, min(n_known, _MOST_KNOWN)).round().astype(np.int64))
    rows = [table[torch.from_numpy(chosen)].double().cpu() for table in known]
    means = [table.mean(dim=0) for table in rows]
    spread = [(table - mean) / max(len(chosen) - 1, 1) ** 0.5 for table, mean in zip(rows, means, strict=True)]
    drawn: list[list[Tensor]] = [[] for _ in known]
    for name in names:
        weights = torch.from_numpy(_generator(seed, name).standard_normal(len(chosen)))
        for new, mean, deviations in zip(drawn, means, spread, strict=True):
            new.append(mean + weights @ deviations)
    return [
        torch.cat([table, torch.stack(new).to(table)]) if new else table.clone()
        for table, new in zip(known, drawn, strict=True)
    ]


def _generator(seed: int, name: str) -> np.random.Generator:
    key = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=32).digest()
    return np.random.default_rng(np.frombuffer(key, dtype=np.uint32))


def rows_of_mean(known: Sequence[Tensor], n_new: int) -> list[Tensor]:
    """Return each table with ``n_new`` rows more, all of them the mean of the known ones."""
    return [torch.cat([table, table.mean(dim=0, keepdim=True).expand(n_new, -1)]) for table in known]


def train_new_rows_only(module: nn.Module, tables: Sequence[tuple[nn.Embedding, int]]) -> None:
    """Freeze a module but for the rows of embedding tables from a number on.

    The optimizer has no weight decay on embeddings (:func:`scjepa.training.parameter_groups`), so a row without a
    gradient stays the same bit for bit.

    Parameters
    ----------
    tables
        Embedding tables, each with the number of its known rows.
    """
    module.requires_grad_(False)
    for table, n_known in tables:
        table.weight.requires_grad_(True)
        table.weight.register_hook(partial(_without_known, n_known=n_known))


def _without_known(gradient: Tensor, n_known: int) -> Tensor:
    gradient = gradient.clone()
    gradient[:n_known] = 0
    return gradient
