"""Pooling token representations to cells and neighborhoods; metatokens and absent cells never take part."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from scjepa._core.options import Registry
from scjepa.nn.groups import mean_by_group
from scjepa.stjepa.batch import Batch


def pool_cell(tokens: Tensor, batch: Batch) -> Tensor:
    """Mean over the index cell's tokens, ``(B, width)``."""
    index = (batch.segments == 0).nonzero()[:, 0]
    return mean_by_group(tokens[index], batch.sequences[index], batch.n_sequences)


def pool_neighborhood(tokens: Tensor, batch: Batch) -> Tensor:
    """Mean over the tokens of all segments, ``(B, width)``."""
    keep = (~batch.is_metatoken).nonzero()[:, 0]
    return mean_by_group(tokens[keep], batch.sequences[keep], batch.n_sequences)


POOLING: Registry[Callable[[Tensor, Batch], Tensor]] = Registry(
    "scale", {"cell": pool_cell, "neighborhood": pool_neighborhood}
)
"""Pooled scales by name."""


def pool(tokens: Tensor, batch: Batch, scale: str) -> Tensor:
    """Pool token representations ``(T, width)`` to ``scale``, ``(B, width)``."""
    return POOLING[scale](tokens, batch)
