"""The pre-norm transformer over packed sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from scjepa.nn.attention import Layout


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
    width, n_layers, n_heads, mlp_ratio, dropout
        As in :class:`scjepa.config.EncoderConfig`.
    backend
        Attention back-end.
    """

    def __init__(
        self,
        width: int,
        n_layers: int,
        n_heads: int,
        *,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        backend: str = "auto",
    ):
        super().__init__()
        blocks = [Block(width, n_heads, mlp_ratio, dropout, backend) for _ in range(n_layers)]
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
