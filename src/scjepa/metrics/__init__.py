"""Scores of embeddings and clusterings against labels, on plain arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.renamed import lazy

if TYPE_CHECKING:
    from scjepa._core.conformal import expected_calibration_error
    from scjepa.metrics.clustering import (
        BlockBootstrap,
        NicheContinuity,
        ari,
        block_bootstrap,
        clustering_scores,
        niche_continuity,
        nmi,
    )
    from scjepa.metrics.embeddings import AverageBio, average_bio, ilisi, mmd, neighbor_agreement, scib_suite
    from scjepa.metrics.perturbation import (
        PerturbationReference,
        perturbation_discrimination,
        perturbation_reference,
        perturbation_scores,
    )
    from scjepa.metrics.probe import (
        AnnotationScores,
        BlockFolds,
        LabelTransfer,
        Probe,
        annotation_scores,
        block_folds,
        block_probe,
        label_transfer,
    )

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
