"""Where is the network ahead of the linear method? One row a task of worth.py and of its neighbors, and the figure.

    python -m benchmarks.quality.worth_summary    # results/worth_summary.md and docs/_static/worth.png, from the csv

A row compares the embedding of the network, alone, with the linear method that was fitted in the same way, each at the
better of its read-outs there (the rule, or plain rings), by the mean over seeds. "Ahead" and "behind" are differences
larger than the standard deviation over seeds, and than 0.005.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from benchmarks.quality.niches import RESULTS
from benchmarks.records import spread
from benchmarks.records import table as table_of

OUT = RESULTS.with_name("worth_summary.md")
FIGURE = Path(__file__).parents[2] / "docs" / "_static" / "worth.png"
PAPER, CHECKPOINTS = (Path(__file__).parents[1] / name / "results" for name in ("paper", "checkpoints"))
LINEAR, ALONE = ("linear, by the rule", "linear, three plain rings"), ("base alone", "base alone, read-out of before")
LEVEL = 0.005
COLORS = {"linear": "#0072B2", "network": "#D55E00"}


def read(path: Path) -> pd.DataFrame:
    """Return the rows of a file, none where it is not there."""
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()


def best(rows: pd.DataFrame, by: str, measure: str, names: tuple[str, ...]) -> pd.Series:
    """Return the values of the better of some methods, one a seed."""
    own = rows[rows[by].isin(names)]
    name = own.groupby(by)[measure].mean().idxmax()
    return own[own[by] == name].groupby("seed")[measure].mean()


def pairs() -> Iterator[tuple[str, str, str, pd.Series, pd.Series]]:
    """Yield letter, task, measure, and values of the linear method and of the network, one a seed."""
    new = read(RESULTS.with_name("worth_new.csv"))
    if len(new):
        own = new.groupby(["method", "seed"], as_index=False)["accuracy"].mean()
        yield "a", "mPFC, a new mouse", "layers carried", *two(own, "method", "accuracy", ("linear",), ("base alone",))
    few = read(RESULTS.with_name("worth.csv"))
    for letter, end in (("b", "counts"), ("c", "genes")):
        for (name, task), own in few[few["task"].str.endswith(end)].groupby(["set", "task"], sort=False):
            yield letter, f"{name}, {task}", "NMI", *two(own, "method", "nmi", LINEAR, ALONE)
    niches = read(RESULTS)
    for name, panel in (("osmFISH", 33), ("osmFISH-second", 33), ("smFISH", 22)):
        yield (
            "c",
            f"{name}, {panel} genes",
            "NMI",
            *two(niches[niches["set"] == name], "method", "nmi", LINEAR, ALONE),
        )
    yield from zero_shot()
    yield from technologies()
    context = read(RESULTS.with_name("worth_context.csv"))
    for name, own in context.groupby("set", sort=False) if len(context) else ():
        yield (
            "f",
            f"{name}, hidden cells",
            "types",
            *two(own, "method", "accuracy", ("linear",), ("base alone",)),
        )


def two(
    rows: pd.DataFrame, by: str, measure: str, linear: tuple[str, ...], network: tuple[str, ...]
) -> tuple[pd.Series, pd.Series]:
    """Return the values of the linear method and of the network."""
    return best(rows, by, measure, linear), best(rows, by, measure, network)


def zero_shot() -> Iterator[tuple[str, str, str, pd.Series, pd.Series]]:
    """Yield the checkpoint on each set that was left out, against the linear method fitted on the same sets."""
    network, linear = (read(CHECKPOINTS / f"leave_one_out{end}.csv") for end in ("", "_linear"))
    network = network[(network["method"] == "trained") & (network["steps"] == 1800) & ~network["matched"]]
    linear = linear[~linear["matched"]].assign(readout=lambda rows: rows["method"] + rows["readout"])
    for name in ("V1", "mPFC", "osmFISH"):
        ours, theirs = (rows[rows["left_out"] == name] for rows in (network, linear))
        cells = ours[ours["readout"].isin(("hops", "niche"))]
        yield (
            "d",
            f"{name}, zero-shot",
            "NMI",
            best(theirs, "readout", "nmi", tuple(theirs["readout"].unique())),
            best(cells, "readout", "nmi", ("hops", "niche")),
        )


def technologies() -> Iterator[tuple[str, str, str, pd.Series, pd.Series]]:
    """Yield joint niches of two technologies, against the linear method on the genes in common."""
    trained, shared = read(PAPER / "harmony.csv"), read(PAPER / "shared_components.csv").assign(seed=0)
    shared = shared[shared["readout"].str.startswith("shared genes")]
    own = trained[trained["method"].isin(("stjepa", "stjepa base")) & ~trained["harmony"].astype(bool)]
    own = own.assign(readout=own["method"] + own["readout"])
    more = read(RESULTS.with_name("worth_pair.csv"))
    for name in ("V1xosmFISH", "V1xmPFC", "V1xsmFISH"):
        ours = own[own["pair"] == name] if name != "V1xsmFISH" else more.rename(columns={"method": "readout"})
        if not len(ours):
            continue
        theirs = shared[shared["pair"] == name]
        yield (
            "e",
            name.replace("x", " × "),
            "NMI",
            *(best(r, "readout", "nmi", tuple(r["readout"].unique())) for r in (theirs, ours)),
        )


def verdict(linear: pd.Series, network: pd.Series) -> tuple[float, float, str]:
    """Return the difference, its standard deviation over seeds, and whether that is a lead."""
    paired = len(linear) == len(network)
    differences = network.to_numpy() - (linear.to_numpy() if paired else linear.mean())
    mean, std = float(differences.mean()), float(pd.Series(differences).std())
    if len(network) < 2:
        return mean, std, "one seed"
    level = abs(mean) <= max(std, LEVEL)
    return mean, std, "level" if level else "**ahead**" if mean > 0 else "behind"


def main() -> None:
    """Write the table and draw the figure."""
    found = list(pairs())
    lines = []
    for letter, task, measure, linear, network in found:
        mean, _, word = verdict(linear, network)
        values = (spread(one.mean(), one.std()) for one in (linear, network))
        lines.append([f"({letter})", task, measure, *values, f"{mean:+.3f}", str(len(network)), word])
    head = ["", "task", "score", "linear", "network alone", "difference", "seeds", "the network is"]
    text = table_of(head, lines)
    OUT.write_text(f"{text}\n")
    print(text)
    draw(found)


def draw(found: list[tuple[str, str, str, pd.Series, pd.Series]]) -> None:
    """Draw the values of both methods, a line a task; bars are the range over seeds."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 0.27 * len(found) + 1.2), layout="constrained")
    for number, (_, _, _, linear, network) in enumerate(found):
        for shift, (name, values) in zip((0.13, -0.13), (("linear", linear), ("network", network)), strict=True):
            y = len(found) - number + shift
            axis.hlines(y, values.min(), values.max(), color=COLORS[name], lw=1.2)
            axis.plot(values.mean(), y, "o", color=COLORS[name], ms=5, label=f"{name}" if not number else None)
        axis.axhline(len(found) - number, color="#DDDDDD", lw=0.6, zorder=0)
    names = [f"({letter}) {task}" for letter, task, *_ in found]
    axis.set_yticks(range(len(found), 0, -1), names)
    axis.set_xlabel("NMI with labels; for (a) and (f) the share of cells that is right")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower left")
    figure.savefig(FIGURE, dpi=130)


if __name__ == "__main__":
    main()
