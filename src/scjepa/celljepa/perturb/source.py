"""Control cells paired with perturbed cells, as packed batches of gene tokens."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scjepa.celljepa.perturb.module import PerturbedBatch
from scjepa.celljepa.source import CellSource, mixed
from scjepa.tokens.source import move_batch, runs_of
from scjepa.tokens.table import TokenTable


class PerturbedSource(CellSource):
    """Cells of a perturbation screen, ready to be gathered into batches.

    A batch has genes that a cell does not express too, with bin 0: what a perturbation does to them is asked as well.

    Parameters
    ----------
    table
        All expressed genes of every cell.
    expression
        ``(n_tokens,)`` float32 log-normalized expression of the table's tokens.
    conditions
        ``(n_cells,)`` codes.
    perturbed
        ``(n_conditions, K)`` ids of the genes that each condition perturbs, padded with -1; ids from the size of the
        vocabulary on are genes outside it.
    panel
        Vocabulary ids of the genes that were measured.
    controls
        Control cells to pair perturbed cells with.
    changes
        ``(n_conditions, n_vocabulary)`` mean change of expression from control.
    n_tokens
        Genes of a cell in a batch, at most. Perturbed genes are always among them, the others are drawn.
    device
        Where the batches are wanted.
    """

    _TABLES = (*CellSource._TABLES, "_expression", "_perturbed", "_panel", "_controls", "_changes")

    def __init__(
        self,
        table: TokenTable,
        expression: np.ndarray,
        conditions: np.ndarray,
        perturbed: np.ndarray,
        panel: np.ndarray,
        controls: np.ndarray,
        changes: np.ndarray,
        n_tokens: int,
        device: torch.device | str = "cpu",
    ):
        if not len(controls):
            raise ValueError("There are no control cells to begin with.")
        self.n_vocabulary = table.n_vocabulary
        fixed = np.argsort(mixed(table.n_vocabulary)[panel], kind="stable")  # an order that no data decides
        self._expression = torch.from_numpy(np.asarray(expression, dtype=np.float32))
        self._perturbed = torch.from_numpy(np.asarray(perturbed, dtype=np.int64))
        self._panel = torch.from_numpy(np.asarray(panel, dtype=np.int64)[fixed])
        self._controls = torch.from_numpy(np.asarray(controls, dtype=np.int64))
        self._changes = torch.from_numpy(np.asarray(changes, dtype=np.float32))
        super().__init__(table, n_tokens, labels=conditions, device=device)

    def sequence_lengths(self, cells: Tensor | None = None, training: bool = True) -> Tensor:
        """``(n,)`` int64 tokens of the sequences that are trained on, ``<cls>`` included."""
        n = self.n_cells if cells is None else len(cells)
        length = min(len(self._panel) + self._perturbed.shape[1], self.n_tokens) + 1
        return torch.full((n,), length, dtype=torch.int64, device=self.table_device)

    def pairs(self, cells: Tensor, generator: torch.Generator | None = None) -> PerturbedBatch:
        """Return control cells that are to become ``cells``.

        Parameters
        ----------
        cells
            ``(B,)`` int64.
        generator
            Draws a control cell for each, and genes where there are too many. Default: both by rule.
        """
        cells = cells.to(self.table_device)
        if generator is None:
            begin = self._controls[cells % len(self._controls)]
        else:
            draw = torch.randint(len(self._controls), (len(cells),), device=generator.device, generator=generator)
            begin = self._controls[draw.to(self.table_device)]
        codes = self._labels[cells]
        perturbed = self._perturbed[codes]
        batch = self._marked(begin, perturbed, self._drawn(len(cells), generator), codes)
        inside = batch.genes < self.n_vocabulary
        place = batch.genes.masked_fill(~inside, 0)
        truth = self._dense(cells, self._expression)
        found = move_batch(super().batch(cells, generator), self.table_device)
        batch = PerturbedBatch(
            batch.genes,
            batch.values,
            batch.sequences,
            batch.labels,
            batch.perturbed,
            expression=truth[batch.sequences, place] * inside,
            change=self._changes[codes[batch.sequences], place] * inside,
            truth_genes=found.genes,
            truth_values=found.values,
            truth_sequences=found.sequences,
        )
        return self._moved(batch)

    def gene_groups(self) -> list[Tensor]:
        """Return the measured genes, ids, in groups small enough for a batch: the same whatever is predicted."""
        return list(self._panel.split(max(1, self.n_tokens - self._perturbed.shape[1])))

    def to_predict(self, cells: Tensor, perturbed: Tensor, genes: Tensor) -> PerturbedBatch:
        """Return control ``cells`` with ``perturbed`` genes, ``(K,)`` ids, marked, and ``genes``, ``(G,)`` ids."""
        cells = cells.to(self.table_device)
        n = len(cells)
        rows = perturbed.to(self.table_device).expand(n, -1), genes.to(self.table_device).expand(n, -1)
        return self._moved(self._marked(cells, *rows, torch.full((n,), -1, device=self.table_device)))

    def _drawn(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Return ``(n, G)`` measured genes, so many that perturbed ones have room beside them."""
        most = max(1, self.n_tokens - self._perturbed.shape[1])
        if len(self._panel) <= most:
            return self._panel.expand(n, -1)
        if generator is None:
            return self._panel[:most].expand(n, -1)
        keys = torch.rand(n, len(self._panel), device=generator.device, generator=generator)
        return self._panel[keys.topk(most, dim=1).indices.to(self.table_device)]

    def _marked(self, cells: Tensor, perturbed: Tensor, genes: Tensor, codes: Tensor) -> PerturbedBatch:
        """Return ``cells`` with ``perturbed`` genes (``(B, K)``, -1 for none) first and ``genes`` behind them."""
        twice = (genes[:, :, None] == perturbed[:, None, :]).any(2)
        tokens = torch.cat([perturbed, genes], dim=1)
        present = torch.cat([perturbed >= 0, ~twice], dim=1)
        rows = torch.arange(len(cells), device=cells.device)[:, None].expand_as(tokens)[present]
        flags = torch.zeros_like(present)
        flags[:, : perturbed.shape[1]] = True
        chosen = tokens[present]
        inside = chosen < self.n_vocabulary
        values = self._dense(cells, None)[rows, chosen.masked_fill(~inside, 0)] * inside
        return PerturbedBatch(chosen, values, rows, codes, flags[present])

    def _dense(self, cells: Tensor, column: Tensor | None) -> Tensor:
        """Return ``(B, n_vocabulary)`` values of ``cells``: of ``column``, or their bins; 0 where not expressed."""
        rows, within = runs_of(self.cell_lengths(cells))
        tokens = self._offsets[cells][rows] + within
        out = torch.zeros(len(cells), self.n_vocabulary, dtype=torch.float32, device=cells.device)
        out[rows, self._genes[tokens].long()] = self._values_of(tokens) if column is None else column[tokens]
        return out
