"""Running a plan: the trainer with this package's defaults, checkpoints and progress."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, ProgressBar
from tqdm.auto import tqdm

from scjepa._core.checks import POSITIVE
from scjepa._core.options import Config, option
from scjepa._core.warn import warn
from scjepa.nn.precision import float32_default
from scjepa.training.config import TrainConfig
from scjepa.training.history import History
from scjepa.training.plan import JEPATrainingPlan

LAST = "last"
"""``ckpt_path`` that names the latest checkpoint of ``checkpoint_dir``."""


class StepProgress(ProgressBar):
    """One bar over all optimizer steps, with the loss and the effective rank beside it."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None
        self._enabled = True

    def disable(self) -> None:
        """Switch the bar off (ranks other than the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Switch the bar on."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where the run begins."""
        total = int(trainer.estimated_stepping_batches)
        self._bar = tqdm(
            total=total,
            initial=trainer.global_step,
            desc="Training",
            unit="step",
            disable=not self._enabled,
            mininterval=0.2 if sys.stderr.isatty() else 5.0,  # a log file is not to be flooded
        )

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Advance to the trainer's step."""
        if self._bar is not None and trainer.global_step > self._bar.n:
            self._bar.update(trainer.global_step - self._bar.n)
            shown = {k: f"{float(v):.3g}" for k, v in trainer.progress_bar_metrics.items() if k != "v_num"}
            self._bar.set_postfix(shown, refresh=False)

    def on_train_end(self, *args: Any) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bar": None}


@dataclass(frozen=True)
class RunOptions(Config):
    """Where and how a run is carried out, beside what it optimizes.

    Parameters
    ----------
    accelerator, devices
        Lightning's; one device by default.
    early_stopping
        Stop when ``validation_loss`` has not improved for ``patience`` monitor readings.
    patience
        Readings without improvement.
    monitor_every
        Optimizer steps between two readings of the monitor; ``None``: fifteen readings a run.
    checkpoint_dir
        Folder for training checkpoints; ``None`` for none.
    checkpoint_every
        Optimizer steps between checkpoints.
    ckpt_path
        Checkpoint to resume from, or ``"last"`` for the latest in ``checkpoint_dir`` (a fresh start where there is
        none).
    progress_bar
        Show a bar.
    """

    accelerator: str = "auto"
    devices: int | list[int] | str = 1
    early_stopping: bool = False
    patience: int = option(5, POSITIVE)
    monitor_every: int | None = option(None, POSITIVE)
    checkpoint_dir: str | Path | None = None
    checkpoint_every: int = option(100, POSITIVE)
    ckpt_path: str | Path | None = None
    progress_bar: bool = True


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


def _callbacks(options: RunOptions) -> list[Callback]:
    callbacks: list[Callback] = []
    if options.progress_bar:
        callbacks.append(StepProgress())
    if options.early_stopping:
        callbacks.append(EarlyStopping("validation_loss", patience=options.patience, mode="min"))
    if options.checkpoint_dir is not None:
        # One file, replaced when the next is complete: a killed run finds the old one or the new one, never half.
        callbacks.append(
            ModelCheckpoint(
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
    settings: dict[str, Any] = {
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
        "enable_progress_bar": options.progress_bar,
        "use_distributed_sampler": False,
        **trainer_kwargs,
    }
    settings["callbacks"] = [*_callbacks(options), *trainer_kwargs.get("callbacks", [])]
    further = trainer_kwargs.get("logger") or []
    settings["logger"] = [History(), *(further if isinstance(further, list) else [further])]
    return pl.Trainer(**settings)


def run(plan: JEPATrainingPlan, options: RunOptions | None = None, **trainer_kwargs: Any) -> tuple[pl.Trainer, History]:
    """Train a plan to its end.

    Returns
    -------
    tuple
        The trainer, and the history of the run.
    """
    options = options or RunOptions()
    checkpoint = resume_from(options)
    every = options.monitor_every or monitor_interval(plan)
    with warnings.catch_warnings(), _quiet(), float32_default():
        # The loader yields numbers of batches: workers, shuffling and sizes do not apply to it.
        warnings.filterwarnings(
            "ignore", message=".*(does not have many workers|has `shuffle|Trying to infer|IterableDataset).*"
        )
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")  # Lightning's own business with torch
        # The target encoder stays in evaluation mode on purpose, and the plan sets the rest.
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
        trainer = make_trainer(
            plan.config, options, **{"val_check_interval": every, "check_val_every_n_epoch": None, **trainer_kwargs}
        )
        _fit(trainer, plan, checkpoint)
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


def monitor_interval(plan: JEPATrainingPlan) -> int:
    """Return the steps between two monitor readings: fifteen a run, at least ten steps apart."""
    config = plan.config
    total = config.max_steps
    if total is None:
        total = (config.max_epochs or 1) * max(1, len(plan.train_cells) // config.batch_size)
    return max(10, total // 15)
