"""Scores of embeddings and clusterings against labels, on plain arrays."""

from scjepa.metrics.clustering import ari, clustering_scores, nmi

__all__ = ["ari", "clustering_scores", "nmi"]
