"""Cell-JEPA: embeddings of dissociated cells, their labels, and their answers to perturbations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.lazy import lazy

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
    from scjepa.celljepa.encoder import CellEncoder
    from scjepa.celljepa.expression import build_expression_table
    from scjepa.celljepa.generation import generate, with_unknown
    from scjepa.celljepa.losses import CONTRASTS
    from scjepa.celljepa.model import CellJEPA
    from scjepa.celljepa.module import CELL_POOLING, CellJEPAModule
    from scjepa.celljepa.module_encoder import GeneModuleJEPAModule, ModuleObjective, hide_modules
    from scjepa.celljepa.objective import CellObjective, hide
    from scjepa.celljepa.perturb.module import PerturbationJEPAModule, PerturbedBatch
    from scjepa.celljepa.source import CellSource
    from scjepa.celljepa.training import CellTrainingPlan, hold_out_cells

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

__getattr__, __dir__ = lazy(
    __name__,
    {
        "batch": ("CellBatch",),
        "config": (
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
        "encoder": ("CellEncoder",),
        "expression": ("build_expression_table",),
        "generation": ("generate", "with_unknown"),
        "losses": ("CONTRASTS",),
        "model": ("CellJEPA",),
        "module": ("CELL_POOLING", "CellJEPAModule"),
        "module_encoder": ("GeneModuleJEPAModule", "ModuleObjective", "hide_modules"),
        "objective": ("CellObjective", "hide"),
        "perturb.module": ("PerturbationJEPAModule", "PerturbedBatch"),
        "source": ("CellSource",),
        "training": ("CellTrainingPlan", "hold_out_cells"),
    },
)
