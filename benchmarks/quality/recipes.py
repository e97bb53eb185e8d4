"""Recipes by name: the presets and changes of one thing at a time."""

from __future__ import annotations

from scjepa.stjepa.config import PRESETS, STJEPAConfig, resolve

TOKENS_ONLY = {
    "cell_weight": 0.0,
    "neighborhood_weight": 0.0,
    "nearby_weight": 0.0,
    "variance_weight": 0.0,
    "covariance_weight": 0.0,
}
"""The paper's objective: L1 at masked tokens and nothing else."""

PAPER_INPUT = {"value": "mlp", "position_weight": 1.0, "gene_std": 1.0}

RECIPES: dict[str, STJEPAConfig] = {
    **{name: config for name, config in PRESETS.items() if name in ("demo", "base", "technologies")},
    "base, no nearby": resolve("base", objective={"nearby_weight": 0.0}),
    "base, tokens only": resolve("base", objective=TOKENS_ONLY),
    "base, paper input": resolve("base", encoder=PAPER_INPUT),
    "base, paper input and objective": resolve("base", objective=TOKENS_ONLY, encoder=PAPER_INPUT),
    "base, whole cells": resolve("base", masking={"scheme": "whole_cell", "ratio": 0.5}),
    "technologies, ranks too": resolve("technologies", tokens={"ranks": "nonzero_mean"}),
    "technologies, batches mixed": resolve("technologies", training={"batches": "mixed"}),
    "base, wide": resolve("base", tokens={"n_tokens": 32}, encoder={"width": 128}),
}
"""The presets, and changes of one thing at a time."""
