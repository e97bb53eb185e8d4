"""Plain torch modules: embedding, attention, encoder, predictor, masking, objectives. Imports torch alone."""

from __future__ import annotations

from scjepa.nn.attention import ATTENTION_BACKENDS, Packing, attend, choose_backend
from scjepa.nn.batch import Batch
from scjepa.nn.cells import (
    CELL_POOLING,
    CONTRASTS,
    CellBatch,
    CellEncoder,
    CellObjective,
    CellTowers,
    ModuleObjective,
    ModuleTowers,
    PerturbationTowers,
    PerturbedBatch,
    generate,
    hide,
    hide_modules,
    with_unknown,
)
from scjepa.nn.embedding import RANK_ENCODERS, SEGMENT_ENCODERS, VALUE_ENCODERS, TokenEmbedding
from scjepa.nn.encoder import Transformer
from scjepa.nn.masked import MaskedPacking
from scjepa.nn.masking import MASKING_SCHEMES, draw_mask
from scjepa.nn.objectives import IJEPA, OBJECTIVES, LeJEPA, ObjectiveOutput, TechnologyAdversary, sigreg
from scjepa.nn.pooling import POOLING, pool
from scjepa.nn.precision import float32_default
from scjepa.nn.predictor import Predictor
from scjepa.nn.towers import NeighborhoodEncoder, SpatialJEPA, Towers

__all__ = [
    "ATTENTION_BACKENDS",
    "CELL_POOLING",
    "CONTRASTS",
    "IJEPA",
    "MASKING_SCHEMES",
    "OBJECTIVES",
    "POOLING",
    "RANK_ENCODERS",
    "SEGMENT_ENCODERS",
    "VALUE_ENCODERS",
    "Batch",
    "CellBatch",
    "CellEncoder",
    "CellObjective",
    "CellTowers",
    "LeJEPA",
    "MaskedPacking",
    "ModuleObjective",
    "ModuleTowers",
    "NeighborhoodEncoder",
    "ObjectiveOutput",
    "Packing",
    "PerturbationTowers",
    "PerturbedBatch",
    "Predictor",
    "SpatialJEPA",
    "TechnologyAdversary",
    "TokenEmbedding",
    "Towers",
    "Transformer",
    "attend",
    "choose_backend",
    "draw_mask",
    "float32_default",
    "generate",
    "hide",
    "hide_modules",
    "pool",
    "sigreg",
    "with_unknown",
]
