"""One training step: the package against the frozen reference, in interleaved pairs on one thread.

    python -m benchmarks.speed.step

Model: 4 heads, D = 128, 3 layers, value MLP, L = 32, k = 10, batch 16; half of the positions hold a token. Each pair
times a whole step (masks, loss, gradients, AdamW, EMA) of the reference and of the package on the same batch and the
same mask; the figure is the median of the pairs' ratios. With four masks the package's time is divided by four: it
draws four masks that share one pass of the target encoder and asks for a quarter of the masked tokens.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from benchmarks.speed.machine import describe_machine
from benchmarks.speed.reference import PaddedBatch, reference_loss

from scjepa.stjepa import Batch, STJEPAModule, draw_mask
from scjepa.stjepa.config import STJEPAConfig, resolve

N_GENES = 1000


def configuration(width: int, n_layers: int, n_tokens: int, backend: str, **masking: float) -> STJEPAConfig:
    """Return the paper's model at this size, without metatoken (the reference has none)."""
    return resolve(
        "paper_ablation",
        tokens={"n_tokens": n_tokens},
        encoder={"width": width, "n_layers": n_layers, "n_heads": 4, "metatoken": False, "attention": backend},
        masking=masking,
    )


def half_empty_batch(n_sequences: int, n_tokens: int, n_segments: int, seed: int) -> Batch:
    """Return neighborhoods whose cells hold 0 to ``n_tokens`` tokens, half of them on average."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, n_tokens + 1, n_sequences * n_segments)
    block = np.repeat(np.arange(len(lengths)), lengths)
    ranks = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
    as_tensor = torch.from_numpy
    return Batch(
        genes=as_tensor(rng.integers(0, N_GENES, len(block))),
        values=as_tensor(1.0 + rng.poisson(2.0, len(block)).astype(np.float32)),
        ranks=as_tensor(ranks),
        segments=as_tensor(block % n_segments),
        sequences=as_tensor(block // n_segments),
        technologies=torch.zeros(n_sequences, dtype=torch.long),
        n_segments=n_segments,
    )


def make_model(config: STJEPAConfig) -> tuple[STJEPAModule, torch.optim.Optimizer]:
    """Return a seeded model and its optimizer (the same fused AdamW for both sides)."""
    torch.manual_seed(0)
    model = STJEPAModule(N_GENES, 1, config)
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)


def timed(step: Callable[[], torch.Tensor], model: STJEPAModule, optimizer: torch.optim.Optimizer) -> float:
    """Return the processor seconds of one whole step."""
    start = time.process_time()
    loss = step()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.update_target(0.996)
    return time.process_time() - start


def agreement(config: STJEPAConfig, batch: Batch, n_positions: int) -> dict[str, float]:
    """Return the largest differences of loss and gradients between the two sides, relative to the largest value."""
    (ours, _), (theirs, _) = make_model(config), make_model(config)
    masked = draw_mask(batch, "stratified", 0.6, torch.Generator().manual_seed(0))
    packed = ours.loss(batch, torch.Generator().manual_seed(0)).loss
    padded = reference_loss(theirs, PaddedBatch(batch, masked, n_positions))
    packed.backward()
    padded.backward()
    pairs = [
        (a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True) if b.grad is not None
    ]
    worst = max(float((a - b).abs().max() / (b.abs().max() + 1e-12)) for a, b in pairs)
    return {"loss": abs(float((packed - padded).detach() / padded.detach())), "gradients": worst}


def compare(options: argparse.Namespace) -> dict:
    """Run the pairs and return medians and quartiles."""
    n_segments = 11
    n_positions = n_segments * options.tokens
    size = (options.width, options.layers, options.tokens)
    plans = {
        "one mask": (1, configuration(*size, options.backend)),
        "four masks, a quarter of the queries": (
            4,
            configuration(*size, options.backend, n_masks=4, query_fraction=0.25),
        ),
    }
    reference, reference_optimizer = make_model(configuration(*size, "padded"))
    first = half_empty_batch(options.batch, options.tokens, n_segments, 0)
    results: dict = {"agreement": agreement(configuration(*size, options.backend), first, n_positions)}
    for name, (n_masks, config) in plans.items():
        model, optimizer = make_model(config)
        ours, theirs = [], []
        for pair in range(options.pairs + 2):
            batch = half_empty_batch(options.batch, options.tokens, n_segments, pair)

            def reference_step(batch: Batch = batch, pair: int = pair) -> torch.Tensor:
                masked = draw_mask(batch, "stratified", 0.6, torch.Generator().manual_seed(pair))
                return reference_loss(reference, PaddedBatch(batch, masked, n_positions))

            def packed_step(batch: Batch = batch, pair: int = pair, model: STJEPAModule = model) -> torch.Tensor:
                return model.loss(batch, torch.Generator().manual_seed(pair)).loss

            theirs.append(timed(reference_step, reference, reference_optimizer))
            ours.append(timed(packed_step, model, optimizer) / n_masks)
        ratios = np.array(theirs[2:]) / np.array(ours[2:])
        results[name] = {
            "ratio": np.percentile(ratios, [25, 50, 75]).round(3).tolist(),
            "reference_ms_per_sample": round(1e3 * float(np.median(theirs[2:])) / options.batch, 2),
            "packed_ms_per_sample_and_mask": round(1e3 * float(np.median(ours[2:])) / options.batch, 2),
            "pairs": options.pairs,
        }
        print(name, results[name], flush=True)
    print(results["agreement"])
    return results


def main() -> None:
    """Read the command line, measure, and write ``results/step.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "step.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {name: getattr(options, name) for name in ("width", "layers", "tokens", "batch", "backend")}
    results = {"settings": settings, "machine": {**describe_machine(), "threads": "1"}, **compare(options)}
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
