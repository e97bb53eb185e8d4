"""Value encoders: how a gene and its value combine to a token's content (Section 2.2 of the paper).

A registry of small classes with the same call; a new one is a class and a line in its table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scjepa._core.options import Registry


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
