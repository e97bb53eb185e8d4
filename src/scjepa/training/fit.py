"""One run of training: its arguments and its device, the task, and Lightning's trainer."""

from __future__ import annotations

import inspect
import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from scjepa._core.checks import POSITIVE
from scjepa._core.files import digest
from scjepa._core.options import Config, option, unknown_name
from scjepa._core.plain import Facts, plain
from scjepa._core.progress import progress_bar, shows_progress
from scjepa._core.warn import warn
from scjepa.nn import JEPAModule
from scjepa.nn.jepa import Objective, float32_default
from scjepa.tokens.source import TableSource
from scjepa.training.config import TrainConfig
from scjepa.training.plan import MAY_DIFFER, History, JEPATrainingPlan, flat

if TYPE_CHECKING:
    import pandas as pd
    from tqdm import tqdm

Curves: TypeAlias = "dict[str, pd.DataFrame]"
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

    def marks(self, genes: Sequence[str], seed: int, config: TrainConfig) -> dict[str, object]:
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
    """Arguments of ``train()``, ``finetune()`` and ``train_perturbation()`` besides ``max_epochs``; see ``train()``."""

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
    progress_bar: bool | None


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
        config, validation = _changed(base, max_epochs, given), given.pop("validation", None)
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


def _changed(base: TrainConfig, max_epochs: int | None, given: Facts) -> TrainConfig:
    """Return a configuration with what was ``given`` of it, which is taken out of there."""
    changes: Facts = dict(given.pop("plan_kwargs", None) or {})
    known = [f.name for f in fields(base)]
    for name in changes:
        if name not in known:
            raise ValueError(unknown_name("option in plan_kwargs", name, known))
    max_steps = given.pop("max_steps", None)
    if max_epochs is not None:
        changes.update(max_epochs=max_epochs, max_steps=max_steps)
    elif max_steps is not None:
        changes.update(max_steps=max_steps)
    sizes = {name: given.pop(name, None) for name in ("batch_size", "validation_size")}
    changes.update({name: size for name, size in sizes.items() if size is not None})
    return replace(base, **changes)


# -- history ---------------------------------------------------------------------------------------------------------


def curve(name: str, steps: Sequence[int], values: Sequence[float]) -> pd.DataFrame:
    """Return the values of a name by step."""
    import pandas as pd

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
    import pandas as pd

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


LAST = "last"
"""``ckpt_path`` that names the latest checkpoint of ``checkpoint_dir``."""


class StepProgress(ProgressBar):
    """One bar over all optimizer steps, with the loss and the effective rank beside it."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None
        self._enabled = True
        self._shown_at = 0.0

    def disable(self) -> None:
        """Switch the bar off (ranks other than the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Switch the bar on."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where the run begins."""
        total = int(trainer.estimated_stepping_batches)
        self._bar = progress_bar(total, "Training", "steps", asked=self._enabled, initial=trainer.global_step, delay=0)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object, **kwargs: object) -> None:
        """Advance to the trainer's step."""
        if self._bar is None or trainer.global_step <= self._bar.n:
            return
        if time.monotonic() - self._shown_at >= self._bar.mininterval:  # to show a loss is to wait for it
            self._show(trainer)
        self._bar.update(trainer.global_step - self._bar.n)

    def _show(self, trainer: pl.Trainer) -> None:
        """Put the latest metrics beside the bar."""
        if self._bar is not None:
            self._shown_at = time.monotonic()
            shown = {k: f"{float(v):.3g}" for k, v in trainer.progress_bar_metrics.items() if k != "v_num"}
            self._bar.set_postfix(shown, refresh=False)

    def on_train_end(self, trainer: pl.Trainer, *args: object) -> None:
        """Show the last metrics and close the bar."""
        self._show(trainer)
        if self._bar is not None:
            self._bar.close()

    def __getstate__(self) -> Facts:
        return {**self.__dict__, "_bar": None}


@dataclass(frozen=True)
class RunOptions(Config):
    """Where and how a run is carried out, beside what it optimizes.

    Parameters
    ----------
    accelerator, devices
        Lightning's; one device by default. Several share each batch (:class:`BatchSchedule`): ``batch_size`` is that
        of one of them.
    early_stopping
        Stop when ``validation_loss`` has not improved for ``patience`` monitor readings.
    patience
        Readings without improvement.
    monitor_every
        Optimizer steps between two readings of the monitor; ``None``: eight readings a run.
    checkpoint_dir
        Folder for training checkpoints; ``None`` for none.
    checkpoint_every
        Optimizer steps between checkpoints.
    ckpt_path
        Checkpoint to resume from, or ``"last"`` for the latest in ``checkpoint_dir`` (a fresh start where there is
        none).
    progress_bar
        Show a bar. ``None``: as ``scjepa.settings.progress_bar`` says, in a terminal and in a notebook.
    """

    accelerator: str = "auto"
    devices: int | list[int] | str = 1
    early_stopping: bool = False
    patience: int = option(5, POSITIVE)
    monitor_every: int | None = option(None, POSITIVE)
    checkpoint_dir: str | Path | None = None
    checkpoint_every: int = option(100, POSITIVE)
    ckpt_path: str | Path | None = None
    progress_bar: bool | None = None


def usable_precision(precision: str, accelerator: str) -> str:
    """Return ``precision``, or 32 bits where bf16 is asked for and the hardware has none (there it is slower)."""
    if not precision.startswith("bf16"):
        return precision
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    if on_gpu and torch.cuda.is_bf16_supported():
        return precision
    warn(
        f"precision={precision!r} needs a GPU with bf16; training in 32 bits instead. "
        "Pass plan_kwargs={'precision': '32-true'} to silence this."
    )
    return "32-true"


def resume_from(options: RunOptions) -> str | None:
    """Return the checkpoint to resume from, or ``None``.

    Raises
    ------
    FileNotFoundError
        If a named checkpoint does not exist.
    ValueError
        If ``"last"`` is asked for without ``checkpoint_dir``.
    """
    if options.ckpt_path is None:
        return None
    if str(options.ckpt_path) != LAST:
        path = Path(options.ckpt_path)
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no checkpoint {path}. Pass ckpt_path='last' for the latest one, or None."
            )
        return str(path)
    if options.checkpoint_dir is None:
        raise ValueError("ckpt_path='last' needs checkpoint_dir=..., the folder the checkpoints are in.")
    last = Path(options.checkpoint_dir) / f"{LAST}.ckpt"
    return str(last) if last.is_file() else None


class _StateOfTraining(ModelCheckpoint):
    """Keeps the state of training: where the monitor reads after a step, with what it read."""

    _waits = False

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Keep the state of a step, unless a reading follows."""
        every = (
            trainer.val_check_batch if trainer.enable_validation and trainer.check_val_every_n_epoch is None else None
        )
        self._waits = every is not None and (trainer.fit_loop.total_batch_idx + 1) % every == 0
        if not self._waits:
            super().on_train_batch_end(trainer, *args, **kwargs)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the state that waited."""
        if self._waits:
            self._waits = False
            super().on_train_batch_end(trainer, pl_module, {}, None, 0)
        super().on_validation_end(trainer, pl_module)


def _callbacks(options: RunOptions) -> list[Callback]:
    callbacks: list[Callback] = []
    if shows_progress(options.progress_bar):
        callbacks.append(StepProgress())
    if options.early_stopping:
        callbacks.append(EarlyStopping("validation_loss", patience=options.patience, mode="min"))
    if options.checkpoint_dir is not None:
        # One file, replaced when the next is complete: a killed run finds the old one or the new one, never half.
        callbacks.append(
            _StateOfTraining(
                dirpath=options.checkpoint_dir,
                filename=LAST,
                every_n_train_steps=options.checkpoint_every,
                save_on_train_epoch_end=False,
                enable_version_counter=False,
            )
        )
    return callbacks


def make_trainer(config: TrainConfig, options: RunOptions, **trainer_kwargs: Any) -> pl.Trainer:
    """Return the Lightning trainer of a run; ``trainer_kwargs`` are Lightning's own and win over the defaults."""
    settings: Facts = {
        "accelerator": options.accelerator,
        "devices": options.devices,
        "max_steps": -1 if config.max_steps is None else config.max_steps,
        "max_epochs": -1 if config.max_epochs is None else config.max_epochs,
        "precision": usable_precision(config.precision, options.accelerator),
        "gradient_clip_val": config.clip,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "enable_checkpointing": options.checkpoint_dir is not None,
        "enable_progress_bar": shows_progress(options.progress_bar),
        "use_distributed_sampler": False,
        **trainer_kwargs,
        "strategy": _strategy(trainer_kwargs.get("strategy", "auto"), options.devices, trainer_kwargs),
    }
    settings["callbacks"] = [*_callbacks(options), *trainer_kwargs.get("callbacks", [])]
    further = trainer_kwargs.get("logger") or []
    settings["logger"] = [History(), *(further if isinstance(further, list) else [further])]
    return pl.Trainer(**settings)


def _strategy(strategy: object, devices: object, trainer: Mapping[str, object]) -> object:
    """Return the strategy of a run.

    The processes of ``"ddp"`` are told that a step may leave out weights: a predictor whose objective has no weight.

    Raises
    ------
    ValueError
        If the processes would be copies of this one, which keep what they learned of the run to themselves.
    """
    several = devices not in (1, "1", [0]) or trainer.get("num_nodes", 1) != 1
    if strategy == "auto" and several and devices != "auto":
        strategy = "ddp"
    copies = ("spawn", "fork", "notebook")
    if isinstance(strategy, str) and any(word in strategy for word in copies):
        raise ValueError(
            f"strategy={strategy!r} trains in copies of this process. Several devices are for scripts: pass "
            "strategy='ddp', which runs the script once for each device."
        )
    return "ddp_find_unused_parameters_true" if strategy == "ddp" else strategy


def fit(task: Task, how: Run, genes: Sequence[str], seed: int, steps_before: int) -> tuple[pl.Trainer, History]:
    """Train a task to its end, as a run says.

    Parameters
    ----------
    genes, seed, steps_before
        Of the model: its genes, the seed of batches and masks, and the steps that it had been trained for.

    Raises
    ------
    ValueError
        If Lightning cannot train like that.
    """
    config = how.config
    monitor = task.held_out if len(task.held_out) else task.train_cells
    n_monitored = monitor_cells(task.module.objective, config, len(task.train_cells))
    if len(monitor) > n_monitored:
        monitor = np.sort(np.random.default_rng(seed).choice(monitor, n_monitored, replace=False))
    about = (task.module, task.source, config, task.train_cells, monitor, seed, task.sections)
    plan = task.plan(*about, marks=partial(task.marks, genes, seed, config), steps_before=steps_before)
    try:
        return run(plan, how.options, **how.trainer)
    except MisconfigurationException as error:
        raise ValueError(f"Lightning cannot train like that: {error}") from error
    finally:
        task.module.eval()


def run(
    plan: JEPATrainingPlan, options: RunOptions | None = None, **trainer_kwargs: object
) -> tuple[pl.Trainer, History]:
    """Train a plan to its end.

    Returns
    -------
    tuple
        The trainer, and the history of the run.
    """
    options = options or RunOptions()
    checkpoint = resume_from(options)
    with warnings.catch_warnings(), _quiet(), float32_default():
        # The loader yields numbers of batches: workers, shuffling and sizes do not apply to it.
        warnings.filterwarnings(
            "ignore", message=".*(does not have many workers|has `shuffle|Trying to infer|IterableDataset).*"
        )
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")  # Lightning's own business with torch
        # The target encoder stays in evaluation mode on purpose, and the plan sets the rest.
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
        readings = {"val_check_interval": options.monitor_every or 1, "check_val_every_n_epoch": None}
        trainer = make_trainer(plan.config, options, **{**readings, **trainer_kwargs})
        if options.monitor_every is None and "val_check_interval" not in trainer_kwargs:
            n_steps = training_steps(plan.config, len(plan.train_cells), trainer.world_size)
            trainer.val_check_interval = monitor_interval(n_steps)
        _fit(trainer, plan, checkpoint)
        plan.read_metrics()
    return trainer, cast(History, trainer.logger)


def _fit(trainer: pl.Trainer, plan: JEPATrainingPlan, checkpoint: str | None) -> None:
    """Train; an interrupt ends the run and nothing else, the weights stay what they are (``trainer.interrupted``).

    Lightning answers an interrupt with ``sys.exit`` and leaves further interrupts switched off, which would lose a
    notebook's session.
    """
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(plan, ckpt_path=checkpoint, weights_only=False)
    except RuntimeError as error:
        if checkpoint is None or "loading state_dict" not in str(error):
            raise
        raise ValueError(
            f"{checkpoint} is the state of another training: of a model of other sizes, or of another stage, such as "
            "pretraining where this is fine-tuning. Name another checkpoint_dir, or leave ckpt_path out."
        ) from error
    except SystemExit:
        if not trainer.interrupted:
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, on_interrupt)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's notes on hardware and products out of the user's notebook; its warnings stay."""
    names = ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logger.level, logging.WARNING))
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# -- the monitor's part ----------------------------------------------------------------------------------------------

READINGS = 8
"""Readings of the monitor in a run, beside the one before it."""

MONITOR_SHARE = 0.02
"""Arithmetic of the monitor over that of training, save in short runs; what Lightning adds makes it 3% of the time."""

_MONITOR_CELLS = (128, 512)
"""Cells that a reading takes: no fewer, for an effective rank is to be told; and no more."""


def training_steps(config: TrainConfig, n_cells: int, n_processes: int = 1) -> int:
    """Return the optimizer steps of a run on ``n_cells`` training cells."""
    per_epoch = max(1, n_cells // (config.batch_size * n_processes))
    by_epochs = None if config.max_epochs is None else config.max_epochs * per_epoch
    return min(n for n in (config.max_steps, by_epochs) if n is not None)


def monitor_interval(n_steps: int) -> int:
    """Return the steps between two monitor readings: eight a run, at least ten steps apart."""
    return max(10, n_steps // READINGS)


def passes_of_step(objective: Objective) -> float:
    """Return what a step costs of a cell, in forward passes of the encoder; the way back counts as two."""
    return objective.has_teacher + 3 * objective.passes


def passes_of_reading(objective: Objective) -> float:
    """Return what a reading of the monitor costs of a cell, in forward passes of the encoder."""
    return 1 + objective.passes


def monitor_cells(objective: Objective, config: TrainConfig, n_cells: int) -> int:
    """Return how many cells a reading takes, for the monitor to be :data:`MONITOR_SHARE` of a run."""
    n_steps = training_steps(config, n_cells)
    n_readings = 1 + n_steps // monitor_interval(n_steps)
    trained = n_steps * config.batch_size * passes_of_step(objective)
    least, most = _MONITOR_CELLS
    return int(min(max(MONITOR_SHARE * trained / (n_readings * passes_of_reading(objective)), least), most))
