"""Scores of embeddings and clusterings against labels, on plain arrays."""

from scjepa._core.renamed import no_attribute
from scjepa.metrics.agreement import neighbor_agreement
from scjepa.metrics.bio import AverageBio, average_bio, scib_suite
from scjepa.metrics.bootstrap import BlockBootstrap, block_bootstrap
from scjepa.metrics.clustering import ari, clustering_scores, nmi
from scjepa.metrics.continuity import NicheContinuity, niche_continuity
from scjepa.metrics.integration import ilisi, mmd
from scjepa.metrics.perturbation import (
    PerturbationReference,
    perturbation_discrimination,
    perturbation_reference,
    perturbation_scores,
)
from scjepa.metrics.probe import BlockFolds, Probe, block_folds, block_probe
from scjepa.metrics.transfer import LabelTransfer, label_transfer

__all__ = [
    "AverageBio",
    "BlockBootstrap",
    "BlockFolds",
    "LabelTransfer",
    "NicheContinuity",
    "PerturbationReference",
    "Probe",
    "ari",
    "average_bio",
    "block_bootstrap",
    "block_folds",
    "block_probe",
    "clustering_scores",
    "ilisi",
    "label_transfer",
    "mmd",
    "neighbor_agreement",
    "niche_continuity",
    "nmi",
    "perturbation_discrimination",
    "perturbation_reference",
    "perturbation_scores",
    "scib_suite",
]


def __getattr__(name: str) -> object:
    raise no_attribute(__name__, name)
