"""ST-JEPA: embeddings of genes, cells and neighborhoods of spatial transcriptomics."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    **dict.fromkeys(("STJEPA",), "scjepa.stjepa.model"),
    **dict.fromkeys(("Batch",), "scjepa.stjepa.batch"),
    **dict.fromkeys(("TokenSource",), "scjepa.stjepa.source"),
    **dict.fromkeys(
        ("EncoderConfig", "MaskingConfig", "ObjectiveConfig", "PRESETS", "STJEPAConfig", "TokenConfig"),
        "scjepa.stjepa.config",
    ),
    **dict.fromkeys(("RANK_ENCODERS", "SEGMENT_ENCODERS", "TokenEmbedding"), "scjepa.stjepa.embedding"),
    **dict.fromkeys(("MASKING_SCHEMES", "draw_mask"), "scjepa.stjepa.masking"),
    **dict.fromkeys(("NeighborhoodEncoder", "STJEPAModule"), "scjepa.stjepa.module"),
    **dict.fromkeys(("IJEPA", "LeJEPA", "OBJECTIVES", "TechnologyAdversary"), "scjepa.stjepa.objectives"),
    **dict.fromkeys(("POOLING", "pool"), "scjepa.stjepa.pooling"),
    **dict.fromkeys(("Predictor",), "scjepa.stjepa.predictor"),
}
"""Public names and the modules that hold them; each is loaded on first use."""

__all__ = [
    "IJEPA",
    "MASKING_SCHEMES",
    "OBJECTIVES",
    "POOLING",
    "PRESETS",
    "RANK_ENCODERS",
    "SEGMENT_ENCODERS",
    "STJEPA",
    "Batch",
    "EncoderConfig",
    "LeJEPA",
    "MaskingConfig",
    "NeighborhoodEncoder",
    "ObjectiveConfig",
    "Predictor",
    "STJEPAConfig",
    "STJEPAModule",
    "TechnologyAdversary",
    "TokenConfig",
    "TokenEmbedding",
    "TokenSource",
    "draw_mask",
    "pool",
]

if TYPE_CHECKING:
    from scjepa.stjepa.batch import Batch
    from scjepa.stjepa.config import PRESETS, EncoderConfig, MaskingConfig, ObjectiveConfig, STJEPAConfig, TokenConfig
    from scjepa.stjepa.embedding import RANK_ENCODERS, SEGMENT_ENCODERS, TokenEmbedding
    from scjepa.stjepa.masking import MASKING_SCHEMES, draw_mask
    from scjepa.stjepa.model import STJEPA
    from scjepa.stjepa.module import NeighborhoodEncoder, STJEPAModule
    from scjepa.stjepa.objectives import IJEPA, OBJECTIVES, LeJEPA, TechnologyAdversary
    from scjepa.stjepa.pooling import POOLING, pool
    from scjepa.stjepa.predictor import Predictor
    from scjepa.stjepa.source import TokenSource


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
