"""Options that do nothing beside others: a call that names one is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scjepa._core.warn import warn

Idle = tuple[str, tuple[str, ...], Callable[[Any], bool], str]
"""Options that do nothing: their part, their names, in which configurations, and why."""

OF_LEJEPA = ("n_views", "sigreg_share", "adversarial_weight")
"""Options of an objective that ``"lejepa"`` alone reads; ``sigreg_projections`` may be read by either."""

OF_IJEPA = (
    *("predictor_layers", "query", "target_view", "target_norm", "token_weight", "cell_weight", "neighborhood_weight"),
    *("nearby_weight", "nearby_steps", "pooled", "variance_weight", "covariance_weight", "sigreg_weight"),
)
"""Options that ``"ijepa"`` alone reads."""

_LEJEPA = "objective.name is 'lejepa'"

IDLE: tuple[Idle, ...] = (
    ("objective", OF_IJEPA, lambda c: c.objective.name == "lejepa", _LEJEPA),
    ("masking", ("n_masks", "query_fraction"), lambda c: c.objective.name == "lejepa", _LEJEPA),
    ("objective", OF_LEJEPA, lambda c: c.objective.name == "ijepa", "objective.name is 'ijepa'"),
    (
        "objective",
        ("sigreg_projections",),
        lambda c: c.objective.name == "ijepa" and c.objective.sigreg_weight == 0,
        "objective.sigreg_weight is 0",
    ),
    ("objective", ("nearby_steps",), lambda c: c.objective.nearby_weight == 0, "objective.nearby_weight is 0"),
    ("objective", ("cell_weight",), lambda c: c.tokens.summed, "tokens.tokenizer is 'neighborhood'"),
    ("encoder", ("n_bins",), lambda c: c.encoder.value != "bins", "encoder.value is not 'bins'"),
    ("masking", ("metatoken_dropout",), lambda c: not c.encoder.metatoken, "encoder.metatoken is False"),
)
"""Of ST-JEPA."""


def _of_objective(part: str, objective: Callable[[Any], Any]) -> tuple[Idle, ...]:
    """Return the options of an objective of cells that do nothing where a weight is 0, or another form is taken."""
    of_jepa = ("jepa_distance", "predictor", "target_view", "target_norm", "variance_weight", "covariance_weight")
    of_contrast = ("contrast", "temperature", "similarity", "self_pairs")

    def no_jepa(config: Any) -> bool:
        return config.tokens.unit == "gene" and objective(config).jepa_weight == 0

    def takes(config: Any, supervised: bool) -> bool:
        own = objective(config)
        return own.contrast_weight > 0 and (own.contrast == "supervised") == supervised

    return (
        (part, of_jepa, no_jepa, f"{part}.jepa_weight is 0"),
        (part, of_contrast, lambda c: objective(c).contrast_weight == 0, f"{part}.contrast_weight is 0"),
        (part, ("temperature",), lambda c: takes(c, False), f"{part}.contrast is not 'supervised'"),
        (part, ("similarity",), lambda c: takes(c, True), f"{part}.contrast is 'supervised'"),
    )


IDLE_OF_CELLS: tuple[Idle, ...] = (
    *_of_objective("objective", lambda c: c.objective),
    *_of_objective("finetuning.objective", lambda c: c.finetuning.objective),
    *_of_objective("perturbation.objective", lambda c: c.perturbation.objective),
    ("training", ("decay",), lambda c: c.training.schedule != "steps", "training.schedule is not 'steps'"),
    ("training", ("final_learning_rate",), lambda c: c.training.schedule == "steps", "training.schedule is 'steps'"),
)
"""Of Cell-JEPA."""


def warn_of_idle(config: Any, changes: Mapping[str, Any], idle: Sequence[Idle]) -> None:
    """Warn of options that a call names and that do nothing in what comes of it.

    Parameters
    ----------
    config
        The configuration with the changes.
    changes
        Changes by part; those that are mappings name options. An option that is set to 0 is meant to do nothing.
    idle
        Options that do nothing.
    """
    for part, names, when, why in idle:
        owner, _, inner = part.partition(".")
        change = changes.get(owner)
        change = change.get(inner) if inner and isinstance(change, Mapping) else change
        named = [name for name in names if isinstance(change, Mapping) and name in change]
        meant = [name for name in named if getattr(_part(config, part), name) != 0]
        if meant and when(config):
            warn(f"{', '.join(f'{part}.{name}' for name in meant)} does nothing here, for {why}.")


def _part(config: Any, name: str) -> Any:
    for step in name.split("."):
        config = getattr(config, step)
    return config
