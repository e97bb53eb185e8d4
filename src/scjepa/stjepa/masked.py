"""Embeddings of cells of which a random share of the tokens is hidden: how much an embedding hangs on single tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scjepa.models.embed import AUTO, chunks
from scjepa.nn import float32_default
from scjepa.nn.groups import rank_in_group
from scjepa.stjepa.batch import Batch
from scjepa.stjepa.module import STJEPAModule
from scjepa.stjepa.pooling import pool
from scjepa.stjepa.source import TokenSource


def check_masks(n_masks: int, ratio: float) -> None:
    """Refuse a number of masks below 1 and a ratio outside of (0, 1)."""
    if n_masks < 1:
        raise ValueError(f"n_masks must be 1 or more, found {n_masks}.")
    if not 0 < ratio < 1:
        raise ValueError(f"ratio must lie between 0 and 1, found {ratio}.")


_PROBES, _NEAR = 32, 0.01
"""Cells by which an embedding is known again, and the share of its size by which it may differ."""


class MaskedRepresentations:
    """Embeddings of all cells with tokens hidden, one for each mask, made when they are asked for.

    Parameters
    ----------
    module
        The model.
    source
        Gives the tokens of all cells for a scale.
    scales
        Scales that may be meant, the default first.
    how
        Arguments of :func:`embed_masked` beside the scale.
    """

    def __init__(self, module: STJEPAModule, source: Callable[[str], TokenSource], scales: Sequence[str], **how: Any):
        self._module, self._source, self._scales, self._how = module, source, scales, how
        self._arrays: Iterator[np.ndarray] | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        if self._arrays is None:
            self._arrays = self._at(self._scales[0])
        return next(self._arrays)

    def _at(self, scale: str) -> Iterator[np.ndarray]:
        return embed_masked(self._module, self._source(scale), scale=scale, **self._how)

    def made_as(self, embedding: np.ndarray) -> Iterator[np.ndarray] | None:
        """Return masked embeddings at the scale of ``embedding``; ``None`` where it is not what the model gives.

        Parameters
        ----------
        embedding
            ``(n_cells, n_latent)``, of all cells.
        """
        for scale in self._scales:
            source = self._source(scale)
            if embedding.shape != (source.n_cells, self._module.config.encoder.width):
                return None
            cells = np.unique(np.linspace(0, source.n_cells - 1, _PROBES).astype(np.int64))
            with torch.inference_mode():
                found = self._module.embed(source.batch(torch.from_numpy(cells)), self._how["encoder"], scale)
            apart = np.linalg.norm(found.cpu().numpy() - embedding[cells])
            if apart <= _NEAR * np.linalg.norm(embedding[cells]):
                return self._at(scale)
        return None


def embed_masked(
    module: STJEPAModule,
    source: TokenSource,
    *,
    n_masks: int,
    ratio: float,
    seed: int,
    scale: str,
    encoder: str,
    batch_size: int | str = AUTO,
) -> Iterator[np.ndarray]:
    """Yield for each mask the embeddings of all cells, float32 of shape (n_cells, width).

    Parameters
    ----------
    ratio
        Share of each cell's tokens that is hidden; see :func:`visible`.
    seed
        Seed of the masks; mask m of a seed is the same however many masks are drawn.
    """
    for number in range(n_masks):
        out = np.empty((source.n_cells, module.config.encoder.width), dtype=np.float32)
        for _, chunk in chunks(source, module, batch_size):
            for cells, batch in chunk:
                # Entered for each batch: a generator must not leave the mode on while its caller works.
                with torch.inference_mode():
                    shown = batch.select(visible(batch, ratio, seed, number))
                    out[cells] = pool(module(shown, encoder), shown, scale).float().cpu().numpy()
        yield out


@float32_default()
def visible(batch: Batch, ratio: float, seed: int, number: int) -> Tensor:
    """Return ``(T,)`` bool, true for the tokens that mask ``number`` of ``seed`` leaves visible.

    Of each cell round(ratio · n) of n tokens are hidden, as the ``"stratified"`` scheme does in training (Section 2.3),
    but never all. What is hidden is decided by what is in a neighborhood and not by where it stands, so that neither
    the batch size nor the order of cells or genes changes a masked embedding.
    """
    token = _mixed(_mixed(batch.genes) + _mixed(batch.values.view(torch.int32).long()) + batch.segments)
    neighborhood = torch.zeros(batch.n_sequences, dtype=torch.int64, device=token.device)
    neighborhood.index_add_(0, batch.sequences, token)
    drawn = _mixed(neighborhood + _mixed(torch.tensor(1_000_003 * seed + number, device=token.device)))
    place = rank_in_group(batch.blocks, _mixed(token + drawn[batch.sequences]))
    sizes = torch.bincount(batch.blocks)
    hidden = torch.minimum(torch.round(ratio * sizes).long(), sizes - 1)
    return place >= hidden[batch.blocks]


def _mixed(x: Tensor) -> Tensor:
    """Return int64 numbers scattered as if at random (the finalizer of splitmix64)."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ _right(x, shift)) * factor
    return x ^ _right(x, 31)


def _right(x: Tensor, shift: int) -> Tensor:
    """Shift the 64 bits right, filling with zeros (torch's own shift keeps the sign)."""
    return (x >> shift) & ((1 << (64 - shift)) - 1)
