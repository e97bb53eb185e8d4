"""The engine that all models share: tasks, training, embedding, saving and loading. It imports no model."""

from __future__ import annotations

from scjepa._core.renamed import no_attribute
from scjepa.models.base import JEPAModel
from scjepa.models.run import Run, Task

__all__ = ["JEPAModel", "Run", "Task"]


def __getattr__(name: str) -> object:
    raise no_attribute(__name__, name)
