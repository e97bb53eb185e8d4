"""Figures: niches on the tissue, maps of an embedding, and the course of a training."""

from scjepa.pl._embedding import embedding
from scjepa.pl._niches import niches
from scjepa.pl._training import training

__all__ = ["embedding", "niches", "training"]
