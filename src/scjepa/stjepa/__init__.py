"""ST-JEPA: embeddings of genes, cells and neighborhoods of spatial transcriptomics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.renamed import lazy

if TYPE_CHECKING:
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
    from scjepa.stjepa.model import STJEPA
    from scjepa.stjepa.module import (
        POOLING,
        RANK_ENCODERS,
        SEGMENT_ENCODERS,
        NeighborhoodEncoder,
        STJEPAModule,
        TokenEmbedding,
        pool,
    )
    from scjepa.stjepa.objectives import (
        IJEPA,
        MASKING_SCHEMES,
        LeJEPA,
        NeighborhoodObjective,
        Predictor,
        TechnologyAdversary,
        draw_mask,
    )
    from scjepa.stjepa.source import Batch, TokenSource

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
