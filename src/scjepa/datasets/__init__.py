"""Simulated tissue with planted niches, and readers of local and public data."""

from __future__ import annotations

from scjepa.datasets._difficulty import DIFFICULTIES, Difficulty
from scjepa.datasets._simulate import iter_simulated_tissue, simulated_tissue
from scjepa.datasets._spec import Geometry, TechnologySpec

__all__ = [
    "DIFFICULTIES",
    "Difficulty",
    "Geometry",
    "TechnologySpec",
    "iter_simulated_tissue",
    "simulated_tissue",
]
