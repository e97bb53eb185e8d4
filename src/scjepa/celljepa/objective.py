"""Cell-JEPA's objective: reconstruct hidden values and predict the teacher's view of the whole cell."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scjepa.celljepa.batch import CellBatch
from scjepa.celljepa.config import CellJEPAConfig, CellMaskingConfig, CellObjectiveConfig
from scjepa.celljepa.encoder import CellEncoder
from scjepa.celljepa.losses import (
    JEPA_DISTANCES,
    CellValueHead,
    ObjectiveOfCells,
    ValueHead,
    add_weighted,
    as_target,
    contrast,
    guards,
)
from scjepa.nn.groups import rank_in_group
from scjepa.nn.losses import PooledHead
from scjepa.nn.objective import VIEWS, ObjectiveOutput, Ratio


def hide(batch: CellBatch, ratios: tuple[float, ...], generator: torch.Generator | None = None) -> Tensor:
    """Draw the genes to hide: round(ratio · n) of each cell's n, at least one where it has two or more, never all.

    Parameters
    ----------
    batch
        The cells.
    ratios
        Shares, of which one is drawn for the batch.
    generator
        Source of chance, on the batch's device.

    Returns
    -------
    Tensor
        ``(T,)`` bool, true where hidden. ``<cls>`` is no gene and never hidden.
    """
    device = batch.genes.device
    which = torch.randint(len(ratios), (), device=device, generator=generator) if len(ratios) > 1 else 0
    ratio = torch.tensor(ratios, device=device)[which]
    keys = torch.rand(batch.n_tokens, device=device, generator=generator)
    n_hidden = torch.round(ratio * batch.lengths).long().clamp_min(1)
    n_hidden = torch.minimum(n_hidden, (batch.lengths - 1).clamp_min(0))
    return rank_in_group(batch.sequences, keys) < n_hidden[batch.sequences]


class CellObjective(ObjectiveOfCells):
    """The heads, and the loss that the weights of a :class:`~scjepa.config.CellObjectiveConfig` make of them.

    loss = w_reconstruction · MSE(value head(hidden genes), bins)
    + w_jepa · (1 - cos(predictor(student's <cls>), teacher's <cls>)), or the squared difference,
    + w_cell_reconstruction · MSE(cell value head(gene, student's <cls>), bins) + w_cell_prompt · MSE of a second pass
    + w_contrast · ECS(student's <cls>) + the guards of the JEPA term, where that has a weight.

    Pretraining and fine-tuning share the heads and differ in weights and mask (:meth:`prepare`).

    Parameters
    ----------
    config
        The model's configuration.
    """

    ratios: ClassVar = {
        **ObjectiveOfCells.ratios,
        "cell": Ratio("loss at cells {:.2f} times that of predicting the mean cell", "cells"),
        "views": VIEWS,
    }
    passes = 1.4  # hidden genes, too, look at visible ones: measured

    def __init__(self, config: CellJEPAConfig):
        super().__init__()
        self._width, self._highest = config.encoder.width, config.tokens.n_bins - 1
        self.heads = nn.ModuleDict()
        self.prepare(config.objective, config.masking)

    def prepare(self, objective: CellObjectiveConfig, masking: CellMaskingConfig) -> None:
        """Optimize ``objective`` under ``masking`` from now on; heads it needs are made where they are not there."""
        self.config, self.masking = objective, masking
        reads_tokens = objective.reconstruction_weight > 0 or objective.cell_prompt_weight > 0
        if reads_tokens and "value" not in self.heads:
            self.heads["value"] = ValueHead(self._width, self._highest)
        if objective.jepa_weight > 0 and objective.predictor == "mlp" and "predictor" not in self.heads:
            self.heads["predictor"] = PooledHead(self._width)
        if objective.cell_reconstruction_weight > 0 and "cell_value" not in self.heads:
            self.heads["cell_value"] = CellValueHead(self._width, self._highest)

    def forward(
        self, context: CellEncoder, target: CellEncoder, batch: CellBatch, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Return the loss of ``batch``; what is hidden is drawn from ``generator``."""
        config = self.config
        hidden = hide(batch, self.masking.ratios, generator)
        cells, tokens = context(batch, hidden)
        cells = cells.float()
        genes, rows, wanted = batch.genes[hidden], batch.sequences[hidden], batch.values[hidden]
        output = ObjectiveOutput(loss=cells.sum() * 0.0)
        terms: dict[str, Tensor] = {}
        if config.reconstruction_weight > 0 and len(genes):
            values = self.heads["value"](tokens)
            terms["reconstruction"] = F.mse_loss(values, wanted)
            output.predictions, output.targets, output.genes = values.detach()[:, None], wanted[:, None], genes
        if config.jepa_weight > 0:
            with torch.no_grad():
                seen = batch if config.target_view == "all" else batch.select(hidden)
                taught = as_target(target(seen)[0], config)
            predicted = self.heads["predictor"](cells).float() if config.predictor == "mlp" else cells
            distance = JEPA_DISTANCES[config.jepa_distance]
            terms["jepa"] = distance(predicted, taught)
            if config.predictor == "mlp":
                name, other = "cell", taught.mean(0, keepdim=True).expand_as(taught)
            else:  # an embedding does not shrink to the mean where it knows nothing; another cell's is what to beat
                name, other = "views", predicted.detach().roll(1, 0)
            output.ratios[name] = terms["jepa"].detach() / distance(other, taught).clamp_min(1e-12)
            terms |= guards(cells, config)
        if config.cell_reconstruction_weight > 0 and len(genes):
            read = self.heads["cell_value"](context.embedding.gene(genes), cells[rows])
            terms["cell_reconstruction"] = F.mse_loss(read, wanted)
        if config.cell_prompt_weight > 0 and batch.n_tokens:
            prompted = context(batch, torch.ones_like(hidden), cells.detach())[1]
            terms["cell_prompt"] = F.mse_loss(self.heads["value"](prompted), batch.values)
        if config.contrast_weight > 0:
            terms["contrast"] = contrast(cells, batch.labels, config)
        add_weighted(output, terms, config)
        return output
