"""A logger that keeps every metric in memory by step, and can be put into a checkpoint."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from lightning.pytorch.loggers.logger import Logger


class History(Logger):
    """Metrics by name: parallel lists of optimizer steps and values.

    Every process of a run on several devices keeps its own, so that each of them ends with a model that knows how it
    was trained; losses are then those of the process's own batches.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[str, list[int]] = defaultdict(list)
        self.values: dict[str, list[float]] = defaultdict(list)

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "history"

    @property
    def version(self) -> int:
        """Version of the logger."""
        return 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Keep nothing: the model keeps its configuration."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append metrics at ``step``."""
        for name, value in metrics.items():
            if name != "epoch" and math.isfinite(value):
                self.steps[name].append(int(step or 0))
                self.values[name].append(float(value))

    def state_dict(self) -> dict[str, dict[str, list]]:
        """Return plain lists."""
        return {"steps": dict(self.steps), "values": dict(self.values)}

    def load_state_dict(self, state: dict[str, dict[str, list]]) -> None:
        """Take up the history of an interrupted run."""
        for own, saved in ((self.steps, state["steps"]), (self.values, state["values"])):
            own.clear()
            own.update({name: list(entries) for name, entries in saved.items()})
