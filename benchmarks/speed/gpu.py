"""On a CUDA device: agreement of the variable-length kernel with padding, and speed of the paper's model in bf16.

    python -m benchmarks.speed.gpu
    python -m benchmarks.speed.gpu --dry      # the same way at sizes for a CPU: figures of no meaning, nothing written

Reports (1) the largest differences of embeddings and gradients between ``varlen`` in bf16, ``padded`` in bf16 and
``padded`` in 32 bits; (2) samples/s of a training step of the ``paper`` preset in bf16, packed and as the frozen padded
reference; (3) the share of the device's measured bf16 matmul rate that the packed step reaches, counting the arithmetic
of real tokens only; (4) how often the host waits for the device in a step; (5) cells/s of embedding, of a batch of
``paper`` and of 1,000,000 random cells by ``base`` into a file; (6) seconds of training ``base``, its tables built.
Half of the positions hold a token.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.speed.data import random_tissue
from benchmarks.speed.machine import describe_machine
from benchmarks.speed.reference import PaddedBatch, reference_loss
from benchmarks.speed.step import N_GENES, half_empty_batch

import scjepa
from scjepa.stjepa import Batch, STJEPAModule, draw_mask, pool
from scjepa.stjepa.config import STJEPAConfig, resolve


@dataclass(frozen=True)
class Setting:
    """Where and at what sizes things are measured."""

    device: str = "cuda"
    packed: str = "varlen"
    batch: int = 256
    small: int = 8
    repeats: int = 20
    matmul: int = 8192
    cells: int = 1_000_000
    steps: int | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)
    encoder: Mapping[str, int] = field(default_factory=dict)

    def on_device(self, batch: Batch) -> Batch:
        """Return a batch on the device."""
        names = ("genes", "values", "ranks", "segments", "sequences", "technologies")
        return replace(batch, **{name: getattr(batch, name).to(self.device) for name in names})

    def paper(self, backend: str) -> STJEPAConfig:
        """Return the paper's model without metatoken (the reference has none)."""
        encoder = {"attention": backend, "metatoken": False, **self.encoder}
        return resolve("paper", tokens=dict(self.tokens), encoder=encoder)

    def model(self, backend: str = "auto") -> STJEPAModule:
        """Return the paper's model with seeded weights."""
        torch.manual_seed(0)
        return STJEPAModule(N_GENES, 1, self.paper(backend)).to(self.device)

    def drawn(self) -> torch.Generator:
        """Return what masks are drawn from."""
        return torch.Generator(self.device).manual_seed(0)

    def half(self, *, enabled: bool = True) -> torch.autocast:
        """Return bf16 for what is computed within."""
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=enabled)

    def wait(self) -> None:
        """Wait until all is computed."""
        if self.device == "cuda":
            torch.cuda.synchronize()


REAL = Setting()
TINY = {"tokens": {"n_tokens": 8, "n_neighbors": 3}, "encoder": {"width": 32, "n_layers": 1, "n_heads": 2}}
DRY = Setting("cpu", "bucketed", batch=6, small=3, repeats=1, matmul=64, cells=400, steps=12, **TINY)


def seconds(at: Setting, call: Callable[[], Any], repeats: int) -> float:
    """Return the median seconds of ``call`` on the device, after a warm-up."""
    times = []
    for turn in range(repeats + 3):
        at.wait()
        start = time.perf_counter()
        call()
        at.wait()
        if turn >= 3:
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def loss_of(at: Setting, model: STJEPAModule, batch: Batch, *, half: bool = True) -> torch.Tensor:
    with at.half(enabled=half):
        return model.loss(batch, at.drawn()).loss


def agreement(at: Setting, batch: Batch) -> dict[str, dict[str, float]]:
    """Return differences relative to the largest value, against padding in 32 bits."""
    found: dict[str, tuple[torch.Tensor, list[torch.Tensor]]] = {}
    for name, backend, half in (
        ("padded, 32 bits", "padded", False),
        ("padded, bf16", "padded", True),
        (f"{at.packed}, bf16", at.packed, True),
    ):
        model = at.model(backend)
        loss_of(at, model, batch, half=half).backward()
        with torch.no_grad(), at.half(enabled=half):
            embedded = pool(model(batch).float(), batch, "neighborhood")
        found[name] = embedded, [p.grad.float() for p in model.parameters() if p.grad is not None]
    truth_embedded, truth_grads = found.pop("padded, 32 bits")

    def away(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).norm() / b.norm().clamp_min(1e-12))

    return {
        name: {
            "embeddings": away(embedded, truth_embedded),
            "gradients": max(away(a, b) for a, b in zip(grads, truth_grads, strict=True) if b.norm() > 0),
        }
        for name, (embedded, grads) in found.items()
    }


def block_flops(queries: torch.Tensor, keys: torch.Tensor, width: int, mlp_ratio: float) -> float:
    """Return the arithmetic of one block's forward pass on sequences of these lengths, matrix products only."""
    n_queries, n_keys, pairs = (float(x.double().sum()) for x in (queries, keys, queries * keys))
    linear = width**2 * (2 * n_queries + 4 * n_keys + 2 * n_queries + 4 * mlp_ratio * n_queries)
    return linear + 4 * width * pairs


def step_flops(config: STJEPAConfig, batch: Batch, masked: torch.Tensor) -> float:
    """Return the arithmetic of a training step: target forward, context and predictor forward and back."""
    encoder = config.encoder
    every = batch.lengths
    hidden = torch.bincount(batch.sequences[masked], minlength=batch.n_sequences)
    size = (encoder.width, encoder.mlp_ratio)
    target = encoder.n_layers * block_flops(every, every, *size)
    context = encoder.n_layers * block_flops(every - hidden, every - hidden, *size)
    predictor = (config.objective.predictor_layers - 1) * block_flops(every, every, *size)
    predictor += block_flops(hidden, every, *size) + 2 * encoder.width**2 * float(hidden.sum())
    return target + 3 * (context + predictor)


def matmul_rate(at: Setting) -> float:
    """Return the device's bf16 matmul rate in FLOP/s, measured on square matrices."""
    n = at.matmul
    a, b = (torch.randn(n, n, device=at.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / seconds(at, lambda: a @ b, 20)


def training_step(at: Setting, loss: Callable[[STJEPAModule], torch.Tensor]) -> Callable[[], None]:
    """Return a whole step of training: loss, gradients, AdamW, EMA."""
    model = at.model()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
        model.update_target(0.996)

    return step


def steps_of(at: Setting, batch: Batch) -> dict[str, Callable[[], None]]:
    """Return a step of the packed model and of the padded reference on the same batch."""
    n_positions = batch.n_segments * at.paper("auto").tokens.n_tokens

    def reference(model: STJEPAModule) -> torch.Tensor:
        masked = draw_mask(batch, "stratified", 0.6, at.drawn())
        with torch.device(at.device), at.half():
            return reference_loss(model, PaddedBatch(batch, masked, n_positions))

    return {
        "packed": training_step(at, lambda model: loss_of(at, model, batch)),
        "reference": training_step(at, reference),
    }


def waits(step: Callable[[], None]) -> int | None:
    """Return how often the host waits for the device in a step, as torch tells; ``None`` without a CUDA device."""
    if not torch.cuda.is_available():
        return None
    step()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in told)


def embed_rate(at: Setting, batch: Batch) -> float:
    """Return the cells/s of embedding a batch in bf16."""
    model = at.model()

    @torch.inference_mode()
    def embed() -> None:
        with at.half():
            pool(model(batch).float(), batch, "neighborhood")

    return batch.n_sequences / seconds(at, embed, at.repeats)


def runs_of_base(at: Setting) -> dict[str, float]:
    """Return the seconds of training ``base`` on random cells and of embedding all of them into a file."""
    model = scjepa.STJEPA(random_tissue(at.cells), "base")
    model._own_tables()
    where = "gpu" if at.device == "cuda" else at.device
    start = time.perf_counter()
    model.train(accelerator=where, max_steps=at.steps, progress_bar=False)
    trained = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        model.get_latent_representation(out=Path(folder) / "latent.npy")
        embedded = time.perf_counter() - start
    return {"cells": at.cells, "training_seconds": round(trained, 2), "embedding_seconds": round(embedded, 2)}


def measure(at: Setting) -> dict[str, Any]:
    """Return all figures."""
    config = at.paper("auto")
    sizes = (config.tokens.n_tokens, config.tokens.n_neighbors + 1)
    batch = at.on_device(half_empty_batch(at.batch, *sizes, 0))
    small = at.on_device(half_empty_batch(at.small, *sizes, 1))
    masked = draw_mask(batch, "stratified", 0.6, at.drawn())
    rate, steps = matmul_rate(at), steps_of(at, batch)
    times = {name: seconds(at, step, at.repeats) for name, step in steps.items()}
    cuda = at.device == "cuda"
    return {
        "machine": {**describe_machine(), "device": torch.cuda.get_device_name() if cuda else "none: a dry run"},
        "batch": at.batch,
        "agreement": agreement(at, small),
        "matmul_tflops": round(rate / 1e12, 1),
        "samples_per_second": {name: round(at.batch / t, 1) for name, t in times.items()},
        "speed_up": round(times["reference"] / times["packed"], 2),
        "share_of_matmul_rate": round(step_flops(config, batch, masked) / times["packed"] / rate, 3),
        "waits_per_step": waits(steps["packed"]),
        "embedded_cells_per_second": round(embed_rate(at, batch)),
        "base": runs_of_base(at),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=REAL.batch)
    parser.add_argument("--repeats", type=int, default=REAL.repeats)
    parser.add_argument("--cells", type=int, default=REAL.cells)
    parser.add_argument("--dry", action="store_true", help="small sizes on the CPU; nothing is written")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    options = parser.parse_args(arguments)
    if options.dry:
        print(json.dumps(measure(DRY), indent=1))
        return
    if not torch.cuda.is_available():
        sys.exit("gpu.py needs a CUDA device, and torch finds none here: nothing was measured.")
    report = measure(replace(REAL, batch=options.batch, repeats=options.repeats, cells=options.cells))
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
