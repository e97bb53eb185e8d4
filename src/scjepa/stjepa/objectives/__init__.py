"""Objectives: what is predicted and how the error is measured; each a module with the same call."""

from __future__ import annotations

from scjepa._core.options import unknown_name
from scjepa.nn.losses import ObjectiveOutput
from scjepa.nn.sigreg import sigreg
from scjepa.stjepa.config import STJEPAConfig
from scjepa.stjepa.objectives.ijepa import IJEPA
from scjepa.stjepa.objectives.lejepa import LeJEPA, TechnologyAdversary

OBJECTIVES: dict[str, type[IJEPA] | type[LeJEPA]] = {"ijepa": IJEPA, "lejepa": LeJEPA}
"""Objectives by name: built from the configuration and the number of technologies, called with (context, target,
batch, generator). ``has_teacher`` says whether the target encoder follows by EMA, ``uses_partners`` whether batches
come with neighborhoods a few steps away."""


def build_objective(config: STJEPAConfig, n_technologies: int = 1) -> IJEPA | LeJEPA:
    """Return the objective that ``config.objective.name`` asks for."""
    name = config.objective.name
    if name not in OBJECTIVES:
        raise ValueError(unknown_name("objective", name, OBJECTIVES))
    return OBJECTIVES[name](config, n_technologies)


__all__ = [
    "IJEPA",
    "OBJECTIVES",
    "LeJEPA",
    "ObjectiveOutput",
    "TechnologyAdversary",
    "build_objective",
    "sigreg",
]
