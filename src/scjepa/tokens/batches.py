"""Neighbourhoods as packed batches of tokens: index cells -> gather neighbours -> gather tokens.

All on one device and without a loop over cells: a batch holds real tokens only, one sequence after the other, never
padding. The loader of a training run therefore has nothing to do but name the cells.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scjepa.nn.batch import Batch
from scjepa.tokens.cells import TokenTable
from scjepa.tokens.neighborhoods import NeighborTable


class TokenSource:
    """The token and neighbour tables on a device, ready to be gathered into batches.

    Parameters
    ----------
    table
        Tokens of every cell.
    neighbors
        Nearest neighbours of every cell.
    technologies
        ``(n_cells,)`` integer technology codes.
    device
        Where the tables live and the batches are made.
    """

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
        self._offsets = torch.from_numpy(table.offsets)
        self._genes = torch.from_numpy(table.genes)
        self._values = torch.from_numpy(table.values)
        self._ranks = None if table.ranks is None else torch.from_numpy(table.ranks)
        self._neighbors = torch.from_numpy(neighbors.index)
        self._technologies = torch.from_numpy(np.asarray(technologies, dtype=np.int64))
        self.to(device)

    @property
    def device(self) -> torch.device:
        """Where the tables live."""
        return self._offsets.device

    def to(self, device: torch.device | str) -> TokenSource:
        """Move the tables to ``device``, in place."""
        for name in ("_offsets", "_genes", "_values", "_ranks", "_neighbors", "_technologies"):
            tensor = getattr(self, name)
            setattr(self, name, None if tensor is None else tensor.to(device))
        return self

    def cell_lengths(self) -> Tensor:
        """``(n_cells,)`` int64 tokens of each cell."""
        return self._offsets.diff()

    def neighborhood_lengths(self) -> Tensor:
        """``(n_cells,)`` int64 tokens of each cell's neighbourhood, metatoken not counted."""
        lengths = self.cell_lengths()
        within = torch.where(self._neighbors >= 0, lengths[self._neighbors.long().clamp_min(0)], 0)
        return lengths + within.sum(1)

    def batch(self, cells: Tensor, metatoken: Tensor | bool = False) -> Batch:
        """Gather the neighbourhoods of ``cells``.

        Parameters
        ----------
        cells
            ``(B,)`` int64 index cells.
        metatoken
            Whether each sequence ends with its technology token: one bool, or ``(B,)`` bool.
        """
        cells = cells.to(self.device)
        members = torch.cat([cells[:, None], self._neighbors[cells].long()], dim=1)
        present = members >= 0
        members = members.clamp_min(0)
        starts = self._offsets[members]
        lengths = torch.where(present, self._offsets[members + 1] - starts, 0)
        with_metatoken = torch.as_tensor(metatoken, device=self.device).expand(len(cells))
        starts = torch.cat([starts, torch.zeros_like(starts[:, :1])], dim=1)
        lengths = torch.cat([lengths, with_metatoken.long()[:, None]], dim=1)

        n_blocks = self.n_neighbors + 2
        flat = lengths.reshape(-1)
        block = torch.repeat_interleave(torch.arange(flat.numel(), device=self.device), flat)
        within = torch.arange(len(block), device=self.device) - (flat.cumsum(0) - flat)[block]
        source = starts.reshape(-1)[block] + within
        segments = block % n_blocks
        meta = segments == n_blocks - 1
        values = self._values[source].float()
        ranks = within if self._ranks is None else self._ranks[source].long()
        return Batch(
            genes=self._genes[source].long().masked_fill(meta, 0),
            values=values.masked_fill(meta, 0.0),
            ranks=ranks.masked_fill(meta, 0),
            segments=segments,
            sequences=block // n_blocks,
            technologies=self._technologies[cells],
            n_segments=n_blocks - 1,
        )
