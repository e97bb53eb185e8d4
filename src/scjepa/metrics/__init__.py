"""Scores of embeddings and clusterings against labels, on plain arrays."""

from scjepa.metrics.clustering import ari, clustering_scores, nmi
from scjepa.metrics.integration import ilisi
from scjepa.metrics.transfer import LabelTransfer, label_transfer

__all__ = ["LabelTransfer", "ari", "clustering_scores", "ilisi", "label_transfer", "nmi"]
