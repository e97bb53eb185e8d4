"""ST-JEPA: embeddings of genes, cells and neighborhoods of spatial transcriptomics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.lazy import lazy

if TYPE_CHECKING:
    from scjepa.stjepa.batch import Batch
    from scjepa.stjepa.config import (
        OBJECTIVES,
        PRESETS,
        EncoderConfig,
        IJEPAConfig,
        LeJEPAConfig,
        MaskingConfig,
        ObjectiveConfig,
        STJEPAConfig,
    )
    from scjepa.stjepa.embedding import RANK_ENCODERS, SEGMENT_ENCODERS, TokenEmbedding
    from scjepa.stjepa.masking import MASKING_SCHEMES, draw_mask
    from scjepa.stjepa.model import STJEPA
    from scjepa.stjepa.module import NeighborhoodEncoder, STJEPAModule
    from scjepa.stjepa.objectives import IJEPA, LeJEPA, NeighborhoodObjective, TechnologyAdversary
    from scjepa.stjepa.pooling import POOLING, pool
    from scjepa.stjepa.predictor import Predictor
    from scjepa.stjepa.source import TokenSource

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
    "IJEPAConfig",
    "LeJEPA",
    "LeJEPAConfig",
    "MaskingConfig",
    "NeighborhoodEncoder",
    "NeighborhoodObjective",
    "ObjectiveConfig",
    "Predictor",
    "STJEPAConfig",
    "STJEPAModule",
    "TechnologyAdversary",
    "TokenEmbedding",
    "TokenSource",
    "draw_mask",
    "pool",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "batch": ("Batch",),
        "config": (
            "OBJECTIVES",
            "PRESETS",
            "EncoderConfig",
            "IJEPAConfig",
            "LeJEPAConfig",
            "MaskingConfig",
            "ObjectiveConfig",
            "STJEPAConfig",
        ),
        "embedding": ("RANK_ENCODERS", "SEGMENT_ENCODERS", "TokenEmbedding"),
        "masking": ("MASKING_SCHEMES", "draw_mask"),
        "model": ("STJEPA",),
        "module": ("NeighborhoodEncoder", "STJEPAModule"),
        "objectives": ("IJEPA", "LeJEPA", "NeighborhoodObjective", "TechnologyAdversary"),
        "pooling": ("POOLING", "pool"),
        "predictor": ("Predictor",),
        "source": ("TokenSource",),
    },
)
