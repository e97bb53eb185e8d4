"""How near ``model.estimate()`` comes to the truth: peaks of memory and times of training and embedding.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.estimates

Each measurement has a process of its own, in which a tiny model was trained and used first, so that what libraries load
and keep is not counted. The peak is what the process holds at most beyond what it held before the model was made.
Embedding is measured with a batch of the size given, since automatic batches hardly take memory on CPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.speed.machine import describe_machine

CASES = {
    "demo, 3,000 cells, batch 64": ("demo", 3000, 64, 30),
    "demo, 3,000 cells, batch 512": ("demo", 3000, 512, 8),
    "base, 500 cells, batch 128": ("base", 500, 128, 8),
}
"""Preset, cells, batch size and steps."""


def measure(preset: str, n_cells: int, batch_size: int, n_steps: int, what: str) -> dict[str, Any]:
    """Estimate, train or embed in this process."""
    from benchmarks.speed.data import peak_bytes, random_tissue, reset_peak

    import scjepa
    from scjepa.models.estimate import embedding_bytes

    warnings.simplefilter("ignore")
    tiny = scjepa.STJEPA(random_tissue(200), "demo")
    tiny.train(max_steps=2, batch_size=2, accelerator="cpu", progress_bar=False)
    tiny.get_latent_representation(batch_size=1)
    adata = random_tissue(n_cells)
    before = reset_peak()
    model = scjepa.STJEPA(adata, preset, training={"max_steps": n_steps, "batch_size": batch_size})
    model._own_tables()
    start = time.perf_counter()
    if what == "estimate":
        told = model.estimate()
        embedding = embedding_bytes(model.module, model._source(None), batch_size)
        return {
            "train": {"gib": told.training_bytes / 2**30, "seconds": told.training_seconds},
            "embed": {"gib": embedding / 2**30, "seconds": told.embedding_seconds},
            "probe_seconds": time.perf_counter() - start,
        }
    if what == "train":
        model.train(accelerator="cpu", progress_bar=False)
    else:
        model.get_latent_representation(batch_size=batch_size)
    return {"gib": (peak_bytes() - before) / 2**30, "seconds": time.perf_counter() - start}


def apart(*arguments: Any) -> dict[str, Any]:
    """Return what :func:`measure` gives in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "--one", json.dumps(arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "estimates.json")
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(*json.loads(arguments.one))))
        return
    report: dict[str, Any] = {"machine": describe_machine(), "cases": {}}
    for name, case in CASES.items():
        told = apart(*case, "estimate")
        row: dict[str, Any] = {"probe_seconds": round(told["probe_seconds"], 1)}
        for what in ("train", "embed"):
            truth = apart(*case, what)
            row[what] = {
                quantity: {"estimated": round(told[what][quantity], 3), "measured": round(truth[quantity], 3)}
                for quantity in ("gib", "seconds")
            }
        report["cases"][name] = row
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
        print(name, row, flush=True)


if __name__ == "__main__":
    main()
