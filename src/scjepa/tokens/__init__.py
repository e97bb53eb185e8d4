"""Counts, gene names and coordinates in; tables of tokens and neighbors, and batches of them, out.

No AnnData on this floor, and torch only where a batch is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scjepa._core.renamed import no_attribute

if TYPE_CHECKING:
    from scjepa.tokens.neighborhoods import NeighborTable, build_neighbor_table
    from scjepa.tokens.normalize import (
        NORMALIZATIONS,
        FittedNormalizations,
        Normalization,
        fit_normalizations,
        get_normalization,
    )
    from scjepa.tokens.places import neighbor_places
    from scjepa.tokens.source import TableSource
    from scjepa.tokens.sums import SummedCounts
    from scjepa.tokens.table import TokenTable, build_token_table
    from scjepa.tokens.vocabulary import Alignment, Panels, Vocabulary
    from scjepa.tokens.weights import gene_weights

_NORMALIZE = ("NORMALIZATIONS", "FittedNormalizations", "Normalization", "fit_normalizations", "get_normalization")
_HOMES = {
    **dict.fromkeys(("NeighborTable", "build_neighbor_table"), "scjepa.tokens.neighborhoods"),
    **dict.fromkeys(_NORMALIZE, "scjepa.tokens.normalize"),
    "neighbor_places": "scjepa.tokens.places",
    "TableSource": "scjepa.tokens.source",
    "SummedCounts": "scjepa.tokens.sums",
    **dict.fromkeys(("TokenTable", "build_token_table"), "scjepa.tokens.table"),
    **dict.fromkeys(("Alignment", "Panels", "Vocabulary"), "scjepa.tokens.vocabulary"),
    "gene_weights": "scjepa.tokens.weights",
}
"""Public names and the modules that hold them: the configuration, which the command line reads, loads no scipy."""

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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise no_attribute(__name__, name)


def __dir__() -> list[str]:
    return sorted(__all__)
