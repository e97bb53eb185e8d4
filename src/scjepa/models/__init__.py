"""The engine that all models share: tasks, training, embedding, saving and loading. It imports no model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.renamed import lazy

if TYPE_CHECKING:
    from scjepa.models.base import JEPAModel
    from scjepa.training.fit import Run, Task

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
