"""Optimization: plan, schedules, sampling, collapse monitor. Imports torch, numpy and lightning alone, on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scjepa._core.renamed import no_attribute

if TYPE_CHECKING:
    from scjepa.training.collapse import Diagnosis, diagnose, effective_rank, mean_cosine
    from scjepa.training.config import TrainConfig
    from scjepa.training.fit import RunOptions, run
    from scjepa.training.history import History
    from scjepa.training.plan import JEPATrainingPlan, parameter_groups
    from scjepa.training.sampling import BatchSchedule, hold_out, spatial_blocks

_HOMES = {
    **dict.fromkeys(("Diagnosis", "diagnose", "effective_rank", "mean_cosine"), "scjepa.training.collapse"),
    "TrainConfig": "scjepa.training.config",
    **dict.fromkeys(("RunOptions", "run"), "scjepa.training.fit"),
    "History": "scjepa.training.history",
    **dict.fromkeys(("JEPATrainingPlan", "parameter_groups"), "scjepa.training.plan"),
    **dict.fromkeys(("BatchSchedule", "hold_out", "spatial_blocks"), "scjepa.training.sampling"),
}
"""Public names and the modules that hold them: the configuration, which the command line reads, loads no torch."""

__all__ = [
    "BatchSchedule",
    "Diagnosis",
    "History",
    "JEPATrainingPlan",
    "RunOptions",
    "TrainConfig",
    "diagnose",
    "effective_rank",
    "hold_out",
    "mean_cosine",
    "parameter_groups",
    "run",
    "spatial_blocks",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise no_attribute(__name__, name)


def __dir__() -> list[str]:
    return sorted(__all__)
