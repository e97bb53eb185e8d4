"""Turn the rows of the studies (transfer, ceiling, layers, targets) into the tables of the documentation.

    python -m benchmarks.quality.summarize_studies

Writes ``results/transfer.md``, ``ceiling.md``, ``layers.md`` and ``targets.md``: means over the seeds, with ± the
standard deviation where there are several.
"""

from __future__ import annotations

import pandas as pd
from benchmarks.quality.summarize import RESULTS

SETS = ["V1", "mPFC", "osmFISH"]


def cell(values: pd.Series) -> str:
    """Return the mean of some seeds, and their spread."""
    spread = f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{values.std():.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{spread}"


def table(rows: list[list[str]], headings: list[str]) -> str:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def transfer(rows: pd.DataFrame) -> str:
    """Return a table for each pair and recipe: transfer in both directions, and mixing."""
    parts = []
    for (pair, recipe), group in rows.groupby(["pair", "recipe"], sort=False):
        one, other = pair.split(" x ")
        metrics = [f"{name} {a} to {b}" for a, b in ((one, other), (other, one)) for name in ("accuracy", "macro_f1")]
        metrics += ["ilisi", "ilisi within layers"]
        lines = []
        for (method, readout), found in group.groupby(["method", "readout"], sort=False):
            by_metric = dict(list(found.groupby("metric")["value"]))
            lines.append([method, readout, *(cell(by_metric[metric]) for metric in metrics)])
        headings = [f"{name}, {a} to {b}" for a, b in ((one, other), (other, one)) for name in ("accuracy", "macro-F1")]
        n_seeds = group[group["method"] == "ST-JEPA"]["seed"].nunique()
        parts.append(f"**{one} and {other}, recipe `{recipe}`, {n_seeds} seed{'s' if n_seeds > 1 else ''}**\n")
        parts.append(table(lines, ["method", "read-out", *headings, "iLISI", "iLISI within layers"]))
    return "\n".join(parts)


def ceiling(rows: pd.DataFrame) -> str:
    """Return a line for each set and read-out."""
    lines = []
    for (name, readout), group in rows.groupby(["set", "readout"]):
        scores = [cell(group[score]) for score in ("accuracy", "macro_f1", "nmi", "ari")]
        lines.append([name, readout, *scores, str(group["seed"].nunique())])
    return table(lines, ["set", "answers of", "accuracy", "macro-F1", "NMI", "ARI", "seeds"])


def layers(rows: pd.DataFrame) -> str:
    """Return a line for each set, scale and layer, trained beside untrained."""
    lines = []
    scores = ["region accuracy", "cell_type accuracy", "nmi"]
    for (name, scale, layer), group in rows.groupby(["set", "scale", "layer"], sort=False):
        both = [group[group["trained"] == trained] for trained in (False, True)]
        lines.append([name, scale, str(layer), *(" → ".join(cell(part[score]) for part in both) for score in scores)])
    lines.sort(key=lambda line: (SETS.index(line[0]), line[1]))
    return table(lines, ["set", "scale", "layer", "region, probe", "cell type, probe", "clusters, NMI matched"])


def targets(rows: pd.DataFrame) -> str:
    """Return a line for each set: what explains the targets, untrained and trained."""
    lines = []
    for name, group in rows.groupby("set"):
        both = [group[group["trained"] == trained] for trained in (False, True)]
        lines.append(
            [name, *(" → ".join(cell(part[by]) for part in both) for by in ("own value and rank", "predictor"))]
        )
    return table(lines, ["set", "own value and rank", "predictor, from the visible tokens"])


def main() -> None:
    """Write the table of each study whose rows are there."""
    for study in (transfer, ceiling, layers, targets):
        file = RESULTS / f"{study.__name__}.csv"
        if file.is_file():
            (RESULTS / f"{study.__name__}.md").write_text(study(pd.read_csv(file)))


if __name__ == "__main__":
    main()
