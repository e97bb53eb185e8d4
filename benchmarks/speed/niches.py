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
is rare; and Leiden on neighborhood PCA. Rows that are there are not made again;
read-outs are kept in --cache.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
from benchmarks.quality.sets import load_labelled
from benchmarks.records import fill, keys
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


def read_out(name: str, cache: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the read-out of a set, its neighborhood PCA, and its labels, empty for cells without one."""
    path = cache / f"{name}.npz"
    if not path.is_file():
        if name == TWICE:
            adata = twice("xenium_breast_51k_unlabelled")
        elif name in SIMULATED:
            adata = scjepa.datasets.simulated_tissue(LARGE, difficulty=name.removeprefix("sim-"), seed=0)
        else:
            adata = load_labelled(name)
        if "spatial_connectivities" not in adata.obsp:
            spatial_graph(adata, n_neighs=10, library_key="section")
        scjepa.tl.niche_readout(adata)
        labels = adata.obs["region"].astype(str).replace("unlabelled", "").to_numpy().astype("U")
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, values=adata.obsm["X_stjepa_niche"], pca=neighborhood_pca(adata), labels=labels)
    with np.load(path) as kept:
        return kept["values"], kept["pca"], kept["labels"]


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


METHODS: dict[str, dict[str, object]] = {
    "leiden": {"method": "leiden"},
    "landmarks": {"method": "landmarks"},
    "landmarks, one of 20 cells": {"method": "landmarks", "share": 20},
    "kmeans": {"method": "kmeans"},
    "gmm": {"method": "gmm"},
    "control: leiden, another seed": {"method": "leiden", "random_state": 100},
    "control: leiden of PCA": {"method": "leiden", "of": "pca"},
    "control: landmarks, one of 20 cells, drawn evenly": {"method": "landmarks", "share": 20, "evenly": True},
}
"""Ways of finding niches; those of one of 20 cells, which a sample of a million is, are for large sets."""


def found_by(way: str, values: np.ndarray, pca: np.ndarray, n_niches: int, seed: int) -> np.ndarray:
    """Return the niches that a way finds."""
    options = dict(METHODS[way])
    values = pca if options.pop("of", None) == "pca" else values
    size = len(values) // options.pop("share", 1)
    fitted = values
    if options.pop("evenly", False):
        fitted = values[np.random.default_rng(seed).choice(len(values), size, replace=False)]
    elif size < len(values):
        options["n_landmarks"] = size
    options["random_state"] = seed + options.get("random_state", 0)
    clusters = scjepa.tl.NicheClusters(n_niches, **options)
    return clusters.fit_predict(values) if fitted is values else clusters.fit(fitted).predict(values)


def compare_methods(sets: list[str], methods: list[str], seeds: int, out: Path, cache: Path) -> None:
    """Append the rows that are not there."""

    def made(name: str, seed: int, way: str) -> list[dict[str, object]]:
        values, pca, labels = read_out(name, cache)
        if "one of 20" in way and len(values) < LARGE:
            return []
        known = labels != ""
        n_niches = len(set(labels[known])) or WITHOUT_LABELS
        start = time.process_time()
        found = found_by(way, values, pca, n_niches, seed)
        row: dict[str, object] = {"cells": len(values), "dims": values.shape[1]}
        row |= {"n_niches": len(set(found)), "smallest": np.bincount(found).min()}
        row["seconds"] = time.process_time() - start
        niche, leiden = found.astype(str), cache / f"{name}-{seed}-leiden.npy"
        if way == "leiden":
            np.save(leiden, niche)
        for score in (nmi, ari):
            row[f"{score.__name__}_leiden"] = score(np.load(leiden), niche)
            row[f"{score.__name__}_labels"] = score(labels[known], niche[known]) if known.any() else np.nan
        return [row]

    fill(out, keys(set=sets, seed=range(seeds), method=methods), made)


# -- from counts to niches ------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("time", "methods"), default="time")
    parser.add_argument("--cells", type=int, default=5000)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "scjepa" / "speed")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.what == "methods":
        out = arguments.out or RESULTS / "niche_methods.csv"
        compare_methods(arguments.sets, arguments.methods, arguments.seeds, out, arguments.cache)
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
