"""Terms of a loss over the batches of all processes, where several train one model.

A term that compares the cells of a batch with each other (a variance, a contrast, targets standardized over the batch)
is not the mean of what the processes find by themselves, and neither is a mean over numbers of tokens that differ. Such
a term is taken of :func:`gathered` vectors, or by :func:`mean_over_processes`: each process then has the loss of the
whole batch, and the mean of their gradients, which is what Lightning's ``"ddp"`` makes, is the gradient of that loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

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
