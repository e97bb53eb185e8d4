"""Seconds and memory of fitting an atlas and of predicting 100,000 cells of 200 genes, on as many threads as are named.

    export OMP_NUM_THREADS=2 NUMBA_NUM_THREADS=2
    python -m benchmarks.atlas.speed

Simulated sections, the new ones copies of one another beside each other: time does not depend on what cells are.
"""

from __future__ import annotations

import os
import resource
import time
import warnings

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.atlas.leave_out import RESULTS
from benchmarks.records import append, commit
from scipy.sparse import block_diag, csr_matrix, vstack

import scjepa
from scjepa._core.squidpy import spatial_graph

N_CELLS, N_NEW = 20_000, 100_000


def copies(section: AnnData, number: int) -> AnnData:
    """Return copies of a section side by side, with their graph."""
    obs = pd.concat([section.obs[[]].assign(section=str(one)) for one in range(number)])
    obs.index = np.arange(len(obs)).astype(str)
    whole = ad.AnnData(csr_matrix(vstack([section.X] * number)), obs=obs, var=section.var[[]])
    whole.obsp["spatial_connectivities"] = csr_matrix(block_diag([section.obsp["spatial_connectivities"]] * number))
    return whole


def main() -> None:
    warnings.filterwarnings("ignore")
    adata = scjepa.datasets.simulated_tissue(N_CELLS, n_sections=4, n_niches=8, seed=0)
    spatial_graph(adata, n_neighs=10, library_key="section")
    adata.obs["niche"] = adata.obs["region"]
    scjepa.tl.niche_readout(adata, align="scale")
    start = time.process_time()
    atlas = scjepa.NicheAtlas.fit(adata)
    fitted = time.process_time() - start
    section = adata[adata.obs["section"] == adata.obs["section"].cat.categories[0]].copy()
    new = copies(section, N_NEW // section.n_obs)
    start, wall = time.process_time(), time.perf_counter()
    atlas.predict(new)
    wall = time.perf_counter() - wall
    row = {
        "n_cells": adata.n_obs,
        "n_genes": adata.n_vars,
        "fit_cpu_s": fitted,
        "n_new": new.n_obs,
        "predict_cpu_s": time.process_time() - start,
        "predict_s": wall,
        "n_threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "commit": commit(),
    }
    append(RESULTS / "speed.csv", pd.DataFrame([row]))
    print(row)


if __name__ == "__main__":
    main()
