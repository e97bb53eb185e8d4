"""On a CUDA device: agreement of the variable-length kernel with padding, and speed of the paper's model in bf16.

    python -m benchmarks.speed.gpu

Reports (1) the largest differences of embeddings and gradients between ``varlen`` in bf16, ``padded`` in bf16 and
``padded`` in 32 bits; (2) samples/s of a training step of the ``paper`` preset in bf16, packed and as the frozen padded
reference; (3) the share of the device's measured bf16 matmul rate that the packed step reaches, counting the arithmetic
of real tokens only; (4) cells/s of embedding. Half of the positions hold a token.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.speed.machine import describe_machine
from benchmarks.speed.reference import PaddedBatch, reference_loss
from benchmarks.speed.step import N_GENES, half_empty_batch

from scjepa.stjepa import Batch, STJEPAModule, draw_mask, pool
from scjepa.stjepa.config import STJEPAConfig, resolve

DEVICE = "cuda"


def on_device(batch: Batch) -> Batch:
    names = ("genes", "values", "ranks", "segments", "sequences", "technologies")
    return replace(batch, **{name: getattr(batch, name).to(DEVICE) for name in names})


def make_model(config: STJEPAConfig) -> STJEPAModule:
    torch.manual_seed(0)
    return STJEPAModule(N_GENES, 1, config).to(DEVICE)


def paper(backend: str) -> STJEPAConfig:
    """Return the paper's model without metatoken (the reference has none)."""
    return resolve("paper", encoder={"attention": backend, "metatoken": False})


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Return the median seconds of ``call`` on the device, after a warm-up."""
    times = []
    for turn in range(repeats + 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        if turn >= 3:
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def loss_of(model: STJEPAModule, batch: Batch, half: bool) -> torch.Tensor:
    with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=half):
        return model.loss(batch, torch.Generator(DEVICE).manual_seed(0)).loss


def agreement(batch: Batch) -> dict[str, dict[str, float]]:
    """Return differences relative to the largest value, against padding in 32 bits."""
    found: dict[str, tuple[torch.Tensor, list[torch.Tensor]]] = {}
    for name, backend, half in (
        ("padded, 32 bits", "padded", False),
        ("padded, bf16", "padded", True),
        ("varlen, bf16", "varlen", True),
    ):
        model = make_model(paper(backend))
        loss_of(model, batch, half).backward()
        with torch.no_grad(), torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=half):
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


def matmul_rate() -> float:
    """Return the device's bf16 matmul rate in FLOP/s, measured on 8192 × 8192."""
    n = 8192
    a, b = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / seconds(lambda: a @ b, 20)


def train_rates(batch: Batch, repeats: int) -> dict[str, float]:
    """Return the seconds of a step of the packed model and of the padded reference on the same batch."""
    config = paper("auto")
    n_positions = batch.n_segments * config.tokens.n_tokens
    times = {}
    for name in ("packed", "reference"):
        model = make_model(config)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

        def reference(model: STJEPAModule = model) -> torch.Tensor:
            masked = draw_mask(batch, "stratified", 0.6, torch.Generator(DEVICE).manual_seed(0))
            with torch.device(DEVICE), torch.autocast(DEVICE, dtype=torch.bfloat16):
                return reference_loss(model, PaddedBatch(batch, masked, n_positions))

        def packed(model: STJEPAModule = model) -> torch.Tensor:
            return loss_of(model, batch, half=True)

        loss = packed if name == "packed" else reference

        def step(
            model: STJEPAModule = model, optimizer: torch.optim.Optimizer = optimizer, loss: Callable = loss
        ) -> None:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
            model.update_target(0.996)

        times[name] = seconds(step, repeats)
    return times


def embed_rate(batch: Batch, repeats: int) -> float:
    """Return the cells/s of embedding in bf16."""
    model = make_model(paper("auto"))

    @torch.inference_mode()
    def embed() -> None:
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            pool(model(batch).float(), batch, "neighborhood")

    return batch.n_sequences / seconds(embed, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu.py needs a CUDA device, and torch finds none here: nothing was measured.")
    config = paper("auto")
    batch = on_device(half_empty_batch(arguments.batch, config.tokens.n_tokens, config.tokens.n_neighbors + 1, 0))
    small = on_device(half_empty_batch(8, config.tokens.n_tokens, config.tokens.n_neighbors + 1, 1))
    masked = draw_mask(batch, "stratified", 0.6, torch.Generator(DEVICE).manual_seed(0))
    rate, times = matmul_rate(), train_rates(batch, arguments.repeats)
    report = {
        "machine": {**describe_machine(), "device": torch.cuda.get_device_name()},
        "batch": arguments.batch,
        "agreement": agreement(small),
        "matmul_tflops": round(rate / 1e12, 1),
        "samples_per_second": {name: round(arguments.batch / t, 1) for name, t in times.items()},
        "speed_up": round(times["reference"] / times["packed"], 2),
        "share_of_matmul_rate": round(step_flops(config, batch, masked) / times["packed"] / rate, 3),
        "embedded_cells_per_second": round(embed_rate(batch, arguments.repeats)),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
