"""The terms an objective is summed from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PooledHead(nn.Module):
    """An MLP on pooled vectors: what they are to predict, or what they are to agree in, is behind it."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, pooled: Tensor) -> Tensor:
        """Return predictions ``(B, width)``."""
        return self.mlp(pooled)


def standardize_over_batch(x: Tensor) -> Tensor:
    """Return ``x`` with mean 0 and standard deviation 1 of each dimension over the batch."""
    if len(x) < 2:
        return torch.zeros_like(x)
    return (x - x.mean(0)) / (x.std(0) + 1e-4)


def pooled_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 between predictions and batch-standardized targets: what tells neighborhoods apart, not their mean."""
    return F.smooth_l1_loss(prediction, standardize_over_batch(target))


def mean_target_loss(target: Tensor) -> Tensor:
    """:func:`pooled_loss` of predicting the same for all of a batch: the mean target, 0 once it is standardized."""
    standardized = standardize_over_batch(target)
    return F.smooth_l1_loss(torch.zeros_like(standardized), standardized)


def variance_loss(x: Tensor, floor: float = 1.0) -> Tensor:
    """Mean hinge on each dimension's standard deviation over the batch: max(0, floor - std) (VICReg)."""
    if len(x) < 2:
        return x.sum() * 0.0
    return F.relu(floor - torch.sqrt(x.var(0) + 1e-4)).mean()


def covariance_loss(x: Tensor) -> Tensor:
    """Sum of squared off-diagonal covariances over the batch, divided by the width (VICReg)."""
    if len(x) < 2:
        return x.sum() * 0.0
    centered = x - x.mean(0)
    covariance = centered.T @ centered / (len(x) - 1)
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    return off_diagonal.pow(2).sum() / x.shape[1]
