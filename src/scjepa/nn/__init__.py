"""Plain torch modules that all models share: attention, transformer, embeddings, losses and the EMA teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.lazy import lazy

if TYPE_CHECKING:
    from scjepa.nn.attention import ATTENTION_BACKENDS, Packing, attend, choose_backend
    from scjepa.nn.config import TransformerConfig
    from scjepa.nn.embedding import VALUE_ENCODERS
    from scjepa.nn.encoder import Encoder, Transformer
    from scjepa.nn.jepa import JEPAModule
    from scjepa.nn.losses import sigreg
    from scjepa.nn.masked import MaskedPacking
    from scjepa.nn.objective import Advice, Objective, ObjectiveOutput, Ratio
    from scjepa.nn.precision import float32_default

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
