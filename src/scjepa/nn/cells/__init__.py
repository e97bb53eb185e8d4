"""Cell-JEPA's parts: batch, encoder, heads, objective and towers, on the attention and the blocks all models share."""

from __future__ import annotations

from scjepa.nn.cells._batch import CellBatch
from scjepa.nn.cells._contrast import CONTRASTS
from scjepa.nn.cells._encoder import CellEncoder
from scjepa.nn.cells._generate import generate, with_unknown
from scjepa.nn.cells._masking import hide
from scjepa.nn.cells._modules import ModuleObjective, ModuleTowers, hide_modules
from scjepa.nn.cells._objective import CellObjective
from scjepa.nn.cells._perturbation import PerturbationTowers, PerturbedBatch
from scjepa.nn.cells._towers import CELL_POOLING, CellTowers

__all__ = [
    "CELL_POOLING",
    "CONTRASTS",
    "CellBatch",
    "CellEncoder",
    "CellObjective",
    "CellTowers",
    "ModuleObjective",
    "ModuleTowers",
    "PerturbationTowers",
    "PerturbedBatch",
    "generate",
    "hide",
    "hide_modules",
    "with_unknown",
]
