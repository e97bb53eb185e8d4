"""Which genes of a cell have their values hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from scjepa.celljepa.batch import CellBatch
from scjepa.nn.groups import rank_in_group


def hide(batch: CellBatch, ratios: tuple[float, ...], generator: torch.Generator | None = None) -> Tensor:
    """Draw the genes to hide: round(ratio · n) of each cell's n, at least one where it has two or more, never all.

    Parameters
    ----------
    batch
        The cells.
    ratios
        Shares, of which one is drawn for the batch.
    generator
        Source of chance, on the batch's device.

    Returns
    -------
    Tensor
        ``(T,)`` bool, true where hidden. ``<cls>`` is no gene and never hidden.
    """
    device = batch.genes.device
    which = torch.randint(len(ratios), (), device=device, generator=generator) if len(ratios) > 1 else 0
    ratio = torch.tensor(ratios, device=device)[which]
    keys = torch.rand(batch.n_tokens, device=device, generator=generator)
    n_hidden = torch.round(ratio * batch.lengths).long().clamp_min(1)
    n_hidden = torch.minimum(n_hidden, (batch.lengths - 1).clamp_min(0))
    return rank_in_group(batch.sequences, keys) < n_hidden[batch.sequences]
