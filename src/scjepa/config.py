"""Configurations of both models, and presets: what a model is and how it is trained, in frozen dataclasses.

Options may also be given as mappings, without importing any of these: ``STJEPA(adata, encoder={"n_layers": 4})``.
"""

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
    from scjepa.stjepa.config import (
        PRESETS,
        EncoderConfig,
        IJEPAConfig,
        LeJEPAConfig,
        MaskingConfig,
        ObjectiveConfig,
        STJEPAConfig,
    )
    from scjepa.tokens.config import TokenConfig
    from scjepa.training.config import TrainConfig

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
