"""Base of the objectives of ST-JEPA."""

from __future__ import annotations

from abc import abstractmethod

import torch

from scjepa.nn.objective import Objective, ObjectiveOutput
from scjepa.stjepa.batch import Batch
from scjepa.stjepa.config import STJEPAConfig


class NeighborhoodObjective(Objective):
    """What is predicted of neighborhoods; what the package has to know of an objective, its class says.

    Parameters
    ----------
    config
        The model's configuration; the objective's own options are ``config.objective``.
    n_technologies
        Technologies that the model knows.
    """

    def __init__(self, config: STJEPAConfig, n_technologies: int = 1):
        super().__init__()

    @abstractmethod
    def forward(
        self, context: torch.nn.Module, target: torch.nn.Module, batch: Batch, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Return the loss of ``batch`` by the two encoders; what is drawn comes from ``generator``."""
