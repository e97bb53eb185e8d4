"""How far niches of the simulated cohort are the planted ones, and how far they can be.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.planted

Adjusted Rand index with the planted niches: in one section, of each way of clustering the read-out and of who knows the
true types of a cell and its neighbors (k-means on their shares; the likeliest niche by the true compositions); in two
sections together, of one panel and of two, by k-means.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks.records import commit
from benchmarks.speed.cohort import N_NICHES, N_TYPES, rates, section
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.metrics import ari

RESULTS = Path(__file__).parent / "results" / "planted.json"


def one_section(n_cells: int) -> dict[str, float]:
    """Return the scores in one section."""
    adata = section(0, n_cells)
    planted, kind = adata.obs["region"].astype(str).to_numpy(), adata.obs["cell_type"].astype(int).to_numpy()
    likelihood, found = np.log(rates()[1] + 1e-9), {}
    for k in (10, 30, 100):
        near = NearestNeighbors(n_neighbors=k + 1).fit(adata.obsm["spatial"]).kneighbors(adata.obsm["spatial"])[1]
        best = sum(likelihood[:, kind[near[:, j]]] for j in range(k + 1)).argmax(0)
        found[f"true types and compositions, {k} neighbors"] = ari(planted, best.astype(str))
        shares = np.eye(N_TYPES)[kind][near].mean(1)
        labels = KMeans(N_NICHES, n_init=3, random_state=0).fit_predict(shares)
        found[f"k-means on true shares of types, {k} neighbors"] = ari(planted, labels.astype(str))
    adata.obs["section"] = pd.Categorical(["one"] * n_cells)
    spatial_graph(adata, n_neighs=10, library_key="section")
    for method in ("kmeans", "gmm", "leiden"):
        scjepa.tl.find_niches(adata, n_niches=N_NICHES, method=method)
        found[f"read-out, {method}"] = ari(planted, adata.obs["niche"].astype(str).to_numpy())
    return found


def two_sections(n_cells: int) -> dict[str, float]:
    """Return the scores in two sections together: sections 0 and 3 are of one panel, 0 and 1 of two."""
    found = {}
    for name, numbers in {"one panel": (0, 3), "two panels": (0, 1)}.items():
        parts = {f"s{number}": section(number, n_cells // 2) for number in numbers}
        planted = np.concatenate([part.obs["region"].astype(str) for part in parts.values()])
        with tempfile.TemporaryDirectory() as folder:
            collection = scjepa.Collection(parts, folder=folder)
            collection.prepare()
            for align in ("auto", "scale"):
                collection.niches(n_niches=N_NICHES, method="kmeans", align=align)
                found[f"{name}, align={align!r}"] = ari(planted, np.array(collection.labels()).astype(str))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    scores = {"one section": one_section(arguments.cells), "two sections": two_sections(arguments.cells)}
    rounded = {part: {name: round(float(x), 3) for name, x in own.items()} for part, own in scores.items()}
    arguments.out.write_text(
        json.dumps({"cells": arguments.cells, "ari": rounded, "commit": commit()}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
