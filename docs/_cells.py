"""The tables of Cell-JEPA's measurements, read off the committed results of ``benchmarks/cells``.

Comparisons are those of ``run.sh``; where one has not been run, the rows of the scripts that were there before it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from _speed import NOT_MEASURED, table

from scjepa.benchmark import CELL_METHODS

RESULTS = Path(__file__).parents[1] / "benchmarks" / "cells" / "results"


def title_of(name: str) -> str:
    """Return the name of a method in tables."""
    return CELL_METHODS[name].title if name in CELL_METHODS else name


def _read(name: str, **options: Any) -> pd.DataFrame:
    path = RESULTS / f"{name}.csv"
    return pd.read_csv(path, **options) if path.is_file() else pd.DataFrame()


def _compared(task: str, group: str | None = None, names: tuple[str, ...] = ("pbmc",)) -> pd.DataFrame:
    """Return a row for each method, seed, read-out and group of a task of ``run.sh``; empty where it was not run."""
    parts = [_read(f"{name}/results").assign(set=name) for name in names]
    rows = pd.concat([part for part in parts if len(part)] or [pd.DataFrame()])
    if rows.empty or not (rows["task"] == task).any():
        return pd.DataFrame()
    rows = rows[(rows["task"] == task) & rows["value"].notna()]
    keys = ["set", "method", "seed", "readout", "group"]
    wide = rows.pivot_table(index=keys, columns="metric", values="value", sort=False).reset_index()
    wide["method"] = wide["method"].map(title_of)
    return wide.rename(columns={"group": group} if group else {})


def _mean(values: pd.Series) -> str:
    """Return the mean over seeds, with the standard deviation where there are several."""
    text = f"{values.mean():.3f}"
    return f"{text} ± {values.std():.3f}" if len(values) > 1 else text


def _by_seed(results: pd.DataFrame, groups: list[str], scores: dict[str, str]) -> str:
    """Return a table with a row for each group, means over its seeds."""
    groups = [group for group in groups if group in results or group != "readout"]
    if not len(results):
        return NOT_MEASURED
    rows = []
    for key, part in results.groupby(groups, sort=False):
        words = [f"{value:,}" if isinstance(value, int) else str(value) for value in key]
        rows.append([*words, str(part["seed"].nunique()), *(_mean(part[score]) for score in scores)])
    return table([*(group.replace("_", " ") for group in groups), "seeds", *scores.values()], rows)


def trials() -> str:
    """Return the trials, one row for each read-out."""
    results = _read("trials", dtype=str, keep_default_na=False)
    if not len(results):
        return NOT_MEASURED
    columns = ("trial", "steps", "readout", "knn", "avg_bio", "nmi", "jepa_loss", "mean_cosine")
    rows = results[list(columns)].to_numpy().tolist()
    header = ["trial", "steps", "read-out", "15-NN accuracy", "AvgBIO", "NMI", "JEPA loss", "mean cosine"]
    return table(header, rows)


def recipe() -> str:
    """Return what taking each part out of the recipe does, by read-out ``cls``."""
    results = _read("recipe", dtype=str, keep_default_na=False)
    if not len(results):
        return NOT_MEASURED
    columns = ["trial", "knn", "avg_bio", "nmi", "jepa_loss", "mean_cosine", "effective_rank", "cpu_seconds"]
    rows = results[results["readout"].str.startswith("cls")]
    header = ["recipe", "15-NN accuracy", "AvgBIO", "NMI", "JEPA loss", "mean cosine", "effective rank", "CPU s"]
    return table(header, rows[columns].to_numpy().tolist())


def differences(name: str, readouts: tuple[str, ...] | None = None) -> str:
    """Return the zero-shot differences paired by seed of a comparison of ``run.sh``."""
    rows = _read(f"{name}/differences")
    rows = rows[(rows["task"] == "zero_shot") & rows["metric"].isin(PAIRED)] if len(rows) else rows
    if len(rows) and readouts is not None:
        rows = rows[rows["readout"].isin(readouts)]
    if not len(rows):
        return NOT_MEASURED
    cells = [
        [
            f"{title_of(row.first)} − {title_of(row.second)}",
            row.readout,
            PAIRED[row.metric],
            f"{row.difference:+.3f}",
            "one seed" if pd.isna(row.low) else f"{row.low:+.3f} to {row.high:+.3f}",
            str(row.seeds),
        ]
        for row in rows.itertuples()
    ]
    return table(["difference", "read-out", "score", "mean", "95% interval", "seeds"], cells)


PAIRED = {"avg_bio": "AvgBIO", "knn_accuracy": "15-NN accuracy"}

OTHERS = ("pbmc_kang_muscat", "celllines")
"""Sets that no option of the recipe was chosen on."""

SHOWN = ("cls", "plain")
"""The read-out that users get."""

BIO = {"avg_bio": "AvgBIO", "nmi": "NMI", "ari": "ARI", "asw": "ASW, −1 to 1", "asw_scaled": "ASW, 0 to 1"}


def _or(compared: pd.DataFrame, before: str) -> pd.DataFrame:
    """Return the rows of ``run.sh``, or those that were there before it."""
    return compared if len(compared) else _read(before)


def parts() -> dict[str, str]:
    """Return the generated parts of the page by name."""
    zero_shot, dropout = _compared("zero_shot"), _compared("dropout", "fraction")
    finetune = _compared("finetune", "stage")
    batches = _compared("batches", names=("pbmc_2batch", "celllines"))
    others = _compared("zero_shot", names=OTHERS)
    others = others[others["readout"].isin(SHOWN)] if len(others) else others
    found = {
        "cell_others": _by_seed(others, ["set", "method"], {**BIO, "knn_accuracy": PAIRED["knn_accuracy"]}),
        **{f"cell_differences_{name}": differences(name, SHOWN) for name in OTHERS},
        "cell_trials": trials(),
        "cell_recipe": recipe(),
        "cell_zero_shot": _by_seed(_or(zero_shot, "zero_shot"), ["method", "readout"], BIO),
        "cell_differences": differences("pbmc"),
        "cell_dropout": _by_seed(
            _or(dropout, "dropout"),
            ["method", "readout", "fraction"],
            {"neighbors": "neighbors kept", "label_accuracy": "label accuracy", "nmi": "NMI"},
        ),
        "cell_finetune": _by_seed(
            _or(finetune, "finetune"),
            ["method", "readout", "stage"],
            {"accuracy": "accuracy", "macro_f1": "macro F1", "avg_bio": "AvgBIO"},
        ),
        "cell_batches": _by_seed(
            _or(batches, "batches"),
            ["set", "method", "readout"],
            {"bio": "bio", "batch": "batch", "total": "total"},
        ),
    }
    return {name: text + "\n" for name, text in found.items()}
