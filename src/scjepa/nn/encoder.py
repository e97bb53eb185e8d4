"""The transformer of all encoders, and how a gene and its value combine to a token's content.

Value encoders are a registry of small classes with the same call; a new one is a class and a line in its table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scjepa._core.options import Registry
from scjepa.nn.attention import Layout
from scjepa.nn.config import TransformerConfig


def _each_distinct(values: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``encode`` of each value, ``(tokens, width)``; counts repeat, so it runs once for each distinct one."""
    distinct, inverse = torch.unique(values, return_inverse=True)
    if len(distinct) * 2 < len(values):
        return F.embedding(inverse, encode(distinct[:, None]))
    return encode(values[:, None])


class ValueEncoder(nn.Module):
    """How gene and value combine to a token's content; base of the value encoders."""

    has_bins = False
    """Whether the option ``n_bins`` says anything to it."""

    def __init__(self, width: int):
        super().__init__()

    @classmethod
    def of(cls, width: int, n_bins: int) -> Self:
        """Return the encoder of that width; ``n_bins`` is for those that have bins."""
        return cls(width)


class ValueMLP(ValueEncoder):
    """The paper's value encoder: gene + MLP(value), a two-layer MLP 1 -> D/2 -> D with GELU."""

    def __init__(self, width: int):
        super().__init__(width)
        self.mlp = nn.Sequential(nn.Linear(1, width // 2), nn.GELU(), nn.Linear(width // 2, width))

    def forward(self, gene: Tensor, values: Tensor) -> Tensor:
        """Return gene vectors ``(tokens, width)`` with the values ``(tokens,)`` added."""
        return gene + _each_distinct(values, self.mlp)


class ValueBins(ValueEncoder):
    """gene + a mixture of learned vectors, one for each of some bins, with weights that the value decides.

    The soft bins of scFoundation: which values a bin stands for is learned. A linear layer with leaky ReLU gives each
    bin a score, a second one adds what the bins' scores say of each other, and a softmax makes weights of them.
    """

    has_bins = True

    def __init__(self, width: int, n_bins: int = 50):
        super().__init__(width)
        self.score = nn.Linear(1, n_bins)
        self.mix = nn.Linear(n_bins, n_bins)
        self.bins = nn.Embedding(n_bins, width)

    @classmethod
    def of(cls, width: int, n_bins: int) -> Self:
        """Return the encoder with that number of bins."""
        return cls(width, n_bins)

    def weights(self, values: Tensor) -> Tensor:
        """Return the weights of the bins, ``(n, n_bins)``, for values ``(n, 1)``; each row sums to 1."""
        score = F.leaky_relu(self.score(values), 0.1)
        return (score + self.mix(score)).softmax(dim=1)

    def forward(self, gene: Tensor, values: Tensor) -> Tensor:
        """Return gene vectors ``(tokens, width)`` with the values' mixtures added."""
        return gene + _each_distinct(values, lambda some: self.weights(some) @ self.bins.weight)


class ValueProduct(ValueEncoder):
    """gene ⊙ value: what belongs together stays together when tokens are pooled."""

    def forward(self, gene: Tensor, values: Tensor) -> Tensor:
        """Return gene vectors ``(tokens, width)`` scaled by the values ``(tokens,)``."""
        return gene * values[:, None]


class NoValue(ValueEncoder):
    """Gene identity alone (the paper's rank tokenizer)."""

    def forward(self, gene: Tensor, values: Tensor) -> Tensor:
        """Return the gene vectors as they are."""
        return gene


VALUE_ENCODERS: Registry[type[ValueEncoder]] = Registry(
    "value encoder", {"mlp": ValueMLP, "bins": ValueBins, "bound": ValueProduct, "none": NoValue}
)
"""Value encoders: ``(gene vectors, scaled values)`` -> token content."""


def signed_log1p(values: Tensor) -> Tensor:
    """Return log(1 + |value|) with the value's sign: for normalized values, which may be negative."""
    return values.abs().log1p().copysign(values)


class Attention(nn.Module):
    """Multi-head attention of some tokens of a sequence over all its tokens."""

    def __init__(self, width: int, n_heads: int, backend: str = "auto"):
        super().__init__()
        self.n_heads = n_heads
        self.backend = backend
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, packing: Layout, rows: Tensor | None = None, row_packing: Layout | None = None
    ) -> Tensor:
        """Return the attended tokens ``rows`` (default: all), ``(n_rows, width)``."""
        width = x.shape[1]
        if rows is None:
            q, k, v = self.qkv(x).view(len(x), 3, self.n_heads, -1).unbind(1)
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(x[rows], weight[:width], bias[:width]).view(len(rows), self.n_heads, -1)
            k, v = F.linear(x, weight[width:], bias[width:]).view(len(x), 2, self.n_heads, -1).unbind(1)
        return self.out(packing.attend(q, k, v, row_packing, self.backend).reshape(len(q), width))


class Block(nn.Module):
    """Pre-norm block: x + attention(norm x), then x + MLP(norm x)."""

    def __init__(self, width: int, n_heads: int, mlp_ratio: float, dropout: float, backend: str):
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, n_heads, backend)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def adds_to_residual(self) -> tuple[nn.Linear, nn.Linear]:
        """Return the two layers whose output is added to the tokens."""
        return self.attention.out, cast(nn.Linear, self.mlp[-1])

    def forward(
        self, x: Tensor, packing: Layout, rows: Tensor | None = None, row_packing: Layout | None = None
    ) -> Tensor:
        """Return the block's output at ``rows`` (default: all tokens)."""
        attended = self.attention(self.attention_norm(x), packing, rows, row_packing)
        x = (x if rows is None else x[rows]) + self.dropout(attended)
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Transformer(nn.Module):
    """A stack of blocks and a last norm.

    Parameters
    ----------
    config
        Width, heads, MLP ratio, dropout and attention back-end.
    n_layers
        Blocks; default: the configuration's.
    """

    def __init__(self, config: TransformerConfig, n_layers: int | None = None):
        super().__init__()
        width, sizes = config.width, (config.n_heads, config.mlp_ratio, config.dropout, config.attention)
        blocks = [Block(width, *sizes) for _ in range(config.n_layers if n_layers is None else n_layers)]
        self.blocks = cast(Sequence[Block], nn.ModuleList(blocks))
        self.norm = nn.LayerNorm(width)
        self._initialize()

    def _initialize(self) -> None:
        """Draw truncated normal weights (std 0.02); those that add to the residual are scaled down by depth."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for depth, block in enumerate(self.blocks, start=1):
            for linear in block.adds_to_residual():
                linear.weight.data.div_((2 * depth) ** 0.5)

    def forward(
        self, x: Tensor, packing: Layout, rows: Tensor | None = None, row_packing: Layout | None = None
    ) -> Tensor:
        """Encode packed tokens ``(tokens, width)`` whose layout, ``packing``, says who attends to whom.

        With ``rows`` the last block computes those tokens alone, which is exact: no later block reads the others.
        """
        last = len(self.blocks) - 1
        for depth, block in enumerate(self.blocks):
            x = block(x, packing, rows, row_packing) if depth == last else block(x, packing)
        return self.norm(x)


class Embedding(nn.Module):
    """Base of what makes vectors of a batch's tokens: each gene has one."""

    gene: nn.Embedding


class Encoder(nn.Module):
    """Token embedding and transformer; a subclass says what it makes of a batch.

    Parameters
    ----------
    embedding
        What makes vectors of tokens.
    config
        Size of the transformer.
    """

    embedding: Embedding

    def __init__(self, embedding: Embedding, config: TransformerConfig):
        super().__init__()
        self.embedding = embedding
        self.transformer: nn.Module = Transformer(config)
