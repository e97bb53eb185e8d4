"""Schedules as pure functions of the optimizer step, so that a resumed run continues exactly (Appendix A)."""

from __future__ import annotations

import math


def cosine(progress: float, start: float, end: float) -> float:
    """Move from ``start`` to ``end`` along half a cosine as ``progress`` goes from 0 to 1."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def learning_rate(step: int, n_steps: int, peak: float, final: float, warmup: float) -> float:
    """Return the learning rate of optimizer step ``step`` (from 0): linear warm-up, then a cosine to ``final``.

    ``warmup`` is a share of ``n_steps``.
    """
    n_warmup = round(warmup * n_steps)
    if step < n_warmup:
        return peak * (step + 1) / (n_warmup + 1)
    return cosine((step - n_warmup) / max(1, n_steps - n_warmup), peak, final)


def weight_decay(step: int, n_steps: int, start: float, end: float) -> float:
    """Return the weight decay of a step: a cosine from ``start`` to ``end``."""
    return cosine(step / max(1, n_steps - 1), start, end)


def momentum(step: int, n_steps: int, start: float, end: float) -> float:
    """Return the target encoder's momentum after a step: linear from ``start`` to ``end``."""
    return start + (end - start) * min(1.0, step / max(1, n_steps - 1))
