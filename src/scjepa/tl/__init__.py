"""Tools on embeddings held in an AnnData object: read-outs, niches, and what can be said of niches.

The estimators load scikit-learn, which takes seconds, on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scjepa._core.renamed import no_attribute
from scjepa.tl._aggregate import aggregate
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
)
from scjepa.tl._niche_readout import niche_readout, niche_readout_of
from scjepa.tl._niches import check_niches, find_niches, niches
from scjepa.tl._predictive_components import predictive_components, predictive_components_of, predictive_genes
from scjepa.tl._shared_components import shared_components, shared_components_of
from scjepa.tl._standardize import standardize

if TYPE_CHECKING:
    from scjepa.tl._niche_estimator import NicheReadout
    from scjepa.tl._predictive import PredictiveComponents
    from scjepa.tl._shared import SharedComponents

_ESTIMATORS = {
    "NicheReadout": "scjepa.tl._niche_estimator",
    "PredictiveComponents": "scjepa.tl._predictive",
    "SharedComponents": "scjepa.tl._shared",
}

__all__ = [
    "Composition",
    "Interactions",
    "NicheComparison",
    "NicheReadout",
    "PredictiveComponents",
    "SharedComponents",
    "aggregate",
    "check_niches",
    "compare_niches",
    "find_niches",
    "gene_modules",
    "niche_composition",
    "niche_confidence",
    "niche_interactions",
    "niche_markers",
    "niche_readout",
    "niche_readout_of",
    "niches",
    "predictive_components",
    "predictive_components_of",
    "predictive_genes",
    "shared_components",
    "shared_components_of",
    "standardize",
]


def __getattr__(name: str) -> Any:
    if name in _ESTIMATORS:
        return getattr(import_module(_ESTIMATORS[name]), name)
    raise no_attribute(__name__, name)


def __dir__() -> list[str]:
    return sorted(__all__)
