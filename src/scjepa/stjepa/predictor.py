"""The predictor: from visible tokens to the target encoder's representations of masked ones (Section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scjepa.nn.attention import Packing
from scjepa.nn.config import TransformerConfig
from scjepa.nn.encoder import Transformer
from scjepa.stjepa.batch import Batch
from scjepa.stjepa.embedding import TokenEmbedding


class Predictor(nn.Module):
    """A small transformer over visible tokens and mask tokens; outputs at mask tokens only.

    Parameters
    ----------
    encoder
        Width, heads and MLP ratio are the encoder's.
    n_layers
        Blocks.
    knows_gene
        Whether a mask token has the identity of its gene, beside segment and rank.
    """

    def __init__(self, encoder: TransformerConfig, n_layers: int, knows_gene: bool):
        super().__init__()
        width = encoder.width
        self.mask_token = nn.Parameter(torch.zeros(width))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.transformer = Transformer(encoder, n_layers)
        self.knows_gene = knows_gene
        self.out = nn.Linear(width, width)
        nn.init.trunc_normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def forward(self, visible: Tensor, context: Batch, queries: Batch, embedding: TokenEmbedding) -> Tensor:
        """Predict the representations of ``queries``, ``(n_query_tokens, width)``.

        Parameters
        ----------
        visible
            ``(n_visible_tokens, width)`` outputs of the context encoder.
        context
            The visible tokens.
        queries
            The masked tokens that are asked for; of these only place and, where the configuration says so, gene
            identity are used, never the value.
        embedding
            The context encoder's embedding, for the queries' genes and places.
        """
        mask_tokens = self.mask_token + embedding.position(queries.ranks, queries.segments, queries.places)
        if self.knows_gene:
            mask_tokens = mask_tokens + embedding.gene(queries.genes)
        sequences = torch.cat([context.sequences, queries.sequences])
        order = torch.argsort(sequences, stable=True)
        tokens = torch.cat([visible, mask_tokens.to(visible.dtype)])[order]
        rows = (order >= len(visible)).nonzero()[:, 0]
        packing = Packing(context.lengths + queries.lengths)
        return self.out(self.transformer(tokens, packing, rows, Packing(queries.lengths)))
