"""The engine that all models share: training, embedding, saving and loading. It imports no model."""

from __future__ import annotations

from scjepa._core.renamed import no_attribute
from scjepa.models.base import JEPAModel, Task

__all__ = ["JEPAModel", "Task"]


def __getattr__(name: str) -> object:
    raise no_attribute(__name__, name)
