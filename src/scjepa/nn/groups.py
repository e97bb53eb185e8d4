"""Packed rows by group: means and ranks within each group."""

from __future__ import annotations

import torch
from torch import Tensor


def rank_in_group(groups: Tensor, keys: Tensor) -> Tensor:
    """Return the position of each element among its group's when ordered by ``keys``; ``groups`` is non-decreasing."""
    order = torch.argsort(keys, stable=True)
    order = order[torch.argsort(groups[order], stable=True)]
    sizes = torch.bincount(groups)
    starts = sizes.cumsum(0) - sizes
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device) - starts[groups[order]]
    return ranks


def mean_by_group(x: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Return the mean row of ``x`` in each group, ``(n_groups, width)``; zeros for empty groups."""
    total = torch.zeros(n_groups, x.shape[1], dtype=x.dtype, device=x.device).index_add(0, groups, x)
    size = torch.bincount(groups, minlength=n_groups).clamp_min(1)
    return total / size[:, None]
