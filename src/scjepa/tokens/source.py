"""Where batches come from: tables on the device that has room for them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from scjepa.tokens.table import TokenTable

if TYPE_CHECKING:
    from dataclasses import Field


_CGROUP = Path("/sys/fs/cgroup")


def available_memory(device: torch.device | str = "cpu") -> int | None:
    """Return the bytes that can still be allocated on ``device``, ``None`` where that cannot be known.

    For the CPU this is what the system calls available, or what the container's limit leaves, whichever is less.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    known = [limit for limit in (_system_memory(), _container_memory()) if limit is not None]
    return min(known) if known and device.type == "cpu" else None


def _system_memory() -> int | None:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:  # macOS tells the whole memory only
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _container_memory() -> int | None:
    """Return what a control group's limit leaves; file pages that can be dropped do not count as used."""
    try:
        limit, used = ((_CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    if limit == "max":
        return None
    return max(0, int(limit) - int(used) + int(statistics.get("inactive_file", 0)))


def readable_bytes(n: float) -> str:
    """Return a number of bytes in words: ``"1.5 GiB"``."""
    for unit in ("bytes", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "bytes" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"


RESIDENT_SHARE = 0.5
"""Share of a device's free memory that tables may take; the rest is for weights and activations."""


class Batch(Protocol):
    """A packed batch of token sequences, a dataclass of tensors; each model has its own."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def n_sequences(self) -> int:
        """Cells that were asked for, B."""

    @property
    def n_tokens(self) -> int:
        """Tokens of all of them, T."""

    @property
    def genes(self) -> Tensor:
        """``(T,)`` vocabulary ids."""

    def select(self, keep: Tensor) -> Self:
        """Return the batch of the tokens ``keep``; sequences keep their rows."""


BatchT = TypeVar("BatchT", bound=Batch)
BatchT_co = TypeVar("BatchT_co", bound=Batch, covariant=True)


class ChunkReading(NamedTuple):
    """How cells that stay on disk are read.

    Attributes
    ----------
    chunks_of
        Gives the chunk that each of some cells, ``(n,)``, is read with.
    n_chunks
        Chunks that batches are drawn from at one time, because they are in memory.
    n_cells
        Cells of that many chunks.
    """

    chunks_of: Callable[[np.ndarray], np.ndarray]
    n_chunks: int
    n_cells: int


class TableSource(ABC, Generic[BatchT_co]):
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
    reading: ChunkReading | None = None
    """How cells that stay on disk are read; ``None``: all are at hand."""

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
        return self._arrays(name for name in self._TABLES if name not in self._NOT_EMBEDDED)

    def other_arrays(self) -> list[np.ndarray]:
        """Return what training reads beside that: labels, or technologies."""
        return self._arrays(self._NOT_EMBEDDED)

    def _arrays(self, names: Iterable[str]) -> list[np.ndarray]:
        tables = (getattr(self, name) for name in names)
        return [np.empty(0) if table is None else table.cpu().numpy() for table in tables]

    def cell_lengths(self, cells: Tensor | None = None) -> Tensor:
        """``(n,)`` int64 tokens of ``cells`` (default: all), where the tables are."""
        return self._offsets.diff() if cells is None else self._offsets[cells + 1] - self._offsets[cells]

    @abstractmethod
    def sequence_lengths(self, cells: Tensor | None = None, training: bool = False) -> Tensor:
        """``(n,)`` int64 tokens of the sequences of ``cells`` (default: all) when embedded, or when trained on."""

    @abstractmethod
    def batch(self, cells: Tensor) -> BatchT_co:
        """Gather the batch of ``cells``, ``(B,)`` int64, as it is embedded."""

    def _values_of(self, tokens: Tensor) -> Tensor:
        """Return the values of ``tokens`` as float32."""
        values = self._values[tokens]
        return (values.int() & 0xFFFF).float() if self._is_uint16 else values

    def _moved(self, batch: BatchT) -> BatchT:
        """Return ``batch`` where batches are wanted."""
        return batch if self.resident else move_batch(batch, self._device)


def runs_of(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each element of consecutive runs of these lengths, which run it is of and its place in it, int64."""
    runs = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    return runs, torch.arange(len(runs), device=lengths.device) - (lengths.cumsum(0) - lengths)[runs]


def chosen(batch: BatchT, keep: Tensor, columns: Iterable[str]) -> BatchT:
    """Return a batch with the rows ``keep`` of these columns, where it has them."""
    found = {name: getattr(batch, name) for name in columns}
    return replace(batch, **{name: None if x is None else x[keep] for name, x in found.items()})


def move_batch(batch: BatchT, device: torch.device) -> BatchT:
    """Return ``batch``, a dataclass of tensors and other things, on ``device``."""
    tensors = {f.name: getattr(batch, f.name) for f in fields(batch) if isinstance(getattr(batch, f.name), Tensor)}
    return replace(batch, **{name: tensor.to(device) for name, tensor in tensors.items()})
