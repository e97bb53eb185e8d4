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
    from scjepa.stjepa.objectives import IJEPA, LeJEPA, NeighborhoodObjective, Predictor, TechnologyAdversary
    from scjepa.stjepa.pooling import POOLING, pool
    from scjepa.stjepa.source import TokenSource

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
