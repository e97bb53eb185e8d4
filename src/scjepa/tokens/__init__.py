"""Counts, gene names and coordinates in; tables of tokens and neighbors, and batches of them, out.

No AnnData on this floor, and torch only where a batch is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scjepa.tokens.cells import TokenTable, build_token_table
from scjepa.tokens.expression import build_expression_table
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
from scjepa.tokens.vocabulary import Alignment, Panels, Vocabulary
from scjepa.tokens.weights import gene_weights

__all__ = [
    "NORMALIZATIONS",
    "Alignment",
    "Batch",
    "CellSource",
    "FittedNormalizations",
    "NeighborTable",
    "Normalization",
    "Panels",
    "SummedCounts",
    "TableSource",
    "TokenSource",
    "TokenTable",
    "Vocabulary",
    "build_expression_table",
    "build_neighbor_table",
    "build_token_table",
    "fit_normalizations",
    "gene_weights",
    "get_normalization",
    "neighbor_places",
]

if TYPE_CHECKING:
    from scjepa.tokens.batches import Batch, TableSource, TokenSource
    from scjepa.tokens.cell_batches import CellSource


def __getattr__(name: str) -> Any:
    if name in ("Batch", "TableSource", "TokenSource"):
        from scjepa.tokens import batches

        return getattr(batches, name)
    if name == "CellSource":
        from scjepa.tokens.cell_batches import CellSource

        return CellSource
    raise AttributeError(f"module 'scjepa.tokens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
