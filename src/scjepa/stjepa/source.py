"""Batches of neighborhoods, gathered from the tables on the device that trains."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from scjepa.nn.attention import count_by_group
from scjepa.tokens.neighbors import NeighborTable
from scjepa.tokens.source import TableSource, chosen, runs_of
from scjepa.tokens.table import TokenTable

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

    @property
    def n_blocks(self) -> int:
        """Codes of :attr:`blocks`, those without tokens included."""
        return self.n_sequences * (self.n_segments + 1)

    @cached_property
    def is_metatoken(self) -> Tensor:
        """``(T,)`` bool: the technology tokens."""
        return self.segments == self.n_segments

    @cached_property
    def lengths(self) -> Tensor:
        """``(B,)`` int64 tokens of each sequence."""
        return count_by_group(self.sequences, self.n_sequences)

    @cached_property
    def blocks(self) -> Tensor:
        """``(T,)`` int64: one code for each cell of each sequence (sequence x segment), non-decreasing."""
        return self.sequences * (self.n_segments + 1) + self.segments

    def select(self, keep: Tensor) -> Batch:
        """Return the batch of the tokens ``keep`` (``(T,)`` bool or sorted indices); sequences keep their numbers."""
        return chosen(self, keep, _OF_TOKENS)

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


class TokenSource(TableSource[Batch]):
    """The token and neighbor tables, ready to be gathered into batches of neighborhoods on a device.

    Tables that take no more than half of the device's free memory are moved there; see :class:`TableSource`.

    Parameters
    ----------
    table
        Tokens of every cell.
    neighbors
        Nearest neighbors of every cell.
    technologies
        ``(n_cells,)`` integer technology codes.
    device
        Where the batches are wanted.
    summed
        Whether the tokens are those of summed counts (:class:`scjepa.tokens.SummedCounts`): each neighborhood is then
        the tokens of its index cell alone, and neighbors say only where walks go.
    places
        ``(n_cells, n_neighbors, 3)`` float32 places of the neighbors (:func:`scjepa.tokens.neighbor_places`), which
        then travel with the tokens; ``None``: they do not.
    """

    _TABLES = (*TableSource._TABLES, "_neighbors", "_technologies")
    _NOT_EMBEDDED = ("_technologies",)

    def __init__(
        self,
        table: TokenTable,
        neighbors: NeighborTable,
        technologies: np.ndarray,
        device: torch.device | str = "cpu",
        *,
        summed: bool = False,
        places: np.ndarray | None = None,
    ):
        if not table.n_cells == neighbors.n_cells == len(technologies):
            raise ValueError(
                f"Tables disagree about the number of cells: tokens {table.n_cells}, neighbors {neighbors.n_cells}, "
                f"technologies {len(technologies)}."
            )
        super().__init__(table)
        self.n_neighbors = neighbors.n_neighbors
        self.summed = summed
        self._places = None
        if places is not None:
            self._places = torch.from_numpy(places)
            self._TABLES = (*self._TABLES, "_places")
        self._neighbors = torch.from_numpy(neighbors.index)
        self._technologies = torch.from_numpy(np.asarray(technologies, dtype=np.int64))
        self.to(device)

    def sequence_lengths(self, cells: Tensor | None = None, training: bool = False) -> Tensor:
        """``(n,)`` int64 tokens of the neighborhoods of ``cells`` (default: all), metatoken not counted."""
        return self.neighborhood_lengths(cells)

    def neighborhood_lengths(self, cells: Tensor | None = None) -> Tensor:
        """``(n,)`` int64 tokens of the neighborhoods of ``cells`` (default: all), metatoken not counted."""
        own = self.cell_lengths(cells)
        if self.summed:
            return own
        near = self._neighbors if cells is None else self._neighbors[cells]
        near = near.long()
        starts = near.clamp_min(0)
        within = torch.where(near >= 0, self._offsets[starts + 1] - self._offsets[starts], 0)
        return own + within.sum(1)

    def neighbors_of(self, cells: np.ndarray) -> np.ndarray:
        """Return the index cell and its neighbors, -1 for none, ``(n, n_neighbors + 1)`` int64."""
        near: np.ndarray = self._neighbors[torch.from_numpy(cells)].cpu().numpy().astype(np.int64)
        return np.column_stack([cells, near])

    def with_neighbors(self, cells: np.ndarray, near: np.ndarray) -> TokenSource:
        """Return a source in which ``cells`` have the neighbors ``near``, ``(n, n_neighbors)``, -1 for none.

        A neighbor in the place of another lies where that one lay.
        """
        found = copy(self)
        found._neighbors = self._neighbors.clone()
        rows = torch.from_numpy(cells).to(found._neighbors.device)
        found._neighbors[rows] = torch.from_numpy(near).to(found._neighbors)
        return found

    def walk(self, cells: Tensor, n_steps: int, generator: torch.Generator) -> Tensor:
        """Return where a random walk over the neighbors, ``n_steps`` long, ends from each of ``cells``, ``(B,)`` int64.

        A cell without neighbors stays where it is; a walk never leaves its section, as no neighbor does.
        """
        cells = cells.to(self.table_device)
        for _ in range(n_steps):
            near = self._neighbors[cells].long()
            n_near = (near >= 0).sum(1)  # neighbors come first, absent ones (-1) last
            draw = torch.rand(len(cells), generator=generator, device=generator.device).to(near.device)
            step = near.gather(1, (draw * n_near).long()[:, None])[:, 0]
            cells = torch.where(n_near > 0, step, cells)
        return cells

    def batch(self, cells: Tensor, metatoken: Tensor | bool = False) -> Batch:
        """Gather the neighborhoods of ``cells``.

        Parameters
        ----------
        cells
            ``(B,)`` int64 index cells.
        metatoken
            Whether each sequence ends with its technology token: one bool, or ``(B,)`` bool.
        """
        here = self.table_device
        cells = cells.to(here)
        members = cells[:, None]
        if not self.summed:
            members = torch.cat([members, self._neighbors[cells].long()], dim=1)
        present = members >= 0
        members = members.clamp_min(0)
        starts = self._offsets[members]
        lengths = torch.where(present, self._offsets[members + 1] - starts, 0)
        with_metatoken = torch.as_tensor(metatoken, device=here).expand(len(cells))
        starts = torch.cat([starts, torch.zeros_like(starts[:, :1])], dim=1)
        lengths = torch.cat([lengths, with_metatoken.long()[:, None]], dim=1)

        n_blocks = members.shape[1] + 1
        block, within = runs_of(lengths.reshape(-1))
        segments = block % n_blocks
        meta = segments == n_blocks - 1
        source = starts.reshape(-1)[block] + within
        values = self._values_of(source)
        ranks = within if self._ranks is None else self._ranks[source].long()
        batch = Batch(
            genes=self._genes[source].long().masked_fill(meta, 0),
            values=values.masked_fill(meta, 0.0),
            ranks=ranks.masked_fill(meta, 0),
            segments=segments,
            sequences=block // n_blocks,
            technologies=self._technologies[cells],
            n_segments=n_blocks - 1,
            places=None if self._places is None else self._places_of(cells)[block],
        )
        return self._moved(batch)

    def _places_of(self, cells: Tensor) -> Tensor:
        """Return the place of each segment of each neighborhood, ``(B * (k + 2), 3)``; 0 for index and metatoken."""
        near = cast(Tensor, self._places)[cells]
        origin = torch.zeros_like(near[:, :1])
        return torch.cat([origin, origin] if self.summed else [origin, near, origin], dim=1).flatten(0, 1)
