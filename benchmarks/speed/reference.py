"""The frozen reference of the step benchmark: padded, one attention call with a boolean key mask, everything computed.

It runs on the weights of a :class:`scjepa.stjepa.STJEPAModule`, so losses and gradients can be compared with those of
the package. It is how the model would be written at first: every neighborhood is padded to its full number of
positions; the context encoder computes masked positions and padding too and only hides them as keys; the value MLP runs
at every position; the predictor computes every position. Do not speed it up: it is what speed-ups are measured against.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scjepa.stjepa import Batch, STJEPAModule


class PaddedBatch:
    """A packed batch laid out as ``(sequences, positions)``.

    Parameters
    ----------
    batch
        The packed batch, without metatokens.
    masked
        ``(T,)`` bool, true where masked.
    n_positions
        Positions of every sequence: segments × tokens of a cell.
    """

    def __init__(self, batch: Batch, masked: Tensor, n_positions: int):
        lengths = batch.lengths
        starts = lengths.cumsum(0) - lengths
        column = torch.arange(batch.n_tokens) - starts[batch.sequences]
        self.place = (batch.sequences, column)
        self.real = self._lay(torch.ones_like(masked), n_positions, lengths)
        self.masked = self._lay(masked, n_positions, lengths)
        for name in ("genes", "values", "ranks", "segments"):
            setattr(self, name, self._lay(getattr(batch, name), n_positions, lengths))

    def _lay(self, x: Tensor, n_positions: int, lengths: Tensor) -> Tensor:
        out = torch.zeros(len(lengths), n_positions, dtype=x.dtype)
        out[self.place] = x
        return out


def _attend(block: nn.Module, x: Tensor, keys: Tensor) -> Tensor:
    attention = block.attention
    n, length, width = x.shape
    q, k, v = attention.qkv(x).view(n, length, 3, attention.n_heads, -1).permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=keys[:, None, None, :])
    return attention.out(out.transpose(1, 2).reshape(n, length, width))


def _transform(transformer: nn.Module, x: Tensor, keys: Tensor) -> Tensor:
    for block in transformer.blocks:
        x = x + _attend(block, block.attention_norm(x), keys)
        x = x + block.mlp(block.mlp_norm(x))
    return transformer.norm(x)


def _embed(embedding: nn.Module, padded: PaddedBatch) -> Tensor:
    content = embedding.gene(padded.genes) + embedding.value.mlp(padded.values.log1p()[..., None])
    return content + embedding.position(padded.ranks, padded.segments)


def reference_loss(model: STJEPAModule, padded: PaddedBatch) -> Tensor:
    """Return the paper's loss: L1 at masked tokens between predictions and layer-normed targets."""
    with torch.no_grad():
        targets = _transform(model.target.transformer, _embed(model.target.embedding, padded), padded.real)
        targets = F.layer_norm(targets, targets.shape[-1:])
    visible = padded.real & ~padded.masked
    encoded = _transform(model.context.transformer, _embed(model.context.embedding, padded), visible)
    embedding, predictor = model.context.embedding, model.objective.predictor
    queries = predictor.mask_token + embedding.position(padded.ranks, padded.segments) + embedding.gene(padded.genes)
    tokens = torch.where(padded.masked[..., None], queries, encoded)
    predicted = predictor.out(_transform(predictor.transformer, tokens, padded.real))
    weight = padded.masked[..., None].float()
    return ((predicted - targets).abs() * weight).sum() / (weight.sum() * predicted.shape[-1])
