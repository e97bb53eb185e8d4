"""Cell-JEPA: embeddings of dissociated cells, their labels, and their answers to perturbations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.renamed import lazy

if TYPE_CHECKING:
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
    from scjepa.celljepa.data import build_expression_table
    from scjepa.celljepa.gene_modules import GeneModuleJEPAModule, ModuleObjective, hide_modules
    from scjepa.celljepa.latent import generate, with_unknown
    from scjepa.celljepa.model import CellJEPA
    from scjepa.celljepa.module import CELL_POOLING, CONTRASTS, CellEncoder, CellJEPAModule, CellObjective, hide
    from scjepa.celljepa.perturb.module import PerturbationJEPAModule, PerturbedBatch
    from scjepa.celljepa.source import CellBatch, CellSource
    from scjepa.celljepa.training import CellTrainingPlan, hold_out_cells

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
