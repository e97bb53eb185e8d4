"""Tables of a comparison of cells: means over seeds, and paired differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scjepa.benchmark._store import RunKey
from scjepa.benchmark.cells._methods import BATCHES, DROPOUT, FINETUNE, TASKS, ZERO_SHOT, place_of

CASE = ["data", "task", "method", "settings", "configuration", "readout", "group"]
"""What a row of the table is of."""

PAIRS = (
    ("celljepa", "reconstruction_only"),
    ("celljepa", "untrained"),
    ("modules", "untrained_modules"),
)
"""Methods whose difference is told: the second begins each seed with the same weights as the first."""

COMPARED = {
    ZERO_SHOT: ("avg_bio", "nmi", "ari", "asw_scaled", "knn_accuracy"),
    DROPOUT: ("neighbors", "label_accuracy", "avg_bio"),
    BATCHES: ("bio", "batch", "total"),
    FINETUNE: ("accuracy", "macro_f1", "avg_bio"),
}
"""Scores whose differences are told."""


def shown(rows: pd.DataFrame, planned: Sequence[RunKey]) -> pd.DataFrame:
    """Return the rows of the last call's configurations, and of methods that it did not name.

    A folder may hold a method in several configurations, of which tables and figures show one.
    """
    key = ["task", "method", "settings", "configuration"]
    asked = {tuple(getattr(run, name) for name in key) for run in planned}
    named = {(task, method) for task, method, *_ in asked}
    kept = [
        (task, method) not in named or (task, method, settings, configuration) in asked
        for task, method, settings, configuration in rows[key].itertuples(index=False)
    ]
    return rows[kept]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return methods × scores.

    Parameters
    ----------
    rows
        Tidy results.

    Returns
    -------
    pandas.DataFrame
        A row for each data, task, method, settings, configuration, read-out and group (the share of molecules, or the
        stage of fine-tuning): ``n_cells``, each score (mean over seeds) with ``_std_seeds`` (n - 1; NaN where there
        is one), ``seconds``, ``cpu_seconds``, ``peak_gib`` and ``seeds``. A run that failed has a row with the
        ``reason``.
    """
    values = rows[rows["metric"].notna() & rows["value"].notna()]
    metrics = list(dict.fromkeys(values["metric"]))
    took = ["seconds", "cpu_seconds", "peak_gib"]
    failed = _failures(rows)
    if values.empty:
        return failed.reindex(columns=[*CASE, "n_cells", *took, "seeds", "reason"])
    groups = values.groupby([*CASE, "metric"], sort=False)["value"]
    mean, spread = (part.unstack("metric")[metrics] for part in (groups.mean(), groups.std()))
    spread.columns = [f"{metric}_std_seeds" for metric in metrics]
    columns = [column for metric in metrics for column in (metric, f"{metric}_std_seeds")]
    cases = values.groupby(CASE, sort=False)
    about = cases.agg(
        n_cells=("n_cells", "first"), **{name: (name, "mean") for name in took}, seeds=("seed", "nunique")
    )
    found = about[["n_cells"]].join(mean.join(spread)[columns]).join(about[[*took, "seeds"]]).reset_index()
    return pd.concat([_ordered(found).assign(reason=None), failed], ignore_index=True)


def _failures(rows: pd.DataFrame) -> pd.DataFrame:
    failed = rows[rows["reason"].notna()]
    counted = failed.groupby([*CASE, "reason"], sort=False, dropna=False)["seed"].nunique().rename("seeds")
    return counted.reset_index()


def _ordered(found: pd.DataFrame) -> pd.DataFrame:
    """Return rows by task and method; read-outs and groups as they came."""
    by = pd.DataFrame({"task": found["task"].map(TASKS.index), "method": found["method"].map(place_of)})
    by["came"] = np.arange(len(found))
    return found.loc[by.sort_values(["task", "method", "came"]).index].reset_index(drop=True)


def differences(rows: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Return paired differences between methods, seed by seed.

    Parameters
    ----------
    rows
        Tidy results, each method in one configuration; a pair with several is left out.
    confidence
        Of the interval.

    Returns
    -------
    pandas.DataFrame
        A row for each pair, task, read-out, group and score: ``first``, ``second``, ``difference`` (mean over seeds of
        first - second), ``low`` and ``high`` (Student's t over seeds; NaN where there is one), ``seeds``.
    """
    from scipy import stats

    found = []
    for first, second in PAIRS:
        sides = [rows[rows["method"] == name] for name in (first, second)]
        for task, metrics in COMPARED.items():
            a, b = (side[(side["task"] == task) & side["metric"].isin(metrics)] for side in sides)
            if a.empty or b.empty or a["configuration"].nunique() > 1 or b["configuration"].nunique() > 1:
                continue
            keys = ["data", "task", "readout", "group", "metric"]
            pairs = a.merge(b, on=[*keys, "seed"], suffixes=("_first", "_second"))
            pairs["difference"] = pairs["value_first"] - pairs["value_second"]
            for case, own in pairs.groupby(keys, sort=False):
                n, mean = len(own), own["difference"].mean()
                half = np.nan
                if n > 1:
                    half = stats.t.ppf((1 + confidence) / 2, n - 1) * own["difference"].std(ddof=1) / n**0.5
                about = dict(zip(keys, case, strict=True))
                found.append(
                    {"first": first, "second": second, **about}
                    | {"difference": mean, "low": mean - half, "high": mean + half, "seeds": n}
                )
    columns = ["first", "second", "data", "task", "readout", "group", "metric", "difference", "low", "high", "seeds"]
    return pd.DataFrame(found, columns=columns)
