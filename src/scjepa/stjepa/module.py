"""The network of ST-JEPA: token embedding, encoder, pooling, and what its objectives have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from scjepa._core.options import Registry
from scjepa.nn.attention import Packing, mean_by_group
from scjepa.nn.encoder import VALUE_ENCODERS, Embedding, Encoder, signed_log1p
from scjepa.nn.jepa import JEPAModule, Objective, ObjectiveOutput
from scjepa.stjepa.config import STJEPAConfig
from scjepa.stjepa.source import Batch, TokenSource

if TYPE_CHECKING:
    from scjepa.stjepa.config import EncoderConfig


RANK_BASE = 10_000.0
SEGMENT_BASE = 100.0
"""Rank and segment have bases of their own: with one base PE(3) + PE(5) would equal PE(5) + PE(3)."""
PLACE_BASE = 100.0
"""The longest wave of a place's code over the shortest."""


def sinusoids(n_positions: int, width: int, base: float) -> Tensor:
    """Return the fixed sinusoidal code of positions 0..n-1, ``(n_positions, width)`` float32."""
    position = torch.arange(n_positions, dtype=torch.float64)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(base) / width))
    code = torch.empty(n_positions, width, dtype=torch.float64)
    code[:, 0::2] = torch.sin(position * frequency)
    code[:, 1::2] = torch.cos(position * frequency)
    return code.float()


class PositionEncoder(nn.Module):
    """Base of the encoders of ranks and of segments; each is built of the number of positions and the width."""

    needs_places = False
    """Whether it reads where a token's cell lies, seen from the index cell."""


class Sinusoidal(PositionEncoder):
    """A fixed table of sinusoidal codes."""

    base = RANK_BASE
    table: Tensor

    def __init__(self, n_positions: int, width: int):
        super().__init__()
        # Follows from the configuration, so it is not saved.
        self.register_buffer("table", sinusoids(n_positions, width, self.base), persistent=False)

    def forward(self, positions: Tensor, places: Tensor | None = None) -> Tensor:
        """Return codes ``(tokens, width)`` of integer positions."""
        return self.table[positions]


class SinusoidalSegment(Sinusoidal):
    """Sinusoidal codes of segments, with their own base."""

    base = SEGMENT_BASE


class Learned(PositionEncoder):
    """A learned vector for each position."""

    def __init__(self, n_positions: int, width: int):
        super().__init__()
        self.table = nn.Embedding(n_positions, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, positions: Tensor, places: Tensor | None = None) -> Tensor:
        """Return codes ``(tokens, width)`` of integer positions."""
        return self.table(positions)


class NoPosition(PositionEncoder):
    """No code at all: the axis switched off."""

    def __init__(self, n_positions: int, width: int):
        super().__init__()
        self.width = width

    def forward(self, positions: Tensor, places: Tensor | None = None) -> Tensor:
        """Return zeros that broadcast over the tokens, ``(1, width)``."""
        return torch.zeros(1, self.width, device=positions.device)


class Coordinate(PositionEncoder):
    """Sinusoids of the place of a token's cell, seen from the index cell, in place of a code of its segment.

    Waves of different lengths run over the tissue, from twice the median neighbor distance to a hundred times that,
    each in a direction of its own. The code of a place is their sines and cosines there: it tells direction and
    distance, is the same in all sections whatever their unit, and changes when tissue is turned.
    """

    needs_places = True
    waves: Tensor

    def __init__(self, n_positions: int, width: int):
        super().__init__()
        number = torch.arange(width // 2, dtype=torch.float64)
        golden = math.pi * (3.0 - math.sqrt(5.0))  # directions that never repeat and leave no gap
        height = (2.0 * ((number * 0.754877666246693) % 1.0) - 1.0)[None]  # of a third coordinate, where there is one
        flat = torch.stack([torch.cos(golden * number), torch.sin(golden * number)])
        frequency = math.pi * PLACE_BASE ** (-number / max(width // 2 - 1, 1))
        # Follows from the configuration, so it is not saved.
        self.register_buffer("waves", (torch.cat([flat, height]) * frequency).float(), persistent=False)

    def forward(self, positions: Tensor, places: Tensor | None = None) -> Tensor:
        """Return codes ``(tokens, width)`` of ``places``, ``(tokens, 3)``."""
        if places is None:
            raise ValueError(
                "encoder={'segment': 'coordinate'} needs the places of the cells, and this batch has none: give "
                "TokenSource(..., places=neighbor_places(...))."
            )
        angles = places @ self.waves
        return torch.cat([angles.sin(), angles.cos()], dim=1)


RANK_ENCODERS: Registry[type[PositionEncoder]] = Registry(
    "rank encoder", {"sinusoidal": Sinusoidal, "learned": Learned, "none": NoPosition}
)
"""Rank encoders: ``(n_positions, width)`` -> module of rank codes."""

SEGMENT_ENCODERS: Registry[type[PositionEncoder]] = Registry(
    "segment encoder",
    {"sinusoidal": SinusoidalSegment, "coordinate": Coordinate, "learned": Learned, "none": NoPosition},
)
"""Encoders of the segment: ``(n_positions, width)`` -> module of segment codes."""


class TokenEmbedding(Embedding):
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
    signed
        Whether values can be negative.
    """

    def __init__(
        self,
        n_genes: int,
        n_technologies: int,
        n_ranks: int,
        n_segments: int,
        config: EncoderConfig,
        signed: bool = False,
    ):
        super().__init__()
        width = config.width
        self.gene = nn.Embedding(n_genes, width)
        self.technology = nn.Embedding(n_technologies, width)
        nn.init.normal_(self.gene.weight, std=config.gene_std)
        nn.init.normal_(self.technology.weight, std=config.gene_std)
        self.value = VALUE_ENCODERS[config.value].of(width, config.n_bins)
        self.rank = RANK_ENCODERS[config.rank](n_ranks, width)
        self.segment = SEGMENT_ENCODERS[config.segment](n_segments + 1, width)
        self.needs_places = self.rank.needs_places or self.segment.needs_places
        self.position_weight = config.position_weight
        self._log = signed_log1p if signed else torch.log1p
        self._log_values = config.value_scale == "log1p"

    def position(self, ranks: Tensor, segments: Tensor, places: Tensor | None = None) -> Tensor:
        """Return what a token's place is worth, ``(tokens, width)``."""
        return self.position_weight * (self.rank(ranks, places) + self.segment(segments, places))

    def forward(self, batch: Batch) -> Tensor:
        """Embed a batch, ``(tokens, width)``; metatokens carry technology and segment alone."""
        values = self._log(batch.values) if self._log_values else batch.values
        place = self.position(batch.ranks, batch.segments, batch.places)
        content = self.value(self.gene(batch.genes), values) + place
        rows = batch.is_metatoken.nonzero()[:, 0]
        if not len(rows):
            return content
        technology = self.technology(batch.technologies[batch.sequences[rows]])
        seen_from = None if batch.places is None else batch.places[rows]
        place = self.position_weight * self.segment(batch.segments[rows], seen_from)
        return content.index_copy(0, rows, (technology + place).to(content.dtype))


def pool_cell(tokens: Tensor, batch: Batch) -> Tensor:
    """Mean over the index cell's tokens, ``(B, width)``."""
    index = (batch.segments == 0).nonzero()[:, 0]
    return mean_by_group(tokens[index], batch.sequences[index], batch.n_sequences)


def pool_neighborhood(tokens: Tensor, batch: Batch) -> Tensor:
    """Mean over the tokens of all segments, ``(B, width)``."""
    keep = (~batch.is_metatoken).nonzero()[:, 0]
    return mean_by_group(tokens[keep], batch.sequences[keep], batch.n_sequences)


POOLING: Registry[Callable[[Tensor, Batch], Tensor]] = Registry(
    "scale", {"cell": pool_cell, "neighborhood": pool_neighborhood}
)
"""Pooled scales by name."""


def pool(tokens: Tensor, batch: Batch, scale: str) -> Tensor:
    """Pool token representations ``(T, width)`` to ``scale``, ``(B, width)``."""
    return POOLING[scale](tokens, batch)


class NeighborhoodObjective(Objective):
    """What is predicted of neighborhoods; what the package has to know of an objective, its class says.

    Parameters
    ----------
    config
        The model's configuration; the objective's own options are ``config.objective``.
    n_technologies
        Technologies that the model knows.
    """

    def __init__(self, config: STJEPAConfig, n_technologies: int = 1):
        super().__init__()

    @abstractmethod
    def forward(
        self, context: torch.nn.Module, target: torch.nn.Module, batch: Batch, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Return the loss of ``batch`` by the two encoders; what is drawn comes from ``generator``."""


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
