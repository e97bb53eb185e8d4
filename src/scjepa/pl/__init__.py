"""Figures: niches on the tissue and what can be said of them, maps of an embedding, and the course of a training."""

from scjepa.pl._compare import compare
from scjepa.pl._composition import composition
from scjepa.pl._embedding import embedding
from scjepa.pl._interactions import interactions
from scjepa.pl._markers import markers
from scjepa.pl._predictive_genes import predictive_genes
from scjepa.pl._tissue import confidence, niches
from scjepa.pl._training import training

__all__ = [
    "compare",
    "composition",
    "confidence",
    "embedding",
    "interactions",
    "markers",
    "niches",
    "predictive_genes",
    "training",
]
