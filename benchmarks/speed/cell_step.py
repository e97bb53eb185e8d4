"""One training step of Cell-JEPA: packed against padded, in interleaved pairs on one thread.

    python -m benchmarks.speed.cell_step

Each pair times a whole step (mask, loss, gradients, AdamW, EMA) on the same cells with the same hidden genes. The
padded side is how the model would be written at first: every cell has 600 positions and ``<cls>``, attention has a
dense boolean mask, every block computes every position. Weights, heads and the lookup of binned values are the same on
both sides (the preset ``paper`` made smaller, without dropout), so the difference is packing, keys of visible genes
alone, and a last block that computes what is read. The figure is the median of the pairs' ratios, at half occupancy
(cells of 1 to 600 genes) and at 97%, that of the cells of pbmc3k.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.speed.machine import describe_machine
from torch import Tensor, nn

from scjepa.celljepa import CellBatch, CellJEPAModule, hide
from scjepa.celljepa.config import resolve_cells

N_GENES, N_POSITIONS, RATIO = 2000, 600, 0.15


def cells(n: int, occupancy: float, seed: int) -> CellBatch:
    """Return cells that fill a share of the positions on average."""
    rng = np.random.default_rng(seed)
    low = 1 if occupancy <= 0.5 else round((2 * occupancy - 1) * N_POSITIONS)
    lengths = rng.integers(low, N_POSITIONS + 1, n)
    genes = np.concatenate([rng.choice(N_GENES, length, replace=False) for length in lengths])
    return CellBatch(
        genes=torch.from_numpy(genes),
        values=torch.from_numpy(rng.integers(1, 51, len(genes)).astype(np.float32)),
        sequences=torch.from_numpy(np.repeat(np.arange(n), lengths)),
        labels=torch.full((n,), -1),
    )


def _encode(encoder: nn.Module, batch: CellBatch, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return all positions of all cells, ``<cls>`` first, and the places of the batch's tokens."""
    n = batch.n_sequences
    column = 1 + torch.arange(batch.n_tokens) - (batch.lengths.cumsum(0) - batch.lengths)[batch.sequences]
    x = encoder.embedding.cls.expand(n, N_POSITIONS + 1, -1).clone()
    x[batch.sequences, column] = encoder.embedding(batch, hidden)
    seen = torch.arange(N_POSITIONS + 1)[None, :] <= batch.lengths[:, None]
    if hidden is not None:
        seen[batch.sequences[hidden], column[hidden]] = False
    allowed = (seen[:, None, :] | torch.eye(N_POSITIONS + 1, dtype=torch.bool))[:, None]
    for block in encoder.transformer.blocks:
        attention = block.attention
        q, k, v = (
            attention.qkv(block.attention_norm(x))
            .view(n, N_POSITIONS + 1, 3, attention.n_heads, -1)
            .permute(2, 0, 3, 1, 4)
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        x = x + attention.out(out.transpose(1, 2).reshape(x.shape))
        x = x + block.mlp(block.mlp_norm(x))
    return encoder.transformer.norm(x), column


def padded_loss(model: CellJEPAModule, batch: CellBatch, hidden: Tensor) -> Tensor:
    """Return the loss of the preset ``paper``."""
    tokens, column = _encode(model.context, batch, hidden)
    with torch.no_grad():
        whole = _encode(model.target, batch, None)[0][:, 0]
    heads = model.objective.heads
    values = heads["value"](tokens[batch.sequences[hidden], column[hidden]])
    distance = 1 - F.cosine_similarity(heads["predictor"](tokens[:, 0]), whole, dim=1)
    return F.mse_loss(values, batch.values[hidden]) + 1000 * distance.mean()


def make_model(options: argparse.Namespace) -> tuple[CellJEPAModule, torch.optim.Optimizer]:
    """Return a seeded model and its optimizer."""
    torch.manual_seed(0)
    size = {"width": options.width, "n_layers": options.layers, "n_heads": options.heads, "dropout": 0.0}
    model = CellJEPAModule(N_GENES, resolve_cells("paper", encoder=size, masking={"ratio": RATIO}))
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)


def _draw(batch: CellBatch, seed: int) -> Tensor:
    return hide(batch, (RATIO,), torch.Generator().manual_seed(seed))


def agreement(options: argparse.Namespace) -> dict[str, float]:
    """Return the largest differences of loss and gradients between the two sides, relative to the largest value."""
    (ours, _), (theirs, _) = make_model(options), make_model(options)
    batch = cells(options.batch, 0.5, 0)
    packed = ours.loss(batch, torch.Generator().manual_seed(0)).loss
    padded = padded_loss(theirs, batch, _draw(batch, 0))
    packed.backward()
    padded.backward()
    pairs = [
        (a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True) if b.grad is not None
    ]
    worst = max(float((a - b).abs().max() / (b.abs().max() + 1e-12)) for a, b in pairs)
    return {"loss": abs(float((packed - padded).detach() / padded.detach())), "gradients": worst}


def timed(step: Callable[[], Tensor], model: CellJEPAModule, optimizer: torch.optim.Optimizer) -> float:
    """Return the processor seconds of one whole step."""
    start = time.process_time()
    loss = step()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.update_target(0.996)
    return time.process_time() - start


def compare(options: argparse.Namespace, occupancy: float) -> dict:
    """Run the pairs and return the quartiles of their ratios."""
    (model, optimizer), (reference, reference_optimizer) = make_model(options), make_model(options)
    packed, padded = [], []
    for pair in range(options.pairs + 1):
        batch = cells(options.batch, occupancy, pair)

        def reference_step(batch: CellBatch = batch, pair: int = pair) -> Tensor:
            return padded_loss(reference, batch, _draw(batch, pair))

        def packed_step(batch: CellBatch = batch, pair: int = pair) -> Tensor:
            return model.loss(batch, torch.Generator().manual_seed(pair)).loss

        padded.append(timed(reference_step, reference, reference_optimizer))
        packed.append(timed(packed_step, model, optimizer))
    ratios = np.array(padded[1:]) / np.array(packed[1:])
    return {
        "ratio": np.percentile(ratios, [25, 50, 75]).round(3).tolist(),
        "padded_ms_per_cell": round(1e3 * float(np.median(padded[1:])) / options.batch, 2),
        "packed_ms_per_cell": round(1e3 * float(np.median(packed[1:])) / options.batch, 2),
        "pairs": options.pairs,
    }


def main() -> None:
    """Read the command line, measure, and write ``results/cell_step.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cell_step.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {name: getattr(options, name) for name in ("width", "layers", "heads", "batch")}
    results = {"settings": settings, "machine": {**describe_machine(), "threads": "1"}, "agreement": agreement(options)}
    print(results["agreement"], flush=True)
    for name, occupancy in (("half", 0.5), ("pbmc3k", 0.97)):
        results[name] = compare(options, occupancy)
        print(name, results[name], flush=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
