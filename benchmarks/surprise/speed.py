"""CPU seconds and memory of surprise, spillover and drivers on 100,000 cells of 200 genes, on one thread.

    export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.surprise.speed linear       # results/speed.csv
    python -m benchmarks.surprise.speed model [CELLS]  # a demo model that was trained for 20 steps: time does not
                                                       # depend on what it has learned

Simulated sections of ten neighbors, twelve niches and twelve cell types; niches are the planted regions.
"""

from __future__ import annotations

import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from anndata import AnnData
from benchmarks.records import append, commit

import scjepa
from scjepa._core.squidpy import spatial_graph

RESULTS = Path(__file__).parent / "results"
N_CELLS, N_NICHES = 100_000, 12


def timed(name: str, call: Callable[[], object], adata: AnnData) -> None:
    """Append how long a call took."""
    start = time.process_time()
    call()
    row = {
        "call": name,
        "n_cells": adata.n_obs,
        "n_genes": adata.n_vars,
        "cpu_s": time.process_time() - start,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "commit": commit(),
    }
    append(RESULTS / "speed.csv", pd.DataFrame([row]))


def main() -> None:
    warnings.filterwarnings("ignore")
    n_cells = int(sys.argv[2]) if len(sys.argv) > 2 else N_CELLS
    adata = scjepa.datasets.simulated_tissue(n_cells, n_sections=4, n_niches=N_NICHES, seed=0)
    spatial_graph(adata, n_neighs=10, library_key="section")
    adata.obs["niche"] = adata.obs["region"]
    first = str(adata.obs["cell_type"].cat.categories[0])
    if sys.argv[1] == "linear":
        timed("tl.surprise", lambda: scjepa.tl.surprise(adata), adata)
        timed("tl.spillover", lambda: scjepa.tl.spillover(adata), adata)
        timed("tl.niche_readout", lambda: scjepa.tl.niche_readout(adata, use_rep="X", align="scale"), adata)
        timed("tl.niche_drivers", lambda: scjepa.tl.niche_drivers(adata), adata)
        timed("tl.edit_neighborhood", lambda: scjepa.tl.edit_neighborhood(adata, remove=first), adata)
        return
    scjepa.STJEPA.setup_anndata(adata, library_key="section")
    model = scjepa.STJEPA(adata, preset="demo")
    model.train(max_steps=20, progress_bar=False, enable_progress_bar=False)
    timed("model.get_surprise", model.get_surprise, adata)
    timed("model.get_latent_representation", lambda: model.get_latent_representation(key_added="X_stjepa"), adata)
    timed("model.explain", model.explain, adata)


if __name__ == "__main__":
    main()
