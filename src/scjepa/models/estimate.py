"""What a run will need before it is started: memory from a small batch, time from a short probe."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from scjepa._core.html import as_html
from scjepa._core.warn import warn
from scjepa.nn import JEPAModule
from scjepa.nn.config import TransformerConfig
from scjepa.nn.jepa import Objective
from scjepa.tokens.source import Batch, TableSource, available_memory, move_batch, readable_bytes
from scjepa.training import parameter_groups
from scjepa.training.config import TrainConfig
from scjepa.training.fit import monitor_cells, monitor_interval, passes_of_reading, training_steps

T = TypeVar("T")

TOLERANCE = 1.3
"""Factor within which peaks of memory are told."""

_ROUGHLY = 1.5
"""The same of the peak of training that is told without a measurement."""

AUTO = "auto"
"""``batch_size`` that bounds the tokens of a batch, and with them its memory, rather than its cells."""

_AUTO_BYTES = {"cpu": 2**24, "cuda": 2**32, "mps": 2**30}
"""Activations of an automatic batch at most: on CPU they are to stay near the caches (2^27 takes 1.3 times as long)."""

_AUTO_SHARE = 0.25
"""Share of the free memory that activations of an automatic batch take at most."""

_PROBE_SECONDS = 5.0
_PROBE_FLOPS = 1e10
"""Arithmetic of the first, smallest measurement: a second on a slow core."""

_STEP_OVERHEAD = 0.003
"""Seconds that the trainer's own work takes a step."""

_HEAP = {"cpu": 1.4}
"""What a device's allocator holds beside live tensors: after some steps glibc's heap has holes; measured."""

_KEPT, _KEPT_OUTSIDE = 6.0, 2.0
"""Vectors of a token kept for the way back: in a block, beside its MLP's hidden layers, and outside; measured."""

_SETTLED = {"cpu": 160 * 2**20}
"""What a process holds once it has trained for some steps, whatever the model and the batch; measured."""


@dataclass(frozen=True)
class Estimate:
    """What training a model and embedding its cells will take. ``str()`` of it reads well.

    Peaks are what is needed beyond the process as it is (the interpreter, libraries, your AnnData), the model's weights
    and tables included; they are meant to be within 30% of the truth, times within a factor of 2. A peak of a few tens
    of MiB can come to less than that, for processes keep and reuse memory.

    Attributes
    ----------
    n_cells
        Cells of the data.
    device
        Where the model is.
    parameters
        Exact numbers of parameters by part: ``"encoder"``, ``"encoder_without_genes"``, ``"objective"``, ``"trained"``
        (encoder and objective) and ``"total"`` (with the EMA copy).
    table_bytes
        Exact size of the token and neighbor tables.
    training_bytes, embedding_bytes
        Peaks of training, and of embedding with ``batch_size="auto"``, the result not counted.
    result_bytes
        Exact size of the embeddings.
    n_steps
        Optimizer steps of training as configured.
    training_seconds, embedding_seconds
        Times of training as configured, and of embedding all cells.
    available_bytes
        Memory that the device has left now; ``None`` where that is not known.
    """

    n_cells: int
    device: str
    parameters: dict[str, int]
    table_bytes: int
    training_bytes: int
    embedding_bytes: int
    result_bytes: int
    n_steps: int
    training_seconds: float
    embedding_seconds: float
    available_bytes: int | None

    _repr_html_ = as_html

    def __str__(self) -> str:
        n = self.parameters
        free = "not known" if self.available_bytes is None else readable_bytes(self.available_bytes)
        return "\n".join(
            [
                f"Estimate for {self.n_cells:,} cells on {self.device}",
                f"  parameters  {n['encoder']:,} in the encoder, {n['trained']:,} trained, {n['total']:,} with the EMA "
                "copy",
                f"  tables      {readable_bytes(self.table_bytes)}",
                f"  training    {self.n_steps:,} steps, about {readable_seconds(self.training_seconds)}; "
                f"{readable_bytes(self.training_bytes)} at the peak",
                f"  embedding   about {readable_seconds(self.embedding_seconds)}; "
                f"{readable_bytes(self.embedding_bytes)} at the peak, and {readable_bytes(self.result_bytes)} for the "
                "result",
                f"  free        {free}",
            ]
        )


def readable_seconds(seconds: float) -> str:
    """Return a time in words: ``"3.5 min"``."""
    if seconds < 1:
        return "1 s"
    for unit, size, limit in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < limit:
            return f"{seconds / size:.0f} s" if unit == "s" else f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def estimate(module: JEPAModule, source: TableSource, config: TrainConfig, seed: int = 0) -> Estimate:
    """Estimate memory and time; takes at most about five seconds.

    Works on a copy of ``module`` and on random streams of its own: neither weights nor the user's random state change.
    """
    lengths = source.sequence_lengths().cpu().numpy()
    trained_on = float(source.sequence_lengths(training=True).double().mean())
    step_seconds, token_seconds = _probe(module, source, config, trained_on, seed)
    n_steps = count_steps(config, source.n_cells)
    monitored = _monitor_passes(module.objective, config, n_steps, source.n_cells) * float(lengths.mean())
    return Estimate(
        n_cells=source.n_cells,
        device=str(source.device),
        parameters=module.parameter_counts(),
        table_bytes=source.nbytes,
        training_bytes=measured_training_bytes(module, source, config, seed),
        embedding_bytes=embedding_bytes(module, source),
        result_bytes=4 * source.n_cells * module.config.encoder.width,
        n_steps=n_steps,
        training_seconds=n_steps * (step_seconds + _STEP_OVERHEAD) + monitored * token_seconds,
        embedding_seconds=float(lengths.sum()) * token_seconds,
        available_bytes=available_memory(source.device),
    )


def count_steps(config: TrainConfig, n_cells: int) -> int:
    """Return the optimizer steps of a run on ``n_cells``, of which some are held out."""
    return training_steps(config, _count_trained(config, n_cells))


def _count_trained(config: TrainConfig, n_cells: int) -> int:
    return max(1, round(n_cells * (1 - config.validation_size)))


def _monitor_passes(objective: Objective, config: TrainConfig, n_steps: int, n_cells: int) -> float:
    """Return the passes of a cell through the encoder that the monitor makes in a run."""
    n_readings = 1 + n_steps // monitor_interval(n_steps)
    n_read = monitor_cells(objective, config, _count_trained(config, n_cells))
    return n_readings * min(n_read, n_cells * (config.validation_size or 1.0)) * passes_of_reading(objective)


# -- memory -----------------------------------------------------------------------------------------------------------


def bytes_per_token(encoder: TransformerConfig) -> int:
    """Return the bytes that one token of a batch needs at most at one time while it is embedded.

    These are the two hidden layers of a block's MLP, before and after the activation, and measured beside them about
    8.5 times the token's vector, all in float32 (the tokens as they came, as they are and normed; queries, keys and
    values, laid out by sequence); and the columns of the batch.
    """
    return int(4 * encoder.width * (8.5 + 2 * encoder.mlp_ratio)) + 8 * 12


def token_budget(encoder: TransformerConfig, device: torch.device) -> int:
    """Return the tokens of an automatic batch on ``device``."""
    limit = _AUTO_BYTES.get(device.type, _AUTO_BYTES["cpu"])
    free = available_memory(device)
    if free is not None:
        limit = min(limit, int(_AUTO_SHARE * free))
    return max(1, limit // bytes_per_token(encoder))


def training_bytes(module: JEPAModule, source: TableSource, config: TrainConfig) -> int:
    """Return the bytes of training at its peak, from sizes alone: tables, weights, gradients, moments, activations."""
    return _training_bytes(module, source, config, kept_bytes(module))


def kept_bytes(module: JEPAModule) -> float:
    """Return the bytes that one token of a batch keeps for the way back, within a factor of 1.6 of what is measured.

    Of a token a block keeps its input, normed input, queries, keys, values, output of attention and the two hidden
    layers of its MLP for the way back. How many tokens pass through how many blocks is ``module.objective.passes``.
    """
    encoder = module.config.encoder
    ratio = encoder.mlp_ratio
    dropped = 3 + ratio if encoder.dropout > 0 else 0.0  # what dropout made of three outputs and the hidden layer
    vectors = encoder.n_layers * (_KEPT + 2 * ratio + dropped) + _KEPT_OUTSIDE
    return 4 * encoder.width * module.objective.passes * vectors


def measured_training_bytes(module: JEPAModule, source: TableSource, config: TrainConfig, seed: int = 0) -> int:
    """Return the same from what autograd keeps of a small batch for its way back, scaled to the largest batch."""
    batch = _batch(module, source, _light(module), seed)
    kept = _kept_by_autograd(_twin(module), batch, seed, config.precision)
    return _training_bytes(module, source, config, kept / max(batch.n_tokens, 1))


def _training_bytes(module: JEPAModule, source: TableSource, config: TrainConfig, kept: float) -> int:
    """Return the bytes of training where ``kept`` bytes of a token are kept for the way back."""
    counts, kind = module.parameter_counts(), source.device.type
    activations = _largest_batch(source, config) * (kept + _way_back(module.config.encoder))
    state = 4 * counts["total"] + 12 * counts["trained"]
    return int(_SETTLED.get(kind, 0) + source.nbytes + state + _HEAP.get(kind, 1.0) * activations)


def _largest_batch(source: TableSource, config: TrainConfig) -> float:
    """Return the tokens of the largest batch to be expected: the mean and three standard deviations."""
    lengths = source.sequence_lengths(training=True).double() + 1
    size = min(config.batch_size, source.n_cells)
    spread = float(lengths.std(correction=0)) * 3 * size**0.5
    return min(size * float(lengths.mean()) + spread, size * float(lengths.max()))


def _way_back(encoder: TransformerConfig) -> float:
    """Return the bytes a token needs beside what autograd keeps: gradients within a block, and the batch itself."""
    return 4 * encoder.width * (2 + encoder.mlp_ratio) + 8 * 12


def _kept_by_autograd(twin: JEPAModule, batch: Batch, seed: int, precision: str = "32-true") -> int:
    """Return the bytes of all tensors that the loss of ``batch`` keeps, those of the weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in twin.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        # Not x itself: a step that keeps its own result would hold on to itself, and never be freed.
        return x.detach()

    with torch.random.fork_rng(), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = _loss(twin, batch, seed, precision)
    del loss  # until here it holds on to what is counted
    return sum(kept.values())


def embedding_bytes(module: JEPAModule, source: TableSource, batch_size: int | str = AUTO) -> int:
    """Return the bytes of embedding at its peak: tables, weights and the activations of a batch."""
    lengths = source.sequence_lengths()
    if batch_size == AUTO:
        tokens = max(min(token_budget(module.config.encoder, source.device), int(lengths.sum())), int(lengths.max()))
    else:
        tokens = int(lengths.topk(min(int(batch_size), len(lengths))).values.sum())
    return source.nbytes + 4 * module.parameter_counts()["total"] + tokens * bytes_per_token(module.config.encoder)


def check_training_memory(module: JEPAModule, source: TableSource, config: TrainConfig, device: torch.device) -> None:
    """Refuse, or warn of, a run that the memory of ``device`` will not hold."""
    what = f"Training with batch_size={config.batch_size}"
    then = f"Lower it, train(batch_size={max(1, config.batch_size // 4)}), or take a smaller preset."
    check_memory(training_bytes(module, source, config), device, what, then, _ROUGHLY)


def check_memory(needed: int, device: torch.device, what: str, then: str, tolerance: float = TOLERANCE) -> None:
    """Refuse, or warn of, what does not fit in the memory that ``device`` has left.

    Parameters
    ----------
    needed
        Bytes, as estimated.
    what, then
        What needs them, and what to do about it.
    tolerance
        Factor within which ``needed`` is known.

    Raises
    ------
    ValueError
        If more is needed on CPU than is free, the tolerance of the estimate granted.

    Warns
    -----
    UserWarning
        If it is more than is free, but within the tolerance; and on other devices, where mixed precision and another
        allocator make the estimate an upper bound, in any case.
    """
    free = available_memory(device)
    if free is None or needed <= free:
        return
    text = (
        f"{what} needs about {readable_bytes(needed)} of memory, and {device} has {readable_bytes(free)} left. {then} "
        "model.estimate() tells what is needed."
    )
    if device.type == "cpu" and needed > tolerance * free:
        raise ValueError(text)
    warn(text)


# -- time -------------------------------------------------------------------------------------------------------------


def _twin(module: JEPAModule) -> JEPAModule:
    """Return a copy in training mode, to do as one likes with."""
    return copy.deepcopy(module).train()


def _light(module: JEPAModule) -> int:
    """Return a number of tokens that the smallest machine trains on at once without being kept waiting."""
    return max(64, int(_PROBE_FLOPS / (6 * module.parameter_counts()["encoder_without_genes"])))


def _batch(module: JEPAModule, source: TableSource, n_tokens: float, seed: int, training: bool = True) -> Batch:
    """Return sequences of about ``n_tokens`` tokens: two or more, thinned out if they have more."""
    rng, device = np.random.default_rng(seed), next(module.parameters()).device
    sample = rng.integers(0, source.n_cells, 1024)
    mean = float(source.sequence_lengths(torch.from_numpy(sample).to(source.table_device)).double().mean())
    n = int(np.clip(round(n_tokens / max(mean, 1)), 2, max(2, source.n_cells)))
    cells = torch.from_numpy(rng.choice(source.n_cells, min(n, source.n_cells), replace=False))
    batch = move_batch(module.gather(source, cells) if training else source.batch(cells), device)
    if batch.n_tokens <= 1.5 * n_tokens:
        return batch
    return batch.select(torch.from_numpy(np.sort(rng.choice(batch.n_tokens, int(n_tokens), replace=False))).to(device))


def _loss(twin: JEPAModule, batch: Batch, seed: int, precision: str) -> Tensor:
    device = batch.genes.device
    half = device.type == "cuda" and precision.startswith("bf16")
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
        return twin.loss(batch, torch.Generator(device=device).manual_seed(seed)).loss


def _timed(device: torch.device, call: Callable[[], object]) -> float:
    """Return the seconds that ``call`` takes."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _probe(
    module: JEPAModule, source: TableSource, config: TrainConfig, mean_length: float, seed: int
) -> tuple[float, float]:
    """Return the seconds of a training step and those of embedding one token."""
    begin = time.perf_counter()
    twin, device = _twin(module), next(module.parameters()).device
    optimizer = torch.optim.AdamW(parameter_groups(twin), lr=0.0, fused=device.type in ("cpu", "cuda"))
    step_tokens = min(config.batch_size, source.n_cells) * mean_length

    def learn(n_tokens: float) -> tuple[float, float]:
        """Return the seconds of the loss and its gradients a token, and those of the optimizer."""
        batch = _batch(module, source, n_tokens, seed)
        seconds = _timed(device, lambda: _loss(twin, batch, seed, config.precision).backward())
        return seconds / max(batch.n_tokens, 1), _timed(
            device, lambda: (optimizer.step(), optimizer.zero_grad(), twin.update_target(0.0))
        )

    def embed(n_tokens: float) -> float:
        """Return the seconds of embedding a token."""
        batch = _batch(module, source, n_tokens, seed, training=False)
        with torch.inference_mode():
            return _timed(device, lambda: twin.embed(batch)) / max(batch.n_tokens, 1)

    def repeat(call: Callable[[float], T], n_tokens: float, until: float) -> list[T]:
        """Return what up to five calls give; the last of them begins before ``until``, a share of the time."""
        results = [call(n_tokens)]
        while len(results) < 5 and time.perf_counter() - begin < until * _PROBE_SECONDS:
            results.append(call(n_tokens))
        return results

    with torch.random.fork_rng():
        small = _light(module)
        learn(small), embed(small)  # the first time of everything takes longer
        per_token, most = learn(small)[0], token_budget(module.config.encoder, device)
        learned = repeat(learn, np.clip(0.1 * _PROBE_SECONDS / per_token, min(small, step_tokens), step_tokens), 0.5)
        embedded = repeat(embed, np.clip(0.2 * _PROBE_SECONDS / per_token, min(small, most), most), 0.75)
    per_token, per_update = np.median(np.array(learned), axis=0)
    return float(per_token * step_tokens + per_update), float(np.median(embedded))
