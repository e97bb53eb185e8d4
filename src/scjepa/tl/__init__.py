"""Tools on embeddings held in an AnnData object: a read-out that controls share, and niches."""

from scjepa.tl._aggregate import aggregate, aggregate_neighbors
from scjepa.tl._niches import niches
from scjepa.tl._readout import readout, standardize

__all__ = ["aggregate", "aggregate_neighbors", "niches", "readout", "standardize"]
