"""What the monitor costs: processor time of its readings over that of the steps of training, on V1.

    export SCJEPA_DATA=... OMP_NUM_THREADS=1
    python -m benchmarks.speed.monitor

The first steps of whole runs of the presets, with as many cells in a reading as a whole run has, but a reading every
five steps, so that steps and readings are measured side by side. The figure is what all readings of a run take, the one
before it included, over what its steps take: of the medians, and with the quartiles of the readings.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from benchmarks.quality.sets import load_set
from benchmarks.speed.machine import describe_machine

import scjepa
from scjepa.training.fit import READINGS

RESULTS = Path(__file__).parent / "results" / "monitor.json"
EVERY = 5


class Clock(pl.Callback):
    """Takes the processor time of steps and of readings, and stops the run after some."""

    def __init__(self, n_steps: int):
        self.n_steps = n_steps
        self.steps: list[float] = []
        self.readings: list[float] = []
        self._last: float | None = None
        self._began = 0.0

    def on_train_batch_start(self, *args: object) -> None:
        """Note the time since the last step began, if nothing was read since."""
        now = time.process_time()
        if self._last is not None:
            self.steps.append(now - self._last)
        self._last = now

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        """Stop after the last step."""
        trainer.should_stop = trainer.global_step >= self.n_steps

    def on_validation_start(self, *args: object) -> None:
        """Begin to time a reading."""
        self._began, self._last = time.process_time(), None

    def on_validation_end(self, *args: object) -> None:
        """Note the time of a reading."""
        self.readings.append(time.process_time() - self._began)


def measure(preset: str, n_steps: int) -> dict[str, Any]:
    """Return the share of a preset's monitor."""
    adata = load_set("V1")
    scjepa.STJEPA.setup_anndata(adata)
    model, clock = scjepa.STJEPA(adata, preset), Clock(n_steps)
    model.train(accelerator="cpu", progress_bar=False, monitor_every=EVERY, callbacks=[clock])
    step, total = float(np.median(clock.steps)), model.config.training.max_steps
    shares = (1 + READINGS) * np.percentile(clock.readings, [25, 50, 75]) / (total * step)
    return {
        "share": shares.round(4).tolist(),
        "step_ms": round(1e3 * step, 1),
        "reading_ms": round(1e3 * float(np.median(clock.readings)), 1),
        "steps": [len(clock.steps), total],
        "readings": [len(clock.readings), 1 + READINGS],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["demo", "base"])
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = {preset: measure(preset, options.steps) for preset in options.presets}
    report = {"machine": {**describe_machine(), "threads": "1"}, **found}
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
