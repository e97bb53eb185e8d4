"""Masking schemes: which tokens of a batch the context encoder sees (Section 2.3).

A scheme returns a ``(T,)`` bool tensor, true where a token is masked. Metatokens are never masked, and every sequence
of two tokens or more keeps at least one visible token and has at least one masked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scjepa._core.options import Registry
from scjepa.nn.groups import rank_in_group
from scjepa.stjepa.batch import Batch


def _mask_share(groups: Tensor, keys: Tensor, ratio: float) -> Tensor:
    """Mask round(ratio · n) tokens of each group, those of the smallest keys."""
    n_masked = torch.round(ratio * torch.bincount(groups)).long()
    return rank_in_group(groups, keys) < n_masked[groups]


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(len(like), device=like.device, generator=generator)


def stratified(batch: Batch, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Mask round(ratio · n) tokens of each cell: the paper's block masking with a cell as the block."""
    return _mask_share(batch.blocks, _uniform(batch.genes, generator), ratio)


def uniform(batch: Batch, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Mask round(ratio · n) tokens of each neighborhood, wherever they are."""
    return _mask_share(batch.sequences, _uniform(batch.genes, generator), ratio)


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
    return _mask_share(batch.blocks, (place - start.long()[batch.blocks]) % sizes[batch.blocks], ratio)


def mixture(batch: Batch, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Mask whole cells in about half of the neighborhoods, and a share of each cell in the others."""
    whole = torch.rand(batch.n_sequences, device=batch.genes.device, generator=generator) < 0.5
    by_cell, by_token = whole_cell(batch, ratio, generator), stratified(batch, ratio, generator)
    return torch.where(whole[batch.sequences], by_cell, by_token)


def _draw_cells(batch: Batch, generator: torch.Generator | None, n_cells: int | Tensor) -> tuple[Tensor, Tensor]:
    """Return the cells with tokens in each sequence, and the tokens of ``n_cells`` of them, drawn at random."""
    n_blocks = batch.n_sequences * (batch.n_segments + 1)
    occupied = torch.bincount(batch.blocks, minlength=n_blocks) > 0
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
    n_cells = torch.bincount(batch.sequences[cells], minlength=batch.n_sequences)
    n_masked = torch.bincount(batch.sequences[masked], minlength=batch.n_sequences)
    first = (place == 0) & cells
    show_one = ((n_masked == n_cells) & (n_cells > 0))[batch.sequences] & first
    mask_one = ((n_masked == 0) & (n_cells > 1))[batch.sequences] & first
    return (masked & ~show_one) | mask_one
