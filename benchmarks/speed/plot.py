"""Draw the committed results for the documentation: ``docs/_static/speed.svg`` and ``speed_peers.svg``.

python -m benchmarks.speed.plot
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

HERE = Path(__file__).parent
STATIC = HERE.parents[1] / "docs" / "_static"
PEER_ROWS = HERE / "results" / "peers.csv"
INK, OURS, OTHER = "#333333", "#2a6f97", "#adb5bd"


def draw_step(axis: plt.Axes) -> None:
    """Milliseconds a sample and mask, the reference beside the package."""
    report = json.loads((HERE / "results" / "step.json").read_text())
    plans = {"one mask": "one mask", "four masks, a quarter of the queries": "four masks,\n¼ of the queries"}
    for place, name in enumerate(plans):
        row = report[name]
        axis.barh(place - 0.2, row["reference_ms_per_sample"], 0.36, color=OTHER)
        axis.barh(place + 0.2, row["packed_ms_per_sample_and_mask"], 0.36, color=OURS)
        axis.text(row["packed_ms_per_sample_and_mask"], place + 0.2, f"  {row['ratio'][1]:.1f}× faster", va="center")
    axis.set_yticks(range(len(plans)), list(plans.values()))
    axis.invert_yaxis()
    axis.set_xlabel("ms per sample and mask, one thread")
    axis.set_title("A training step: packed (blue), padded (gray)", loc="left", fontsize=10)


def draw_embedding(axis: plt.Axes) -> None:
    """Seconds and memory of embedding by number of cells."""
    report = json.loads((HERE / "results" / "embed.json").read_text())
    rows = report["rows"]
    axis.loglog([row["cells"] for row in rows], [row["cpu_seconds"] for row in rows], "o-", color=OURS)
    for row in rows:
        place = (row["cells"], row["cpu_seconds"])
        axis.annotate(f"{row['peak_gib']:.2f} GiB", place, (6, -10), textcoords="offset points")
    axis.margins(x=0.2, y=0.15)
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("cells")
    axis.set_ylabel("processor seconds")
    slope = report["exponent_of_cpu_seconds"]
    fitted = "" if slope is None else f" (exponent {slope:.2f})"
    axis.set_title(f"Embedding, demo preset{fitted}", loc="left", fontsize=10)


PEERS = {
    "scjepa: linear, k-means": ("linear, k-means", OURS, "o-"),
    "scjepa: linear, Leiden": ("linear, Leiden", OURS, "s--"),
    "scjepa: demo": ("demo: trained, embedded", OURS, "^:"),
    "squidpy_cellcharter": ("squidpy, cellcharter", "#8a8d91", "o-"),
    "squidpy_utag": ("squidpy, utag", "#8a8d91", "s--"),
    "squidpy_neighborhood": ("squidpy, neighborhood", "#8a8d91", "^:"),
    "cellcharter": ("CellCharter", "#bc6c25", "o-"),
    "novae": ("Novae", "#7b2d8b", "o-"),
}
"""Labels, colors and lines of methods."""


def draw_peers(axes: Sequence[plt.Axes]) -> None:
    """Processor seconds and memory to niches by number of cells; what was stopped is a cross at its limit."""
    rows = pd.read_csv(PEER_ROWS)
    for axis, column in zip(axes, ("cpu_seconds", "peak_gib"), strict=True):
        for name, (label, color, line) in PEERS.items():
            own = rows[(rows["method"] == name) & rows["finished"]].sort_values("cells")
            axis.loglog(own["cells"], own[column], line, color=color, label=label, markersize=4)
        axis.set_xlabel("cells")
        axis.set_xticks(sorted(set(rows["cells"])), [f"{n:,}" for n in sorted(set(rows["cells"]))])
        axis.xaxis.set_minor_formatter(NullFormatter())
    stopped = rows[~rows["finished"]]
    for place, (_, row) in enumerate(stopped.iterrows()):
        label, color, _ = PEERS[row["method"]]
        axes[0].plot(row["cells"], row["limit"], "x", color=color)
        text = f"{label}: stopped after {row['limit'] / 60:.0f} min"
        axes[0].annotate(
            text, (row["cells"], row["limit"]), (-6, 4 + 10 * place), textcoords="offset points", ha="right"
        )
    axes[0].set_ylabel("processor seconds")
    axes[1].set_ylabel("most memory, GiB")
    axes[1].set_yticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
    axes[1].yaxis.set_minor_formatter(NullFormatter())
    axes[1].legend(frameon=False, bbox_to_anchor=(1.02, 1), loc="upper left")


def main() -> None:
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "scjepa", "svg.fonttype": "none", "text.color": INK})
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.2), layout="constrained")
    draw_step(axes[0])
    draw_embedding(axes[1])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    STATIC.mkdir(exist_ok=True)
    figure.savefig(STATIC / "speed.svg", metadata={"Date": None})
    if PEER_ROWS.is_file():
        figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
        draw_peers(axes)
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(STATIC / "speed_peers.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
