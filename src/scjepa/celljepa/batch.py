"""The packed batch of cells: what Cell-JEPA works on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class CellBatch:
    """Packed gene tokens of B cells, T tokens in all; ``<cls>`` is the encoder's business and not among them.

    Attributes
    ----------
    genes
        ``(T,)`` int64 vocabulary ids.
    values
        ``(T,)`` float32 bins.
    sequences
        ``(T,)`` int64 row of the batch, non-decreasing.
    labels
        ``(B,)`` int64 label codes, -1 where there is none; what embeddings never see.
    """

    genes: Tensor
    values: Tensor
    sequences: Tensor
    labels: Tensor

    @property
    def n_sequences(self) -> int:
        """Cells in the batch, B."""
        return len(self.labels)

    @property
    def n_tokens(self) -> int:
        """Gene tokens in the batch, T."""
        return len(self.genes)

    @cached_property
    def lengths(self) -> Tensor:
        """``(B,)`` int64 gene tokens of each cell."""
        return torch.bincount(self.sequences, minlength=self.n_sequences)

    def select(self, keep: Tensor) -> CellBatch:
        """Return the batch of the tokens ``keep`` (``(T,)`` bool or sorted indices); cells keep their rows."""
        return replace(self, genes=self.genes[keep], values=self.values[keep], sequences=self.sequences[keep])
