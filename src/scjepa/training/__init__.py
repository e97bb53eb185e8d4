"""Optimization: plan, schedules, sampling, collapse monitor. Imports torch, numpy and lightning alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.renamed import lazy

if TYPE_CHECKING:
    from scjepa.training.collapse import Diagnosis, diagnose
    from scjepa.training.config import TrainConfig
    from scjepa.training.fit import RunOptions, run
    from scjepa.training.plan import (
        BatchSchedule,
        History,
        JEPATrainingPlan,
        effective_rank,
        hold_out,
        mean_cosine,
        parameter_groups,
        spatial_blocks,
    )

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
