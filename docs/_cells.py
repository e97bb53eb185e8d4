"""The tables of Cell-JEPA's measurements, read off the committed results of ``benchmarks/cells``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from _speed import NOT_MEASURED, table

RESULTS = Path(__file__).parents[1] / "benchmarks" / "cells" / "results"


def _read(name: str, **options: Any) -> pd.DataFrame:
    path = RESULTS / f"{name}.csv"
    return pd.read_csv(path, **options) if path.is_file() else pd.DataFrame()


def _mean(values: pd.Series) -> str:
    """Return the mean over seeds, with the standard deviation where there are several."""
    text = f"{values.mean():.3f}"
    return f"{text} ± {values.std():.3f}" if len(values) > 1 else text


def _by_seed(name: str, groups: list[str], scores: dict[str, str]) -> str:
    """Return a table with a row for each group, means over its seeds."""
    results = _read(name)
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


BIO = {"avg_bio": "AvgBIO", "nmi": "NMI", "ari": "ARI", "asw": "ASW, −1 to 1", "asw_scaled": "ASW, 0 to 1"}


def parts() -> dict[str, str]:
    """Return the generated parts of the page by name."""
    found = {
        "cell_trials": trials(),
        "cell_zero_shot": _by_seed("zero_shot", ["method", "readout"], BIO),
        "cell_dropout": _by_seed(
            "dropout",
            ["method", "fraction"],
            {"neighbors": "neighbors kept", "label_accuracy": "label accuracy", "nmi": "NMI"},
        ),
        "cell_finetune": _by_seed(
            "finetune", ["method", "stage"], {"accuracy": "accuracy", "macro_f1": "macro F1", "avg_bio": "AvgBIO"}
        ),
        "cell_batches": _by_seed("batches", ["set", "method"], {"bio": "bio", "batch": "batch", "total": "total"}),
    }
    return {name: text + "\n" for name, text in found.items()}
