"""Embedding throughput and memory of the smallest preset, by number of cells, with the fitted exponent.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.embed --sizes 1000 10000 100000 1000000

Random weights, random counts (500 genes, about 60 of them non-zero), 10 neighbors. Each size runs in a process of its
own; the time is that of ``get_latent_representation(out="....npy")`` with tables built, and the time to build them is
told beside it. A size that is in the result file already is not measured again unless ``--again`` is given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.speed.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "embed.json"


def measure(n_cells: int) -> dict[str, Any]:
    """Embed ``n_cells`` random cells in this process."""
    from benchmarks.speed.data import peak_bytes, random_tissue, reset_peak

    import scjepa

    warnings.simplefilter("ignore")
    adata = random_tissue(n_cells)
    model = scjepa.STJEPA(adata, "demo")
    before = reset_peak()
    start = time.perf_counter()
    model._own_tables()
    tables = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        out = model.get_latent_representation(out=Path(folder) / "latent.npy")
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        finite = bool(np.isfinite(out).all())
    peak = peak_bytes()
    return {
        "cells": n_cells,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "cells_per_second": round(n_cells / seconds),
        "table_seconds": round(tables, 2),
        "peak_gib": round(peak / 2**30, 2),
        "peak_gib_beyond_input": round((peak - before) / 2**30, 2),
        "finite": finite,
    }


def exponent(rows: list[dict[str, Any]], column: str = "seconds") -> float | None:
    """Return the slope of log(time) over log(cells) from 10,000 cells on."""
    large = [row for row in rows if row["cells"] >= 10_000]
    if len(large) < 2:
        return None
    return round(float(np.polyfit(np.log([r["cells"] for r in large]), np.log([r[column] for r in large]), 1)[0]), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--again", action="store_true", help="measure sizes anew")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(arguments.one)))
        return
    known = json.loads(arguments.out.read_text())["rows"] if arguments.out.is_file() else []
    rows = {row["cells"]: row for row in known}
    for n_cells in sorted(arguments.sizes):
        if n_cells in rows and not arguments.again:
            continue
        command = [sys.executable, "-m", __spec__.name, "--one", str(n_cells)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows[n_cells] = json.loads(text.splitlines()[-1])
        ordered = [rows[n] for n in sorted(rows)]
        report = {
            "preset": "demo",
            "machine": describe_machine(),
            "exponent_from_10000_cells": exponent(ordered),
            "exponent_of_cpu_seconds": exponent(ordered, "cpu_seconds"),
            "rows": ordered,
        }
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
        print(rows[n_cells], flush=True)


if __name__ == "__main__":
    main()
