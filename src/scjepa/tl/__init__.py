"""Tools on embeddings held in an AnnData object: read-outs, niches, and what can be said of niches."""

from scjepa.tl._aggregate import aggregate, aggregate_neighbors
from scjepa.tl._compare import NicheComparison, compare_niches
from scjepa.tl._composition import Composition, niche_composition
from scjepa.tl._confidence import niche_confidence
from scjepa.tl._gene_modules import gene_modules
from scjepa.tl._interactions import Interactions, niche_interactions
from scjepa.tl._markers import niche_markers
from scjepa.tl._niche_readout import niche_readout
from scjepa.tl._niches import niches
from scjepa.tl._readout import readout, standardize

__all__ = [
    "Composition",
    "Interactions",
    "NicheComparison",
    "aggregate",
    "aggregate_neighbors",
    "compare_niches",
    "gene_modules",
    "niche_composition",
    "niche_confidence",
    "niche_interactions",
    "niche_markers",
    "niche_readout",
    "niches",
    "readout",
    "standardize",
]
