"""The context encoder and the EMA target encoder of every JEPA."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from scjepa.nn.losses import ObjectiveOutput
from scjepa.nn.precision import float32_default

_COMPUTES = ("__init__", "begin", "forward", "gather", "loss", "embed", "predict")
"""Methods that make tensors."""


class JEPAModule(nn.Module):
    """A context encoder, a target encoder that follows it by EMA, and an objective: what every JEPA consists of.

    A subclass builds them and says what its batches are (:meth:`gather`), what their loss is (:meth:`loss`) and how a
    batch is embedded (:meth:`embed`); training, monitor and estimates ask for no more.
    """

    config: Any
    context: Any
    target: Any
    objective: nn.Module
    has_teacher: bool = True
    """Whether the target encoder follows by EMA; else it is a copy of the one encoder, up to date after each step."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let what a subclass makes and computes be float32, whatever torch's default is."""
        super().__init_subclass__(**kwargs)
        for name in _COMPUTES:
            if name in vars(cls):
                setattr(cls, name, float32_default()(vars(cls)[name]))

    def gather(self, source: Any, cells: Tensor, generator: torch.Generator | None = None) -> Any:
        """Return the batch of ``cells`` to train on; without ``generator`` nothing is left to chance."""
        raise TypeError(f"{type(self).__name__} does not say what its batches are.")

    def loss(self, batch: Any, generator: torch.Generator | None = None) -> ObjectiveOutput:
        """Return the training loss of a batch; masks come from ``generator``."""
        raise TypeError(f"{type(self).__name__} does not say what its loss is.")

    def embed(self, batch: Any, encoder: str = "target", scale: str = "") -> Tensor:
        """Return one vector for each sequence of the batch, ``(B, width)``, float32."""
        raise TypeError(f"{type(self).__name__} does not say how it embeds.")

    def train(self, mode: bool = True) -> Self:
        """Set training mode; the target encoder stays in evaluation mode (no dropout in targets)."""
        super().train(mode)
        self.target.eval()
        return self

    def encoder(self, encoder: str) -> Any:
        """Return the encoder of that name, ``"target"`` or ``"context"``."""
        if encoder not in ("target", "context"):
            raise ValueError(f"encoder must be 'target' or 'context', found {encoder!r}.")
        return self.target if encoder == "target" else self.context

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Move the target encoder: target <- momentum · target + (1 - momentum) · context, in one fused call."""
        target: list[Tensor] = list(self.target.parameters())
        context = [p.detach() for p in self.context.parameters()]
        get_ema_multi_avg_fn(momentum)(target, context, 0)

    def parameter_counts(self) -> dict[str, int]:
        """Return exact parameter counts by part; ``total`` has every part, the EMA copy included."""
        counts: dict[str, Any] = {
            "encoder": _count(self.context),
            "encoder_without_genes": _count(self.context) - _count(self.context.embedding.gene),
            "objective": _count(self.objective),
        }
        counts["trained"] = counts["encoder"] + counts["objective"]
        counts["total"] = counts["trained"] + _count(self.target)
        return counts


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
