"""Tools on embeddings held in an AnnData object: read-outs, niches, and what can be said of niches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.renamed import lazy

if TYPE_CHECKING:
    from scjepa.tl._aggregate import aggregate
    from scjepa.tl._annotate import annotate
    from scjepa.tl._annotator import CellAnnotator, LabelClassifier
    from scjepa.tl._conditions import contact_enrichment, differential_niches
    from scjepa.tl._confidence import niche_confidence
    from scjepa.tl._describe import (
        Composition,
        Interactions,
        NicheComparison,
        compare_niches,
        gene_modules,
        niche_composition,
        niche_interactions,
        niche_markers,
        niche_shapes,
    )
    from scjepa.tl._drivers import niche_drivers
    from scjepa.tl._niche_estimator import NicheReadout
    from scjepa.tl._niche_number import NicheNumber, niche_number
    from scjepa.tl._niche_readout import niche_readout, niche_readout_of
    from scjepa.tl._niches import NicheClusters, check_niches, find_niches, niches
    from scjepa.tl._predictive import (
        PredictiveComponents,
        predictive_components,
        predictive_components_of,
        predictive_genes,
    )
    from scjepa.tl._shared import SharedComponents, shared_components, shared_components_of
    from scjepa.tl._standardize import standardize
    from scjepa.tl.edits import EditedNeighborhoods, edit_neighborhood
    from scjepa.tl.prediction import spillover, surprise

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
