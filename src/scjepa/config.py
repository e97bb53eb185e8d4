"""Configurations of both models, and presets: what a model is and how it is trained, in frozen dataclasses.

Options may also be given as mappings, without importing any of these: ``STJEPA(adata, encoder={"n_layers": 4})``.
"""

from __future__ import annotations

from scjepa.celljepa.config import (
    CELL_PRESETS,
    CellEncoderConfig,
    CellJEPAConfig,
    CellMaskingConfig,
    CellObjectiveConfig,
    CellTokenConfig,
    CellTrainConfig,
    FinetuneConfig,
    PerturbationConfig,
)
from scjepa.stjepa.config import (
    PRESETS,
    EncoderConfig,
    IJEPAConfig,
    LeJEPAConfig,
    MaskingConfig,
    ObjectiveConfig,
    STJEPAConfig,
)
from scjepa.tokens.config import TokenConfig
from scjepa.training.config import TrainConfig

__all__ = [
    "CELL_PRESETS",
    "PRESETS",
    "CellEncoderConfig",
    "CellJEPAConfig",
    "CellMaskingConfig",
    "CellObjectiveConfig",
    "CellTokenConfig",
    "CellTrainConfig",
    "EncoderConfig",
    "FinetuneConfig",
    "IJEPAConfig",
    "LeJEPAConfig",
    "MaskingConfig",
    "ObjectiveConfig",
    "PerturbationConfig",
    "STJEPAConfig",
    "TokenConfig",
    "TrainConfig",
]
