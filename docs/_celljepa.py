"""The table of Cell-JEPA's presets, read off the code."""

from __future__ import annotations

import torch

from scjepa.config import CELL_PRESETS, CellJEPAConfig
from scjepa.celljepa import CellJEPAModule, GeneModuleJEPAModule

N_GENES = 13_714
"""Genes of pbmc3k."""

N_MODULES = 50
"""Modules, such as MSigDB's Hallmark has."""


def _counts(config: CellJEPAConfig) -> dict[str, int]:
    if config.tokens.unit == "module":
        return GeneModuleJEPAModule(N_GENES, config, [range(3)] * N_MODULES).parameter_counts()
    with torch.device("meta"):  # counted without a number being drawn
        return CellJEPAModule(N_GENES, config).parameter_counts()


def _millions(n: int) -> str:
    return f"{n / 1e6:.1f} M" if n >= 1e7 else f"{n / 1e6:.2f} M"


def _length(config: CellJEPAConfig) -> str:
    t = config.training
    return f"{t.max_epochs} epochs" if t.max_steps is None else f"{t.max_steps:,} steps"


def _schedule(config: CellJEPAConfig) -> str:
    t = config.training
    return f"{t.learning_rate:g}, cosine" if t.schedule == "cosine" else f"{t.learning_rate:g} × {t.decay:g} per epoch"


def parts() -> dict[str, str]:
    """Return the generated parts of the page by name."""
    configs = CELL_PRESETS.values()
    counts = [_counts(config) for config in configs]
    rows = {
        "genes per cell": [str(c.tokens.n_tokens) for c in configs],
        "width, D": [str(c.encoder.width) for c in configs],
        "layers × heads": [f"{c.encoder.n_layers} × {c.encoder.n_heads}" for c in configs],
        "hidden width": [str(int(c.encoder.width * c.encoder.mlp_ratio)) for c in configs],
        "dropout": [f"{c.encoder.dropout:g}" for c in configs],
        "mask": [str(c.masking.ratio) for c in configs],
        "weights, JEPA : reconstruction": [
            f"{c.objective.jepa_weight:g} : {c.objective.reconstruction_weight:g}"
            if c.tokens.unit == "gene"
            else "modules alone"
            for c in configs
        ],
        "batch × length": [f"{c.training.batch_size} × {_length(c)}" for c in configs],
        "learning rate": [_schedule(c) for c in configs],
        "EMA": [f"{c.training.ema_start:g} → {c.training.ema_end:g}" for c in configs],
        "**parameters**: encoder": [_millions(n["encoder"]) for n in counts],
        "… without gene vectors": [_millions(n["encoder_without_genes"]) for n in counts],
        "… trained (with heads)": [_millions(n["trained"]) for n in counts],
        "… in memory (with the EMA copy)": [_millions(n["total"]) for n in counts],
    }
    header = " | ".join(f"`{name}`" for name in CELL_PRESETS)
    lines = [f"| | {header} |", "|---" * (len(CELL_PRESETS) + 1) + "|"]
    lines += [f"| {label} | " + " | ".join(cells) + " |" for label, cells in rows.items()]
    return {"cell_presets": "\n".join(lines) + "\n"}
