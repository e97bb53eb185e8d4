"""The encoder of neighborhoods, and the twin towers of every JEPA: a context encoder and an EMA target encoder."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from scjepa._config import STJEPAConfig
from scjepa.nn.attention import Packing
from scjepa.nn.batch import Batch
from scjepa.nn.embedding import TokenEmbedding
from scjepa.nn.encoder import Transformer
from scjepa.nn.objectives import ObjectiveOutput, build_objective
from scjepa.nn.pooling import pool
from scjepa.nn.precision import float32_default


class NeighborhoodEncoder(nn.Module):
    """Token embedding and transformer: a batch in, one vector for each of its tokens out.

    Parameters
    ----------
    n_genes, n_technologies
        Sizes of the vocabularies.
    config
        The model's configuration.
    """

    def __init__(self, n_genes: int, n_technologies: int, config: STJEPAConfig):
        super().__init__()
        encoder, tokens = config.encoder, config.tokens
        self.embedding = TokenEmbedding(
            n_genes, n_technologies, tokens.n_tokens, tokens.n_segments, encoder, tokens.signed_values
        )
        self.transformer = Transformer(
            encoder.width,
            encoder.n_layers,
            encoder.n_heads,
            mlp_ratio=encoder.mlp_ratio,
            dropout=encoder.dropout,
            backend=encoder.attention,
        )

    def forward(self, batch: Batch) -> Tensor:
        """Return contextual token vectors ``(T, width)``."""
        return self.transformer(self.embedding(batch), Packing(batch.lengths))


_COMPUTES = ("__init__", "begin", "forward", "gather", "loss", "embed", "predict")
"""Methods of towers that make tensors."""


class Towers(nn.Module):
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

    def tower(self, encoder: str) -> Any:
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


class SpatialJEPA(Towers):
    """ST-JEPA as a plain torch module: context encoder, EMA target encoder, and the objective with its predictor.

    Parameters
    ----------
    n_genes
        Size of the gene vocabulary.
    n_technologies
        Number of technologies (their metatokens).
    config
        The resolved configuration.
    """

    config: STJEPAConfig

    def __init__(self, n_genes: int, n_technologies: int, config: STJEPAConfig):
        super().__init__()
        self.config = config
        self.context = NeighborhoodEncoder(n_genes, n_technologies, config)
        self.objective = build_objective(config, n_technologies)
        self.has_teacher = self.objective.has_teacher
        self.target = copy.deepcopy(self.context).requires_grad_(False).eval()

    def forward(self, batch: Batch, encoder: str = "target") -> Tensor:
        """Return contextual token vectors ``(T, width)`` of the ``"target"`` or the ``"context"`` encoder."""
        return self.tower(encoder)(batch)

    def gather(self, source: Any, cells: Tensor, generator: torch.Generator | None = None) -> Batch:
        """Return the neighborhoods of ``cells`` with their metatokens.

        With ``generator`` some are without. If nearby neighborhoods are to be predicted, the second half of the cells
        then makes room for those where walks from the first half end, so that the batch is as large as ever.
        """
        if generator is None:
            return source.batch(cells, self.config.encoder.metatoken)
        partners = None
        if self.objective.uses_partners and len(cells) > 1:
            first = cells[: len(cells) // 2]
            near = source.walk(first, self.config.objective.nearby_steps, generator)
            cells = torch.cat([first.to(near.device), near])
            partners = torch.arange(len(cells), device=generator.device).roll(len(first))
        metatoken: Tensor | bool = self.config.encoder.metatoken
        if metatoken:
            keep = torch.rand(len(cells), device=generator.device, generator=generator)
            metatoken = keep >= self.config.masking.metatoken_dropout
        return replace(source.batch(cells, metatoken), partners=partners)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> ObjectiveOutput:
        """Return the training loss of a batch; masks come from ``generator``."""
        return self.objective(self.context, self.target, batch, generator)

    def embed(self, batch: Batch, encoder: str = "target", scale: str = "neighborhood") -> Tensor:
        """Return the pooled tokens of each neighborhood at ``scale``, ``(B, width)``, float32."""
        return pool(self(batch, encoder).float(), batch, scale)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
