"""Where is the network ahead of the linear method? One row a task of worth.py and of its neighbors, and the figure.

    python -m benchmarks.quality.worth_summary    # results/worth_summary.md and docs/_static/worth.png, from the csv

A row compares the embedding of the network with the linear method that was fitted in the same way: alone, and with
expression, where it was read out so. Alone, each is at the better of its read-outs there (the rule, or plain rings) by
the mean over seeds. "Ahead" and "behind" are differences larger than the standard deviation over seeds, and than 0.005;
where seeds draw the data as well, differences are taken draw by draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from benchmarks.quality.niches import RESULTS
from benchmarks.quality.worth import LEFT_OUT
from benchmarks.records import spread
from benchmarks.records import table as table_of

OUT = RESULTS.with_name("worth_summary.md")
FIGURE = Path(__file__).parents[2] / "docs" / "_static" / "worth.png"
PAPER, CHECKPOINTS = (Path(__file__).parents[1] / name / "results" for name in ("paper", "checkpoints"))
LINEAR, ALONE = ("linear, by the rule", "linear, three plain rings"), ("base alone", "base alone, read-out of before")
LEVEL = 0.005
NEW = {"mPFC": "a new mouse", "DLPFC": "a new section", "embryo": "new embryos"}
COLORS = {"linear": "#0072B2", "network alone": "#D55E00", "network and expression": "#E69F00"}


def read(path: Path) -> pd.DataFrame:
    """Return the rows of a file, none where it is not there."""
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()


Row = tuple[str, str, pd.Series, pd.Series, pd.Series]
"""Letter, task, and values of the linear method, the network alone, and with expression, one a seed."""


def compare(
    rows: pd.DataFrame, by: str, measure: str, *names: tuple[str, ...]
) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Return the values of the better method of each group of names."""
    linear, alone, both = (best(rows, by, measure, own) for own in names)
    return linear, alone, both


def found() -> Iterator[Row]:
    """Yield the rows of all tasks that there are."""
    others = ("linear",), ("base alone",)
    new = read(RESULTS.with_name("worth_new.csv"))
    for name, what in NEW.items() if len(new) else ():
        own = new[new["left out"].astype(str).isin(LEFT_OUT[name])]
        own = own.groupby(["method", "seed"], as_index=False)["accuracy"].mean()
        yield "a", f"{name}, {what}", *compare(own, "method", "accuracy", *others, ("base and expression",))
    few, niches = read(RESULTS.with_name("worth.csv")), read(RESULTS)
    sections = LINEAR, ALONE, ("base and expression",)
    for letter, end in (("b", "counts"), ("c", "genes")):
        some = few[few["task"].str.endswith(end)] if len(few) else few
        for (name, task), own in sorted(some.groupby(["set", "task"]), key=_most_first) if len(some) else ():
            yield letter, f"{name}, {task}", *compare(own, "method", "nmi", *sections)
    for name, panel in (("osmFISH", 33), ("osmFISH-second", 33), ("smFISH", 22)):
        own = niches[niches["set"] == name]
        yield "c", f"{name}, {panel} genes", *compare(own, "method", "nmi", *sections)
    yield from zero_shot()
    yield from technologies()
    context = read(RESULTS.with_name("worth_context.csv"))
    for name, own in context.groupby("set", sort=False) if len(context) else ():
        yield "f", f"{name}, hidden cells", *compare(own, "method", "accuracy", *others, ("base and linear",))


def _most_first(batch: tuple[tuple[str, str], pd.DataFrame]) -> tuple[str, float]:
    """Return what sorts tasks by set, and by genes or counts that are left, most first."""
    (name, task), _ = batch
    return name, -float(task.split()[0].rstrip("%"))


def best(rows: pd.DataFrame, by: str, measure: str, names: tuple[str, ...]) -> pd.Series:
    """Return the values of the better of some methods by the mean, one a seed; none where there is none."""
    own = rows[rows[by].isin(names)]
    if not len(own):
        return pd.Series(dtype=float)
    name = own.groupby(by)[measure].mean().idxmax()
    return own[own[by] == name].groupby("seed")[measure].mean()


def zero_shot() -> Iterator[Row]:
    """Yield the checkpoint on each set that was left out, against the linear method fitted on the same sets.

    The read-out is fitted on the set that was left out, that of the network and that of the linear components alike.
    """
    network, linear = (read(CHECKPOINTS / f"leave_one_out{end}.csv") for end in ("", "_linear"))
    network = network[(network["method"] == "trained") & (network["steps"] == 1800) & (network["preset"] == "base")]
    network, linear = network[~network["matched"]], linear[~linear["matched"]]
    linear = linear.assign(readout=linear["method"] + ", " + linear["readout"])
    for name in ("V1", "mPFC", "osmFISH"):
        ours, theirs = (rows[rows["left_out"] == name] for rows in (network, linear))
        alone = best(ours, "readout", "nmi", ("hops", "niche"))
        yield (
            "d",
            f"{name}, zero-shot",
            best(theirs, "readout", "nmi", tuple(theirs["readout"].unique())),
            alone,
            pd.Series(dtype=float),
        )


def technologies() -> Iterator[Row]:
    """Yield joint niches of two technologies, against the linear method on the genes in common."""
    trained, shared = read(PAPER / "harmony.csv"), read(PAPER / "shared_components.csv").assign(seed=0)
    shared = shared[shared["readout"].str.startswith("shared genes")]
    own = trained[trained["method"].isin(("stjepa", "stjepa base")) & ~trained["harmony"].astype(bool)]
    own = own.assign(readout=own["method"] + own["readout"])
    more = read(RESULTS.with_name("worth_pair.csv")).rename(columns={"method": "readout"})
    for name in ("V1xosmFISH", "V1xmPFC", "V1xsmFISH"):
        ours = more if name == "V1xsmFISH" else own[own["pair"] == name]
        theirs = shared[shared["pair"] == name]
        linear, alone = (best(r, "readout", "nmi", tuple(r["readout"].unique())) for r in (theirs, ours))
        yield "e", name.replace("x", " × "), linear, alone, pd.Series(dtype=float)


def verdict(linear: pd.Series, network: pd.Series) -> str:
    """Return the difference of the network to the linear method, and whether it is ahead."""
    if not len(network):
        return ""
    paired = len(linear) > 1 and set(linear.index) >= set(network.index)
    differences = network - (linear[network.index] if paired else linear.mean())
    mean, std = float(differences.mean()), float(differences.std())
    if len(network) < 2:
        return f"{mean:+.3f}, one seed"
    word = "level" if abs(mean) <= max(std, LEVEL) else "**ahead**" if mean > 0 else "behind"
    return f"{mean:+.3f} ± {std:.3f}, {word}"


def main() -> None:
    """Write the table and draw the figure."""
    rows = list(found())
    lines = []
    for letter, task, linear, alone, both in rows:
        values = [spread(one.mean(), one.std()) if len(one) else "" for one in (linear, alone)]
        lines.append([f"({letter}) {task}", str(len(alone)), *values, verdict(linear, alone), verdict(linear, both)])
    head = ["task", "seeds", "linear", "network alone", "alone: difference", "with expression: difference"]
    text = table_of(head, lines)
    OUT.write_text(f"{text}\n")
    print(text)
    draw(rows)


def draw(rows: list[Row]) -> None:
    """Draw the values of all methods, a line a task; bars are the range over seeds."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 0.29 * len(rows) + 1.2), layout="constrained")
    labels = []
    for number, (_, _, *values) in enumerate(rows):
        for shift, (name, color), own in zip((0.22, 0, -0.22), COLORS.items(), values, strict=True):
            if not len(own):
                continue
            y = len(rows) - number + shift
            axis.hlines(y, own.min(), own.max(), color=color, lw=1.2)
            axis.plot(own.mean(), y, "o", color=color, ms=4.5, label=None if name in labels else name)
            labels.append(name)
        axis.axhline(len(rows) - number - 0.5, color="#DDDDDD", lw=0.6, zorder=0)
    axis.set_yticks(range(len(rows), 0, -1), [f"({letter}) {task}" for letter, task, *_ in rows])
    axis.set_ylim(0.4, len(rows) + 0.6)
    axis.set_xlabel("NMI with labels; for (a) and (f) the share of cells that is right")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside upper right", ncols=3)
    figure.savefig(FIGURE, dpi=130)


if __name__ == "__main__":
    main()
