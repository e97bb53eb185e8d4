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
    PerturbationTowers,
    PerturbedBatch,
    generate,
    hide,
    with_unknown,
)
from scjepa.nn.embedding import RANK_ENCODERS, SEGMENT_ENCODERS, VALUE_ENCODERS, TokenEmbedding
from scjepa.nn.encoder import Transformer
from scjepa.nn.masked import MaskedPacking
from scjepa.nn.masking import MASKING_SCHEMES, draw_mask
from scjepa.nn.objectives import IJEPA, OBJECTIVES, ObjectiveOutput
from scjepa.nn.pooling import POOLING, pool
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
    "MaskedPacking",
    "NeighborhoodEncoder",
    "ObjectiveOutput",
    "Packing",
    "PerturbationTowers",
    "PerturbedBatch",
    "Predictor",
    "SpatialJEPA",
    "TokenEmbedding",
    "Towers",
    "Transformer",
    "attend",
    "choose_backend",
    "draw_mask",
    "generate",
    "hide",
    "pool",
    "with_unknown",
]
