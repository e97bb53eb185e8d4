"""What the monitor costs: processor time of training on V1 with it and without it, in interleaved pairs.

    export SCJEPA_DATA=... OMP_NUM_THREADS=1
    python -m benchmarks.speed.monitor

Whole runs of the presets. Without the monitor nothing is read, not even before training; all else is the same, and so
are the weights at the end, which is checked. The figure is the median of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.quality.sets import load_set
from benchmarks.speed.machine import describe_machine

import scjepa
from scjepa.training.plan import JEPATrainingPlan

RESULTS = Path(__file__).parent / "results" / "monitor.json"


def trained(preset: str, *, monitor: bool) -> tuple[float, dict[str, torch.Tensor], int]:
    """Train a preset on V1, and return processor seconds, weights, and the readings that were made."""
    adata = load_set("V1")
    scjepa.STJEPA.setup_anndata(adata)
    model = scjepa.STJEPA(adata, preset)
    model._own_tables()
    begin = JEPATrainingPlan.on_train_start
    options: dict[str, Any] = {} if monitor else {"limit_val_batches": 0}
    if not monitor:
        JEPATrainingPlan.on_train_start = lambda plan: plan.module.train()
    try:
        start = time.process_time()
        model.train(accelerator="cpu", progress_bar=False, **options)
        seconds = time.process_time() - start
    finally:
        JEPATrainingPlan.on_train_start = begin
    return seconds, model.module.state_dict(), len(model.history.get("effective_rank", ()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["demo", "base"])
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    report: dict[str, Any] = {"machine": describe_machine()}
    for preset in options.presets:
        pairs, n_readings = [], 0
        for _ in range(options.pairs):
            plain, weights, _ = trained(preset, monitor=False)
            watched, others, n_readings = trained(preset, monitor=True)
            if not all(torch.equal(weights[name], others[name]) for name in weights):
                raise SystemExit("The monitor changed what was learned.")
            pairs.append((plain, watched))
            print(preset, f"{plain:.1f} {watched:.1f} {watched / plain:.4f}", flush=True)
        ratios = [watched / plain for plain, watched in pairs]
        report[preset] = {
            "ratio": round(float(np.median(ratios)), 4),
            "ratios": np.round(ratios, 4).tolist(),
            "seconds_without": round(float(np.median([plain for plain, _ in pairs])), 1),
            "readings": n_readings,
        }
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
