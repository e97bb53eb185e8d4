"""Plain torch modules that all models share: attention, transformer, embeddings, losses and the EMA teacher."""

from __future__ import annotations

from scjepa._core.renamed import no_attribute
from scjepa.nn.attention import ATTENTION_BACKENDS, Packing, attend, choose_backend
from scjepa.nn.embedding import VALUE_ENCODERS
from scjepa.nn.encoder import Transformer
from scjepa.nn.jepa import JEPAModule
from scjepa.nn.losses import ObjectiveOutput
from scjepa.nn.masked import MaskedPacking
from scjepa.nn.precision import float32_default
from scjepa.nn.sigreg import sigreg

__all__ = [
    "ATTENTION_BACKENDS",
    "VALUE_ENCODERS",
    "JEPAModule",
    "MaskedPacking",
    "ObjectiveOutput",
    "Packing",
    "Transformer",
    "attend",
    "choose_backend",
    "float32_default",
    "sigreg",
]


def __getattr__(name: str) -> object:
    raise no_attribute(__name__, name)
