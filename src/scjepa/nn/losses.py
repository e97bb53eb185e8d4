"""The terms that objectives are summed from: of pooled vectors, of moments (VICReg), and of Gaussian shape (SIGReg).

Where several processes train one model, a term that compares the cells of a batch with each other (a variance, a
contrast, targets standardized over the batch) is not the mean of what the processes find by themselves, and neither is
a mean over numbers of tokens that differ. Such a term is taken of :func:`gathered` vectors, or by
:func:`mean_over_processes`: each process then has the loss of the whole batch, and the mean of their gradients, which
is what Lightning's ``"ddp"`` makes, is the gradient of that loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

# -- over processes ----------------------------------------------------------------------------------------------------

_TOGETHER: ContextVar[bool] = ContextVar("together", default=False)


@contextmanager
def together(train_together: bool = True) -> Iterator[None]:
    """Take terms over all processes in this block, which each of them has to enter; elsewhere each is by itself.

    Parameters
    ----------
    train_together
        Whether they train one model. Lightning leaves the group of processes as it was when a run has ended, and what
        one of them trains then is its alone.
    """
    token = _TOGETHER.set(train_together)
    try:
        yield
    finally:
        _TOGETHER.reset(token)


def n_processes() -> int:
    """Return how many processes share a loss: 1 outside of :func:`together`."""
    if not _TOGETHER.get() or not dist.is_available() or not dist.is_initialized():
        return 1
    return dist.get_world_size()


class _Gather(torch.autograd.Function):
    """Rows of all processes, and their gradients back to where each row is from."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gathered(x: Tensor, n_copies: int = 1) -> Tensor:
    """Return the rows of all processes, the first process's first; where there is one, ``x`` itself.

    Parameters
    ----------
    x
        ``(n, ...)`` rows, as many in each process. Gradients go back to the process that a row is from.
    n_copies
        How many copies of a batch the rows are of, one copy after the other; in the result, too.

    Returns
    -------
    Tensor
        ``(n_processes * n, ...)``, the same in each process.

    Examples
    --------
    >>> covariance = covariance_loss(gathered(pooled))
    """
    if n_processes() == 1:
        return x
    copies = x.unflatten(0, (n_copies, -1)).transpose(0, 1).contiguous()
    return _Gather.apply(copies).transpose(0, 1).flatten(0, 1)


def own(x: Tensor) -> Tensor:
    """Return this process's rows of those that :func:`gathered` gave; where there is one, ``x`` itself."""
    return x if n_processes() == 1 else x.chunk(n_processes())[dist.get_rank()]


def mean_over_processes(mean: Tensor, n: int) -> Tensor:
    """Return the mean over the elements of all processes, of this process's ``mean`` over ``n`` of them.

    Parameters
    ----------
    mean
        Scalar; where ``n`` is 0 anything that depends on weights, such as ``x.sum() * 0``.
    n
        Elements that it was taken of.

    Returns
    -------
    Tensor
        Scalar, the same in each process; where there is one, ``mean`` itself.

    Examples
    --------
    >>> loss = mean_over_processes(F.l1_loss(prediction, wanted), len(wanted))
    """
    if n_processes() == 1:
        return mean
    total, count = gathered(torch.stack([mean * n, mean.new_tensor(n)])[None]).sum(0)
    return total / count.clamp_min(1)


def drawn_by_first(x: Tensor) -> Tensor:
    """Return what the first process drew at random; where there is one, ``x`` itself."""
    if n_processes() > 1:
        dist.broadcast(x, 0)
    return x


# -- terms -------------------------------------------------------------------------------------------------------------


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
