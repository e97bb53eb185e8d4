"""Options of `scjepa benchmark` for the best and the worst level of an ablation, and the default.

    python -m benchmarks.paper.extremes benchmarks/paper/results/table2-V1/table2.csv

prints them a word a line. Which level is best is decided by the NMI over the resolutions of one read-out (`hops`, the
one that training moves most), the mean over the seeds; the default takes part by itself.
"""

from __future__ import annotations

import argparse

import pandas as pd


def extremes(table: pd.DataFrame, readout: str) -> list[tuple[str, str]]:
    """Return axis and value of the best and of the worst level that is not the default."""
    scored = table[(table["readout"] == readout) & ~table["default"] & table["nmi"].notna()]
    if scored.empty:
        raise SystemExit(f"There is no level scored at read-out {readout!r}; read-outs: {set(table['readout'])}.")
    ordered = scored.sort_values("nmi", kind="stable")
    return [(str(row["axis"]), str(row["value"])) for _, row in ordered.iloc[[-1, 0]].iterrows()]


def words(axis: str, value: str) -> list[str]:
    """Return an axis and its value as options; one of several options is a grid of one."""
    names, values = axis.split(" × "), value.split(" × ")
    if len(names) > 1:
        return ["--grid", *(f"{name}={level}" for name, level in zip(names, values, strict=True))]
    return ["--ablate", f"{axis}={value}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", help="table2.csv of an ablation")
    parser.add_argument("--readout", default="hops")
    given = parser.parse_args()
    table = pd.read_csv(given.table).astype({"value": str})
    for level in extremes(table, given.readout):
        print("\n".join(words(*level)))
