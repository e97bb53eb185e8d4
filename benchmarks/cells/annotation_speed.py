"""Label 100,000 cells: PBMC tiled with fresh Poisson noise. Processor seconds and peak memory.

python -m benchmarks.cells.annotation_speed --cells 100000
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.cells.annotation import tasks
from benchmarks.records import append, commit
from scipy import sparse

import scjepa

RESULTS = Path(__file__).parent / "results" / "annotation_speed.csv"


def tiled(cells: AnnData, n_cells: int) -> AnnData:
    """Return cells drawn again and again, each count drawn anew around itself."""
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(cells.X[rng.integers(0, cells.n_obs, n_cells)], dtype=np.float32)
    counts.data = rng.poisson(counts.data).astype(np.float32)
    counts.eliminate_zeros()
    names = pd.DataFrame(index=[f"cell {i}" for i in range(n_cells)])
    return AnnData(counts, obs=names, var=cells.var[[]])


def main() -> None:
    """Run, and append a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    task = tasks()["3k > 4k"]
    query = tiled(task.query, options.cells)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.process_time()
    scjepa.tl.annotate(query, task.reference, "cell_type")
    row = {"n_cells": query.n_obs, "n_genes": query.n_vars, "n_variable": 2000, "n_reference": task.reference.n_obs}
    row |= {"cpu_seconds": round(time.process_time() - start, 1), "gib_before": round(before, 2)}
    row |= {"gib_peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2), "commit": commit()}
    append(options.out, pd.DataFrame([row]))
    print(row)


if __name__ == "__main__":
    main()
