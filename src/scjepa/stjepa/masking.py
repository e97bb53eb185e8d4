"""What is hidden from an encoder: the masking schemes of training, and the masks of masked embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scjepa._core.options import Registry
from scjepa.models.embed import AUTO, embed
from scjepa.nn import float32_default
from scjepa.nn.attention import count_by_group, rank_in_group
from scjepa.stjepa.module import STJEPAModule
from scjepa.stjepa.source import Batch, TokenSource


def _mask_share(groups: Tensor, n_groups: int, keys: Tensor, ratio: float) -> Tensor:
    """Mask round(ratio · n) tokens of each group, those of the smallest keys."""
    n_masked = torch.round(ratio * count_by_group(groups, n_groups)).long()
    return rank_in_group(groups, keys) < n_masked[groups]


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(len(like), device=like.device, generator=generator)


def stratified(batch: Batch, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Mask round(ratio · n) tokens of each cell: the paper's block masking with a cell as the block."""
    return _mask_share(batch.blocks, batch.n_blocks, _uniform(batch.genes, generator), ratio)


def uniform(batch: Batch, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Mask round(ratio · n) tokens of each neighborhood, wherever they are."""
    return _mask_share(batch.sequences, batch.n_sequences, _uniform(batch.genes, generator), ratio)


def target_cell(batch: Batch, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Mask round(ratio · n) tokens of one cell, drawn for each neighborhood (Figure 1c)."""
    _, chosen = _draw_cells(batch, generator, n_cells=1)
    return stratified(batch, ratio, generator) & chosen


def whole_cell(batch: Batch, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Mask all tokens of round(ratio · cells) cells of each neighborhood, at least one and never all."""
    n_cells, _ = _draw_cells(batch, None, n_cells=0)
    _, chosen = _draw_cells(batch, generator, n_cells=torch.round(ratio * n_cells).clamp_min(1))
    return chosen


def rank_span(batch: Batch, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Mask a run of round(ratio · n) neighboring ranks of each cell, wrapping around its end."""
    sizes = torch.bincount(batch.blocks)
    start = torch.rand(len(sizes), device=sizes.device, generator=generator) * sizes
    place = rank_in_group(batch.blocks, batch.ranks.float())
    keys = (place - start.long()[batch.blocks]) % sizes[batch.blocks]
    return _mask_share(batch.blocks, batch.n_blocks, keys, ratio)


def mixture(batch: Batch, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Mask whole cells in about half of the neighborhoods, and a share of each cell in the others."""
    whole = torch.rand(batch.n_sequences, device=batch.genes.device, generator=generator) < 0.5
    by_cell, by_token = whole_cell(batch, ratio, generator), stratified(batch, ratio, generator)
    return torch.where(whole[batch.sequences], by_cell, by_token)


def _draw_cells(batch: Batch, generator: torch.Generator | None, n_cells: int | Tensor) -> tuple[Tensor, Tensor]:
    """Return the cells with tokens in each sequence, and the tokens of ``n_cells`` of them, drawn at random."""
    occupied = count_by_group(batch.blocks, batch.n_blocks) > 0
    occupied = occupied.view(batch.n_sequences, -1)[:, :-1]  # the last column is the metatoken's
    count = occupied.sum(1)
    keys = torch.rand(occupied.shape, device=occupied.device, generator=generator).masked_fill(~occupied, 2.0)
    place = keys.argsort(1).argsort(1)
    limit = torch.minimum(torch.as_tensor(n_cells, device=count.device).expand_as(count), (count - 1).clamp_min(0))
    chosen = torch.zeros(batch.n_sequences, batch.n_segments + 1, dtype=torch.bool, device=count.device)
    chosen[:, :-1] = (place < limit[:, None]) & occupied
    return count, chosen.view(-1)[batch.blocks]


class MaskingScheme(NamedTuple):
    """A way to mask.

    Attributes
    ----------
    draw
        From a batch, the share of masked tokens and a generator: which tokens are masked.
    of_cells
        Whether it chooses among the cells of a neighborhood.
    """

    draw: Callable[[Batch, float, torch.Generator | None], Tensor]
    of_cells: bool = False


MASKING_SCHEMES: Registry[MaskingScheme] = Registry(
    "masking scheme",
    {
        "stratified": MaskingScheme(stratified),
        "uniform": MaskingScheme(uniform),
        "target_cell": MaskingScheme(target_cell, of_cells=True),
        "whole_cell": MaskingScheme(whole_cell, of_cells=True),
        "rank_span": MaskingScheme(rank_span),
        "mixture": MaskingScheme(mixture, of_cells=True),
    },
)
"""Masking schemes by name."""


def draw_mask(batch: Batch, scheme: str, ratio: float, generator: torch.Generator | None = None) -> Tensor:
    """Return ``(T,)`` bool, true where masked.

    A sequence left without a visible (or without a masked) token has one of its tokens shown (or masked), so that
    there is always something to predict and something to predict it from; a sequence of one token stays visible.
    """
    cells = ~batch.is_metatoken
    masked = MASKING_SCHEMES[scheme].draw(batch, ratio, generator) & cells
    place = rank_in_group(batch.sequences, _uniform(batch.genes, generator) + 2.0 * batch.is_metatoken)
    n_cells = count_by_group(batch.sequences, batch.n_sequences, cells)
    n_masked = count_by_group(batch.sequences, batch.n_sequences, masked)
    first = (place == 0) & cells
    show_one = ((n_masked == n_cells) & (n_cells > 0))[batch.sequences] & first
    mask_one = ((n_masked == 0) & (n_cells > 1))[batch.sequences] & first
    return (masked & ~show_one) | mask_one


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
    masks
        How many masks, the share of each cell's tokens that is hidden (:func:`visible`), and the seed of the masks;
        mask m of a seed is the same however many masks are drawn.
    encoder, batch_size
        As in :meth:`scjepa.STJEPA.get_latent_representation`.
    """

    def __init__(
        self,
        module: STJEPAModule,
        source: Callable[[str], TokenSource],
        scales: Sequence[str],
        masks: tuple[int, float, int],
        encoder: str,
        batch_size: int | str = AUTO,
    ):
        self._module, self._source, self._scales = module, source, scales
        self._masks, self._encoder, self._batch_size = masks, encoder, batch_size
        self._arrays = self._at(scales[0])

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        return next(self._arrays)

    def _at(self, scale: str) -> Iterator[np.ndarray]:
        """Yield for each mask the embeddings of all cells at ``scale``, float32 of shape (n_cells, width)."""
        source, (n_masks, ratio, seed) = self._source(scale), self._masks
        for number in range(n_masks):
            out = np.empty((source.n_cells, self._module.config.encoder.width), dtype=np.float32)

            def embed_batch(batch: Batch, number: int = number) -> Tensor:
                shown = batch.select(visible(batch, ratio, seed, number))
                return self._module.embed(shown, self._encoder, scale)

            embed(self._module, source, out, embed_batch, batch_size=self._batch_size)
            yield out

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
                found = self._module.embed(source.batch(torch.from_numpy(cells)), self._encoder, scale)
            apart = np.linalg.norm(found.cpu().numpy() - embedding[cells])
            if apart <= _NEAR * np.linalg.norm(embedding[cells]):
                return self._at(scale)
        return None


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
