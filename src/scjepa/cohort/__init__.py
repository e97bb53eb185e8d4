"""Collections of sections in many files: read one at a time, prepared once, and of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.renamed import lazy

if TYPE_CHECKING:
    from scjepa.cohort.collection import Collection
    from scjepa.cohort.prepare import Report

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
