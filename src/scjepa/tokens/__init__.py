"""Counts, gene names and coordinates in; tables of tokens and neighbors, and batches of them, out.

No AnnData on this floor, and torch only where a batch is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.renamed import lazy

if TYPE_CHECKING:
    from scjepa.tokens.config import TokenConfig, TokenRule
    from scjepa.tokens.neighbors import NeighborTable, SummedCounts, build_neighbor_table, neighbor_places
    from scjepa.tokens.normalize import NORMALIZATIONS, FittedNormalizations, Normalization, fit_normalizations
    from scjepa.tokens.source import TableSource
    from scjepa.tokens.table import TokenTable, build_token_table
    from scjepa.tokens.vocabulary import Alignment, Panels, Vocabulary
    from scjepa.tokens.weights import gene_weights

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
