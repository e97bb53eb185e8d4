"""Turn ``results/scores.csv`` into ``results/summary.csv`` and ``results/summary.md``.

    python -m benchmarks.peers.summarize

Resolutions and Leiden seeds are averaged within a seed of the method; mean and standard deviation are over its seeds.
Time is the processor's, over all threads: the machine was shared, so wall time says less.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parent / "results"
KEY = ["set", "readout", "method", "settings"]
SCORES = ["nmi", "ari", "nmi_matched", "ari_matched"]
HEADINGS = ["NMI", "ARI", "NMI matched", "ARI matched"]
READOUT_WORDS = {
    "plain": "embedding as it is",
    "z30": "z-scored per section, 30 components",
    "own": "the method's own clusters",
}


def per_seed(scores: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each method and seed, a column for each score."""
    wide = scores.groupby([*KEY, "seed", "matched"])[["nmi", "ari"]].mean().unstack("matched")
    wide.columns = [f"{score}{'_matched' if matched in (True, 'True') else ''}" for score, matched in wide.columns]
    took = scores.groupby([*KEY, "seed"])[["seconds", "cpu_seconds", "peak_gib"]].mean()
    return wide.reindex(columns=SCORES).join(took).reset_index()


def summarize(seeds: pd.DataFrame) -> pd.DataFrame:
    """Return mean, standard deviation and number of seeds."""
    groups = seeds.groupby(KEY)
    table = groups[[*SCORES, "seconds", "cpu_seconds", "peak_gib"]].mean()
    return table.join(groups[SCORES].std().add_suffix("_std")).join(groups.size().rename("seeds")).reset_index()


def markdown(summary: pd.DataFrame, failures: pd.DataFrame) -> str:
    """Return a table for each set and read-out, best first, and what failed."""
    parts = []
    for (name, readout), rows in summary.groupby(["set", "readout"]):
        parts.append(f"**{name}, {READOUT_WORDS[readout]}**\n")
        parts.append("| method | settings | " + " | ".join(HEADINGS) + " | CPU s | GiB | seeds |")
        parts.append("|---|---|" + "---|" * 7)
        for row in rows.sort_values(["nmi_matched", "nmi"], ascending=False).to_dict("records"):
            cells = [_cell(row[score], row[f"{score}_std"]) for score in SCORES]
            cells += [f"{row['cpu_seconds']:.0f}", f"{row['peak_gib']:.2f}", str(row["seeds"])]
            parts.append(f"| {row['method']} | {row['settings']} | " + " | ".join(cells) + " |")
        parts.append("")
    if len(failures):
        parts.append("**No result**\n\n| set | method | settings | seed | reason |\n|---|---|---|---|---|")
        parts += [
            f"| {row['set']} | {row['method']} | {row['settings']} | {row['seed']} | {row['error']} |"
            for row in failures.to_dict("records")
        ]
    return "\n".join(parts) + "\n"


def _cell(mean: float, std: float) -> str:
    if pd.isna(mean):
        return ""
    return f"{mean:.3f}" if pd.isna(std) else f"{mean:.3f} ± {std:.3f}"


def main() -> None:
    """Read the rows and write both."""
    scores = pd.read_csv(RESULTS / "scores.csv")
    failed = scores["error"].notna()
    summary = summarize(per_seed(scores[~failed]))
    summary.to_csv(RESULTS / "summary.csv", index=False, float_format="%.4f")
    text = markdown(summary, scores[failed])
    (RESULTS / "summary.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
