"""Simulated tissue, readers of local and public data, tables of SpatialData, and several AnnData as one."""

from __future__ import annotations

from scjepa._core.features import only_genes
from scjepa._core.renamed import no_attribute
from scjepa.datasets._concat import concat
from scjepa.datasets._genesets import read_gmt
from scjepa.datasets._local import available, load
from scjepa.datasets._simulate import simulated_tissue
from scjepa.datasets._spatialdata import table_of
from scjepa.datasets._spec import DIFFICULTIES, Difficulty, Geometry, TechnologySpec
from scjepa.datasets._thinning import thin_counts

__all__ = [
    "DIFFICULTIES",
    "Difficulty",
    "Geometry",
    "TechnologySpec",
    "available",
    "concat",
    "load",
    "only_genes",
    "read_gmt",
    "simulated_tissue",
    "table_of",
    "thin_counts",
]


def __getattr__(name: str) -> object:
    raise no_attribute(__name__, name)
