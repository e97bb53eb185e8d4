"""Lightning's training step, its schedules, the history it writes, and what its checkpoints say of themselves."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn

from scjepa._core.plain import Facts
from scjepa._core.warn import warn
from scjepa.nn.jepa import AnyModule, ObjectiveOutput
from scjepa.nn.processes import together
from scjepa.tokens.source import TableSource
from scjepa.training.collapse import effective_rank, gene_mean_loss, mean_cosine
from scjepa.training.config import TrainConfig
from scjepa.training.sampling import DROPOUT, MASK, MONITOR, BatchSchedule, derive_seed, generator


def cosine(progress: float, start: float, end: float) -> float:
    """Move from ``start`` to ``end`` along half a cosine as ``progress`` goes from 0 to 1."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def learning_rate(step: int, n_steps: int, peak: float, final: float, warmup: float) -> float:
    """Return the learning rate of optimizer step ``step`` (from 0): linear warm-up, then a cosine to ``final``.

    ``warmup`` is a share of ``n_steps``.
    """
    n_warmup = round(warmup * n_steps)
    if step < n_warmup:
        return peak * (step + 1) / (n_warmup + 1)
    return cosine((step - n_warmup) / max(1, n_steps - n_warmup), peak, final)


def weight_decay(step: int, n_steps: int, start: float, end: float) -> float:
    """Return the weight decay of a step: a cosine from ``start`` to ``end``."""
    return cosine(step / max(1, n_steps - 1), start, end)


def momentum(step: int, n_steps: int, start: float, end: float) -> float:
    """Return the target encoder's momentum after a step: linear from ``start`` to ``end``."""
    return start + (end - start) * min(1.0, step / max(1, n_steps - 1))


MARKS = "scjepa_marks"
"""Entry of a checkpoint that says what was trained on what, by name."""

MAY_DIFFER = ("max_steps", "max_epochs")
"""Options of training that a run may go on with at another value: it is made longer or shorter."""


def flat(options: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested options by one name each, ``{"tokens.n_tokens": 64}``."""
    found: dict[str, object] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return found


def check_marks(checkpoint: Mapping[str, Any], own: Mapping[str, object], name: str) -> None:
    """Refuse a state of training that is that of other data or of another model.

    Parameters
    ----------
    checkpoint
        What was kept.
    own
        What is to be trained on what: digests and options by name.
    name
        What the checkpoint is called in errors.

    Raises
    ------
    ValueError
        If they differ, with the names of what does.

    Warns
    -----
    UserWarning
        If the state does not say, having been written before states did.
    """
    kept = checkpoint.get(MARKS)
    if not own:
        return
    if kept is None:
        warn(
            f"{name} does not say what it was trained on, so nothing tells whether it is the state of these cells and "
            "genes. If it is not, name another checkpoint_dir, or leave ckpt_path out."
        )
        return
    differ = [mark for mark in own if kept.get(mark) != own[mark]]
    if differ:
        differences = "; ".join(_difference(mark, kept, own) for mark in differ[:5])
        raise ValueError(
            f"{name} is the state of another training: {differences}. "
            "Name another checkpoint_dir for this one, or leave ckpt_path out to begin anew."
        )


def _difference(mark: str, kept: Mapping[str, object], own: Mapping[str, object]) -> str:
    if mark in DIGESTS:
        return f"its {mark} are not those of this data"
    return f"its {mark} is {kept.get(mark)!r}, here it is {own[mark]!r}"


DIGESTS = ("genes", "cells or counts", "labels", "training cells", "gene modules")
"""Marks that are checksums, which say nothing to people."""


class History(Logger):
    """Metrics by name: parallel lists of optimizer steps and values.

    Every process of a run on several devices keeps its own, so that each of them ends with a model that knows how it
    was trained. All have the same values: losses are those of the batch of all processes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[str, list[int]] = defaultdict(list)
        self.values: dict[str, list[float]] = defaultdict(list)

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "history"

    @property
    def version(self) -> int:
        """Version of the logger."""
        return 0

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        """Keep nothing: the model keeps its configuration."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append metrics at ``step``."""
        for name, value in metrics.items():
            if name != "epoch" and math.isfinite(value):
                self.steps[name].append(int(step or 0))
                self.values[name].append(float(value))

    def state_dict(self) -> dict[str, dict[str, list]]:
        """Return plain lists."""
        return {"steps": dict(self.steps), "values": dict(self.values)}

    def load_state_dict(self, state: dict[str, dict[str, list]]) -> None:
        """Take up the history of an interrupted run."""
        for own, saved in ((self.steps, state["steps"]), (self.values, state["values"])):
            own.clear()
            own.update({name: list(entries) for name, entries in saved.items()})


_MOST_UNREAD = 1000
"""Steps whose metrics wait on the device at most."""

_RATIO_BUDGET = 16_000_000
"""Target values kept by the monitor for the loss ratio (64 MB)."""


def _numbers(scalars: Sequence[Tensor]) -> list[float]:
    """Return the values of scalars of one device, read at once."""
    return torch.stack([scalar.float() for scalar in scalars]).tolist() if scalars else []


def parameter_groups(module: nn.Module) -> list[dict[str, object]]:
    """Split trained parameters: weight decay on matrices, none on biases, norms, embeddings and single vectors."""
    embeddings = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            (decayed if parameter.ndim > 1 and id(parameter) not in embeddings else kept).append(parameter)
    return [{"params": decayed, "decays": True}, {"params": kept, "decays": False, "weight_decay": 0.0}]


class JEPATrainingPlan(pl.LightningModule):
    """Trains a JEPA on the cells of a source.

    Parameters
    ----------
    module
        The model.
    source
        Token tables; moved to the device of training.
    config
        Optimization and
    train_cells
        ``(n,)`` cells to train on.
    sections
        ``(n_cells,)`` section codes, for batches of one section.
    monitor_cells
        ``(m,)`` cells, held out where there are such, on which the monitor measures loss and collapse.
    seed
        Seed of batches, masks and dropout.
    marks
        Gives what is trained on what, digests and options by name; asked for where a checkpoint is written or taken up.
    steps_before
        Optimizer steps that the module had been trained for before this run.
    """

    def __init__(
        self,
        module: AnyModule,
        source: TableSource,
        config: TrainConfig,
        train_cells: np.ndarray,
        monitor_cells: np.ndarray,
        seed: int = 0,
        sections: np.ndarray | None = None,
        marks: Callable[[], Mapping[str, object]] = dict,
        steps_before: int = 0,
    ):
        super().__init__()
        self.module = module
        self.source = source
        self.config = config
        self.train_cells = train_cells
        self.monitor_cells = torch.from_numpy(np.array(monitor_cells, dtype=np.int64))
        self.seed = seed
        by_section = config.batches == "section" and sections is not None
        self.steps_before = steps_before
        self._make_marks = marks
        self._groups = np.asarray(sections)[train_cells] if by_section else None
        self._chunks = None if source.reading is None else source.reading.chunks_of(train_cells)
        self._n_chunks = 1 if source.reading is None else source.reading.n_chunks
        self._schedule = self._make_schedule(1)
        self._latest: dict[str, Tensor] = {}
        # What steps measured stays on the device until it is read: a step that waits for its own numbers is slow.
        self._unread: list[tuple[int, dict[str, Tensor | float]]] = []
        self._unread_ratios: list[tuple[str, Tensor]] = []
        self._ratios: dict[str, list[float]] = {}  # of the steps since the monitor's last reading: sum and number
        self._monitored: list[tuple[ObjectiveOutput, Tensor, Tensor]] = []

    @cached_property
    def marks(self) -> dict[str, object]:
        """What is trained on what: digests and options by name."""
        return dict(self._make_marks())

    # -- data ---------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> Sequence[int]:
        """Numbers of the batches of an epoch."""
        self._schedule = self._make_schedule(self.trainer.world_size)
        return range(len(self._schedule))

    def _make_schedule(self, world_size: int) -> BatchSchedule:
        about = (self.config.batch_size, self.seed, world_size, self._groups, self._chunks, self._n_chunks)
        return BatchSchedule(self.train_cells, *about)

    def val_dataloader(self) -> Sequence[int]:
        """Numbers of the monitor's batches."""
        return range(-(-len(self.monitor_cells) // self.config.batch_size))

    # -- steps --------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Move the tables to the device."""
        self.source.to(self.device)

    def training_step(self, position: int, batch_idx: int) -> Tensor:
        """Return the loss of batch ``batch_idx`` of the current epoch."""
        place = (self.current_epoch, batch_idx, self.global_rank)
        cells = self._schedule.batch(*place)
        rng = generator(self.device, self.seed, MASK, *place)
        with self._dropout_stream(place), together(self.trainer.world_size > 1):
            output = self.module.loss(self.module.gather(self.source, cells, rng), rng)
        self._latest = {"loss": output.loss.detach(), **output.terms}
        self._unread_ratios += [(name, ratio.detach()) for name, ratio in output.ratios.items()]
        self.log("loss", output.loss.detach(), prog_bar=True, logger=False, batch_size=len(cells))
        return output.loss

    @contextmanager
    def _dropout_stream(self, place: tuple[int, ...]) -> Iterator[None]:
        """Seed dropout by the place in training and leave the user's random state as it was."""
        if self.module.config.encoder.dropout == 0:
            yield
            return
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(derive_seed(self.seed, DROPOUT, *place))
            yield

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with one fused kernel; learning rate and weight decay are set before each step."""
        fused = self.device.type in ("cpu", "cuda")
        return torch.optim.AdamW(
            parameter_groups(self.module), lr=self.config.learning_rate, betas=self.config.betas, fused=fused
        )

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """One optimizer step and the EMA step that belongs to it (also right under gradient accumulation)."""
        c, step, total = self.config, self.global_step, int(self.trainer.estimated_stepping_batches)
        rate = self._learning_rate(step, total)
        for group in optimizer.param_groups:
            group["lr"] = rate
            if group["decays"]:
                group["weight_decay"] = weight_decay(step, total, c.weight_decay, c.final_weight_decay)
        optimizer.step(closure=optimizer_closure)
        ema = momentum(step, total, c.ema_start, c.ema_end) if self.module.objective.has_teacher else 0.0
        self.module.update_target(ema)
        self._record({**self._latest, "learning_rate": rate, "momentum": ema})

    def _learning_rate(self, step: int, total: int) -> float:
        """Return the learning rate of optimizer step ``step`` of ``total``."""
        c = self.config
        return learning_rate(step, total, c.learning_rate, c.final_learning_rate, c.warmup)

    def _record(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Keep a step's metrics to be read with those of the steps around it."""
        self._unread.append((self.global_step, dict(metrics)))
        if len(self._unread) >= _MOST_UNREAD:
            self.read_metrics()

    def read_metrics(self) -> None:
        """Bring what the steps since the last reading measured to the loggers, in one transfer from the device."""
        (steps, self._unread), (ratios, self._unread_ratios) = (self._unread, []), (self._unread_ratios, [])
        measured = [value for _, metrics in steps for value in metrics.values() if isinstance(value, Tensor)]
        read = iter(_numbers([*measured, *(ratio for _, ratio in ratios)]))
        for step, metrics in steps:
            values = {name: next(read) if isinstance(x, Tensor) else float(x) for name, x in metrics.items()}
            for logger in self.loggers:
                if self.trainer.is_global_zero or isinstance(logger, History):
                    logger.log_metrics(values, step)
        for name, _ in ratios:
            ratio = next(read)
            if math.isfinite(ratio):  # a batch of one has no mean to compare with
                total = self._ratios.setdefault(name, [0.0, 0])
                total[0] += ratio
                total[1] += 1

    def on_train_epoch_end(self) -> None:
        """Read what steps measured."""
        self.read_metrics()

    # -- monitor ------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Measure the untrained model, so that curves begin where training does."""
        self.module.train()
        if self.global_step == 0:
            self.module.eval()
            with torch.no_grad():
                for index in range(len(self.val_dataloader())):
                    self.validation_step(index, index)
            self._record(self._monitor_metrics())
            self.module.train()

    def validation_step(self, position: int, batch_idx: int) -> None:
        """Measure one batch of the monitor; its masks are always the same."""
        cells = self.monitor_cells[batch_idx * self.config.batch_size :][: self.config.batch_size]
        drawn = generator(self.device, self.seed, MONITOR, batch_idx, 1)
        batch = self.module.monitored(self.source, cells, drawn)
        output = self.module.loss(batch, generator(self.device, self.seed, MONITOR, batch_idx))
        teacher = self.module.embed(batch) if output.teacher is None else output.teacher
        kept = sum(o.targets.numel() for o, *_ in self._monitored if o.targets is not None)
        if kept > _RATIO_BUDGET:
            output.predictions = output.targets = output.genes = None
        folds = torch.full((0 if output.genes is None else len(output.genes),), batch_idx % 2, device=self.device)
        self._monitored.append((output, teacher, folds))

    def on_validation_epoch_end(self) -> None:
        """Log what the monitor measured, which is the same in all processes, and what steps did before."""
        self.read_metrics()
        shown = ("effective_rank", "validation_loss")
        for name, value in self._monitor_metrics().items():
            self.log(name, value, prog_bar=name in shown, batch_size=1, sync_dist=True)

    def _monitor_metrics(self) -> dict[str, Tensor]:
        outputs, teachers, folds = (list(column) for column in zip(*self._monitored, strict=True))
        self._monitored = []
        sizes = torch.tensor([float(len(x)) for x in teachers], device=self.device)
        losses = torch.stack([o.loss.detach() for o in outputs])
        teacher = torch.cat(teachers)
        metrics = {f"{name}_ratio": losses.new_tensor(total / n) for name, (total, n) in self._ratios.items()}
        self._ratios = {}
        metrics |= {
            "validation_loss": (losses * sizes).sum() / sizes.sum(),
            "effective_rank": effective_rank(teacher),
            "embedding_std": teacher.std(0).mean(),
            "embedding_std_min": teacher.std(0).min(),
            "mean_cosine": mean_cosine(teacher),
        }
        students = [o.student for o in outputs if o.student is not None]
        if len(students) == len(outputs):
            metrics["teacher_cosine"] = F.cosine_similarity(torch.cat(students), teacher).mean()
        scored = [(o, f) for o, f in zip(outputs, folds, strict=True) if o.targets is not None]
        if scored:
            targets = torch.cat([o.targets for o, _ in scored])
            predictions = torch.cat([o.predictions.float() for o, _ in scored])
            genes = torch.cat([o.genes for o, _ in scored])
            fold = torch.cat([f for _, f in scored])
            if len(scored) == 1:  # one batch: its tokens take turns
                fold = torch.arange(len(genes), device=self.device) % 2
            n_genes = self.module.n_genes
            baseline, known = gene_mean_loss(targets, genes, fold, n_genes)
            if known.any():
                metrics["loss_ratio"] = (predictions[known] - targets[known]).abs().mean() / baseline
        return metrics

    # -- checkpoints --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: Facts) -> None:
        """Put the history into the checkpoint, and what the monitor has not read yet."""
        self.read_metrics()
        if isinstance(self.logger, History):
            checkpoint["scjepa_history"] = self.logger.state_dict()
        checkpoint["scjepa_ratios"] = {name: list(total) for name, total in self._ratios.items()}
        checkpoint[MARKS] = self.marks
        checkpoint["scjepa_steps_before"] = self.steps_before
        checkpoint["scjepa_processes"] = self.trainer.world_size

    def on_load_checkpoint(self, checkpoint: Facts) -> None:
        """Take them up again, if they are those of this training; weights are as they were until then.

        Raises
        ------
        ValueError
            If the checkpoint is the state of other data, of another model or other options, or of other devices.
        """
        name, n_processes = str(self.trainer.ckpt_path or "The checkpoint"), checkpoint.get("scjepa_processes", 1)
        check_marks(checkpoint, self.marks, name)
        if n_processes != self.trainer.world_size:
            raise ValueError(
                f"{name} is the state of a training on {n_processes} devices, and this one is on "
                f"{self.trainer.world_size}: they have other batches. Pass devices={n_processes}, or leave ckpt_path "
                "out to begin anew."
            )
        self.steps_before = checkpoint.get("scjepa_steps_before", self.steps_before)
        if isinstance(self.logger, History) and "scjepa_history" in checkpoint:
            self.logger.load_state_dict(checkpoint["scjepa_history"])
        self._ratios = {name: list(total) for name, total in checkpoint.get("scjepa_ratios", {}).items()}
