"""What training on dissociated cells has of its own: Adam, a learning rate by epoch, and random splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from scjepa.celljepa.config import CellTrainConfig
from scjepa.celljepa.module import CellJEPAModule
from scjepa.training.plan import JEPATrainingPlan, parameter_groups
from scjepa.training.sampling import MONITOR, ORDER, derive_seed, generator


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

    def _monitor_batches(self, cells: torch.Tensor, batch_idx: int) -> tuple[Any, Any]:
        """Draw as many genes of a cell as training does, the same at every reading: all of them would cost more."""
        if not isinstance(
            self.module, CellJEPAModule
        ):  # what predicts perturbations is measured on control cells by rule
            return super()._monitor_batches(cells, batch_idx)
        batch = self.module.gather(self.source, cells, generator(self.device, self.seed, MONITOR, batch_idx, 1))
        return batch, batch

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
    names, sizes = np.unique(units, return_counts=True)
    if len(names) < 2:
        what = "cells" if groups is None else "batches"
        raise ValueError(f"There are not two {what}, of which one could be held out. Pass validation_size=0.")
    order = np.random.default_rng(derive_seed(seed, ORDER)).permutation(len(names))[: len(names) - 1]
    held = order[: 1 + int(np.searchsorted(np.cumsum(sizes[order]), size * len(cells)))]
    outside = np.isin(units, names[held])
    return np.sort(cells[~outside]), np.sort(cells[outside])
