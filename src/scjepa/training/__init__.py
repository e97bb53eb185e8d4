"""Optimization: plan, schedules, sampling, collapse monitor. Imports torch, numpy and lightning alone."""

from __future__ import annotations

from scjepa.training.cells import CellTrainingPlan, hold_out_cells
from scjepa.training.collapse import Diagnosis, diagnose, effective_rank, mean_cosine
from scjepa.training.fit import RunOptions, run
from scjepa.training.history import History
from scjepa.training.plan import JEPATrainingPlan, parameter_groups
from scjepa.training.sampling import BatchSchedule, hold_out, spatial_blocks

__all__ = [
    "BatchSchedule",
    "CellTrainingPlan",
    "Diagnosis",
    "History",
    "JEPATrainingPlan",
    "RunOptions",
    "diagnose",
    "effective_rank",
    "hold_out",
    "hold_out_cells",
    "mean_cosine",
    "parameter_groups",
    "run",
    "spatial_blocks",
]
