"""Simulated tissue, readers of local and public data, tables of SpatialData, and several AnnData as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.renamed import lazy

if TYPE_CHECKING:
    from scjepa._core.features import only_genes
    from scjepa.datasets._sections import available, concat, load, read_gmt, table_of
    from scjepa.datasets._simulate import simulated_tissue, thin_counts
    from scjepa.datasets._tissue import DIFFICULTIES, Difficulty, Geometry, TechnologySpec

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
