"""The encoder of neighborhoods, and ST-JEPA as a torch module: a context encoder, its EMA target and the objective."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from scjepa.nn.attention import Packing
from scjepa.nn.encoder import Transformer
from scjepa.nn.jepa import JEPAModule
from scjepa.nn.losses import ObjectiveOutput
from scjepa.stjepa.batch import Batch
from scjepa.stjepa.config import STJEPAConfig
from scjepa.stjepa.embedding import TokenEmbedding
from scjepa.stjepa.objectives import build_objective
from scjepa.stjepa.pooling import pool


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


class STJEPAModule(JEPAModule):
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
        return self.encoder(encoder)(batch)

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
