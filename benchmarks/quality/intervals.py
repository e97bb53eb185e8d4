"""Gains of a recipe over every control, with paired intervals from resampled blocks of tissue.

    python benchmarks/quality/intervals.py

Reads the clusterings that ``run.py`` left in ``--cache``. A gain is the difference of mean scores over model seeds,
Leiden seeds and resolutions; its interval comes from :func:`scjepa.metrics.block_bootstrap`. Each control is met twice:
at the same read-out, and at the read-out that is best for that control on that set and score. Rows with the set
``average`` are means over the sets, their resamples drawn independently. Writes ``results/intervals.csv``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from readouts import READOUTS
from run import CACHE, RESULTS
from sets import REAL, SETS, load_set

from scjepa.metrics import block_bootstrap

SCORES = ("nmi", "ari")
BEST = "control's best"


def clusterings(runs: pd.DataFrame, cache: Path, readout: str, matched: bool) -> np.ndarray | None:
    """Return all clusterings of some runs at a read-out, ``(n_clusterings, n_cells)``."""
    parts = []
    for run in runs.itertuples():
        name = f"{run.set}_{run.method}_{run.recipe}_{run.seed}_{run.config}"
        with np.load(cache / (name.replace(" ", "-").replace("/", "-") + ".npz")) as file:
            if f"clusters_{readout}" in file:
                parts.append(file[f"clusters_{readout}"][file["matched"] == matched])
    return np.concatenate(parts) if parts else None


def gains(name: str, recipe: str, scores: pd.DataFrame, cache: Path) -> Iterator[dict]:
    """Yield the gains of ``recipe`` on one set over every control; ``resampled`` holds the resamples."""
    adata = load_set(name)
    columns = ["set", "method", "recipe", "seed", "config"]
    runs = scores.loc[scores["set"] == name, columns].drop_duplicates()
    ours = runs[(runs["method"] == "stjepa") & (runs["recipe"] == recipe)]
    controls = runs[(runs["method"] != "stjepa") & runs["recipe"].isin([recipe, "-"])]
    for matched in (False, True):
        own = {readout: clusterings(ours, cache, readout, matched) for readout in READOUTS}
        for control, rows in controls.groupby("method"):
            other = {readout: clusterings(rows, cache, readout, matched) for readout in READOUTS}
            for score in SCORES:
                part = scores[(scores["set"] == name) & (scores["method"] == control) & (scores["matched"] == matched)]
                best = part.groupby("readout")[score].mean().idxmax()
                for readout in READOUTS:
                    for against, found in ((readout, other[readout]), (BEST, other[best])):
                        if found is None or own[readout] is None:
                            continue
                        gain = block_bootstrap(
                            adata.obs["region"],
                            own[readout],
                            found,
                            adata.obsm["spatial"],
                            adata.obs["section"],
                            score=score,
                            seed=SETS.index(name),
                        )
                        yield {
                            "set": name,
                            "recipe": recipe,
                            "control": control,
                            "readout": readout,
                            "against": "same" if against == readout else f"{BEST}",
                            "score": score,
                            "matched": matched,
                            "ours": gain.score_a,
                            "theirs": gain.score_b,
                            "gain": gain.difference,
                            "lower": gain.lower,
                            "upper": gain.upper,
                            "resampled": gain.resampled,
                        }


def average(rows: list[dict]) -> Iterator[dict]:
    """Yield the average gain over the sets, for every comparison that all of them have."""
    keys = ["recipe", "control", "readout", "against", "score", "matched"]
    table = pd.DataFrame(rows)
    n_sets = table["set"].nunique()
    for key, group in table.groupby(keys):
        if len(group) < n_sets:
            continue
        resampled = np.mean(np.stack(group["resampled"].to_list()), axis=0)
        lower, upper = np.quantile(resampled, [0.025, 0.975])
        means = group[["ours", "theirs", "gain"]].mean()
        yield {"set": "average", **dict(zip(keys, key, strict=True)), **means, "lower": lower, "upper": upper}


def main() -> None:
    """Read the clusterings and write the intervals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="base")
    parser.add_argument("--sets", nargs="+", default=list(REAL), choices=SETS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    scores = pd.read_csv(options.out / "scores.csv", dtype={"config": str})
    rows = [row for name in options.sets for row in gains(name, options.recipe, scores, options.cache)]
    rows += average(rows)
    table = pd.DataFrame(rows).drop(columns="resampled")
    table.to_csv(options.out / "intervals.csv", index=False, float_format="%.4f")
    shown = table[(table["set"] == "average") & (table["against"] != "same")]
    print(shown.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
