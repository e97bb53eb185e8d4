"""scjepa: joint-embedding predictive models for spatial transcriptomics and single cells.

Submodules load on first use, so that ``import scjepa`` is quick and ``scjepa.nn``, ``scjepa.tokens`` and
``scjepa.training`` need only torch, numpy, scipy and lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scjepa._core.settings import settings

__version__ = "0.1.0"

_SUBMODULES = (
    "benchmark",
    "datasets",
    "metrics",
    "models",
    "nn",
    "perturbation",
    "pl",
    "pretrained",
    "tl",
    "tokens",
    "training",
)
_CONFIGURATION = (
    "PRESETS",
    "EncoderConfig",
    "MaskingConfig",
    "ObjectiveConfig",
    "STJEPAConfig",
    "TokenConfig",
    "TrainConfig",
)
_CELL_CONFIGURATION = (
    "CELL_PRESETS",
    "CellEncoderConfig",
    "CellJEPAConfig",
    "CellMaskingConfig",
    "CellObjectiveConfig",
    "CellTokenConfig",
    "CellTrainConfig",
    "FinetuneConfig",
    "PerturbationConfig",
)
_OBJECTS = {
    "CellJEPA": "scjepa.celljepa",
    "STJEPA": "scjepa.stjepa",
    **dict.fromkeys(("concat", "table_of"), "scjepa.datasets"),
    **dict.fromkeys(_CONFIGURATION, "scjepa.stjepa.config"),
    **dict.fromkeys(_CELL_CONFIGURATION, "scjepa.celljepa.config"),
}

__all__ = [
    "CELL_PRESETS",
    "PRESETS",
    "STJEPA",
    "CellEncoderConfig",
    "CellJEPA",
    "CellJEPAConfig",
    "CellMaskingConfig",
    "CellObjectiveConfig",
    "CellTokenConfig",
    "CellTrainConfig",
    "EncoderConfig",
    "FinetuneConfig",
    "MaskingConfig",
    "ObjectiveConfig",
    "PerturbationConfig",
    "STJEPAConfig",
    "TokenConfig",
    "TrainConfig",
    "__version__",
    "benchmark",
    "concat",
    "datasets",
    "metrics",
    "models",
    "nn",
    "perturbation",
    "pl",
    "pretrained",
    "settings",
    "table_of",
    "tl",
    "tokens",
    "training",
]

if TYPE_CHECKING:
    from scjepa import benchmark, datasets, metrics, models, nn, perturbation, pl, pretrained, tl, tokens, training
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
    from scjepa.celljepa.model import CellJEPA
    from scjepa.datasets import concat, table_of
    from scjepa.stjepa.config import PRESETS, EncoderConfig, MaskingConfig, ObjectiveConfig, STJEPAConfig
    from scjepa.stjepa.model import STJEPA
    from scjepa.tokens.config import TokenConfig
    from scjepa.training.config import TrainConfig


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"scjepa.{name}")
    if name in _OBJECTS:
        return getattr(import_module(_OBJECTS[name]), name)
    raise AttributeError(f"module 'scjepa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
