"""Draw the figure of the annotation page: which types are taken for which, and what confidence is worth.

python -m benchmarks.cells.annotation_figure docs/_static/annotation.png
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks.cells.annotation import Answer, Task, by_linear, tasks
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TASKS = ("3k > 4k", "3k > kang")
BINS = np.array([0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])


def confusion(ax: Axes, task: Task, answer: Answer, title: str) -> None:
    """Draw shares of each true type by what it was called, unknown last."""
    truth = task.query.obs["cell_type"].astype(str).to_numpy()
    called = np.where(answer.is_unknown, "unknown", answer.labels)
    names = sorted(set(task.reference.obs["cell_type"].astype(str)))
    table = pd.crosstab(truth, called, normalize="index").reindex(columns=[*names, "unknown"], fill_value=0)
    image = ax.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(table.to_numpy() >= 0.005):
        share = table.iat[row, column]
        ax.text(
            column, row, f"{share:.0%}", ha="center", va="center", fontsize=6, color="white" if share > 0.6 else "k"
        )
    ax.set_xticks(range(table.shape[1]), table.columns, rotation=45, ha="right", fontsize=7)
    ax.set_yticks(range(len(table)), [f"{name} ({(truth == name).sum():,})" for name in table.index], fontsize=7)
    ax.set_xlabel("called", fontsize=8)
    ax.set_title(title, fontsize=9)
    image.set_rasterized(True)


def reliability(ax: Axes, answers: dict[str, tuple[Task, Answer]]) -> None:
    """Draw the share of right labels by confidence."""
    ax.plot([0.4, 1], [0.4, 1], color="0.7", lw=1)
    for name, (task, answer) in answers.items():
        truth = task.query.obs["cell_type"].astype(str).to_numpy()
        kept = np.isin(truth, task.reference.obs["cell_type"].astype(str).unique())
        right, sure = (truth == answer.labels)[kept], answer.confidence[kept]
        bins = np.digitize(sure, BINS[1:-1])
        sizes = np.bincount(bins, minlength=len(BINS) - 1)
        there = sizes >= 10
        x, y = (np.bincount(bins, value, minlength=len(sizes))[there] / sizes[there] for value in (sure, right))
        ax.plot(x, y, marker="o", ms=4, lw=1.2, label=name.replace(">", "to").replace("kang", "Kang"))
    ax.set_xlabel("confidence", fontsize=8)
    ax.set_ylabel("share of right labels", fontsize=8)
    ax.set_title("What confidence is worth", fontsize=9)
    ax.tick_params(labelsize=7)
    ax.legend(frameon=False, fontsize=8)


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    found = tasks()
    answers = {name: (found[name], by_linear(found[name], 0, options)) for name in TASKS}
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[1.25, 1.1, 0.8])
    for ax, (name, (task, answer)) in zip(axes, answers.items(), strict=False):
        confusion(ax, task, answer, f"labels of {name.replace('>', 'for cells of').replace('kang', 'Kang')}")
    reliability(axes[2], answers)
    figure.savefig(options.out, dpi=160)


if __name__ == "__main__":
    main()
