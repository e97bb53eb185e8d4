"""Options of a run: those of the configuration with what the call asks for, and those that nothing would look at."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np

from scjepa._core.digest import digest
from scjepa._core.options import unknown_name
from scjepa.tokens.vocabulary import Vocabulary
from scjepa.training.config import TrainConfig
from scjepa.training.state import MAY_DIFFER, flat


def changed(
    base: TrainConfig,
    max_epochs: int | None,
    max_steps: int | None,
    batch_size: int | None,
    validation_size: float | None,
    plan_kwargs: Mapping[str, Any] | None,
) -> TrainConfig:
    """Return the configuration of a run with what the call asks for."""
    changes = dict(plan_kwargs or {})
    known = [f.name for f in fields(base)]
    for name in changes:
        if name not in known:
            raise ValueError(unknown_name("option in plan_kwargs", name, known))
    if max_epochs is not None:
        changes.update(max_epochs=max_epochs, max_steps=max_steps)
    elif max_steps is not None:
        changes.update(max_steps=max_steps)
    for name, value in (("batch_size", batch_size), ("validation_size", validation_size)):
        if value is not None:
            changes[name] = value
    return replace(base, **changes)


def check_effects(chosen: Mapping[str, Any], early_stopping: bool, checkpoint_dir: str | Path | None) -> None:
    """Refuse options that nothing would look at."""
    if "patience" in chosen and not early_stopping:
        raise ValueError("patience is that of early_stopping: pass early_stopping=True, or leave patience out.")
    if "checkpoint_every" in chosen and checkpoint_dir is None:
        raise ValueError("checkpoint_every needs checkpoint_dir=..., the folder to keep the state of training in.")


def check_trainer_arguments(arguments: Mapping[str, Any], options: set[str]) -> None:
    """Refuse an unknown trainer argument by name, before anything is computed."""
    known = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"}
    for name in arguments:
        if name not in known:
            raise TypeError(unknown_name("argument of train()", name, known | options))


def marks_of(
    vocabulary: Vocabulary, seed: int, task: Any, config: TrainConfig, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what is trained on what, for checkpoints: digests of the data, and options by name.

    Parameters
    ----------
    task
        A :class:`~scjepa.models.base.Task`.
    config
        Optimization.
    options
        What else the run depends on, by part and name.
    """
    training = {name: value for name, value in asdict(config).items() if name not in MAY_DIFFER}
    sections = np.empty(0) if task.sections is None else task.sections
    return {
        "genes": digest(vocabulary.names),
        "cells or counts": digest(*task.source.arrays()),
        "labels": digest(*task.source.other_arrays()),
        "training cells": digest(task.train_cells, task.held_out, sections),
        "seed": seed,
        **flat({**options, "training": training}),
    }
