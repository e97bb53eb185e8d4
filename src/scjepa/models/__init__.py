"""The engine that all models share: training, embedding, saving and loading. It imports no model."""

from __future__ import annotations

from scjepa.models.base import JEPAModel, Task

__all__ = ["JEPAModel", "Task"]
