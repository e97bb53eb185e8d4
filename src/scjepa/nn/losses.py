"""The terms that objectives are summed from: of pooled vectors, of moments (VICReg), and of Gaussian shape (SIGReg)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scjepa.nn.processes import drawn_by_first


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


_FARTHEST = 3.0
_KNOTS = 17
"""The characteristic function is compared at so many points from 0 to the farthest; beyond, its weight is nearly 0."""


def sigreg(x: Tensor, n_projections: int = 256, generator: torch.Generator | None = None) -> Tensor:
    """Return how far vectors are from an isotropic Gaussian: the mean Epps-Pulley statistic along random directions.

    This is SIGReg of LeJEPA (arXiv 2511.08544). Along a direction the statistic is
    ``n · ∫ |φ(t) - exp(-t²/2)|² exp(-t²/2) dt``, with φ the characteristic function of the n projected vectors: about 1
    for draws of a standard Gaussian whatever n, and 0.41 n where all vectors are 0. If the projections on all
    directions are standard Gaussian, the vectors are, with mean 0 and covariance 1. Directions are drawn anew at each
    call, so that in the course of training none is left out.

    Parameters
    ----------
    x
        ``(..., n, width)`` vectors; each leading index is a sample of its own.
    n_projections
        Random directions.
    generator
        Where they are drawn from; ``None``: torch's own.

    Returns
    -------
    Tensor
        Scalar.
    """
    where = x.device if generator is None else generator.device
    # Half precision would not do: small differences of means are what counts.
    with torch.autocast(x.device.type, enabled=False):
        drawn = torch.randn(x.shape[-1], n_projections, generator=generator, device=where)
        directions = drawn_by_first(drawn.to(x.device))
        projected = x.float() @ (directions / directions.norm(dim=0))
        t = torch.linspace(0, _FARTHEST, _KNOTS, device=x.device)
        gaussian = torch.exp(-0.5 * t**2)
        weight = gaussian * (2 * _FARTHEST / (_KNOTS - 1))  # both sides of 0 at once
        weight[[0, -1]] /= 2
        angles = projected[..., None] * t
        error = (angles.cos().mean(-3) - gaussian).square() + angles.sin().mean(-3).square()
        return (error @ weight).mean() * x.shape[-2]
