"""The benchmark for a GPU runs where there is none, at small sizes, so that it is ready for one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="the repository is not beside the tests")
def test_the_benchmark_for_a_gpu_runs_dry():
    run = [sys.executable, "-m", "benchmarks.speed.gpu", "--dry"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout[done.stdout.index("{") :])
    assert report["agreement"]["bucketed, bf16"]["embeddings"] < 0.05
    assert report["base"]["cells"] == 400
    assert min(report["samples_per_second"].values()) > 0
