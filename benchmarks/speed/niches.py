"""Time from counts and coordinates to niches, and what ways of finding niches in many cells agree on.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.niches
    SCJEPA_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.speed.niches methods
    SCJEPA_DATA=... OMP_NUM_THREADS=1 python -m benchmarks.speed.niches methods --sets sim-hard xenium-twice

The first: graph, training, embedding with read-out and Leiden of a simulated tissue of 5,000 cells, the demo preset as
it is, and Leiden clustering into the tissue's number of niches. The linear method (``scjepa.tl.find_niches`` without a
model) is timed after it, and is no part of the total.

The second: each method of ``scjepa.tl.NicheClusters`` on the read-out of ``scjepa.tl.find_niches``, its agreement with
Leiden on all cells and with labels, and its processor time. Sets: simulated tissues of 100,000 cells; a Xenium section
of 51,587 cells twice, each time with 70 % of its counts, drawn anew (no labels; 12 niches); labelled sections.
Controls: Leiden with another seed, which is as much agreement as there can be; landmarks drawn without regard to what
is rare; and Leiden on neighborhood PCA. Rows that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from benchmarks.quality.sets import load_labelled
from benchmarks.records import append, commit, done
from benchmarks.speed.data import peak_bytes, reset_peak
from benchmarks.speed.machine import describe_machine

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.benchmark import neighborhood_pca
from scjepa.metrics import ari, nmi

RESULTS = Path(__file__).parent / "results"
SIMULATED = ("sim-easy", "sim-medium", "sim-hard")
TWICE = "xenium-twice"
DLPFC = tuple(f"DLPFC-{section}" for section in (151673, 151674, 151675, 151676))
SETS = ("V1", "osmFISH", "mPFC", *DLPFC, *SIMULATED, TWICE)
LARGE = 100_000
WITHOUT_LABELS = 12
"""Niches that are looked for where there are no labels."""


# -- the ways of finding niches -------------------------------------------------------------------------------------


def read_out(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the read-out of a set, its neighborhood PCA, and its labels, empty for cells without one."""
    if name == TWICE:
        adata = twice("xenium_breast_51k_unlabelled")
    elif name in SIMULATED:
        adata = scjepa.datasets.simulated_tissue(LARGE, difficulty=name.removeprefix("sim-"), seed=0)
    else:
        adata = load_labelled(name)
    if "spatial_connectivities" not in adata.obsp:
        spatial_graph(adata, n_neighs=10, library_key="section")
    scjepa.tl.niche_readout(adata)
    labels = None if name == TWICE else adata.obs["region"].astype(str).replace("unlabelled", "").to_numpy()
    return adata.obsm["X_stjepa_niche"], neighborhood_pca(adata), labels


def twice(name: str, share: float = 0.7) -> ad.AnnData:
    """Return the cells of a data set twice, each time with some of their counts."""
    parts = []
    for copy in range(2):
        adata = scjepa.datasets.load(name)
        counts = adata.X.tocsr().astype(np.int64)
        counts.data = np.random.default_rng(copy).binomial(counts.data, share)
        counts.eliminate_zeros()
        adata.X = counts
        adata.obs["section"] = adata.obs["section"].astype(str) + f"-{copy}"
        parts.append(adata)
    both = ad.concat(parts, index_unique="-")
    both.obs["section"] = both.obs["section"].astype("category")
    return both


def ways(values: np.ndarray, pca: np.ndarray, n_niches: int, seed: int) -> Iterator[tuple[str, np.ndarray, float]]:
    """Yield the ways, the niches that they find, and the seconds of the processor that they take."""
    even = max(5000, len(values) // 20)
    options: dict[str, dict[str, object]] = {
        "leiden": {"method": "leiden"},
        "landmarks": {"method": "landmarks"},
        "landmarks, one of 20 cells": {"method": "landmarks", "n_landmarks": even},
        "kmeans": {"method": "kmeans"},
        "gmm": {"method": "gmm"},
    }
    for way, chosen in options.items():
        if way.startswith("landmarks,") and len(values) < LARGE:
            continue
        start = time.process_time()
        found = scjepa.tl.NicheClusters(n_niches, random_state=seed, **chosen).fit_predict(values)
        yield way, found, time.process_time() - start
    for way, of, other in (("control: leiden, another seed", values, 100), ("control: leiden of PCA", pca, 0)):
        start = time.process_time()
        found = scjepa.tl.NicheClusters(n_niches, method="leiden", random_state=seed + other).fit_predict(of)
        yield way, found, time.process_time() - start
    if len(values) >= LARGE:
        start = time.process_time()
        some = np.random.default_rng(seed).choice(len(values), even, replace=False)
        clusters = scjepa.tl.NicheClusters(n_niches, method="landmarks", n_landmarks=even, random_state=seed)
        found = clusters.fit(values[some]).predict(values)
        yield "control: landmarks, one of 20 cells, drawn evenly", found, time.process_time() - start


def compare_methods(sets: list[str], seeds: int, out: Path) -> None:
    """Append the rows that are not there."""
    for name in sets:
        left = [seed for seed in range(seeds) if not done(out, {"set": name, "seed": seed})]
        if not left:
            continue
        values, pca, labels = read_out(name)
        known = None if labels is None else labels != ""
        n_niches = WITHOUT_LABELS if labels is None else len(set(labels[known]))
        for seed in left:
            rows, leiden = [], None
            for way, found, seconds in ways(values, pca, n_niches, seed):
                niche = found.astype(str)
                leiden = niche if leiden is None else leiden
                row = {"set": name, "cells": len(values), "dims": values.shape[1], "seed": seed, "method": way}
                row |= {"n_niches": len(set(niche)), "seconds": seconds, "smallest": np.bincount(found).min()}
                row |= {"nmi_leiden": nmi(leiden, niche), "ari_leiden": ari(leiden, niche)}
                if labels is not None:
                    row |= {
                        "nmi_labels": nmi(labels[known], niche[known]),
                        "ari_labels": ari(labels[known], niche[known]),
                    }
                rows.append(row)
                print(row, flush=True)
            append(out, pd.DataFrame(rows).assign(commit=commit()))


# -- from counts to niches ------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("time", "methods"), default="time")
    parser.add_argument("--cells", type=int, default=5000)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.what == "methods":
        compare_methods(arguments.sets, arguments.seeds, arguments.out or RESULTS / "niche_methods.csv")
    else:
        time_all(arguments.cells, arguments.out or RESULTS / "niches.json")


def time_all(n_cells: int, out: Path) -> None:
    """Time each part, from counts and coordinates to niches."""
    adata = scjepa.datasets.simulated_tissue(n_cells=n_cells, seed=0)
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
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{report['total_seconds']} s in all")


if __name__ == "__main__":
    main()
