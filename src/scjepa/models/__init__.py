"""Models: AnnData in, AnnData out."""

from __future__ import annotations

from scjepa.models.celljepa import CellJEPA
from scjepa.models.stjepa import STJEPA

__all__ = ["STJEPA", "CellJEPA"]
