"""Cell-JEPA: embeddings of dissociated cells, their labels, and their answers to perturbations."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    **dict.fromkeys(("CellJEPA",), "scjepa.celljepa.model"),
    **dict.fromkeys(("CellBatch",), "scjepa.celljepa.batch"),
    **dict.fromkeys(("CellSource",), "scjepa.celljepa.source"),
    **dict.fromkeys(
        (
            "CELL_PRESETS",
            "CellEncoderConfig",
            "CellJEPAConfig",
            "CellMaskingConfig",
            "CellObjectiveConfig",
            "CellTokenConfig",
            "CellTrainConfig",
            "FinetuneConfig",
            "PerturbationConfig",
        ),
        "scjepa.celljepa.config",
    ),
    **dict.fromkeys(("CONTRASTS",), "scjepa.celljepa.contrast"),
    **dict.fromkeys(("CellEncoder",), "scjepa.celljepa.encoder"),
    **dict.fromkeys(("build_expression_table",), "scjepa.celljepa.expression"),
    **dict.fromkeys(("generate", "with_unknown"), "scjepa.celljepa.generation"),
    **dict.fromkeys(("hide",), "scjepa.celljepa.masking"),
    **dict.fromkeys(("CELL_POOLING", "CellJEPAModule"), "scjepa.celljepa.module"),
    **dict.fromkeys(("ModuleObjective", "GeneModuleJEPAModule", "hide_modules"), "scjepa.celljepa.module_encoder"),
    **dict.fromkeys(("CellObjective",), "scjepa.celljepa.objective"),
    **dict.fromkeys(("PerturbationJEPAModule", "PerturbedBatch"), "scjepa.celljepa.perturb.module"),
    **dict.fromkeys(("CellTrainingPlan", "hold_out_cells"), "scjepa.celljepa.training"),
}
"""Public names and the modules that hold them; each is loaded on first use."""

__all__ = [
    "CELL_POOLING",
    "CELL_PRESETS",
    "CONTRASTS",
    "CellBatch",
    "CellEncoder",
    "CellEncoderConfig",
    "CellJEPA",
    "CellJEPAConfig",
    "CellJEPAModule",
    "CellMaskingConfig",
    "CellObjective",
    "CellObjectiveConfig",
    "CellSource",
    "CellTokenConfig",
    "CellTrainConfig",
    "CellTrainingPlan",
    "FinetuneConfig",
    "GeneModuleJEPAModule",
    "ModuleObjective",
    "PerturbationConfig",
    "PerturbationJEPAModule",
    "PerturbedBatch",
    "build_expression_table",
    "generate",
    "hide",
    "hide_modules",
    "hold_out_cells",
    "with_unknown",
]

if TYPE_CHECKING:
    from scjepa.celljepa.batch import CellBatch
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
    from scjepa.celljepa.contrast import CONTRASTS
    from scjepa.celljepa.encoder import CellEncoder
    from scjepa.celljepa.expression import build_expression_table
    from scjepa.celljepa.generation import generate, with_unknown
    from scjepa.celljepa.masking import hide
    from scjepa.celljepa.model import CellJEPA
    from scjepa.celljepa.module import CELL_POOLING, CellJEPAModule
    from scjepa.celljepa.module_encoder import GeneModuleJEPAModule, ModuleObjective, hide_modules
    from scjepa.celljepa.objective import CellObjective
    from scjepa.celljepa.perturb.module import PerturbationJEPAModule, PerturbedBatch
    from scjepa.celljepa.source import CellSource
    from scjepa.celljepa.training import CellTrainingPlan, hold_out_cells


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
