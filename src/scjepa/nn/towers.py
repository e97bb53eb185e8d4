"""The encoder of neighborhoods, and the pair of context encoder and EMA target encoder."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from scjepa._config import STJEPAConfig
from scjepa.nn.attention import Packing
from scjepa.nn.batch import Batch
from scjepa.nn.embedding import TokenEmbedding
from scjepa.nn.encoder import Transformer
from scjepa.nn.objectives import ObjectiveOutput, build_objective


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
        n_segments = tokens.n_neighbors + 1
        self.embedding = TokenEmbedding(n_genes, n_technologies, tokens.n_tokens, n_segments, encoder)
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


class SpatialJEPA(nn.Module):
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

    def __init__(self, n_genes: int, n_technologies: int, config: STJEPAConfig):
        super().__init__()
        self.config = config
        self.context = NeighborhoodEncoder(n_genes, n_technologies, config)
        self.objective = build_objective(config)
        self.target = copy.deepcopy(self.context).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> SpatialJEPA:
        """Set training mode; the target encoder stays in evaluation mode (no dropout in targets)."""
        super().train(mode)
        self.target.eval()
        return self

    def forward(self, batch: Batch, encoder: str = "target") -> Tensor:
        """Return contextual token vectors ``(T, width)`` of the ``"target"`` or the ``"context"`` encoder."""
        return self.tower(encoder)(batch)

    def tower(self, encoder: str) -> NeighborhoodEncoder:
        """Return the encoder of that name."""
        if encoder not in ("target", "context"):
            raise ValueError(f"encoder must be 'target' or 'context', found {encoder!r}.")
        return self.target if encoder == "target" else self.context

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> ObjectiveOutput:
        """Return the training loss of a batch; masks come from ``generator``."""
        return self.objective(self.context, self.target, batch, generator)

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """Move the target encoder: target <- momentum · target + (1 - momentum) · context, in one fused call."""
        target: list[Tensor] = list(self.target.parameters())
        context = [p.detach() for p in self.context.parameters()]
        torch._foreach_lerp_(target, context, 1.0 - momentum)

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
