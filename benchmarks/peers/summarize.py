"""Turn ``results/scores.csv`` into ``results/summary.csv`` and ``results/summary.md``.

    python -m benchmarks.peers.summarize

Resolutions and Leiden seeds are averaged within a seed of the method; mean and standard deviation are over its seeds.
Time is the processor's, over all threads: the machine was shared, so wall time says less.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from benchmarks.quality.summarize import HEADINGS, SCORES, per_seed, summarize
from benchmarks.records import spread, table

RESULTS = Path(__file__).parent / "results"
KEY = ["set", "readout", "method", "settings"]
TOOK = ["seconds", "cpu_seconds", "peak_gib"]
READOUT_WORDS = {
    "plain": "embedding as it is",
    "z30": "z-scored per section, 30 components",
    "own": "the method's own clusters",
}


def markdown(summary: pd.DataFrame, failures: pd.DataFrame) -> str:
    """Return a table for each set and read-out, best first, and what failed."""
    parts = []
    for (name, readout), rows in summary.groupby(["set", "readout"]):
        lines = []
        for row in rows.sort_values(["nmi_matched", "nmi"], ascending=False).to_dict("records"):
            cells = [spread(row[score], row[f"{score}_std"]) for score in SCORES]
            cells += [f"{row['cpu_seconds']:.0f}", f"{row['peak_gib']:.2f}", str(row["seeds"])]
            lines.append([row["method"], row["settings"], *cells])
        parts.append(f"**{name}, {READOUT_WORDS[readout]}**\n")
        parts += [table(["method", "settings", *HEADINGS, "CPU s", "GiB", "seeds"], lines), ""]
    if len(failures):
        columns = ["set", "method", "settings", "seed", "error"]
        lines = failures[columns].astype(str).to_numpy().tolist()
        parts += ["**No result**\n", table([*columns[:-1], "reason"], lines)]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Read the rows and write both."""
    scores = pd.read_csv(RESULTS / "scores.csv")
    failed = scores["error"].notna()
    summary = summarize(per_seed(scores[~failed], KEY, TOOK), KEY, TOOK)
    summary.to_csv(RESULTS / "summary.csv", index=False, float_format="%.4f")
    text = markdown(summary, scores[failed])
    (RESULTS / "summary.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
