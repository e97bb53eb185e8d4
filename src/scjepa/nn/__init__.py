"""Plain torch modules that all models share: attention, transformer, embeddings, losses and the EMA teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.renamed import lazy

if TYPE_CHECKING:
    from scjepa.nn.attention import ATTENTION_BACKENDS, MaskedPacking, Packing, attend, choose_backend
    from scjepa.nn.config import TransformerConfig
    from scjepa.nn.encoder import VALUE_ENCODERS, Encoder, Transformer
    from scjepa.nn.jepa import Advice, JEPAModule, Objective, ObjectiveOutput, Ratio, float32_default
    from scjepa.nn.losses import gathered, mean_over_processes, sigreg

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
