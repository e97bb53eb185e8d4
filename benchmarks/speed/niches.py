"""Time from counts and coordinates to niches: graph, training, embedding with read-out and Leiden.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.niches

A simulated tissue of 5,000 cells, the demo preset as it is, and Leiden clustering into the tissue's number of niches.
The linear method (``scjepa.tl.find_niches`` without a model) is timed after it, and is no part of the total.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

from benchmarks.speed.data import peak_bytes, reset_peak
from benchmarks.speed.machine import describe_machine

import scjepa
from scjepa._core.squidpy import spatial_graph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "niches.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    adata = scjepa.datasets.simulated_tissue(n_cells=arguments.cells, seed=0)
    seconds: dict[str, float] = {}
    before, last = reset_peak(), time.perf_counter()

    def done(part: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[part] = round(now - last, 2)
        print(f"{part}: {seconds[part]} s", flush=True)
        last = now

    spatial_graph(adata, n_neighs=10, library_key="section")
    done("graph")
    scjepa.STJEPA.setup_anndata(adata, technology_key="technology", library_key="section")
    model = scjepa.STJEPA(adata, preset="demo")
    done("set up")
    model.train(accelerator="cpu", progress_bar=False)
    done("train")
    n_niches = adata.obs["region"].nunique()
    model.niches(n_niches=n_niches)
    done("embed, read out, Leiden")
    total = sum(seconds.values())
    scjepa.tl.find_niches(adata, n_niches=n_niches, key_added="linear")
    done("linear method, Leiden")
    report = {
        "cells": adata.n_obs,
        "genes": adata.n_vars,
        "preset": "demo",
        "machine": describe_machine(),
        "seconds": seconds,
        "total_seconds": round(total, 1),
        "peak_gib_beyond_input": round((peak_bytes() - before) / 2**30, 2),
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{report['total_seconds']} s in all")


if __name__ == "__main__":
    main()
