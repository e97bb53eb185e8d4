"""Tables of a comparison of cells: means over seeds, and paired differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scjepa.benchmark.method import REGISTRY
from scjepa.benchmark.store import TOOK, RunKey
from scjepa.benchmark.suites.cell_tasks import BATCHES, BEFORE, DROPOUT, FINETUNE, TASKS, ZERO_SHOT, CellScoring
from scjepa.benchmark.table import (
    KEYS,
    RUN,
    TableSpec,
    failures,
    markdown_table,
    number_text,
    scib_note,
    score_text,
    summarize,
    took,
)

PAIRS = (("celljepa", "reconstruction_only"), ("celljepa", "untrained"), ("modules", "untrained_modules"))
"""Methods whose difference is told: the second begins each seed with the same weights as the first."""

COMPARED = {
    ZERO_SHOT: ("avg_bio", "nmi", "ari", "asw_scaled", "knn_accuracy"),
    DROPOUT: ("neighbors", "label_accuracy", "avg_bio"),
    BATCHES: ("bio", "batch", "total"),
    FINETUNE: ("accuracy", "macro_f1", "avg_bio"),
}
"""Scores whose differences are told."""


HEADINGS = {
    "avg_bio": "AvgBIO",
    "nmi": "NMI",
    "ari": "ARI",
    "asw": "ASW, −1 to 1",
    "asw_scaled": "ASW, 0 to 1",
    "avg_bio_unscaled": "AvgBIO of ASW, −1 to 1",
    "knn_accuracy": "accuracy of neighbors",
    "neighbors": "neighbors kept",
    "label_accuracy": "label accuracy",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "majority_rate": "commonest label",
    "bio": "bio",
    "batch": "batch",
    "total": "total",
    "isolated_labels": "isolated labels",
    "nmi_kmeans": "NMI, k-means",
    "ari_kmeans": "ARI, k-means",
    "silhouette_label": "silhouette of labels",
    "clisi": "cLISI",
    "bras": "BRAS",
    "ilisi": "iLISI",
    "kbet": "kBET",
    "graph_connectivity": "graph connectivity",
    "pcr_comparison": "PCR",
}

_BATCH = ("ilisi", "kbet", "bras", "graph_connectivity", "pcr_comparison", "bio", "batch", "total")

SECTIONS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    ZERO_SHOT: ("Zero-shot", "", ("avg_bio", "avg_bio_unscaled", "nmi", "ari", "asw", "asw_scaled", "knn_accuracy")),
    DROPOUT: ("Fewer molecules", "molecules", ("neighbors", "label_accuracy", "nmi", "avg_bio")),
    BATCHES: ("Batches", "", _BATCH),
    FINETUNE: ("Fine-tuning", "stage", ("accuracy", "macro_f1", "majority_rate", "avg_bio", "nmi", "ari", "asw")),
}
"""Of each task its heading, what its groups are, and the scores that are shown."""

_TOLD = {
    ZERO_SHOT: ("avg_bio", "knn_accuracy"),
    DROPOUT: ("label_accuracy",),
    BATCHES: ("total",),
    FINETUNE: ("accuracy",),
}
"""Scores whose differences are told; all are in the table of differences."""

_UNTOLD = ("100%", BEFORE)
"""Groups that are told elsewhere: all molecules and no fine-tuning are zero-shot."""


def title_of(name: str) -> str:
    """Return the name of a method in tables and figures; one's own has the name it was given."""
    return REGISTRY["cells"][name].title or name if name in REGISTRY["cells"] else name


def place_of(name: str) -> int:
    """Return where a method stands in tables and figures; one's own come last."""
    return list(REGISTRY["cells"]).index(name) if name in REGISTRY["cells"] else len(REGISTRY["cells"])


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
    failed = failures(rows)
    if values.empty:
        return failed.reindex(columns=[*KEYS, "n_cells", *TOOK, "seeds", "reason"])
    spec = TableSpec(HEADINGS, tuple(dict.fromkeys(values["metric"])), {})
    found = spec.wide(summarize(values)).merge(took(rows), on=RUN, how="left")
    found["seeds"] = found.pop("seeds")  # behind what runs took
    by = pd.DataFrame({"task": found["task"].map(list(TASKS).index), "method": found["method"].map(place_of)})
    order = by.assign(came=_first_rows(values, found)).sort_values(["task", "method", "came"]).index
    return pd.concat([found.loc[order].assign(reason=None), failed], ignore_index=True)


def _first_rows(values: pd.DataFrame, found: pd.DataFrame) -> np.ndarray:
    """Return where each case first came among the rows."""
    first = {case: i for i, case in reversed(list(enumerate(values[KEYS].itertuples(index=False, name=None))))}
    return np.array([first[case] for case in found[KEYS].itertuples(index=False, name=None)])


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


def note(scoring: CellScoring) -> str:
    """Return what the scores are."""
    low, high = min(scoring.resolutions), max(scoring.resolutions)
    part = 1 - scoring.test_size
    kept = {"top": "those of most counts", "spread": "as if drawn once for all cells"}
    genes = "as many as they were trained with" if scoring.n_tokens is None else f"at most {scoring.n_tokens:,}"
    which = "" if scoring.kept is None else f", {kept[scoring.kept]}"
    return (
        f"Means over seeds ± standard deviation. NMI and ARI are those of the best of {len(scoring.resolutions)} "
        f"resolutions of Leiden ({low:g} to {high:g}) by NMI, chosen with the labels, so upper bounds. ASW is the mean "
        "silhouette width of the labels; AvgBIO the mean of NMI, ARI and ASW from 0 to 1. Accuracy of neighbors: vote "
        f"of the {scoring.n_neighbors} nearest cells of the other folds ({scoring.folds} folds). Methods that are "
        "*fitted* have seen the counts of the cells that are scored (of fine-tuning: of its training cells); the "
        f"pretrained have not, unless the set was among theirs. Fine-tuning: {part:.0%} of the cells, split by seed "
        f"{scoring.split_seed}; labels of the others are voted by the {scoring.n_neighbors} nearest training cells. "
        f"Cell-JEPA's models embed of a cell's expressed genes {genes}{which}.\n"
    )


def markdown(table: pd.DataFrame, differences: pd.DataFrame, scoring: CellScoring, runs: pd.DataFrame) -> str:
    """Return the table: a part for each task, paired differences, and what could not be measured."""
    parts = [note(scoring)]
    scored = table[table["reason"].isna()]
    for task, (heading, groups, metrics) in SECTIONS.items():
        own = scored[scored["task"] == task]
        if len(own):
            cells = f"{int(own['n_cells'].iloc[0]):,} cells"
            parts += [f"\n**{heading}**: {own['data'].iloc[0]}, {cells}\n"]
            parts += [scib_note(runs[runs["task"] == task])] if task == BATCHES else []
            parts += [_scores(own, groups, metrics)]
    parts += ["\n**Configurations**\n", _configurations(scored)] if len(scored) else []
    told = differences[~differences["group"].isin(_UNTOLD)]
    told = told[[metric in _TOLD[task] for task, metric in zip(told["task"], told["metric"], strict=True)]]
    if len(told):
        parts += ["\n**Paired differences**, by seed, with 95% intervals of Student's t\n", _differences(told)]
    failed = table[table["reason"].notna()]
    if len(failed):
        rows = [[row["task"], title_of(row["method"]), row["reason"]] for row in failed.to_dict("records")]
        parts += ["\n**Not measured**\n", markdown_table(["task", "method", "reason"], rows)]
    return "\n".join(parts) + "\n"


def _scores(own: pd.DataFrame, groups: str, metrics: Sequence[str]) -> str:
    metrics = [metric for metric in metrics if metric in own and own[metric].notna().any()]
    head = ["method", "settings", "read-out", *([groups] if groups else [])]
    rows = []
    for row in own.to_dict("records"):
        words = [title_of(row["method"]), row["settings"], row["readout"]]
        words += [row["group"]] if groups else []
        rows.append(
            [
                *words,
                *(score_text(row, metric) for metric in metrics),
                number_text(row["cpu_seconds"], ".0f"),
                row["seeds"],
            ]
        )
    return markdown_table([*head, *(HEADINGS[metric] for metric in metrics), "CPU s", "seeds"], rows)


def _configurations(scored: pd.DataFrame) -> str:
    """Return what each method was, the tasks of one configuration together."""
    cases = scored.groupby(["method", "settings", "configuration"], sort=False)["task"].unique()
    rows = [
        [title_of(method), settings, ", ".join(SECTIONS[task][0].lower() for task in tasks), configuration]
        for (method, settings, configuration), tasks in cases.items()
    ]
    return markdown_table(["method", "settings", "tasks", "configuration"], rows)


def _differences(differences: pd.DataFrame) -> str:
    rows = []
    for row in differences.to_dict("records"):
        pair = f"{title_of(row['first'])} − {title_of(row['second'])}"
        group = "" if row["group"] == "all" else row["group"]
        interval = "one seed" if pd.isna(row["low"]) else f"{row['low']:+.3f} to {row['high']:+.3f}"
        heading = SECTIONS[row["task"]][0].lower()
        words = [pair, ", ".join(word for word in (heading, group) if word), row["readout"], HEADINGS[row["metric"]]]
        rows.append([*words, f"{row['difference']:+.3f}", interval, row["seeds"]])
    return markdown_table(["difference", "task", "read-out", "score", "mean", "interval", "seeds"], rows)
