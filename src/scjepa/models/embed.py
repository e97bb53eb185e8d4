"""Embedding all cells of a token source: chunk by chunk, in batches of similar length, written in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scjepa.celljepa.config import CellJEPAConfig
from scjepa.nn import JEPAModule
from scjepa.stjepa.batch import Batch
from scjepa.stjepa.config import STJEPAConfig
from scjepa.stjepa.module import STJEPAModule
from scjepa.stjepa.pooling import pool
from scjepa.stjepa.source import TokenSource
from scjepa.tokens.memory import available_memory
from scjepa.tokens.source import TableSource

CHUNK = 8192
"""Consecutive cells that are sorted by length and embedded together; what a killed run has to do again, at most."""

AUTO = "auto"
"""``batch_size`` that bounds the tokens of a batch, and with them its memory, rather than its cells."""

_AUTO_BYTES = {"cpu": 2**24, "cuda": 2**32, "mps": 2**30}
"""Activations of an automatic batch at most: on CPU they are to stay near the caches (2^27 takes 1.3 times as long)."""

_AUTO_SHARE = 0.25
"""Share of the free memory that activations of an automatic batch take at most."""


def bytes_per_token(config: STJEPAConfig | CellJEPAConfig) -> int:
    """Return the bytes that one token of a batch needs at most at one time while it is embedded.

    These are the two hidden layers of a block's MLP, before and after the activation, and measured beside them about
    8.5 times the token's vector, all in float32 (the tokens as they came, as they are and normed; queries, keys and
    values, laid out by sequence); and the columns of the batch.
    """
    return int(4 * config.encoder.width * (8.5 + 2 * config.encoder.mlp_ratio)) + 8 * 12


def token_budget(config: STJEPAConfig | CellJEPAConfig, device: torch.device) -> int:
    """Return the tokens of an automatic batch on ``device``."""
    limit = _AUTO_BYTES.get(device.type, _AUTO_BYTES["cpu"])
    free = available_memory(device)
    if free is not None:
        limit = min(limit, int(_AUTO_SHARE * free))
    return max(1, limit // bytes_per_token(config))


def check_batch_size(batch_size: int | str) -> None:
    """Refuse what is neither ``"auto"`` nor a positive whole number."""
    whole = isinstance(batch_size, int | np.integer) and not isinstance(batch_size, bool) and batch_size > 0
    if not whole and batch_size != AUTO:
        raise ValueError(f"batch_size must be 'auto' or a positive number of cells, found {batch_size!r}.")


def batches(
    source: TableSource, cells: np.ndarray, batch_size: int | str, budget: int
) -> Iterator[tuple[np.ndarray, Any]]:
    """Yield cells and their batches; similar lengths together, so that little is padded.

    Parameters
    ----------
    cells
        ``(n,)`` int64 cells.
    batch_size
        Cells of a batch at most, or ``"auto"``.
    budget
        Tokens of an automatic batch at most, unless one cell alone has more.
    """
    lengths = source.sequence_lengths(torch.from_numpy(cells).to(source.table_device)).cpu().numpy()
    order = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    start = 0
    while start < len(order):
        if batch_size == AUTO:
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + budget, side="right")))
        else:
            stop = start + int(batch_size)
        taken = cells[order[start:stop]]
        yield taken, source.batch(torch.from_numpy(taken))
        start = stop


@torch.inference_mode()
def embed(
    module: JEPAModule,
    source: TableSource,
    out: np.ndarray,
    *,
    scale: str,
    encoder: str,
    batch_size: int | str = AUTO,
    first: int = 0,
    after_chunk: Callable[[int], None] | None = None,
) -> None:
    """Write the embeddings of all cells from ``first`` on to ``out``; the metatoken takes no part.

    Parameters
    ----------
    out
        ``(n_cells, width)`` float32.
    batch_size
        Cells at a time, or ``"auto"``: as many as memory allows.
    first
        Cells before this one are done already.
    after_chunk
        Called with the number of cells that are done, after each chunk of them.
    """
    budget = token_budget(module.config, source.device)
    for start in range(first, source.n_cells, CHUNK):
        stop = min(start + CHUNK, source.n_cells)
        for cells, batch in batches(source, np.arange(start, stop), batch_size, budget):
            out[cells] = module.embed(batch, encoder, scale).cpu().numpy()
        if after_chunk is not None:
            after_chunk(stop)


class GeneMeans:
    """Adds up the contextual tokens of index cells by gene.

    Parameters
    ----------
    n_genes, width
        Genes of the vocabulary, and width of a token.
    device
        Device of the tokens.
    """

    def __init__(self, n_genes: int, width: int, device: torch.device) -> None:
        self._total = torch.zeros(n_genes, width, dtype=torch.float64, device=device)
        self._size = torch.zeros(n_genes, dtype=torch.int64, device=device)

    def add(self, tokens: Tensor, batch: Batch) -> None:
        """Add the tokens of a batch, ``(T, width)``."""
        index = (batch.segments == 0).nonzero()[:, 0]
        genes = batch.genes[index]
        self._total.index_add_(0, genes, tokens[index].double())
        self._size += torch.bincount(genes, minlength=len(self._size))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return float32 means, ``(n_genes, width)``, NaN without tokens; and ``(n_genes,)`` token numbers."""
        return (self._total / self._size[:, None]).float().cpu().numpy(), self._size.cpu().numpy()


@torch.inference_mode()
def embed_genes(
    module: STJEPAModule, source: TokenSource, n_genes: int, encoder: str, batch_size: int | str = AUTO
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean contextual vector of each gene over the index cells that express it, and in how many it is.

    Returns
    -------
    tuple
        As :meth:`GeneMeans.result`.
    """
    means = GeneMeans(n_genes, module.config.encoder.width, source.device)
    budget = token_budget(module.config, source.device)
    for start in range(0, source.n_cells, CHUNK):
        for _, batch in batches(source, np.arange(start, min(start + CHUNK, source.n_cells)), batch_size, budget):
            means.add(module(batch, encoder), batch)
    return means.result()


@torch.inference_mode()
def embed_scales(
    module: STJEPAModule,
    source: TokenSource,
    scales: Sequence[str],
    n_genes: int,
    encoder: str,
    batch_size: int | str = AUTO,
    after_chunk: Callable[[int], None] | None = None,
) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return all that one pass of the encoder gives: the embeddings of cells at each scale, and those of genes.

    Parameters
    ----------
    scales
        Names of poolings.
    n_genes
        Genes of the vocabulary.
    encoder, batch_size, after_chunk
        As in :func:`embed`.

    Returns
    -------
    tuple
        ``(n_cells, width)`` float32 by scale, and what :func:`embed_genes` gives.
    """
    width = module.config.encoder.width
    found = {scale: np.empty((source.n_cells, width), dtype=np.float32) for scale in scales}
    means = GeneMeans(n_genes, width, source.device)
    budget = token_budget(module.config, source.device)
    for start in range(0, source.n_cells, CHUNK):
        stop = min(start + CHUNK, source.n_cells)
        for cells, batch in batches(source, np.arange(start, stop), batch_size, budget):
            tokens = module(batch, encoder).float()
            for scale, out in found.items():
                out[cells] = pool(tokens, batch, scale).cpu().numpy()
            means.add(tokens, batch)
        if after_chunk is not None:
            after_chunk(stop)
    return found, means.result()
