"""What reads values off token vectors and off cell vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """A hidden gene's value from its token: an MLP of three layers.

    Parameters
    ----------
    width
        Token width.
    highest
        The highest bin. The MLP is asked for shares of it, the head gives bins.
    """

    def __init__(self, width: int, highest: int):
        super().__init__()
        self.highest = highest
        first, second, last = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 1)
        nn.init.constant_(last.bias, 0.5)  # begin at the middle bin, not at zero
        self.mlp = nn.Sequential(first, nn.GELU(), second, nn.GELU(), last)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return bins, ``(tokens,)`` float32."""
        return self.highest * self.mlp(tokens)[:, 0].float()


class CellValueHead(nn.Module):
    """A gene's value from its cell's vector: (W σ(Linear(gene))) · cell (scGPT's MVC, the paper's GEPC).

    Parameters
    ----------
    width
        Width of gene and cell vectors.
    highest
        The highest bin.
    """

    def __init__(self, width: int, highest: int):
        super().__init__()
        self.highest = highest
        self.query = nn.Linear(width, width)
        self.weight = nn.Linear(width, width, bias=False)

    def forward(self, genes: Tensor, cells: Tensor) -> Tensor:
        """Return bins, ``(tokens,)`` float32, of gene and cell vectors ``(tokens, width)``."""
        # Divided by the root of the width, so that the first predictions do not grow with it.
        product = (self.weight(torch.sigmoid(self.query(genes))) * cells).sum(1) / cells.shape[1] ** 0.5
        return self.highest * product.float()
