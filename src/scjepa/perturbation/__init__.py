"""Perturbation screens: conditions as GEARS writes them, splits, expression on one scale, and closed-form models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.renamed import lazy

if TYPE_CHECKING:
    from scjepa.perturbation.baselines import PERTURBATION_BASELINES, predict_baselines
    from scjepa.perturbation.conditions import (
        CATEGORIES,
        CONTROL,
        Conditions,
        PerturbationSplit,
        condition_name,
        convert_conditions,
        parse_condition,
        simulation_split,
    )
    from scjepa.perturbation.expression import (
        ConditionProfiles,
        condition_profiles,
        gene_set_vectors,
        log_normalized,
    )
    from scjepa.perturbation.stack import PERTURBATION_COLUMNS, PerturbationStack

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
