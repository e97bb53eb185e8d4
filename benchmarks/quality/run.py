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
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.quality.methods import INDEPENDENT_OF_RECIPE, METHODS
from benchmarks.quality.readouts import READOUTS, Embeddings, read_out
from benchmarks.quality.recipes import RECIPES
from benchmarks.quality.sets import REAL, SETS, load_set
from benchmarks.records import append, commit, done

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


def run_one(name: str, method: str, recipe: str, seed: int, options: argparse.Namespace) -> None:
    """Run one method on one set with one seed, for all read-outs."""
    key = {"set": name, "method": method, "recipe": recipe, "seed": seed, "config": config_hash(recipe)}
    if method in INDEPENDENT_OF_RECIPE:
        key.update(recipe="-", config="-", seed=0)
    if done(options.out / "scores.csv", key):
        return
    adata = load_set(name)
    start, cpu = time.perf_counter(), time.process_time()
    embeddings, curves = METHODS[method](adata, RECIPES[recipe], seed)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    if not embeddings:
        return
    scores, clusters = score(embeddings, adata, range(options.leiden_seeds))
    rows = scores.assign(**key, seconds=round(seconds, 1), cpu_seconds=round(cpu, 1), commit=commit())
    file = cache_file(options.cache, key)
    file.parent.mkdir(parents=True, exist_ok=True)
    matched = rows[rows["readout"] == rows["readout"].iloc[0]]["matched"].to_numpy()
    np.savez_compressed(file, matched=matched, **embeddings, **{f"clusters_{k}": v for k, v in clusters.items()})
    if curves:
        kept = [
            pd.DataFrame({"step": c.index, "value": c.to_numpy(), "metric": m}).assign(**key)
            for m, c in curves.items()
            if m in CURVES
        ]
        append(options.out / "curves.csv", pd.concat(kept))
    append(options.out / "scores.csv", rows)
    summary = rows.groupby(["readout", "matched"])[["nmi", "ari"]].mean().round(3)
    print(f"{key} {seconds:.0f} s\n{summary}", flush=True)


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
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for recipe in options.recipes:
            for name in options.sets:
                for method in options.methods:
                    run_one(name, method, recipe, seed, options)


if __name__ == "__main__":
    main()
