"""A run of training: what is trained (a task) and how (its options), checked before anything is computed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypedDict

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch

from scjepa._core.digest import digest
from scjepa._core.options import unknown_name
from scjepa._core.plain import plain
from scjepa.nn import JEPAModule
from scjepa.tokens.source import TableSource
from scjepa.training import JEPATrainingPlan, RunOptions, TrainConfig
from scjepa.training.history import History
from scjepa.training.state import MAY_DIFFER, flat

Curves = dict[str, pd.DataFrame]
"""What runs recorded: a frame by name, indexed by step."""


@dataclass(frozen=True)
class Task:
    """What a run trains.

    Attributes
    ----------
    module, source
        The module, and the source of its batches.
    train_cells, held_out
        Cells to train on, and cells for the monitor.
    sections
        ``(n_cells,)`` section codes, for batches of one section; ``None``: there are none.
    keep
        Called with the trainer and the history when the run has ended or was interrupted: what stays of it.
    options
        What the run depends on beside its optimization, by part and name; kept in checkpoints.
    plan
        The training plan.
    """

    module: JEPAModule
    source: TableSource
    train_cells: np.ndarray
    held_out: np.ndarray
    sections: np.ndarray | None
    keep: Callable[[pl.Trainer, History], None]
    options: Mapping[str, object] = field(default_factory=dict)
    plan: type[JEPATrainingPlan] = JEPATrainingPlan

    def marks(self, genes: Sequence[str], seed: int, config: TrainConfig) -> dict[str, Any]:
        """Return what is trained on what, for checkpoints: digests of the data, and options by name."""
        training = {name: value for name, value in asdict(config).items() if name not in MAY_DIFFER}
        sections = np.empty(0) if self.sections is None else self.sections
        return {
            "genes": digest(genes),
            "cells or counts": digest(*self.source.arrays()),
            "labels": digest(*self.source.other_arrays()),
            "training cells": digest(self.train_cells, self.held_out, sections),
            "seed": seed,
            **flat({**self.options, "training": training}),
        }


class RunArguments(TypedDict, total=False):
    """Arguments of ``train()``, ``finetune()`` and ``train_perturbation()`` beside ``max_epochs``; see ``train()``."""

    max_steps: int | None
    accelerator: str
    devices: int | list[int] | str
    batch_size: int | None
    validation_size: float | None
    validation: str | None
    early_stopping: bool
    plan_kwargs: Mapping[str, object] | None
    checkpoint_dir: str | Path | None
    ckpt_path: str | Path | None
    monitor_every: int | None
    checkpoint_every: int
    patience: int
    progress_bar: bool


@dataclass(frozen=True)
class Run:
    """How a run is carried out: its optimization, where, what is held out, and further arguments of the trainer."""

    config: TrainConfig
    options: RunOptions
    validation: str | None
    trainer: Mapping[str, object]

    @classmethod
    def of(cls, base: TrainConfig, max_epochs: int | None, arguments: Mapping[str, object]) -> Run:
        """Return the run of ``base`` with what a call asks for.

        Raises
        ------
        ValueError, TypeError
            If an argument is unknown, out of range or without effect, or a device is not there.
        """
        given = {name: plain(value, arrays=name == "devices") for name, value in arguments.items()}
        check_device(given.get("accelerator", "auto"), given.get("devices", 1))
        named = {name: given.pop(name, None) for name in ("max_steps", "batch_size", "validation_size", "plan_kwargs")}
        config, validation = _changed(base, max_epochs, **named), given.pop("validation", None)
        known = {f.name for f in fields(RunOptions)}
        chosen = {name: given.pop(name) for name in list(given) if name in known}
        early, folder = chosen.get("early_stopping", False), chosen.get("checkpoint_dir")
        if "patience" in chosen and not early:
            raise ValueError("patience is that of early_stopping: pass early_stopping=True, or leave patience out.")
        if "checkpoint_every" in chosen and folder is None:
            raise ValueError("checkpoint_every needs checkpoint_dir=..., the folder to keep the state of training in.")
        options = RunOptions(**chosen)
        of_trainer = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"}
        for name in given:
            if name not in of_trainer:
                known |= RunArguments.__annotations__.keys() | {"max_epochs"}
                raise TypeError(unknown_name("argument of train()", name, of_trainer | known))
        if early and config.validation_size == 0:
            raise ValueError("early_stopping needs held-out cells: pass validation_size=0.1 or so.")
        if validation is not None and config.validation_size == 0:
            raise ValueError(f"validation={validation!r} says what is held out, and validation_size=0 is nothing.")
        return cls(config, options, validation, given)


def _changed(
    base: TrainConfig,
    max_epochs: int | None,
    max_steps: int | None,
    batch_size: int | None,
    validation_size: float | None,
    plan_kwargs: Mapping[str, object] | None,
) -> TrainConfig:
    """Return the configuration of a run with what the call asks for."""
    changes: dict[str, Any] = dict(plan_kwargs or {})
    known = [f.name for f in fields(base)]
    for name in changes:
        if name not in known:
            raise ValueError(unknown_name("option in plan_kwargs", name, known))
    if max_epochs is not None:
        changes.update(max_epochs=max_epochs, max_steps=max_steps)
    elif max_steps is not None:
        changes.update(max_steps=max_steps)
    sizes = {"batch_size": batch_size, "validation_size": validation_size}
    changes.update({name: size for name, size in sizes.items() if size is not None})
    return replace(base, **changes)


# -- history ---------------------------------------------------------------------------------------------------------


def curve(name: str, steps: Sequence[int], values: Sequence[float]) -> pd.DataFrame:
    """Return the values of a name by step."""
    return pd.DataFrame({name: values}, index=pd.Index(steps, name="step"))


def curves_to_dict(curves: Mapping[str, pd.DataFrame] | None) -> dict[str, dict[str, list]]:
    """Return curves as plain lists for JSON."""
    return {
        name: {"step": frame.index.tolist(), "value": frame[name].tolist()} for name, frame in (curves or {}).items()
    }


def curves_from_dict(saved: Mapping[str, Mapping[str, list]]) -> Curves:
    """Return the curves that :func:`curves_to_dict` gave."""
    return {name: curve(name, entry["step"], entry["value"]) for name, entry in saved.items()}


def extended_curves(before: Mapping[str, pd.DataFrame] | None, history: History, offset: int) -> Curves:
    """Return curves with a further run appended, its steps counted on from ``offset``.

    What they have beyond ``offset`` goes: it is of the same run, which was taken up from an earlier state.
    """
    after = {name: own[own.index <= offset] for name, own in (before or {}).items() if offset}
    for name, values in history.values.items():
        own = curve(name, [step + offset for step in history.steps[name]], values)
        after[name] = pd.concat([after[name], own]) if name in after else own
    return after


# -- devices ---------------------------------------------------------------------------------------------------------

_GPUS = ("cuda", "mps")
_NAMES = ("auto", "cpu", "gpu", *_GPUS)


def existing_devices() -> dict[str, int]:
    """Return the number of devices of each kind that this machine and this torch have; the CPU counts as one."""
    found = {"cpu": 1, "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0}
    found["mps"] = int(torch.backends.mps.is_available())
    return {name: n for name, n in found.items() if n}


def check_device(accelerator: object, devices: object = "auto") -> None:
    """Refuse an accelerator, or devices of it, that are not there.

    Parameters
    ----------
    accelerator
        Lightning's name; anything but a string passes.
    devices
        A number of devices, their indices, or ``"auto"``.

    Raises
    ------
    ValueError
        With the devices that are there and what to pass instead.
    """
    if not isinstance(accelerator, str):
        return
    if accelerator not in _NAMES:
        raise ValueError(unknown_name("accelerator", accelerator, _NAMES))
    found = existing_devices()
    there = ", ".join(f"{n} {name}" for name, n in found.items())
    wanted = _GPUS if accelerator == "gpu" else (accelerator,)
    if accelerator != "auto" and not any(name in found for name in wanted):
        raise ValueError(
            f"accelerator={accelerator!r} asks for a device that torch does not find here; it finds {there}. Pass "
            "accelerator='auto' for the best there is, or install a torch built for your GPU (https://pytorch.org)."
        )
    if accelerator == "cpu":
        return
    n_there = max((found[name] for name in (_GPUS if accelerator == "auto" else wanted) if name in found), default=0)
    if isinstance(devices, int) and not isinstance(devices, bool):
        missing = devices == 0 or devices < -1 or (n_there and devices > n_there)
    elif isinstance(devices, Sequence) and not isinstance(devices, str):
        missing = not devices or (n_there and any(not 0 <= int(i) < n_there for i in devices))
    else:
        missing = False
    if missing:
        raise ValueError(f"devices={devices!r} are not there; torch finds {there}. Pass devices='auto' for all.")


def device_of(accelerator: object) -> torch.device:
    """Return the kind of device that ``accelerator`` stands for."""
    if accelerator == "cpu" or not isinstance(accelerator, str):
        return torch.device("cpu")
    # Lightning's "auto" takes MPS where there is one, as its "gpu" does.
    return torch.device(next((name for name in _GPUS if name in existing_devices()), "cpu"))


def one_device(accelerator: object, device: int | str = "auto") -> torch.device:
    """Return the device that weights go to.

    Parameters
    ----------
    accelerator
        Lightning's name. ``"auto"`` takes the first CUDA device, else the CPU: MPS only where it is asked for.
    device
        Index among the devices of this kind, as a number or a word, or ``"auto"``, the first. The CPU is one.

    Raises
    ------
    ValueError
        If there is no such accelerator or device.
    """
    check_device(accelerator)
    kind = device_of(accelerator).type
    if kind == "cpu" or (kind == "mps" and accelerator == "auto"):
        return torch.device("cpu")
    index, n_there = {"auto": "0"}.get(str(device), str(device)), existing_devices()[kind]
    if not index.isdecimal() or int(index) >= n_there:
        raise ValueError(
            f"device={device!r} is not there; it is the index of one of {n_there} {kind}. Pass device='auto' for "
            "the first."
        )
    return torch.device(kind, int(index))
