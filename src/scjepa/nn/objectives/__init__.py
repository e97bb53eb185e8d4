"""Objectives: what is predicted and how the error is measured; each a module with the same call."""

from __future__ import annotations

from torch import nn

from scjepa._config import STJEPAConfig, unknown_name
from scjepa.nn.objectives._base import ObjectiveOutput
from scjepa.nn.objectives._ijepa import IJEPA

OBJECTIVES: dict[str, type[nn.Module]] = {"ijepa": IJEPA}
"""Objectives by name: built from the configuration, called with (context, target, batch, generator)."""


def build_objective(config: STJEPAConfig) -> nn.Module:
    """Return the objective that ``config.objective.name`` asks for."""
    name = config.objective.name
    if name not in OBJECTIVES:
        raise ValueError(unknown_name("objective", name, OBJECTIVES))
    return OBJECTIVES[name](config)


__all__ = ["IJEPA", "OBJECTIVES", "ObjectiveOutput", "build_objective"]
