"""Scores of embeddings and clusterings against labels, on plain arrays."""

from scjepa.metrics.bootstrap import BlockBootstrap, block_bootstrap
from scjepa.metrics.clustering import ari, clustering_scores, nmi
from scjepa.metrics.integration import ilisi
from scjepa.metrics.probe import Probe, block_probe
from scjepa.metrics.transfer import LabelTransfer, label_transfer

__all__ = [
    "BlockBootstrap",
    "LabelTransfer",
    "Probe",
    "ari",
    "block_bootstrap",
    "block_probe",
    "clustering_scores",
    "ilisi",
    "label_transfer",
    "nmi",
]
