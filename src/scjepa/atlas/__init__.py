"""What is kept of a study and applied to the next: the same niche under the same name on every slide."""

from __future__ import annotations

from scjepa.atlas._atlas import NicheAtlas

__all__ = ["NicheAtlas"]
