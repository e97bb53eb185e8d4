"""The packed batch: what every module of this floor works on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

_OF_TOKENS = ("genes", "values", "ranks", "segments", "sequences", "places")
"""Columns of a batch that have an entry for each token."""


@dataclass(frozen=True)
class Batch:
    """Packed token sequences of B neighborhoods, T tokens in all.

    Attributes
    ----------
    genes
        ``(T,)`` int64 vocabulary ids; 0 (and meaningless) at metatokens.
    values
        ``(T,)`` float32 values, counts unless normalized; 0 at metatokens.
    ranks
        ``(T,)`` int64 rank codes within the token's cell, 0 for the highest.
    segments
        ``(T,)`` int64: 0 the index cell, 1..k its neighbors by distance, ``n_segments`` the metatoken.
    sequences
        ``(T,)`` int64 row of the batch, non-decreasing.
    technologies
        ``(B,)`` int64 technology codes.
    n_segments
        k + 1, the segments that hold cells; 1 where a neighborhood is its summed counts.
    partners
        ``(B,)`` int64 row of the neighborhood a few steps away that belongs to each, or ``None``.
    places
        ``(T, 3)`` float32 place of the token's cell, seen from the index cell, or ``None`` where nobody asks for it.
    """

    genes: Tensor
    values: Tensor
    ranks: Tensor
    segments: Tensor
    sequences: Tensor
    technologies: Tensor
    n_segments: int
    partners: Tensor | None = None
    places: Tensor | None = None

    @property
    def n_sequences(self) -> int:
        """Neighborhoods in the batch, B."""
        return len(self.technologies)

    @property
    def n_tokens(self) -> int:
        """Tokens in the batch, T."""
        return len(self.genes)

    @cached_property
    def is_metatoken(self) -> Tensor:
        """``(T,)`` bool: the technology tokens."""
        return self.segments == self.n_segments

    @cached_property
    def lengths(self) -> Tensor:
        """``(B,)`` int64 tokens of each sequence."""
        return torch.bincount(self.sequences, minlength=self.n_sequences)

    @cached_property
    def blocks(self) -> Tensor:
        """``(T,)`` int64: one code for each cell of each sequence (sequence x segment), non-decreasing."""
        return self.sequences * (self.n_segments + 1) + self.segments

    def select(self, keep: Tensor) -> Batch:
        """Return the batch of the tokens ``keep`` (``(T,)`` bool or sorted indices); sequences keep their numbers."""
        columns = {name: getattr(self, name) for name in _OF_TOKENS}
        chosen: dict[str, Any] = {name: None if x is None else x[keep] for name, x in columns.items()}
        return replace(self, **chosen)

    def repeat(self, times: int) -> Batch:
        """Return the batch ``times`` over, the copies being sequences of their own."""
        if times == 1:
            return self
        shift = torch.arange(times, device=self.sequences.device) * self.n_sequences
        columns = {name: getattr(self, name) for name in (*_OF_TOKENS, "technologies")}
        repeated: dict[str, Any] = {name: None if x is None else torch.cat([x] * times) for name, x in columns.items()}
        for name in ("sequences", "partners"):  # rows of the batch
            rows = getattr(self, name)
            repeated[name] = None if rows is None else (rows[None, :] + shift[:, None]).reshape(-1)
        return replace(self, **repeated)
