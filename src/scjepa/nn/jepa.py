"""The context encoder, the EMA target encoder and the objective of every JEPA."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from scjepa.nn.config import TransformerConfig
from scjepa.nn.encoder import Encoder
from scjepa.nn.objective import Objective, ObjectiveOutput
from scjepa.nn.precision import float32_default

BatchT = TypeVar("BatchT")
"""Batch of cells."""


class Source(Protocol):
    """What gives batches of cells."""

    def batch(self, cells: Tensor) -> Any:
        """Return the batch of ``cells`` as it is embedded."""


SourceT = TypeVar("SourceT", bound=Source, contravariant=True)

_COMPUTES = ("__init__", "begin", "forward", "gather", "loss", "embed", "predict")
"""Methods that make tensors."""


class ModelConfig(Protocol):
    """What a module's configuration has, whatever the model."""

    @property
    def encoder(self) -> TransformerConfig:
        """Size of the encoder."""


class JEPAModule(nn.Module, ABC, Generic[SourceT, BatchT]):
    """A context encoder, a target encoder that follows it by EMA, and an objective: what every JEPA consists of.

    A subclass says what its batches are (:meth:`gather`) and how a batch is embedded (:meth:`embed`); training, monitor
    and estimates ask for no more.

    Parameters
    ----------
    config
        The model's configuration.
    context
        The encoder that is trained; the target encoder begins as a copy of it.
    objective
        The loss, with its predictor and heads.
    """

    config: ModelConfig
    context: Encoder
    target: Encoder
    objective: Objective

    def __init__(self, config: ModelConfig, context: Encoder, objective: Objective, target: Encoder | None = None):
        super().__init__()
        self.config, self.context, self.objective = config, context, objective
        self.target = copy.deepcopy(context if target is None else target).requires_grad_(False).eval()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let what a subclass makes and computes be float32, whatever torch's default is."""
        super().__init_subclass__(**kwargs)
        for name in _COMPUTES:
            if name in vars(cls):
                setattr(cls, name, float32_default()(vars(cls)[name]))

    @property
    def n_genes(self) -> int:
        """Genes that have a vector."""
        return self.context.embedding.gene.num_embeddings

    @abstractmethod
    def gather(self, source: SourceT, cells: Tensor, generator: torch.Generator | None = None) -> BatchT:
        """Return the batch of ``cells`` to train on; without ``generator`` nothing is left to chance."""

    @abstractmethod
    def embed(self, batch: BatchT, encoder: str = "target", scale: str = "") -> Tensor:
        """Return one vector for each sequence of the batch, ``(B, width)``, float32."""

    def monitored(self, source: SourceT, cells: Tensor, generator: torch.Generator) -> tuple[BatchT, BatchT]:
        """Return what the monitor measures the loss of ``cells`` on, and what it embeds.

        ``generator`` is the same at each reading.
        """
        return self.gather(source, cells), source.batch(cells)

    @float32_default()
    def loss(self, batch: BatchT, generator: torch.Generator | None = None) -> ObjectiveOutput:
        """Return the training loss of a batch; masks come from ``generator``."""
        return cast(ObjectiveOutput, self.objective(self.context, self.target, batch, generator))

    def train(self, mode: bool = True) -> Self:
        """Set training mode; the target encoder stays in evaluation mode (no dropout in targets)."""
        super().train(mode)
        self.target.eval()
        return self

    def encoder(self, name: str) -> Encoder:
        """Return the encoder of that name, ``"target"`` or ``"context"``."""
        if name not in ("target", "context"):
            raise ValueError(f"encoder must be 'target' or 'context', found {name!r}.")
        return self.target if name == "target" else self.context

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Move the target encoder: target <- momentum · target + (1 - momentum) · context, in one fused call."""
        target: list[Tensor] = list(self.target.parameters())
        context = [p.detach() for p in self.context.parameters()]
        get_ema_multi_avg_fn(momentum)(target, context, 0)

    def parameter_counts(self) -> dict[str, int]:
        """Return exact parameter counts by part; ``total`` has every part, the EMA copy included."""
        counts = {
            "encoder": _count(self.context),
            "encoder_without_genes": _count(self.context) - _count(self.context.embedding.gene),
            "objective": _count(self.objective),
        }
        counts["trained"] = counts["encoder"] + counts["objective"]
        counts["total"] = counts["trained"] + _count(self.target)
        return counts


AnyModule: TypeAlias = JEPAModule[Any, Any]
"""A module of any model, for what works with all of them."""


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
