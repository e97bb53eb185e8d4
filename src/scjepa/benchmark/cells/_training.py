"""How Cell-JEPA's models of a comparison are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scjepa._core.plain import take_plain
from scjepa.celljepa.config import CellJEPAConfig, resolve_cells


@dataclass(frozen=True)
class CellTraining:
    """How :func:`~scjepa.benchmark.run_cells` trains Cell-JEPA's models.

    Parameters
    ----------
    preset
        Of Cell-JEPA, of reconstruction alone and of the untrained encoder: a name or a whole configuration. Gene
        modules have a preset of their own, ``"modules"``.
    changes
        Changes to that preset by part, such as ``{"objective": {"target_norm": "batch"}}``.
    max_steps
        Steps of pretraining of every model. Default: its preset's.
    finetune_epochs
        Passes of fine-tuning over the labelled cells. Default: the preset's.
    accelerator
        Device, by Lightning's name.
    models
        Folder of pretrained models, which comparisons on several targets may share: they are found again by
        configuration, seed and cells. Default: ``models`` in the comparison's ``out``.
    """

    preset: str | CellJEPAConfig = "demo"
    changes: Mapping[str, Any] | None = None
    max_steps: int | None = None
    finetune_epochs: int | None = None
    accelerator: str = "auto"
    models: str | Path | None = None

    def __post_init__(self) -> None:
        take_plain(self)

    def lengthened(self, config: CellJEPAConfig) -> CellJEPAConfig:
        """Return a configuration with these numbers of steps and epochs."""
        if self.max_steps is not None:
            config = resolve_cells(config, training={"max_steps": self.max_steps, "max_epochs": None})
        if self.finetune_epochs is not None:
            training = replace(config.finetuning.training, max_epochs=self.finetune_epochs, max_steps=None)
            config = resolve_cells(config, finetuning={"training": training})
        return config
