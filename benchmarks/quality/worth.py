"""Where a linear method should be hard pressed: few genes, few counts. The network against it, read out alike.

    export SCJEPA_DATA=... OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.quality.worth --sets V1 osmFISH --seeds 3    # trains `base`, some two minutes a row of runs
    python -m benchmarks.quality.worth table                          # results/worth.md from results/worth.csv

A seed draws the genes of a small panel, or the counts that are kept, and the network's start; every method of a row
sees the same draw and is fitted on it. Scores and methods are those of niches.py. Predictions, written first: with 20
and 50 genes of V1 the embedding alone is ahead of the linear method by 0.03 or more (as on the second annotation of
osmFISH), with 100 it is level; with few counts it is behind, for ranks and values of tokens are noisier than means over
rings.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.quality.niches import RESULTS, linear, network, of_base, rows_of
from benchmarks.quality.sets import load_labelled
from benchmarks.records import fill
from benchmarks.records import table as table_of

import scjepa

TABLE = RESULTS.with_name("worth.csv")
GENES, SHARES = (100, 50, 20), (0.5, 0.25, 0.1)
SHOWN = ("linear, by the rule", "base alone", "base and expression", "untrained alone", "neighborhood PCA")


def harder(adata: AnnData, seed: int) -> dict[str, AnnData]:
    """Return the set with fewer genes, and with fewer counts."""
    rng = np.random.default_rng(seed)
    found = {}
    order = rng.permutation(adata.n_vars)
    for number in GENES:
        if number < adata.n_vars:
            found[f"{number} genes"] = adata[:, np.sort(order[:number])].copy()
    for share in SHARES:
        found[f"{share:.0%} of counts"] = scjepa.datasets.thin_counts(adata, share, seed=seed)
    return found


def run(names: list[str], seeds: int) -> None:
    """Make the rows that are not there."""
    for name in names:
        for seed in range(seeds):
            drawn = harder(load_labelled(name), seed)

            def made(_: str, task: str, seed: int, drawn: dict[str, AnnData] = drawn) -> list[dict[str, object]]:
                adata = drawn[task]
                return rows_of([*linear(adata), *network(adata, of_base(adata, seed))], adata)

            fill(TABLE, [{"set": name, "task": task, "seed": seed} for task in drawn], made)


def table() -> None:
    """Write means over seeds, and the difference of the embedding to the linear method, draw by draw."""
    columns, lines = ["nmi", "nmi_matched"], []
    for (name, task), own in pd.read_csv(TABLE).groupby(["set", "task"], sort=False):
        by = own.set_index(["method", "seed"])[columns]
        means = [" / ".join(f"{value:.3f}" for value in by.loc[method].mean()) for method in SHOWN]
        change = by.loc["base alone"] - by.loc["linear, by the rule"]
        told = " / ".join(f"{change[c].mean():+.3f} ± {change[c].std(ddof=0):.3f}" for c in columns)
        lines.append([f"{name}, {task}", *means, told])
    text = table_of(["set", *SHOWN, "`base` alone less linear"], lines)
    TABLE.with_suffix(".md").write_text(f"{text}\n")
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("--sets", nargs="+", default=["V1"])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    table() if options.what == "table" else run(options.sets, options.seeds)
