"""Run methods × sets × seeds through ``scjepa.benchmark.run_method``, score, and append tidy rows.

    bash benchmarks/peers/setup.sh
    export SCJEPA_PEERS_PYTHON=~/.cache/scjepa/peers/bin/python SCJEPA_DATA=...
    export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    nice -n 5 python benchmarks/peers/run.py --methods cellcharter banksy --sets V1 osmFISH mPFC --seeds 3

Embeddings are scored as in ``benchmarks/quality``: NMI and ARI of Leiden clusters with the labelled regions, at
resolutions 0.6-1.4 and at the matched number of clusters, three Leiden seeds, for both read-outs. Clusters that a
method makes itself are scored as they are (read-out ``own``): with the number of labels where it can be told one, which
is then a matched row, and at Leiden's resolutions where it takes one. No option is tuned.

Rows go to ``scores.csv`` in ``--out``; runs that are there are not run again, and one that failed, which leaves a row
with the reason, is tried anew. Embeddings are written to ``--cache``, ``{set}_{method}_{seed}.npz`` with the key
``embedding``, the cells in the order of the file; settings that are not the method's first are named too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

sys.path.insert(0, str(Path(__file__).parents[1] / "quality"))
from sets import REAL, SETS, load_set

from scjepa.benchmark import METHODS, MethodResult, run_method
from scjepa.metrics import ari, clustering_scores, nmi
from scjepa.tl import standardize

RESULTS = Path(__file__).parent / "results"
KEY = ["set", "method", "settings", "seed"]
COLUMNS = [
    *KEY,
    "readout",
    "leiden_seed",
    "resolution",
    "matched",
    "n_clusters",
    "nmi",
    "ari",
    "seconds",
    "cpu_seconds",
    "peak_gib",
    "error",
    "info",
    "versions",
]
RESOLUTIONS = (0.6, 0.8, 1.0, 1.2, 1.4)
LEIDEN_SEEDS = range(3)


def scores_of_embedding(result: MethodResult, adata: AnnData) -> pd.DataFrame:
    """Score an embedding with both read-outs."""
    tables = []
    for name, shown in (
        ("plain", result.embedding),
        ("z30", standardize(result.embedding, groups=adata.obs["section"], n_comps=30)),
    ):
        scores = clustering_scores(shown, adata.obs["region"], resolutions=RESOLUTIONS, seeds=LEIDEN_SEEDS)
        tables.append(scores.rename(columns={"seed": "leiden_seed"}).assign(readout=name))
    return pd.concat(tables)


def scores_of_clusters(result: MethodResult, adata: AnnData, resolution: float | None) -> pd.DataFrame:
    """Score a method's own clusters."""
    labels = adata.obs["region"]
    n_clusters = len(np.unique(result.clusters))
    row = {"readout": "own", "resolution": resolution, "matched": resolution is None, "n_clusters": n_clusters}
    return pd.DataFrame([{**row, "nmi": nmi(labels, result.clusters), "ari": ari(labels, result.clusters)}])


def rows_of(result: MethodResult, adata: AnnData, resolution: float | None) -> pd.DataFrame:
    """Return the tidy rows of one run."""
    tables = []
    if result.embedding is not None:
        tables.append(scores_of_embedding(result, adata))
    if result.clusters is not None:
        tables.append(scores_of_clusters(result, adata, resolution))
    rows = pd.concat(tables) if tables else pd.DataFrame([{"resolution": resolution}])
    return rows.assign(**result.to_row())


def read(path: Path) -> pd.DataFrame:
    """Return the rows there are."""
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=COLUMNS)


def select(table: pd.DataFrame, key: dict) -> pd.Series:
    """Tell which rows have this key; a resolution of ``None`` is no part of it."""
    mask = pd.Series(True, index=table.index)
    for name, value in key.items():
        if value is not None:
            mask &= table[name].astype(str) == str(value)
    return mask


def keep(path: Path, rows: pd.DataFrame, key: dict) -> None:
    """Append rows, in place of those of the same key that failed."""
    table = read(path)
    table = table[~(select(table, key) & table["error"].notna())]
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = rows.reindex(columns=COLUMNS)
    table = rows if table.empty else pd.concat([table, rows])
    part = path.with_suffix(".part")
    table.to_csv(part, index=False, float_format="%.5g")
    part.replace(path)


def save_embedding(folder: Path, set_name: str, result: MethodResult) -> None:
    """Write the embedding for others to read."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = "" if result.settings == METHODS[result.method].settings[0] else f"_{result.settings.replace(' ', '-')}"
    path = folder / f"{set_name}_{result.method}{settings}_{result.seed}.npz"
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        np.savez(file, embedding=result.embedding)
    part.replace(path)


def run_one(set_name: str, method: str, settings: str, seed: int, chosen: argparse.Namespace) -> None:
    """Run one method on one set with one seed; a method that takes a resolution, at each."""
    takes_resolution = "resolution" in METHODS[method].options
    path = chosen.out / "scores.csv"
    for resolution in RESOLUTIONS if takes_resolution else (None,):
        key = {"set": set_name, "method": method, "settings": settings, "seed": seed, "resolution": resolution}
        done = read(path)
        if (select(done, key) & done["error"].isna()).any():
            continue
        adata = load_set(set_name)
        result = run_method(
            method,
            adata,
            seed=seed,
            settings=settings,
            n_niches=None if takes_resolution else adata.obs["region"].nunique(),
            options={"resolution": resolution} if takes_resolution else None,
            timeout=chosen.timeout,
        )
        rows = rows_of(result, adata, resolution).assign(set=set_name)
        if result.embedding is not None:
            save_embedding(chosen.cache, set_name, result)
        keep(path, rows, key)
        took = f"{result.seconds:.0f} s ({result.cpu_seconds:.0f} s CPU), {result.peak_gib:.2f} GiB"
        print(key, took, result.error or "", flush=True)
        if result.ok:
            print(rows.groupby(["readout", "matched"])[["nmi", "ari"]].mean().round(3), flush=True)


def main() -> None:
    """Read the command line and run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["cellcharter", "banksy"], choices=list(METHODS))
    parser.add_argument("--settings", nargs="+", default=["tutorial", "same graph"])
    parser.add_argument("--sets", nargs="+", default=list(REAL), choices=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one run of a peer")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "scjepa" / "peers-embeddings")
    chosen = parser.parse_args()
    for seed in range(chosen.seeds):
        for method in chosen.methods:
            if seed and not METHODS[method].seeded:
                continue
            for settings in METHODS[method].settings:
                if settings in chosen.settings:
                    for set_name in chosen.sets:
                        run_one(set_name, method, settings, seed, chosen)


if __name__ == "__main__":
    main()
