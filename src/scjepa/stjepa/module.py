"""The encoder of neighborhoods, and ST-JEPA as a torch module: a context encoder, its EMA target and the objective."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from scjepa.nn.attention import Packing
from scjepa.nn.encoder import Encoder
from scjepa.nn.jepa import JEPAModule
from scjepa.stjepa.batch import Batch
from scjepa.stjepa.config import STJEPAConfig
from scjepa.stjepa.embedding import TokenEmbedding
from scjepa.stjepa.objectives.base import NeighborhoodObjective
from scjepa.stjepa.pooling import pool
from scjepa.stjepa.source import TokenSource


class NeighborhoodEncoder(Encoder):
    """Token embedding and transformer: a batch in, one vector for each of its tokens out.

    Parameters
    ----------
    n_genes, n_technologies
        Sizes of the vocabularies.
    config
        The model's configuration.
    """

    embedding: TokenEmbedding

    def __init__(self, n_genes: int, n_technologies: int, config: STJEPAConfig):
        encoder, tokens = config.encoder, config.tokens
        sizes = (n_genes, n_technologies, tokens.n_tokens, tokens.n_segments)
        super().__init__(TokenEmbedding(*sizes, encoder, tokens.signed_values), encoder)

    def forward(self, batch: Batch) -> Tensor:
        """Return contextual token vectors ``(T, width)``."""
        return self.transformer(self.embedding(batch), Packing(batch.lengths))


class STJEPAModule(JEPAModule[TokenSource, Batch]):
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
    context: NeighborhoodEncoder
    target: NeighborhoodEncoder
    objective: NeighborhoodObjective

    def __init__(self, n_genes: int, n_technologies: int, config: STJEPAConfig):
        context = NeighborhoodEncoder(n_genes, n_technologies, config)
        super().__init__(config, context, config.objective.objective_class()(config, n_technologies))

    def forward(self, batch: Batch, encoder: str = "target") -> Tensor:
        """Return contextual token vectors ``(T, width)`` of the ``"target"`` or the ``"context"`` encoder."""
        return cast(Tensor, self.encoder(encoder)(batch))

    def gather(self, source: TokenSource, cells: Tensor, generator: torch.Generator | None = None) -> Batch:
        """Return the neighborhoods of ``cells`` with their metatokens.

        With ``generator`` some are without. If nearby neighborhoods are to be predicted, the second half of the cells
        then makes room for those where walks from the first half end, so that the batch is as large as ever.
        """
        if generator is None:
            return source.batch(cells, self.config.encoder.metatoken)
        partners = None
        if self.objective.partner_steps and len(cells) > 1:
            first = cells[: len(cells) // 2]
            near = source.walk(first, self.objective.partner_steps, generator)
            cells = torch.cat([first.to(near.device), near])
            partners = torch.arange(len(cells), device=generator.device).roll(len(first))
        metatoken: Tensor | bool = self.config.encoder.metatoken
        if metatoken:
            keep = torch.rand(len(cells), device=generator.device, generator=generator)
            metatoken = keep >= self.config.masking.metatoken_dropout
        return replace(source.batch(cells, metatoken), partners=partners)

    def embed(self, batch: Batch, encoder: str = "target", scale: str = "neighborhood") -> Tensor:
        """Return the pooled tokens of each neighborhood at ``scale``, ``(B, width)``, float32."""
        return pool(self(batch, encoder).float(), batch, scale)
