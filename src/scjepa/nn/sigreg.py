"""SIGReg: how far vectors are from an isotropic Gaussian, seen along random directions (LeJEPA, arXiv 2511.08544)."""

from __future__ import annotations

import torch
from torch import Tensor

_FARTHEST = 3.0
_KNOTS = 17
"""The characteristic function is compared at so many points from 0 to the farthest; beyond, its weight is nearly 0."""


def sigreg(x: Tensor, n_projections: int = 256, generator: torch.Generator | None = None) -> Tensor:
    """Return the mean Epps-Pulley statistic of ``x`` along random directions.

    Along a direction the statistic is ``n · ∫ |φ(t) - exp(-t²/2)|² exp(-t²/2) dt``, with φ the characteristic function
    of the n projected vectors: about 1 for draws of a standard Gaussian whatever n, and 0.41 n where all vectors are 0.
    If the projections on all directions are standard Gaussian, the vectors are, with mean 0 and covariance 1.
    Directions are drawn anew at each call, so that in the course of training none is left out.

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
        directions = torch.randn(x.shape[-1], n_projections, generator=generator, device=where).to(x.device)
        projected = x.float() @ (directions / directions.norm(dim=0))
        t = torch.linspace(0, _FARTHEST, _KNOTS, device=x.device)
        gaussian = torch.exp(-0.5 * t**2)
        weight = gaussian * (2 * _FARTHEST / (_KNOTS - 1))  # both sides of 0 at once
        weight[[0, -1]] /= 2
        angles = projected[..., None] * t
        error = (angles.cos().mean(-3) - gaussian).square() + angles.sin().mean(-3).square()
        return (error @ weight).mean() * x.shape[-2]
