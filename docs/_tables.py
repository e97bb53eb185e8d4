"""Parts of the documentation that are read off the code, so that they cannot disagree with it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import _celljepa
import _cells
import _choices
import _perturbation
import _speed
import torch

from scjepa.config import PRESETS, STJEPAConfig
from scjepa.stjepa import STJEPAModule

N_GENES, N_TECHNOLOGIES = 1669, 2
"""Vocabulary and technologies of the model in the paper: what its 23.7M parameters have to be compared with."""

REGISTRIES = {
    "tokens": ("NORMALIZATIONS",),
    "nn": ("VALUE_ENCODERS", "ATTENTION_BACKENDS"),
    "stjepa": ("RANK_ENCODERS", "SEGMENT_ENCODERS", "MASKING_SCHEMES", "OBJECTIVES", "POOLING"),
    "celljepa": ("CONTRASTS", "CELL_POOLING"),
}


@dataclass(frozen=True)
class Call:
    """A function of a module here, ``"module:name"``, for templates to call.

    A function itself cannot be kept with what Sphinx has read: every build would read all pages again.
    """

    place: str

    def __call__(self, *arguments: object) -> object:
        """Call the function."""
        module, name = self.place.split(":")
        return getattr(import_module(module), name)(*arguments)


def own_members(class_name: str, names: Sequence[str]) -> list[str]:
    """Return those of a class's members that scjepa defines, not the frameworks it builds on."""
    module, _, name = class_name.rpartition(".")
    owner = getattr(import_module(module), name)
    return [n for n in names if n != "__init__" and _defined_by_scjepa(owner, n)]


def _defined_by_scjepa(owner: type, name: str) -> bool:
    for base in owner.__mro__:
        if name in vars(base):
            if type(vars(base)[name]).__module__.startswith("sklearn"):  # set_fit_request and its like, put there by it
                return False
            return base.__module__.startswith("scjepa") and bool(inspect.getdoc(getattr(owner, name)))
    return False


def _markdown(rows: Mapping[str, Sequence[str]], header: Sequence[str]) -> str:
    lines = ["| | " + " | ".join(header) + " |", "|---" * (len(header) + 1) + "|"]
    return "\n".join(lines + [f"| {label} | " + " | ".join(cells) + " |" for label, cells in rows.items()]) + "\n"


def _counts(config: STJEPAConfig) -> dict[str, int]:
    with torch.device("meta"):  # counted without a number being drawn
        return STJEPAModule(N_GENES, N_TECHNOLOGIES, config).parameter_counts()


def _millions(n: int) -> str:
    return f"{n / 1e6:.1f} M" if n >= 1e7 else f"{n / 1e6:.2f} M"


def presets() -> str:
    """Return the table of presets: options that differ, and parameter counts."""
    configs = PRESETS.values()
    counts = [_counts(config) for config in configs]
    lengths = [
        f"{c.training.max_epochs} epochs" if c.training.max_steps is None else f"{c.training.max_steps:,} steps"
        for c in configs
    ]
    rows = {
        "genes per cell, L": [str(c.tokens.n_tokens) for c in configs],
        "neighbors, k": [str(c.tokens.n_neighbors) for c in configs],
        "width, D": [str(c.encoder.width) for c in configs],
        "layers × heads": [f"{c.encoder.n_layers} × {c.encoder.n_heads}" for c in configs],
        "predictor layers": [str(c.objective.predictor_layers) for c in configs],
        "gene and value": [f"`{c.encoder.value}`" for c in configs],
        "value scale": [f"`{c.encoder.value_scale}`" for c in configs],
        "batch × length": [f"{c.training.batch_size} × {n}" for c, n in zip(configs, lengths, strict=True)],
        "peak learning rate": [f"{c.training.learning_rate:g}" for c in configs],
        "EMA": [f"{c.training.ema_start:g} → {c.training.ema_end:g}" for c in configs],
        "pooled objectives, guards": [_extras(c) for c in configs],
        "**parameters**: encoder": [_millions(n["encoder"]) for n in counts],
        "… without gene vectors": [_millions(n["encoder_without_genes"]) for n in counts],
        "… trained (with predictor and heads)": [_millions(n["trained"]) for n in counts],
        "… in memory (with the EMA copy)": [_millions(n["total"]) for n in counts],
    }
    return _markdown(rows, [f"`{name}`" for name in PRESETS])


def _extras(config: STJEPAConfig) -> str:
    o = config.objective
    pooled = o.cell_weight > 0 or o.neighborhood_weight > 0
    guarded = o.variance_weight > 0 or o.covariance_weight > 0
    return ", ".join(word for word, there in (("pooled", pooled), ("guards", guarded)) if there) or "none"


def registries() -> str:
    """Return reStructuredText that lists every registry with its names."""
    parts = []
    for floor, names in REGISTRIES.items():
        module = import_module(f"scjepa.{floor}")
        for name in names:
            parts += [f".. py:data:: scjepa.{floor}.{name}", "", *_entries(getattr(module, name)), ""]
    return "\n".join(parts)


def _entries(registry: Mapping[str, Any] | Sequence[str]) -> list[str]:
    if isinstance(registry, Mapping):
        return [f"   * ``{key!r}``: {_first_line(entry)}" for key, entry in registry.items()]
    return ["   " + ", ".join(f"``{key!r}``" for key in registry)]


def _first_line(entry: Any) -> str:
    return (inspect.getdoc(entry) or "").split("\n\n")[0].replace("\n", " ")


def write(docs: Path) -> None:
    """Write what the pages include into the folder ``generated``."""
    folder = docs / "generated"
    folder.mkdir(exist_ok=True)
    own = {"presets": presets(), "registries": registries()}
    parts = {
        **own,
        **_speed.parts(),
        **_choices.parts(),
        **_celljepa.parts(),
        **_perturbation.parts(),
        **_cells.parts(),
    }
    for name, text in parts.items():
        path = folder / f"{name}.txt"
        if not path.is_file() or path.read_text() != text:  # an unchanged page is not built again
            path.write_text(text)
