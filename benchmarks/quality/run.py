"""Train recipes × sets × seeds, embed, score, and append tidy rows; finished rows are not run again.

    export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python benchmarks/quality/run.py --recipes small --sets V1 osmFISH mPFC --seeds 3

Name both thread counts or neither: when clustering first runs, numba sets torch's threads to its own number.

Scores are NMI and ARI of Leiden clusters with the labelled regions: at resolutions 0.6-1.4 and at the number of
clusters that equals the number of labels, on a 15-nearest-neighbor graph. Rows go to ``results/scores.csv``,
the monitor's curves to ``results/curves.csv``. Set ``SCJEPA_DATA`` to the folder of the data.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import time
from pathlib import Path

import pandas as pd
from methods import INDEPENDENT_OF_RECIPE, METHODS, READOUTS
from recipes import RECIPES
from sets import REAL, SETS, load_set

from scjepa.metrics import clustering_scores

RESULTS = Path(__file__).parent / "results"
CURVES = ("loss_ratio", "effective_rank", "mean_cosine", "embedding_std", "validation_loss")


def config_hash(recipe: str) -> str:
    """Return a short hash of a recipe's resolved configuration."""
    return hashlib.sha256(json.dumps(RECIPES[recipe].to_dict(), sort_keys=True).encode()).hexdigest()[:10]


def commit() -> str:
    """Return the checkout's short commit, with ``+`` where it has changes."""
    git = ["git", "-C", str(Path(__file__).parent)]
    name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "../../src"], capture_output=True, text=True).stdout
    return name + ("+" if changed else "")


def done(path: Path, key: dict) -> bool:
    """Tell whether rows with this key are in the file."""
    if not path.is_file():
        return False
    table = pd.read_csv(path, dtype={"config": str})
    mask = pd.Series(True, index=table.index)
    for name, value in key.items():
        mask &= table[name].astype(str) == str(value)
    return bool(mask.any())


def append(path: Path, rows: pd.DataFrame) -> None:
    """Append rows; a header is written with the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.to_csv(path, mode="a", header=not path.is_file(), index=False, float_format="%.5g")


def run_one(name: str, method: str, recipe: str, seed: int, leiden_seeds: range, out: Path) -> None:
    """Run one method on one set with one seed, for all read-outs."""
    key = {"set": name, "method": method, "recipe": recipe, "seed": seed, "config": config_hash(recipe)}
    if method in INDEPENDENT_OF_RECIPE:
        key.update(recipe="-", config="-", seed=0)
    if done(out / "scores.csv", key):
        return
    adata = load_set(name)
    start = time.perf_counter()
    embedding, curves = METHODS[method](adata, RECIPES[recipe], seed)
    seconds = time.perf_counter() - start
    labels = adata.obs["region"]
    tables = []
    for readout_name, readout in READOUTS.items():
        scores = clustering_scores(readout(embedding, adata.obs["section"]), labels, seeds=leiden_seeds)
        tables.append(scores.rename(columns={"seed": "leiden_seed"}).assign(readout=readout_name))
    rows = pd.concat(tables).assign(**key, seconds=round(seconds, 1), commit=commit())
    if curves:
        kept = [
            pd.DataFrame({"step": c.index, "value": c.to_numpy(), "metric": m}).assign(**key)
            for m, c in curves.items()
            if m in CURVES
        ]
        append(out / "curves.csv", pd.concat(kept))
    append(out / "scores.csv", rows)
    summary = rows.groupby(["readout", "matched"])[["nmi", "ari"]].mean().round(3)
    print(f"{key} {seconds:.0f} s\n{summary}", flush=True)


def main() -> None:
    """Read the command line and run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["small"], choices=list(RECIPES))
    parser.add_argument("--sets", nargs="+", default=list(REAL), choices=SETS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--leiden-seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    for seed in range(options.seeds):
        for recipe in options.recipes:
            for name in options.sets:
                for method in options.methods:
                    run_one(name, method, recipe, seed, range(options.leiden_seeds), options.out)


if __name__ == "__main__":
    main()
