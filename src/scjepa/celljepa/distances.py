"""How far a prediction is from what the teacher says, in pretraining, in fine-tuning and on perturbations alike."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from scjepa.celljepa.config import CellObjectiveConfig
from scjepa.nn.terms import standardize_over_batch


def as_target(vectors: Tensor, config: CellObjectiveConfig) -> Tensor:
    """Return the teacher's vectors as ``config.target_norm`` has them compared, float32; cells come first."""
    vectors = vectors.float()
    return standardize_over_batch(vectors) if config.target_norm == "batch" else vectors


def cosine_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean over cells of 1 - cosine, for vectors ``(B, width)``."""
    return (1 - F.cosine_similarity(prediction, target, dim=1)).mean()


JEPA_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cosine": cosine_distance, "squared": F.mse_loss}
"""Distances of predictions from the teacher's vectors, both ``(B, width)``, by name."""
