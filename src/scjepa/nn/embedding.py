"""Token embedding: gene identity and value, rank, and segment (Section 2.2 of the paper).

Each axis is a small registry of small classes with the same call; a new one is a class and a line in its table.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scjepa._config import EncoderConfig, unknown_name
from scjepa.nn.batch import Batch

RANK_BASE = 10_000.0
SEGMENT_BASE = 100.0
"""Rank and segment have bases of their own: with one base PE(3) + PE(5) would equal PE(5) + PE(3)."""


def sinusoids(n_positions: int, width: int, base: float) -> Tensor:
    """Return the fixed sinusoidal code of positions 0..n-1, ``(n_positions, width)`` float32."""
    position = torch.arange(n_positions, dtype=torch.float64)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(base) / width))
    code = torch.empty(n_positions, width, dtype=torch.float64)
    code[:, 0::2] = torch.sin(position * frequency)
    code[:, 1::2] = torch.cos(position * frequency)
    return code.float()


class Sinusoidal(nn.Module):
    """A fixed table of sinusoidal codes."""

    base = RANK_BASE
    table: Tensor

    def __init__(self, n_positions: int, width: int):
        super().__init__()
        # Follows from the configuration, so it is not saved.
        self.register_buffer("table", sinusoids(n_positions, width, self.base), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        """Return codes ``(tokens, width)`` of integer positions."""
        return self.table[positions]


class SinusoidalSegment(Sinusoidal):
    """Sinusoidal codes of segments, with their own base."""

    base = SEGMENT_BASE


class Learned(nn.Module):
    """A learned vector for each position."""

    def __init__(self, n_positions: int, width: int):
        super().__init__()
        self.table = nn.Embedding(n_positions, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, positions: Tensor) -> Tensor:
        """Return codes ``(tokens, width)`` of integer positions."""
        return self.table(positions)


class NoPosition(nn.Module):
    """No code at all: the axis switched off."""

    def __init__(self, n_positions: int, width: int):
        super().__init__()
        self.width = width

    def forward(self, positions: Tensor) -> Tensor:
        """Return zeros that broadcast over the tokens, ``(1, width)``."""
        return torch.zeros(1, self.width, device=positions.device)


RANK_ENCODERS: dict[str, type[nn.Module]] = {"sinusoidal": Sinusoidal, "learned": Learned, "none": NoPosition}
"""Rank encoders: ``(n_positions, width)`` -> module of rank codes."""

SEGMENT_ENCODERS: dict[str, type[nn.Module]] = {
    "sinusoidal": SinusoidalSegment,
    "learned": Learned,
    "none": NoPosition,
}
"""Encoders of the segment: ``(n_positions, width)`` -> module of segment codes."""


class ValueMLP(nn.Module):
    """The paper's value encoder: gene + MLP(value), a two-layer MLP 1 -> D/2 -> D with GELU."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(1, width // 2), nn.GELU(), nn.Linear(width // 2, width))

    def forward(self, gene: Tensor, values: Tensor) -> Tensor:
        """Return gene vectors ``(tokens, width)`` with the values ``(tokens,)`` added."""
        # Counts repeat: the MLP runs once for each distinct value and its rows are gathered (exact).
        distinct, inverse = torch.unique(values, return_inverse=True)
        if len(distinct) * 2 < len(values):
            return gene + F.embedding(inverse, self.mlp(distinct[:, None]))
        return gene + self.mlp(values[:, None])


class ValueProduct(nn.Module):
    """gene ⊙ value: what belongs together stays together when tokens are pooled."""

    def __init__(self, width: int):
        super().__init__()

    def forward(self, gene: Tensor, values: Tensor) -> Tensor:
        """Return gene vectors ``(tokens, width)`` scaled by the values ``(tokens,)``."""
        return gene * values[:, None]


class NoValue(nn.Module):
    """Gene identity alone (the paper's rank tokenizer)."""

    def __init__(self, width: int):
        super().__init__()

    def forward(self, gene: Tensor, values: Tensor) -> Tensor:
        """Return the gene vectors as they are."""
        return gene


VALUE_ENCODERS: dict[str, type[nn.Module]] = {"mlp": ValueMLP, "bound": ValueProduct, "none": NoValue}
"""Value encoders: ``(gene vectors, scaled values)`` -> token content."""


def _from_registry(kind: str, registry: dict[str, type[nn.Module]], name: str) -> type[nn.Module]:
    if name not in registry:
        raise ValueError(unknown_name(kind, name, registry))
    return registry[name]


class TokenEmbedding(nn.Module):
    """Packed tokens -> vectors: content (gene and value) + weight · (rank + segment).

    Parameters
    ----------
    n_genes
        Size of the vocabulary.
    n_technologies
        Technology tokens.
    n_ranks
        Largest number of tokens of a cell, L.
    n_segments
        k + 1; one more code is kept for the metatoken.
    config
        The options.
    """

    def __init__(self, n_genes: int, n_technologies: int, n_ranks: int, n_segments: int, config: EncoderConfig):
        super().__init__()
        width = config.width
        self.gene = nn.Embedding(n_genes, width)
        self.technology = nn.Embedding(n_technologies, width)
        nn.init.normal_(self.gene.weight, std=config.gene_std)
        nn.init.normal_(self.technology.weight, std=config.gene_std)
        self.value = _from_registry("value encoder", VALUE_ENCODERS, config.value)(width)
        self.rank = _from_registry("rank encoder", RANK_ENCODERS, config.rank)(n_ranks, width)
        self.segment = _from_registry("segment encoder", SEGMENT_ENCODERS, config.segment)(n_segments + 1, width)
        self.position_weight = config.position_weight
        self._log_values = config.value_scale == "log1p"

    def position(self, ranks: Tensor, segments: Tensor) -> Tensor:
        """Return what a token's place is worth, ``(tokens, width)``."""
        return self.position_weight * (self.rank(ranks) + self.segment(segments))

    def forward(self, batch: Batch) -> Tensor:
        """Embed a batch, ``(tokens, width)``; metatokens carry technology and segment alone."""
        values = batch.values.log1p() if self._log_values else batch.values
        content = self.value(self.gene(batch.genes), values) + self.position(batch.ranks, batch.segments)
        rows = batch.is_metatoken.nonzero()[:, 0]
        if not len(rows):
            return content
        technology = self.technology(batch.technologies[batch.sequences[rows]])
        place = self.position_weight * self.segment(batch.segments[rows])
        return content.index_copy(0, rows, (technology + place).to(content.dtype))
