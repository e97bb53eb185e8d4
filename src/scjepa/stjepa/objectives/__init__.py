"""Objectives: what is predicted and how the error is measured.

A new one is a file here, and its options and a line in :data:`scjepa.stjepa.config.OBJECTIVES`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.lazy import lazy

if TYPE_CHECKING:
    from scjepa.stjepa.objectives.base import NeighborhoodObjective
    from scjepa.stjepa.objectives.ijepa import IJEPA, Predictor
    from scjepa.stjepa.objectives.lejepa import LeJEPA, TechnologyAdversary

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
