"""The table of predicted perturbations, read off the committed results of ``benchmarks/cells/perturbation.py``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from _speed import NOT_MEASURED, table

RESULTS = Path(__file__).parents[1] / "benchmarks" / "cells" / "results" / "perturbation.csv"

NAMES = {
    "no_change": "no change",
    "train_mean": "train mean",
    "additive": "additive",
    "linear": "linear",
    "celljepa": "Cell-JEPA",
    "celljepa_delta": "Cell-JEPA, `delta_aware`",
    "celljepa_from_nothing": "Cell-JEPA, `from_control=False`",
    "celljepa_from_nothing_delta": "… `delta_aware`",
    "celljepa_no_jepa": "Cell-JEPA without JEPA",
    "celljepa_before": "Cell-JEPA, `demo` of before",
    "celljepa_before_delta": "… `delta_aware`",
}
SCORES = {
    "pearson": "pearson",
    "pearson_de": "pearson_de",
    "pearson_delta": "pearson_delta",
    "pearson_delta_top20_de_non_dropout": "… top-20 DE non-dropout",
    "mse_top20_de_non_dropout": "mse, the same",
    "delta_size": "delta_size",
}


def _rows(results: pd.DataFrame) -> list[list[str]]:
    rows = []
    for (name, category), part in results.groupby(["set", "category"], sort=False):
        for method, label in NAMES.items():
            found = part[part["method"] == method]
            if not len(found):
                continue
            conditions = found["n_conditions"].unique()
            where = f"`{name}`, {category} ({' or '.join(map(str, conditions))})"
            means = [f"{value:.3f}" for value in found[list(SCORES)].mean()]
            rows.append([where, label, str(found["seed"].nunique()), *means])
    return rows


def parts() -> dict[str, str]:
    """Return the generated parts of the page by name."""
    if not RESULTS.is_file():
        return {"perturbation": f"{NOT_MEASURED}\n"}
    results = pd.read_csv(RESULTS)
    results = results[(results["nan"] == "zero") & (results["category"] != "all")]
    text = table(["set, category (conditions)", "method", "seeds", *SCORES.values()], _rows(results))
    return {"perturbation": f"{text}\n\nMeans over seeds; correlations that are not defined count as 0.\n"}
