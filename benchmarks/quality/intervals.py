"""Gains of a recipe over every control, with paired intervals from resampled blocks of tissue.

    python -m benchmarks.quality.intervals

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
from benchmarks.quality.readouts import READOUTS
from benchmarks.quality.run import CACHE, RESULTS
from benchmarks.quality.sets import REAL, SETS, load_set

from scjepa.metrics import block_bootstrap

SCORES = ("nmi", "ari")
BEST = "control's best"
OURS = "stjepa"


def clusterings(runs: pd.DataFrame, cache: Path, readout: str, matched: bool) -> np.ndarray | None:
    """Return all clusterings of some runs at a read-out, ``(n_clusterings, n_cells)``."""
    parts = []
    for run in runs.itertuples():
        name = f"{run.set}_{run.method}_{run.recipe}_{run.seed}_{run.config}"
        with np.load(cache / (name.replace(" ", "-").replace("/", "-") + ".npz")) as file:
            if f"clusters_{readout}" in file:
                parts.append(file[f"clusters_{readout}"][file["matched"] == matched])
    return np.concatenate(parts) if parts else None


def resampled_scores(name: str, runs: pd.DataFrame, cache: Path, n_bootstrap: int) -> dict[tuple, np.ndarray]:
    """Return scores by (method, read-out, score, matched): as they are, then in every resample of a set's blocks.

    The resamples of a set are the same for all, so that differences are paired. They come as differences to one
    clustering that is the same for all, which cancels when two of them are subtracted.
    """
    adata = load_set(name)
    labels, place, sections = adata.obs["region"], adata.obsm["spatial"], adata.obs["section"]
    found: dict[tuple, np.ndarray] = {}
    common = None
    for method, own in runs.groupby("method"):
        for readout in READOUTS:
            for matched in (False, True):
                clusters = clusterings(own, cache, readout, matched)
                if clusters is None:
                    continue
                common = clusters[0] if common is None else common
                for score in SCORES:
                    boot = block_bootstrap(
                        labels,
                        clusters,
                        common,
                        place,
                        sections,
                        score=score,
                        n_bootstrap=n_bootstrap,
                        seed=SETS.index(name),
                    )
                    shift = boot.score_b
                    found[method, readout, score, matched] = shift + np.r_[boot.difference, boot.resampled]
    return found


def gains(name: str, recipe: str, scores: pd.DataFrame, cache: Path, n_bootstrap: int) -> Iterator[dict]:
    """Yield the gains of ``recipe`` on one set over every control; ``resampled`` holds the resamples."""
    runs = scores.loc[scores["set"] == name, ["set", "method", "recipe", "seed", "config"]].drop_duplicates()
    runs = runs[runs["recipe"].isin([recipe, "-"])]
    found = resampled_scores(name, runs, cache, n_bootstrap)
    for method, readout, score, matched in found:
        if method != OURS:
            continue
        ours = found[method, readout, score, matched]
        for control in sorted(set(runs["method"]) - {OURS}):
            own = {r: found[control, r, score, matched] for r in READOUTS if (control, r, score, matched) in found}
            best = max(own, key=lambda r: own[r][0])
            for against, theirs in (("same", own.get(readout)), (BEST, own[best])):
                if theirs is None:
                    continue
                gain = ours - theirs
                lower, upper = np.quantile(gain[1:], [0.025, 0.975])
                yield {
                    "set": name,
                    "recipe": recipe,
                    "control": control,
                    "readout": readout,
                    "against": against,
                    "score": score,
                    "matched": matched,
                    "ours": ours[0],
                    "theirs": theirs[0],
                    "gain": gain[0],
                    "lower": lower,
                    "upper": upper,
                    "resampled": gain[1:],
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
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    scores = pd.read_csv(options.out / "scores.csv", dtype={"config": str})
    rows = [
        row for name in options.sets for row in gains(name, options.recipe, scores, options.cache, options.resamples)
    ]
    rows += average(rows)
    table = pd.DataFrame(rows).drop(columns="resampled")
    table.to_csv(options.out / "intervals.csv", index=False, float_format="%.4f")
    shown = table[(table["set"] == "average") & (table["against"] != "same")]
    print(shown.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
