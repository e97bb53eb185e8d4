"""scjepa: joint-embedding predictive models for spatial transcriptomics and single cells.

Submodules load on first use, so that ``import scjepa`` is quick and ``scjepa.nn``, ``scjepa.tokens`` and
``scjepa.training`` need only torch, numpy, scipy and lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scjepa._core.renamed import no_attribute
from scjepa._core.settings import settings

__version__ = "0.1.0"

__all__ = [
    "STJEPA",
    "CellJEPA",
    "Collection",
    "NicheAtlas",
    "__version__",
    "benchmark",
    "concat",
    "config",
    "datasets",
    "metrics",
    "perturbation",
    "pl",
    "pretrained",
    "settings",
    "table_of",
    "tl",
]

_FLOORS = ("atlas", "celljepa", "cohort", "models", "nn", "stjepa", "tokens", "training")
"""Subpackages for developers: there, and not listed."""

_OBJECTS = {
    "CellJEPA": "scjepa.celljepa",
    "Collection": "scjepa.cohort",
    "NicheAtlas": "scjepa.atlas",
    "STJEPA": "scjepa.stjepa",
    "concat": "scjepa.datasets",
    "table_of": "scjepa.datasets",
}
"""Names and the modules that hold them; all others in ``__all__`` are modules."""

if TYPE_CHECKING:
    from scjepa import benchmark, config, datasets, metrics, perturbation, pl, pretrained, tl
    from scjepa.atlas import NicheAtlas
    from scjepa.celljepa.model import CellJEPA
    from scjepa.cohort import Collection
    from scjepa.datasets import concat, table_of
    from scjepa.stjepa.model import STJEPA


def __getattr__(name: str) -> Any:
    if name in _OBJECTS:
        return getattr(import_module(_OBJECTS[name]), name)
    if name in _FLOORS or name in __all__:
        return import_module(f"scjepa.{name}")
    raise no_attribute(__name__, name)


def __dir__() -> list[str]:
    return sorted(__all__)
