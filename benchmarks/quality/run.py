"""Train recipes × sets × seeds, embed, score, and append tidy rows; finished rows are not run again.

    export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.quality.run --recipes base demo --sets V1 osmFISH mPFC --seeds 3

Name both thread counts or neither: when clustering first runs, numba sets torch's threads to its own number.

Scores are NMI and ARI of Leiden clusters with the labelled regions: at resolutions 0.6-1.4 and at the number of
clusters that equals the number of labels, on a 15-nearest-neighbor graph, for each read-out of ``readouts.py``. Rows go
to ``results/scores.csv``, the monitor's curves to ``results/curves.csv``; embeddings and clusters, which
``intervals.py`` resamples, to ``--cache``, outside the repository. Set ``SCJEPA_DATA`` to the folder of the data.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.quality.methods import INDEPENDENT_OF_RECIPE, METHODS
from benchmarks.quality.readouts import READOUTS, Embeddings, read_out
from benchmarks.quality.recipes import RECIPES
from benchmarks.quality.sets import REAL, SETS, load_set
from benchmarks.records import append, fill, keys

from scjepa._core.leiden import EmbeddingGraph
from scjepa.metrics import ari, nmi

RESULTS = Path(__file__).parent / "results"
CACHE = Path.home() / ".cache" / "scjepa" / "quality"
CURVES = ("loss_ratio", "effective_rank", "mean_cosine", "embedding_std", "validation_loss")
RESOLUTIONS = (0.6, 0.8, 1.0, 1.2, 1.4)


def config_hash(recipe: str) -> str:
    """Return a short hash of a recipe's resolved configuration."""
    return hashlib.sha256(json.dumps(RECIPES[recipe].to_dict(), sort_keys=True).encode()).hexdigest()[:10]


def cluster(embedding: np.ndarray, labels: pd.Series, seeds: range) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a row of scores for each clustering, and the clusterings, ``(n_clusterings, n_cells)`` int16."""
    labelled = (labels != "unlabelled").to_numpy() & labels.notna().to_numpy()
    n_labels = labels[labelled].nunique()
    graph = EmbeddingGraph(embedding, 15)
    rows, found = [], []
    for seed in seeds:
        partitions = [(False, graph.leiden(resolution, seed)) for resolution in RESOLUTIONS]
        partitions.append((True, graph.match(n_labels, seed)))
        for matched, partition in partitions:
            rows.append(
                {
                    "leiden_seed": seed,
                    "matched": matched,
                    "resolution": float(partition.resolution),
                    "n_clusters": partition.n_clusters,
                    "nmi": nmi(labels, partition.labels),
                    "ari": ari(labels, partition.labels),
                }
            )
            found.append(np.asarray(partition.labels, dtype=np.int16))
    return pd.DataFrame(rows), np.stack(found)


def score(embeddings: Embeddings, adata: AnnData, seeds: range) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Score every read-out; return the rows and the clusterings by read-out."""
    tables, clusters = [], {}
    for name in READOUTS:
        values = read_out(name, embeddings, adata)
        if values is None:
            continue
        rows, clusters[name] = cluster(values, adata.obs["region"], seeds)
        tables.append(rows.assign(readout=name))
    return (pd.concat(tables) if tables else pd.DataFrame()), clusters


def cache_file(cache: Path, key: dict) -> Path:
    """Return where embeddings and clusterings of a run are kept."""
    name = "_".join(str(key[part]) for part in ("set", "method", "recipe", "seed", "config"))
    return cache / (name.replace(" ", "-").replace("/", "-") + ".npz")


def key_of(name: str, method: str, recipe: str, seed: int) -> dict[str, str | int]:
    """Return what a run is called; of a method that knows no recipe, and no seed, there is one."""
    of_recipe = {"recipe": recipe, "seed": seed, "config": config_hash(recipe)}
    of_none = {"recipe": "-", "seed": 0, "config": "-"}
    return {"set": name, "method": method, **(of_none if method in INDEPENDENT_OF_RECIPE else of_recipe)}


def run_one(key: Mapping[str, str | int], recipe: str, options: argparse.Namespace) -> pd.DataFrame | list:
    """Run one method on one set with one seed, keep embeddings and curves, and return the scores of all read-outs."""
    adata = load_set(str(key["set"]))
    start, cpu = time.perf_counter(), time.process_time()
    embeddings, curves = METHODS[str(key["method"])](adata, RECIPES[recipe], int(key["seed"]))
    took = {"seconds": round(time.perf_counter() - start, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
    if not embeddings:
        return []
    rows, clusters = score(embeddings, adata, range(options.leiden_seeds))
    file = cache_file(options.cache, dict(key))
    file.parent.mkdir(parents=True, exist_ok=True)
    matched = rows[rows["readout"] == rows["readout"].iloc[0]]["matched"].to_numpy()
    np.savez_compressed(file, matched=matched, **embeddings, **{f"clusters_{k}": v for k, v in clusters.items()})
    kept = [
        pd.DataFrame({"step": curve.index, "value": curve.to_numpy(), "metric": metric}).assign(**key)
        for metric, curve in curves.items()
        if metric in CURVES
    ]
    if kept:
        append(options.out / "curves.csv", pd.concat(kept))
    return rows.assign(**took)


def main() -> None:
    """Read the command line and run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["base"], choices=list(RECIPES))
    parser.add_argument("--sets", nargs="+", default=list(REAL), choices=SETS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="to share the work between processes")
    parser.add_argument("--leiden-seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    runs = keys(seed=seeds, recipe=options.recipes, set=options.sets, method=options.methods)
    for run in runs:
        key = key_of(run["set"], run["method"], run["recipe"], run["seed"])
        fill(
            options.out / "scores.csv",
            [key],
            lambda *_, key=key, recipe=run["recipe"]: run_one(key, recipe, options),
        )


if __name__ == "__main__":
    main()
