"""Time and memory to niches by number of cells: this package, Novae, CellCharter and squidpy, each in a process.

    export SCJEPA_PEERS_PYTHON=...    # benchmarks/peers/setup.sh makes it
    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python -m benchmarks.speed.peers --cells 10000 100000

One simulated section with planted niches and 500 genes, as in ``benchmarks.speed.cohort``, with its graph of the ten
nearest neighbors. Each method as its tutorial has it, and one thread; what takes longer than --limit seconds is
stopped, and is a row too. Rows that are there are not made again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "igraph")
"""What our rows rest on; see :mod:`scjepa.benchmark.worker`, which runs this file."""

RESULTS = Path(__file__).parent / "results" / "peers.csv"

PEERS = ("squidpy_cellcharter", "squidpy_utag", "squidpy_neighborhood", "cellcharter", "novae")
OURS = {"scjepa: linear, k-means": "kmeans", "scjepa: linear, Leiden": "leiden", "scjepa: demo": "demo"}


def run(adata, *, seed, settings, n_niches, way):
    """Find niches without a model, or train the demo preset and find them in its embedding."""
    import scjepa

    adata.obs["section"] = adata.obs["section"].astype("category")
    if way == "demo":
        scjepa.STJEPA.setup_anndata(adata, library_key="section")
        model = scjepa.STJEPA(adata, preset="demo", seed=seed)
        model.train(accelerator="cpu", progress_bar=False)
        model.niches(n_niches=n_niches)
    else:
        scjepa.tl.find_niches(adata, n_niches=n_niches, method=way, random_state=seed)
    return {"embedding": adata.obsm["X_stjepa_niche"], "clusters": adata.obs["niche"].astype(str).to_numpy()}


def main() -> None:
    import pandas as pd
    from benchmarks.records import append, commit, done
    from benchmarks.speed.cohort import N_NICHES, section

    import scjepa
    from scjepa._core.squidpy import spatial_graph
    from scjepa.metrics import ari

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--methods", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS])
    parser.add_argument("--limit", type=float, default=1800.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    for name in OURS:
        scjepa.benchmark.register(name, __file__, options=("way",), gives=("embedding", "clusters"))
    for n_cells in arguments.cells:
        missing = [name for name in arguments.methods if not done(arguments.out, {"method": name, "cells": n_cells})]
        if not missing:
            continue
        adata = section(0, n_cells)
        planted = adata.obs["region"].astype(str).to_numpy()
        adata.obs = adata.obs[[]].assign(section=pd.Categorical(["one"] * n_cells))
        spatial_graph(adata, n_neighs=10, library_key="section")
        for name in missing:
            here = {"python": sys.executable, "options": {"way": OURS[name]}} if name in OURS else {}
            found = scjepa.benchmark.run_method(name, adata, n_niches=N_NICHES, timeout=arguments.limit, **here)
            row = {"method": name, "cells": n_cells, "settings": found.settings, "finished": found.ok}
            row |= {part: getattr(found, part) for part in ("seconds", "cpu_seconds", "peak_gib")}
            row["ari_planted"] = ari(planted, found.clusters) if found.ok else float("nan")
            row["versions"] = " ".join(f"{package}={one}" for package, one in found.versions.items())
            row |= {"error": found.error or "", "limit": arguments.limit, "commit": commit()}
            print(row, flush=True)
            append(arguments.out, pd.DataFrame([row]))


if __name__ == "__main__":
    main()
