"""Pretrain on three sets of blood, embed a fourth that no model has seen, and score it against its cell types.

    python benchmarks/cells/zero_shot.py --seeds 3

AvgBIO, NMI, ARI and silhouette width in both scalings, Leiden's resolutions 0.1 to 2.0 and among them the one of the
best NMI (chosen with the labels, so upper bounds), go to ``results/zero_shot.csv``; what is there is not run again.
HVG-PCA and scVI are *fitted on the target*, which the pretrained models are not. At the end the paired differences
Cell-JEPA - reconstruction only, by seed. Set ``SCJEPA_DATA`` to the folder of the data, ``OMP_NUM_THREADS`` and
``NUMBA_NUM_THREADS`` to 1.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from methods import PRETRAINED, UNTRAINED, embedder, fitted, pretrained
from rows import RESULTS, append, commit, done
from scipy import stats
from sets import corpus, target

from scjepa.metrics import average_bio

FITTED = ("HVG-PCA", "scVI")
METHODS = (*PRETRAINED, *UNTRAINED, *FITTED)


def run(method: str, seed: int, options: argparse.Namespace) -> None:
    """Run one method with one seed for all its read-outs, if its rows are missing."""
    key = {"method": method, "seed": seed, "max_steps": options.max_steps or "preset"}
    if method in FITTED:
        key["max_steps"] = "fitted"
    if done(options.out, key):
        return
    scored = target()
    start = time.process_time()
    if method in FITTED:
        embed = {"-": fitted(method, scored, seed, options.scvi_epochs)}
    else:
        model = pretrained(method, corpus(), seed, options.max_steps)
        embed = {pooling: embedder(model, pooling=pooling) for pooling in ("cls", "genes")}
    trained = time.process_time() - start
    rows = []
    for readout, function in embed.items():
        embedding = function(scored)
        found = asdict(average_bio(embedding, scored.obs["cell_type"]))
        rows.append({**key, "readout": readout, **found, "cpu_seconds": round(trained), "commit": commit()})
        print(
            {name: rows[-1][name] for name in ("method", "seed", "readout", "avg_bio", "nmi", "ari", "asw")}, flush=True
        )
        np.savez_compressed(_embedding_file(options.cache, method, seed, readout), embedding=embedding)
    append(options.out, pd.DataFrame(rows))


def _embedding_file(cache: Path, method: str, seed: int, readout: str) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    return cache / f"{method}_{seed}_{readout}.npz".replace(" ", "_")


def paired(table: pd.DataFrame, readout: str = "cls") -> str:
    """Return the paired difference Cell-JEPA - reconstruction only with its 95% interval (t, over seeds)."""
    table = table[table["readout"] == readout].astype({"avg_bio": float})
    by_seed = table.pivot_table(index=["max_steps", "seed"], columns="method", values="avg_bio")
    if not {"CellJEPA", "reconstruction only"} <= set(by_seed):
        return "paired difference: not both were run"
    difference = (by_seed["CellJEPA"] - by_seed["reconstruction only"]).dropna()
    n, mean = len(difference), difference.mean()
    if n < 2:
        return f"{readout}: AvgBIO of CellJEPA - reconstruction only: {mean:+.3f} (one seed: no interval)"
    half = stats.t.ppf(0.975, n - 1) * difference.std(ddof=1) / n**0.5
    interval = f"[{mean - half:+.3f}, {mean + half:+.3f}]"
    return f"{readout}: AvgBIO of CellJEPA - reconstruction only: {mean:+.3f} {interval}, n={n}"


def main() -> None:
    """Read the command line, run what is missing, and tell the difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--max-steps", type=int, help="optimizer steps of the pretrained; default: the preset's")
    parser.add_argument("--scvi-epochs", type=int, help="default: scVI's own, 400 for sets of this size")
    parser.add_argument("--out", type=Path, default=RESULTS / "zero_shot.csv")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "scjepa" / "cells" / "embeddings")
    options = parser.parse_args()
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for method in options.methods:
            run(method, seed, options)
    table = pd.read_csv(options.out, dtype=str, keep_default_na=False)
    for readout in ("cls", "genes"):
        print(paired(table, readout))


if __name__ == "__main__":
    main()
