"""Counts, gene names and coordinates in; tables of tokens and neighbors, and batches of them, out.

No AnnData on this floor, and torch only where a batch is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scjepa.tokens.neighborhoods import NeighborTable, build_neighbor_table
from scjepa.tokens.normalize import (
    NORMALIZATIONS,
    FittedNormalizations,
    Normalization,
    fit_normalizations,
    get_normalization,
)
from scjepa.tokens.places import neighbor_places
from scjepa.tokens.sums import SummedCounts
from scjepa.tokens.table import TokenTable, build_token_table
from scjepa.tokens.vocabulary import Alignment, Panels, Vocabulary
from scjepa.tokens.weights import gene_weights

__all__ = [
    "NORMALIZATIONS",
    "Alignment",
    "FittedNormalizations",
    "NeighborTable",
    "Normalization",
    "Panels",
    "SummedCounts",
    "TableSource",
    "TokenTable",
    "Vocabulary",
    "build_neighbor_table",
    "build_token_table",
    "fit_normalizations",
    "gene_weights",
    "get_normalization",
    "neighbor_places",
]

if TYPE_CHECKING:
    from scjepa.tokens.source import TableSource


def __getattr__(name: str) -> Any:
    if name == "TableSource":
        from scjepa.tokens.source import TableSource

        return TableSource
    raise AttributeError(f"module 'scjepa.tokens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
