"""Embedding all cells of a token source, in batches of similar length, written in place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from scjepa.nn import Batch, SpatialJEPA, pool
from scjepa.tokens.batches import TokenSource


def _batches(source: TokenSource, cells: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yield positions in ``cells`` and their batches; similar lengths together, so that little is padded."""
    lengths = source.neighborhood_lengths().cpu().numpy()[cells]
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        yield positions, source.batch(torch.from_numpy(cells[positions]))


@torch.inference_mode()
def embed(
    module: SpatialJEPA, source: TokenSource, cells: np.ndarray, scale: str, encoder: str, batch_size: int
) -> np.ndarray:
    """Return ``(len(cells), width)`` float32 embeddings at ``scale``; the metatoken takes no part."""
    out = np.empty((len(cells), module.config.encoder.width), dtype=np.float32)
    for positions, batch in _batches(source, cells, batch_size):
        out[positions] = pool(module(batch, encoder), batch, scale).float().cpu().numpy()
    return out


@torch.inference_mode()
def embed_genes(
    module: SpatialJEPA, source: TokenSource, n_genes: int, encoder: str, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean contextual vector of each gene over the index cells that express it, and in how many it is.

    Returns
    -------
    tuple
        ``(n_genes, width)`` float32, NaN for genes without tokens, and ``(n_genes,)`` int64 numbers of tokens.
    """
    total = torch.zeros(n_genes, module.config.encoder.width, dtype=torch.float64, device=source.device)
    size = torch.zeros(n_genes, dtype=torch.int64, device=source.device)
    for _, batch in _batches(source, np.arange(source.n_cells), batch_size):
        index = (batch.segments == 0).nonzero()[:, 0]
        genes = batch.genes[index]
        tokens: Tensor = module(batch, encoder)[index]
        total.index_add_(0, genes, tokens.double())
        size += torch.bincount(genes, minlength=n_genes)
    mean = (total / size[:, None]).float().cpu().numpy()
    return mean, size.cpu().numpy()
