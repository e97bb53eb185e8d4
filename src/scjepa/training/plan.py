"""Lightning's training step: the cells it sees, its schedules, its monitor, and what its checkpoints say of themselves.

Which cells a step sees and which are held out is derived from (seed, epoch, batch, rank). It has no state that a
checkpoint would have to carry: a resumed run asks for the same batch and gets it.
"""

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

from scjepa._core.neighbors import spatial_blocks
from scjepa._core.plain import Facts
from scjepa._core.warn import warn
from scjepa.nn.jepa import AnyModule, ObjectiveOutput
from scjepa.nn.losses import together
from scjepa.tokens.source import TableSource
from scjepa.training.config import TrainConfig

# -- cells -------------------------------------------------------------------------------------------------------------

ORDER, MASK, MONITOR, DROPOUT = range(4)
"""What a derived seed is for: two purposes never share a stream."""


def derive_seed(seed: int, purpose: int, *position: int) -> int:
    """Return a 63-bit seed for ``purpose`` at ``position``, independent of every other position's."""
    state = np.random.SeedSequence([seed, purpose, *position]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def generator(device: torch.device | str, seed: int, purpose: int, *position: int) -> torch.Generator:
    """Return a torch generator on ``device`` for ``purpose`` at ``position``."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, purpose, *position))


class BatchSchedule:
    """The cells of every batch of every epoch.

    Each epoch is a permutation of the cells cut into batches. A last batch that is not full is dropped (its cells come
    in other epochs), because batch statistics of a handful of cells are noise. Several processes share a batch, each an
    equal part of it, so that what they train together is what one process trains on batches as large.

    Parameters
    ----------
    cells
        ``(n,)`` cells to draw from.
    batch_size
        Cells of a batch in one process.
    seed
        Seed of the permutations.
    world_size
        Processes that share a batch.
    groups
        ``(n,)`` codes, such as each cell's section: a batch then holds cells of one group only, and a group smaller
        than a batch is a batch of its own. Default: batches mix all cells.
    chunks, n_chunks
        ``(n,)`` codes of what is read from disk at once, and how many of them are in memory at one time: an epoch is
        then a permutation of the chunks, and within each ``n_chunks`` of them one of their cells. Default: all cells
        are at hand.

    Raises
    ------
    ValueError
        If there are no cells, or no group has a cell for each process; or cells in chunks are grouped.
    """

    def __init__(
        self,
        cells: np.ndarray,
        batch_size: int,
        seed: int,
        world_size: int = 1,
        groups: np.ndarray | None = None,
        chunks: np.ndarray | None = None,
        n_chunks: int = 1,
    ):
        if not len(cells):
            raise ValueError("There are no cells to train on.")
        self.cells = torch.from_numpy(np.array(cells, dtype=np.int64))
        self.seed = seed
        self.world_size = world_size
        self.batch_size = min(batch_size, max(1, len(self.cells) // world_size))
        if chunks is not None and groups is not None:
            raise ValueError(
                "batches='section' draws a batch from all cells of a section, and cells that stay on disk are read by "
                "chunks. Pass training={'batches': 'mixed'}."
            )
        self._chunks = None if chunks is None else torch.from_numpy(np.unique(chunks, return_inverse=True)[1])
        self._n_chunks = n_chunks
        codes = np.zeros(len(cells), dtype=np.int64) if groups is None else np.unique(groups, return_inverse=True)[1]
        self._groups = torch.from_numpy(codes)
        self._epoch: tuple[int, list[Tensor]] | None = None
        self._n_batches = len(self._cut(torch.arange(len(cells))))
        if not self._n_batches:
            raise ValueError(
                f"{len(cells)} cells to train on, of {codes.max() + 1} sections, are too few for {world_size} devices. "
                "Pass devices=1."
            )

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self._n_batches

    def _cut(self, order: Tensor) -> list[Tensor]:
        """Cut cells in this order into batches of one group each, which the processes can share equally."""
        order = order[torch.argsort(self._groups[order], stable=True)]
        size, batches = self.batch_size * self.world_size, []
        for group in order.split(torch.bincount(self._groups).tolist()):
            kept = max(1, len(group) // size) * size if len(group) >= size else len(group)
            batches += group[: kept - kept % self.world_size].split(size)
        return [batch for batch in batches if len(batch)]

    def _permuted(self, rng: torch.Generator) -> Tensor:
        """Return the cells in random order; those in chunks that are in memory together stay together."""
        order = torch.randperm(len(self.cells), generator=rng)
        if self._chunks is None:
            return order
        place = torch.randperm(int(self._chunks.max()) + 1, generator=rng)
        return order[torch.argsort(place[self._chunks[order]] // self._n_chunks, stable=True)]

    def batch(self, epoch: int, index: int, rank: int = 0) -> Tensor:
        """Return the ``(batch_size,)`` int64 cells of batch ``index`` of ``epoch`` in process ``rank``."""
        if not 0 <= index < len(self):
            raise IndexError(f"An epoch has {len(self)} batches; batch {index} was asked for.")
        if self._epoch is None or self._epoch[0] != epoch:
            rng = generator("cpu", self.seed, ORDER, epoch)
            batches = self._cut(self._permuted(rng))
            if self._chunks is None:
                batches = [batches[place] for place in torch.randperm(len(batches), generator=rng).tolist()]
            self._epoch = (epoch, batches)
        return self.cells[self._epoch[1][index].chunk(self.world_size)[rank]]


def hold_out(
    coordinates: np.ndarray, sections: np.ndarray | None, size: float, by: str = "block", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Split cells into training and held-out cells by whole spatial blocks or whole sections.

    A random split of cells would leak: a held-out cell's neighbors would be index cells of training.

    Parameters
    ----------
    coordinates, sections
        As in :func:`spatial_blocks`.
    size
        Share of cells to hold out; 0 holds out none.
    by
        ``"block"``: compact blocks of about 2% of the cells. ``"section"``: whole sections, at least one.
    seed
        Which blocks or sections.

    Returns
    -------
    tuple
        Sorted training cells and sorted held-out cells.

    Raises
    ------
    ValueError
        If ``by`` is not known, or sections are asked for where there is one only.
    """
    n_cells = len(coordinates)
    if by not in ("block", "section"):
        raise ValueError(f"Validation is by 'block' or by 'section', found {by!r}.")
    if size == 0:
        return np.arange(n_cells), np.empty(0, dtype=np.int64)
    if by == "section":
        units = np.zeros(n_cells, dtype=np.int64) if sections is None else np.asarray(sections)
        if len(np.unique(units)) < 2:
            raise ValueError(
                "Validation by section needs two sections or more; the data has one. "
                "Use validation='block', or name the sections with setup_anndata(adata, library_key=...)."
            )
    else:
        units = spatial_blocks(coordinates, sections, max(1, n_cells // 50))
    outside = held_out_groups(units, size, seed)
    return np.flatnonzero(~outside), np.flatnonzero(outside)


def held_out_groups(groups: np.ndarray, size: float, seed: int) -> np.ndarray:
    """Return ``(n_cells,)`` bool: the cells of groups drawn until they hold ``size`` of all cells; never all groups."""
    names, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(derive_seed(seed, ORDER)).permutation(len(names))[: len(names) - 1]
    held = order[: 1 + int(np.searchsorted(np.cumsum(sizes[order]), size * len(groups)))]
    return np.isin(groups, names[held])


# -- schedules ---------------------------------------------------------------------------------------------------------


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


# -- measures of the monitor -------------------------------------------------------------------------------------------


def effective_rank(x: Tensor) -> Tensor:
    """Return RankMe of ``x`` (n, width): exp of the entropy of its centered singular values; 0 for constants."""
    values = torch.linalg.svdvals((x - x.mean(0)).float())
    total = values.sum()
    if total <= 1e-12 * max(1.0, float(x.abs().max())) * len(x):
        return torch.zeros((), device=x.device)
    share = values / total
    return torch.exp(-(share * torch.log(share.clamp_min(1e-12))).sum())


def mean_cosine(x: Tensor) -> Tensor:
    """Mean cosine over all pairs of different rows."""
    n = len(x)
    if n < 2:
        return torch.ones((), device=x.device)
    unit = torch.nn.functional.normalize(x.float(), dim=1)
    return (unit.sum(0).pow(2).sum() - unit.pow(2).sum()) / (n * (n - 1))


def gene_mean_loss(targets: Tensor, genes: Tensor, folds: Tensor, n_genes: int) -> tuple[Tensor, Tensor]:
    """L1 of predicting, for each token, the mean target of its gene in the other fold.

    Parameters
    ----------
    targets
        ``(n, width)``.
    genes
        ``(n,)`` vocabulary ids.
    folds
        ``(n,)`` 0 or 1; means come from the other fold, so a rare gene does not predict itself.
    n_genes
        Size of the vocabulary.

    Returns
    -------
    tuple
        Mean L1 over the tokens whose gene occurs in the other fold, and those tokens ``(n,)`` bool.
    """
    group = genes + n_genes * folds
    sums = torch.zeros(2 * n_genes, targets.shape[1], device=targets.device).index_add(0, group, targets)
    sizes = torch.bincount(group, minlength=2 * n_genes)
    other = genes + n_genes * (1 - folds)
    known = sizes[other] > 0
    means = sums[other[known]] / sizes[other[known], None]
    return (targets[known] - means).abs().mean(), known


# -- the plan ----------------------------------------------------------------------------------------------------------


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
