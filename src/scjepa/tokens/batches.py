"""Neighborhoods as packed batches of tokens: index cells -> gather neighbors -> gather tokens.

All on one device and without a loop over cells: a batch holds real tokens only, one sequence after the other, never
padding. The loader of a training run therefore has nothing to do but name the cells.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scjepa.nn.batch import Batch
from scjepa.tokens.cells import TokenTable
from scjepa.tokens.memory import available_memory
from scjepa.tokens.neighborhoods import NeighborTable

RESIDENT_SHARE = 0.5
"""Share of a device's free memory that tables may take; the rest is for weights and activations."""


class TokenSource:
    """The token and neighbor tables, ready to be gathered into batches on a device.

    Tables that take no more than half of the device's free memory are moved there. Larger ones stay where they are, in
    the computer's memory or mapped from disk: their batches are gathered there and moved. The batches are the same.

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
    """

    _TABLES = ("_offsets", "_genes", "_values", "_ranks", "_neighbors", "_technologies")

    def __init__(
        self,
        table: TokenTable,
        neighbors: NeighborTable,
        technologies: np.ndarray,
        device: torch.device | str = "cpu",
    ):
        if not table.n_cells == neighbors.n_cells == len(technologies):
            raise ValueError(
                f"Tables disagree about the number of cells: tokens {table.n_cells}, neighbors {neighbors.n_cells}, "
                f"technologies {len(technologies)}."
            )
        self.n_cells = table.n_cells
        self.n_neighbors = neighbors.n_neighbors
        # Not every device indexes uint16, so whole numbers travel as the bits of int16.
        self._whole = table.values.dtype == np.uint16
        self._offsets = torch.from_numpy(table.offsets)
        self._genes = torch.from_numpy(table.genes)
        self._values = torch.from_numpy(table.values.view(np.int16) if self._whole else table.values)
        self._ranks = None if table.ranks is None else torch.from_numpy(table.ranks)
        self._neighbors = torch.from_numpy(neighbors.index)
        self._technologies = torch.from_numpy(np.asarray(technologies, dtype=np.int64))
        self.to(device)

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self._device

    @property
    def table_device(self) -> torch.device:
        """Where the tables are."""
        return self._offsets.device

    @property
    def resident(self) -> bool:
        """Whether the tables are where the batches are."""
        return self.table_device == self._device

    @property
    def nbytes(self) -> int:
        """Bytes that the tables take."""
        tables = (getattr(self, name) for name in self._TABLES)
        return sum(table.numel() * table.element_size() for table in tables if table is not None)

    def to(self, device: torch.device | str) -> TokenSource:
        """Give batches on ``device`` from now on, and move the tables there if they fit; in place."""
        place = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0"
        if place != self.table_device:
            free = available_memory(place)
            if place.type == "cpu" or free is None or self.nbytes <= RESIDENT_SHARE * free:
                for name in self._TABLES:
                    table = getattr(self, name)
                    setattr(self, name, None if table is None else table.to(place))
        self._device = place
        return self

    def arrays(self) -> list[np.ndarray]:
        """Return what embeddings depend on, as arrays: offsets, genes, values, rank codes and neighbors."""
        tables = (getattr(self, name) for name in self._TABLES if name != "_technologies")
        return [np.empty(0) if table is None else table.cpu().numpy() for table in tables]

    def cell_lengths(self) -> Tensor:
        """``(n_cells,)`` int64 tokens of each cell, where the tables are."""
        return self._offsets.diff()

    def neighborhood_lengths(self, cells: Tensor | None = None) -> Tensor:
        """``(n,)`` int64 tokens of the neighborhoods of ``cells`` (default: all), metatoken not counted."""
        near = self._neighbors if cells is None else self._neighbors[cells]
        near = near.long()
        starts = near.clamp_min(0)
        within = torch.where(near >= 0, self._offsets[starts + 1] - self._offsets[starts], 0)
        own = self.cell_lengths() if cells is None else self._offsets[cells + 1] - self._offsets[cells]
        return own + within.sum(1)

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
        members = torch.cat([cells[:, None], self._neighbors[cells].long()], dim=1)
        present = members >= 0
        members = members.clamp_min(0)
        starts = self._offsets[members]
        lengths = torch.where(present, self._offsets[members + 1] - starts, 0)
        with_metatoken = torch.as_tensor(metatoken, device=here).expand(len(cells))
        starts = torch.cat([starts, torch.zeros_like(starts[:, :1])], dim=1)
        lengths = torch.cat([lengths, with_metatoken.long()[:, None]], dim=1)

        n_blocks = self.n_neighbors + 2
        flat = lengths.reshape(-1)
        block = torch.repeat_interleave(torch.arange(flat.numel(), device=here), flat)
        within = torch.arange(len(block), device=here) - (flat.cumsum(0) - flat)[block]
        segments = block % n_blocks
        meta = segments == n_blocks - 1
        source = starts.reshape(-1)[block] + within
        values = self._values[source]
        values = (values.int() & 0xFFFF).float() if self._whole else values
        ranks = within if self._ranks is None else self._ranks[source].long()
        batch = Batch(
            genes=self._genes[source].long().masked_fill(meta, 0),
            values=values.masked_fill(meta, 0.0),
            ranks=ranks.masked_fill(meta, 0),
            segments=segments,
            sequences=block // n_blocks,
            technologies=self._technologies[cells],
            n_segments=n_blocks - 1,
        )
        return batch if self.resident else move_batch(batch, self._device)


def move_batch(batch: Batch, device: torch.device) -> Batch:
    """Return ``batch`` on ``device``."""
    moved: dict[str, Any] = {f.name: getattr(batch, f.name) for f in fields(batch)}
    for name, value in moved.items():
        moved[name] = value.to(device) if isinstance(value, Tensor) else value
    return Batch(**moved)
