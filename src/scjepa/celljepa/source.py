"""The packed batch of cells and the source of it: genes drawn for training, chosen by a rule for embedding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor

from scjepa.nn.attention import count_by_group, rank_in_group
from scjepa.tokens.source import TableSource, chosen, runs_of
from scjepa.tokens.table import TokenTable


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
        return count_by_group(self.sequences, self.n_sequences)

    def select(self, keep: Tensor) -> CellBatch:
        """Return the batch of the tokens ``keep`` (``(T,)`` bool or sorted indices); cells keep their rows."""
        return chosen(self, keep, ("genes", "values", "sequences"))


class CellSource(TableSource[CellBatch]):
    """The expression table of cells, ready to be gathered into batches on a device.

    Parameters
    ----------
    table
        All expressed genes of every cell, by (-count, vocabulary id).
    n_tokens
        Genes of a cell in a batch, at most, where they are drawn.
    kept
        Which are kept where nothing is drawn: ``"top"`` or ``"spread"``, as in :class:`scjepa.config.CellTokenConfig`.
        Either depends on the cell and the vocabulary alone.
    labels
        ``(n_cells,)`` integer label codes, -1 for none; default: none has one.
    device
        Where the batches are wanted.
    n_embedded
        Genes of a cell at most where nothing is drawn; default: ``n_tokens``.
    """

    _TABLES = (*TableSource._TABLES, "_labels", "_order")
    _NOT_EMBEDDED = ("_labels",)

    def __init__(
        self,
        table: TokenTable,
        n_tokens: int,
        kept: str = "top",
        labels: np.ndarray | None = None,
        device: torch.device | str = "cpu",
        n_embedded: int | None = None,
    ):
        super().__init__(table)
        codes = np.full(table.n_cells, -1) if labels is None else np.asarray(labels)
        if len(codes) != table.n_cells:
            raise ValueError(f"There are {table.n_cells} cells and {len(codes)} labels.")
        self._n_expressed = table.lengths
        self.n_tokens = n_tokens
        self.n_embedded = n_tokens if n_embedded is None else n_embedded
        self._labels = torch.from_numpy(codes.astype(np.int64))
        self._order = torch.from_numpy(mixed(table.n_vocabulary)) if kept == "spread" else None
        self.to(device)

    def sequence_lengths(self, cells: Tensor | None = None, training: bool = False) -> Tensor:
        """``(n,)`` int64 tokens of ``cells`` (default: all) in a batch, ``<cls>`` included."""
        lengths = self.cell_lengths(cells)
        return lengths.clamp_max(self.n_tokens if training else self.n_embedded) + 1

    def arrays(self) -> list[np.ndarray]:
        """Return what embeddings depend on: the tables, and how many genes of a cell are kept."""
        return [*super().arrays(), np.array([self.n_embedded])]

    def batch(self, cells: Tensor, generator: torch.Generator | None = None) -> CellBatch:
        """Gather the genes of ``cells``.

        Parameters
        ----------
        cells
            ``(B,)`` int64.
        generator
            Draws the genes of cells that have more than ``n_tokens``, uniformly; on the device of the batches.
            Default: they are chosen by rule, the same whatever the batch.
        """
        here, most = self.table_device, self.n_embedded if generator is None else self.n_tokens
        own = cells.cpu().numpy()  # known without asking the device, as training names them
        cells = cells.to(here)
        lengths = self.cell_lengths(cells)
        by_order = generator is None and self._order is None
        if by_order:
            lengths = lengths.clamp_max(most)  # the table's order is the rule
        rows, within = runs_of(lengths)
        tokens = self._offsets[cells][rows] + within
        if not by_order and self._n_expressed[own].max(initial=0) > most:
            if generator is not None:
                keys = torch.rand(len(rows), device=generator.device, generator=generator).to(here)
            else:
                keys = cast(Tensor, self._order)[self._genes[tokens].long()]
            kept = rank_in_group(rows, keys) < most
            tokens, rows = tokens[kept], rows[kept]
        return self._moved(CellBatch(self._genes[tokens].long(), self._values_of(tokens), rows, self._labels[cells]))


def mixed(n: int) -> np.ndarray:
    """Return a pseudo-random int64 key of each of the numbers 0..n-1: no two alike, and that of a number is fixed.

    The mixing steps are those of the generator splitmix64, each of which is one to one.
    """
    with np.errstate(over="ignore"):
        x = (np.arange(n, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (x ^ (x >> np.uint64(31))).view(np.int64)
