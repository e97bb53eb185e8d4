"""The token table on a device, ready to be gathered into batches: base of the sources of all models."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from scjepa.celljepa.batch import CellBatch
from scjepa.stjepa.batch import Batch
from scjepa.tokens.memory import available_memory
from scjepa.tokens.table import TokenTable

BatchT = TypeVar("BatchT", bound=Batch | CellBatch)


RESIDENT_SHARE = 0.5
"""Share of a device's free memory that tables may take; the rest is for weights and activations."""


class TableSource:
    """The token table of cells, ready to be gathered into batches on a device; base of what gathers them.

    Tables that take no more than half of the device's free memory are moved there. Larger ones stay where they are, in
    the computer's memory or mapped from disk: their batches are gathered there and moved. The batches are the same.

    Parameters
    ----------
    table
        Tokens of every cell.
    """

    _TABLES: tuple[str, ...] = ("_offsets", "_genes", "_values", "_ranks")
    """Attributes that hold a tensor, or ``None``, and move with the source."""
    _NOT_EMBEDDED: tuple[str, ...] = ()
    """Those of them that embeddings do not depend on."""

    def __init__(self, table: TokenTable):
        self.n_cells = table.n_cells
        # Not every device indexes uint16, so whole numbers travel as the bits of int16.
        self._is_uint16 = table.values.dtype == np.uint16
        self._offsets = torch.from_numpy(table.offsets)
        self._genes = torch.from_numpy(table.genes)
        self._values = torch.from_numpy(table.values.view(np.int16) if self._is_uint16 else table.values)
        self._ranks = None if table.ranks is None else torch.from_numpy(table.ranks)

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

    def to(self, device: torch.device | str) -> Self:
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
        tables = (getattr(self, name) for name in self._TABLES if name not in self._NOT_EMBEDDED)
        return [np.empty(0) if table is None else table.cpu().numpy() for table in tables]

    def other_arrays(self) -> list[np.ndarray]:
        """Return what training reads beside that: labels, or technologies."""
        tables = (getattr(self, name) for name in self._NOT_EMBEDDED)
        return [np.empty(0) if table is None else table.cpu().numpy() for table in tables]

    def cell_lengths(self) -> Tensor:
        """``(n_cells,)`` int64 tokens of each cell, where the tables are."""
        return self._offsets.diff()

    def sequence_lengths(self, cells: Tensor | None = None, training: bool = False) -> Tensor:
        """``(n,)`` int64 tokens of the sequences of ``cells`` (default: all) when embedded, or when trained on."""
        raise TypeError(f"{type(self).__name__} does not say how long its sequences are.")

    def batch(self, cells: Tensor) -> Any:
        """Gather the batch of ``cells``, ``(B,)`` int64, as it is embedded."""
        raise TypeError(f"{type(self).__name__} does not say what its batches are.")

    def _values_of(self, tokens: Tensor) -> Tensor:
        """Return the values of ``tokens`` as float32."""
        values = self._values[tokens]
        return (values.int() & 0xFFFF).float() if self._is_uint16 else values


def move_batch(batch: BatchT, device: torch.device) -> BatchT:
    """Return ``batch``, a dataclass of tensors and other things, on ``device``."""
    tensors = {f.name: getattr(batch, f.name) for f in fields(batch) if isinstance(getattr(batch, f.name), Tensor)}
    return replace(batch, **{name: tensor.to(device) for name, tensor in tensors.items()})
