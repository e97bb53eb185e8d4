"""Methods of a comparison of cells, by name. A new one is a line here, and a branch in no other file but its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ZERO_SHOT, DROPOUT, BATCHES, FINETUNE = "zero_shot", "dropout", "batches", "finetune"

TASKS = (ZERO_SHOT, DROPOUT, BATCHES, FINETUNE)
"""What methods are asked to do."""

PRETRAINED, UNTRAINED, FITTED, OWN = "pretrained", "untrained", "fitted", "own"
"""How a method comes by what it knows: on other cells, not at all, on cells of the target, as its author likes."""

PARTS = ("tokens", "encoder", "masking", "objective", "training", "finetuning")
"""Parts of Cell-JEPA's configuration that an option can change."""


@dataclass(frozen=True)
class CellMethod:
    """A method that embeds cells.

    Attributes
    ----------
    title
        Its name in tables and figures.
    about
        What it is, in one line.
    settings
        ``"pretrained"`` (Cell-JEPA trained on other cells, without labels), ``"untrained"`` (its initial weights) or
        ``"fitted"`` (on cells of the target, without labels).
    options
        Names of its options; of Cell-JEPA's models parts of the configuration, such as ``"objective"``.
    changes
        What it changes in the preset.
    modules
        Whether gene modules are its tokens.
    tasks
        What it takes part in.
    """

    title: str
    about: str
    settings: str
    options: tuple[str, ...]
    changes: Mapping[str, Any] = field(default_factory=dict)
    modules: bool = False
    tasks: tuple[str, ...] = TASKS


_NO_JEPA = {"objective": {"jepa_weight": 0.0}}
_OF_MODULES = ("preset", "modules", "n_modules", *PARTS)

CELL_METHODS: Mapping[str, CellMethod] = {
    "celljepa": CellMethod("CellJEPA", "Cell-JEPA of the preset", PRETRAINED, PARTS),
    "reconstruction_only": CellMethod(
        "reconstruction only", "the same with the weight of the JEPA term set to 0", PRETRAINED, PARTS, _NO_JEPA
    ),
    "modules": CellMethod(
        "modules", "Cell-JEPA with gene modules as tokens, hidden whole", PRETRAINED, _OF_MODULES, modules=True
    ),
    "untrained": CellMethod("untrained", "Cell-JEPA with its initial weights", UNTRAINED, PARTS),
    "untrained_modules": CellMethod(
        "untrained modules", "the modules' encoder with its initial weights", UNTRAINED, _OF_MODULES, modules=True
    ),
    "hvg_pca": CellMethod(
        "HVG-PCA", "principal components of highly variable genes, log-normalized", FITTED, ("n_genes", "n_comps")
    ),
    "scvi": CellMethod("scVI", "scVI on highly variable genes", FITTED, ("n_genes", "max_epochs", "accelerator")),
    "harmony": CellMethod("Harmony", "HVG-PCA corrected for batches", FITTED, ("n_genes", "n_comps"), tasks=(BATCHES,)),
}
"""Methods by name."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "all": tuple(CELL_METHODS),
    "models": tuple(name for name, method in CELL_METHODS.items() if method.settings in (PRETRAINED, UNTRAINED)),
    "fitted": tuple(name for name, method in CELL_METHODS.items() if method.settings == FITTED),
}
"""Names that stand for several methods."""


def title_of(name: str) -> str:
    """Return the name of a method in tables and figures; one's own has the name it was given."""
    return CELL_METHODS[name].title if name in CELL_METHODS else name


def place_of(name: str) -> int:
    """Return where a method stands in tables and figures; one's own come last."""
    return list(CELL_METHODS).index(name) if name in CELL_METHODS else len(CELL_METHODS)
