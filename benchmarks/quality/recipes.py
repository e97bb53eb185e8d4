"""Recipes by name: the presets and changes of one thing at a time."""

from __future__ import annotations

from scjepa._config import PRESETS, STJEPAConfig, resolve

TOKENS_ONLY = {"cell_weight": 0.0, "neighborhood_weight": 0.0, "variance_weight": 0.0, "covariance_weight": 0.0}
"""The paper's objective: L1 at masked tokens and nothing else."""

STEPS = {"max_steps": 1500}

RECIPES: dict[str, STJEPAConfig] = {
    **{name: config for name, config in PRESETS.items() if name in ("demo", "base")},
    "small": resolve("demo", training=STEPS),
    "small, tokens only": resolve("demo", training=STEPS, objective=TOKENS_ONLY),
    "small, paper input": resolve(
        "demo", training=STEPS, encoder={"value": "mlp", "position_weight": 1.0, "gene_std": 1.0}
    ),
    "small, paper input and objective": resolve(
        "demo",
        training=STEPS,
        objective=TOKENS_ONLY,
        encoder={"value": "mlp", "position_weight": 1.0, "gene_std": 1.0},
    ),
}
"""``small`` is the demo's encoder (D = 64, 2 layers, L = 16) trained for 1,500 steps of 64."""
