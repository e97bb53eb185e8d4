"""What training on dissociated cells has of its own: Adam, a learning rate by epoch, and random splits."""

from __future__ import annotations

import numpy as np
import torch

from scjepa.celljepa.config import CellTrainConfig
from scjepa.training.plan import JEPATrainingPlan, held_out_groups, parameter_groups


class CellTrainingPlan(JEPATrainingPlan):
    """The shared plan with the optimizers and schedules of a :class:`~scjepa.config.CellTrainConfig`."""

    config: CellTrainConfig

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW or Adam, fused; learning rate and weight decay are set before each step."""
        if self.config.optimizer == "adamw":
            return super().configure_optimizers()
        fused = self.device.type in ("cpu", "cuda")
        groups = parameter_groups(self.module)
        return torch.optim.Adam(groups, lr=self.config.learning_rate, betas=self.config.betas, fused=fused)

    def _learning_rate(self, step: int, total: int) -> float:
        c = self.config
        if c.schedule == "cosine":
            return super()._learning_rate(step, total)
        n_warmup = round(c.warmup * total)
        rise = min(1.0, (step + 1) / (n_warmup + 1))
        return c.learning_rate * rise * c.decay**self.current_epoch


def hold_out_cells(
    cells: np.ndarray, size: float, groups: np.ndarray | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Split cells at random, each by itself, or by whole groups.

    Dissociated cells have no neighbors that a random split would leak to.

    Parameters
    ----------
    cells
        ``(n,)`` cells to split.
    size
        Share of cells to hold out, at least one of them; 0 holds out none.
    groups
        ``(n,)`` codes, such as each cell's batch: whole groups are held out, and never all of them. Default: every cell
        is a group of its own.
    seed
        Which cells or groups.

    Returns
    -------
    tuple
        Sorted training cells and sorted held-out cells.

    Raises
    ------
    ValueError
        If there are not two groups (or cells) to tell apart.
    """
    if size == 0:
        return np.sort(cells), np.empty(0, dtype=np.int64)
    units = np.arange(len(cells)) if groups is None else np.asarray(groups)
    if len(np.unique(units)) < 2:
        what = "cells" if groups is None else "batches"
        raise ValueError(f"There are not two {what}, of which one could be held out. Pass validation_size=0.")
    outside = held_out_groups(units, size, seed)
    return np.sort(cells[~outside]), np.sort(cells[outside])
