"""Objectives: what is predicted and how the error is measured; a new one is a file here and a line below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.lazy import lazy
from scjepa._core.options import Registry, imported

if TYPE_CHECKING:
    from scjepa.stjepa.objectives.base import NeighborhoodObjective
    from scjepa.stjepa.objectives.ijepa import IJEPA, IJEPAConfig
    from scjepa.stjepa.objectives.lejepa import LeJEPA, LeJEPAConfig, TechnologyAdversary

OBJECTIVES: Registry[type[NeighborhoodObjective]] = Registry(
    "objective",
    {
        "ijepa": "scjepa.stjepa.objectives.ijepa:IJEPA",
        "lejepa": "scjepa.stjepa.objectives.lejepa:LeJEPA",
    },
    load=imported,
)
"""Objectives by name, subclasses of :class:`NeighborhoodObjective`; loaded when first asked for, as they need torch."""

__all__ = [
    "IJEPA",
    "OBJECTIVES",
    "IJEPAConfig",
    "LeJEPA",
    "LeJEPAConfig",
    "NeighborhoodObjective",
    "TechnologyAdversary",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "base": ("NeighborhoodObjective",),
        "ijepa": ("IJEPA", "IJEPAConfig"),
        "lejepa": ("LeJEPA", "LeJEPAConfig", "TechnologyAdversary"),
    },
)
