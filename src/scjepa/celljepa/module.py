"""Cell-JEPA as a plain torch module: student, EMA teacher and the objective with its heads."""

from __future__ import annotations

import torch
from torch import Tensor

from scjepa._core.options import unknown_name
from scjepa.celljepa.batch import CellBatch
from scjepa.celljepa.config import CellJEPAConfig
from scjepa.celljepa.encoder import CellEncoder
from scjepa.celljepa.objective import CellObjective
from scjepa.celljepa.source import CellSource
from scjepa.nn.groups import mean_by_group
from scjepa.nn.jepa import JEPAModule

CELL_POOLING = ("cls", "genes")
"""How a cell becomes one vector: its ``<cls>``, or the mean of its genes' vectors."""

STAGES = ("pretraining", "finetuning")


class CellJEPAModule(JEPAModule[CellSource, CellBatch]):
    """Student (``context``), EMA teacher (``target``) and objective of Cell-JEPA.

    Parameters
    ----------
    n_genes
        Size of the gene vocabulary.
    config
        The resolved configuration.
    """

    config: CellJEPAConfig
    context: CellEncoder
    target: CellEncoder
    objective: CellObjective

    def __init__(self, n_genes: int, config: CellJEPAConfig):
        super().__init__(config, CellEncoder(n_genes, config), CellObjective(config))

    def begin(self, stage: str) -> None:
        """Take up ``"pretraining"`` or ``"finetuning"``: its weights, its mask, and heads not needed before."""
        if stage not in STAGES:
            raise ValueError(unknown_name("stage", stage, STAGES))
        options = self.config if stage == "pretraining" else self.config.finetuning
        self.objective.prepare(options.objective, options.masking)
        self.objective.to(self.context.embedding.cls.device)

    def forward(self, batch: CellBatch, encoder: str = "target") -> tuple[Tensor, Tensor]:
        """Return ``<cls>``, ``(B, width)``, and gene vectors, ``(T, width)``, of an encoder that sees all values."""
        return self.encoder(encoder)(batch, genes=True)

    def gather(self, source: CellSource, cells: Tensor, generator: torch.Generator | None = None) -> CellBatch:
        """Return the tokens of ``cells``; with ``generator`` long cells' genes are drawn, else chosen by rule."""
        return source.batch(cells, generator)

    def monitored(self, source: CellSource, cells: Tensor, generator: torch.Generator) -> tuple[CellBatch, CellBatch]:
        """Draw as many genes of a cell as training does: all of them would cost more."""
        batch = self.gather(source, cells, generator)
        return batch, batch

    def embed(self, batch: CellBatch, encoder: str = "target", scale: str = "cls") -> Tensor:
        """Return one vector for each cell, ``(B, width)`` float32: 0 for cells without genes."""
        if scale not in CELL_POOLING:
            raise ValueError(unknown_name("scale", scale, CELL_POOLING))
        cells, genes = self.encoder(encoder)(batch, genes=scale == "genes")
        if scale == "genes":
            return mean_by_group(genes.float(), batch.sequences, batch.n_sequences)
        return cells.float() * (batch.lengths > 0)[:, None]
