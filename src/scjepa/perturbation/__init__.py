"""Perturbation screens: conditions as GEARS writes them, splits of conditions, and expression on one scale."""

from __future__ import annotations

from scjepa.perturbation.conditions import CONTROL, Conditions, condition_name, convert_conditions, parse_condition
from scjepa.perturbation.expression import log_normalized
from scjepa.perturbation.splits import CATEGORIES, PerturbationSplit, simulation_split

__all__ = [
    "CATEGORIES",
    "CONTROL",
    "Conditions",
    "PerturbationSplit",
    "condition_name",
    "convert_conditions",
    "log_normalized",
    "parse_condition",
    "simulation_split",
]
