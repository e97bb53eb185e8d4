"""Perturbation screens: conditions as GEARS writes them, splits, expression on one scale, and closed-form models."""

from __future__ import annotations

from scjepa.perturbation.baselines import PERTURBATION_BASELINES, predict_baselines
from scjepa.perturbation.conditions import CONTROL, Conditions, condition_name, convert_conditions, parse_condition
from scjepa.perturbation.expression import log_normalized
from scjepa.perturbation.profiles import ConditionProfiles, condition_profiles
from scjepa.perturbation.splits import CATEGORIES, PerturbationSplit, simulation_split
from scjepa.perturbation.stack import PERTURBATION_COLUMNS, PerturbationStack
from scjepa.perturbation.vectors import gene_set_vectors

__all__ = [
    "CATEGORIES",
    "CONTROL",
    "PERTURBATION_BASELINES",
    "PERTURBATION_COLUMNS",
    "ConditionProfiles",
    "Conditions",
    "PerturbationSplit",
    "PerturbationStack",
    "condition_name",
    "condition_profiles",
    "convert_conditions",
    "gene_set_vectors",
    "log_normalized",
    "parse_condition",
    "predict_baselines",
    "simulation_split",
]
