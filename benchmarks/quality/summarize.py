"""Turn the tidy rows of ``results/`` into the tables and the figure of the documentation.

    python -m benchmarks.quality.summarize

Writes ``results/summary.csv`` (mean and standard deviation over model seeds; Leiden seeds and resolutions are averaged
within a seed), ``results/summary.md`` (the same as tables, one for each set and read-out), ``results/intervals.md``
(what ``intervals.py`` found) and ``results/curves.png``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from benchmarks.records import spread, table

RESULTS = Path(__file__).parent / "results"
KEY = ["set", "readout", "method", "recipe"]
SCORES = ["nmi", "ari", "nmi_matched", "ari_matched"]
HEADINGS = ["NMI", "ARI", "NMI matched", "ARI matched"]
READOUT_WORDS = {
    "plain": "neighborhood embedding as it is",
    "z30": "neighborhood embedding, z-scored per section, 30 components",
    "hops": "cell embedding, z-scored per section, 20 components, hops 0-3 side by side",
    "niche": "cell embedding, predictive components, rings and weights chosen from the data",
    "niche+X": "cell embedding beside expression, predictive components, rings and weights chosen from the data",
}


def per_seed(scores: pd.DataFrame, keys: Sequence[str], took: Sequence[str] = ()) -> pd.DataFrame:
    """Average Leiden seeds and resolutions; one row for each of the keys and model seed, with what runs ``took``."""
    means = scores.groupby([*keys, "seed", "matched"])[["nmi", "ari"]].mean().unstack("matched")
    means.columns = [f"{score}{'_matched' if str(matched) == 'True' else ''}" for score, matched in means.columns]
    return means.reindex(columns=SCORES).join(scores.groupby([*keys, "seed"])[list(took)].mean()).reset_index()


def summarize(seeds: pd.DataFrame, keys: Sequence[str], took: Sequence[str] = ()) -> pd.DataFrame:
    """Return mean, standard deviation and number of model seeds, and the mean of what runs ``took``."""
    grouped = seeds.groupby(list(keys))
    means = grouped[[*SCORES, *took]].mean().join(grouped[SCORES].std().add_suffix("_std"))
    return means.join(grouped.size().rename("seeds")).reset_index()


def markdown(summary: pd.DataFrame) -> str:
    """Return a table for each set and read-out, best first."""
    parts = []
    for (name, readout), rows in summary.groupby(["set", "readout"]):
        lines = []
        for row in rows.sort_values("nmi", ascending=False).to_dict("records"):
            cells = [spread(row[score], row[f"{score}_std"], "\N{NO-BREAK SPACE}") for score in SCORES]
            method = "ST-JEPA" if row["method"] == "stjepa" else row["method"]
            lines.append([method, row["recipe"], *cells, str(row["seeds"])])
        parts.append(f"**{name}, {READOUT_WORDS.get(readout, readout)}**\n")
        parts += [table(["method", "recipe", *HEADINGS, "seeds"], lines), ""]
    return "\n".join(parts)


def intervals_markdown(intervals: pd.DataFrame) -> str:
    """Return a table for each score: gains over each control at its best read-out, ours at each read-out."""
    parts = []
    shown = intervals[(intervals["against"] != "same") & intervals["readout"].isin(["hops", "z30"])]
    shown = shown.sort_values("readout", kind="stable")
    order = {"nmi": 0, "ari": 1}
    for (score, matched), rows in sorted(shown.groupby(["score", "matched"]), key=lambda x: (order[x[0][0]], x[0][1])):
        where = "at the matched number" if matched else "over the resolutions"
        parts.append(f"**{score.upper()} {where}**\n")
        columns = [*sorted(set(rows["set"]) - {"average"}), "average"]
        lines = []
        for (readout, control), group in rows.groupby(["readout", "control"], sort=False):
            found = group.set_index("set")
            cells = [_interval(found.loc[column]) if column in found.index else "" for column in columns]
            lines.append([readout, control, *cells])
        parts += [table(["read-out of ST-JEPA", "control", *columns], lines), ""]
    return "\n".join(parts)


def _interval(row: pd.Series) -> str:
    return f"{row['gain']:+.3f} [{row['lower']:+.3f}, {row['upper']:+.3f}]"


def draw_curves(curves: pd.DataFrame, recipes: list[str], path: Path) -> None:
    """Draw loss ratio and effective rank over training, a column for each set, a line for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    metrics = {"loss_ratio": "loss / loss of gene means", "effective_rank": "effective rank"}
    sets = sorted(curves["set"].unique())
    colors = dict(zip(recipes, ["#0072B2", "#D55E00", "#009E73", "#CC79A7"], strict=False))
    figure, axes = plt.subplots(2, len(sets), figsize=(3.4 * len(sets), 5), sharex=True, squeeze=False)
    for column, name in enumerate(sets):
        for row, (metric, label) in enumerate(metrics.items()):
            ax = axes[row, column]
            shown = curves[(curves["set"] == name) & (curves["metric"] == metric) & curves["recipe"].isin(recipes)]
            for (recipe, seed), curve in shown.groupby(["recipe", "seed"]):
                ax.plot(
                    curve["step"], curve["value"], color=colors[recipe], lw=1.2, label=recipe if seed == 0 else None
                )
            if metric == "loss_ratio":
                ax.set_yscale("log")
                ax.axhline(1, color="0.6", lw=0.8, ls=":")
            else:
                ax.set_ylim(bottom=0)
            ax.set_title(name if row == 0 else "")
            ax.set_ylabel(label if column == 0 else "")
            ax.set_xlabel("optimizer step" if row == 1 else "")
            ax.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    figure.savefig(path, dpi=150)


def main() -> None:
    """Read the rows and write everything."""
    seeds = per_seed(pd.read_csv(RESULTS / "scores.csv"), KEY)
    summary = summarize(seeds, KEY)
    summary.to_csv(RESULTS / "summary.csv", index=False, float_format="%.4f")
    (RESULTS / "summary.md").write_text(markdown(summary))
    if (RESULTS / "intervals.csv").is_file():
        (RESULTS / "intervals.md").write_text(intervals_markdown(pd.read_csv(RESULTS / "intervals.csv")))
    curves = pd.read_csv(RESULTS / "curves.csv")
    draw_curves(curves, list(curves["recipe"].unique()), RESULTS / "curves.png")


if __name__ == "__main__":
    main()
