"""The table of a comparison of cells as text that reads well."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from scjepa.benchmark._markdown import scib_note
from scjepa.benchmark.cells._methods import BATCHES, DROPOUT, FINETUNE, ZERO_SHOT, title_of
from scjepa.benchmark.cells._scoring import BEFORE, CellScoring

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
    ZERO_SHOT: (
        "Zero-shot",
        "",
        ("avg_bio", "avg_bio_unscaled", "nmi", "ari", "asw", "asw_scaled", "knn_accuracy"),
    ),
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
        parts += ["\n**Not measured**\n", _table(["task", "method", "reason"], rows)]
    return "\n".join(parts) + "\n"


def _scores(own: pd.DataFrame, groups: str, metrics: Sequence[str]) -> str:
    metrics = [metric for metric in metrics if metric in own and own[metric].notna().any()]
    head = ["method", "settings", "read-out", *([groups] if groups else [])]
    rows = []
    for row in own.to_dict("records"):
        words = [title_of(row["method"]), row["settings"], row["readout"]]
        words += [row["group"]] if groups else []
        rows.append([*words, *(_score(row, metric) for metric in metrics), f"{row['cpu_seconds']:.0f}", row["seeds"]])
    return _table([*head, *(HEADINGS[metric] for metric in metrics), "CPU s", "seeds"], rows)


def _configurations(scored: pd.DataFrame) -> str:
    """Return what each method was, the tasks of one configuration together."""
    cases = scored.groupby(["method", "settings", "configuration"], sort=False)["task"].unique()
    rows = [
        [title_of(method), settings, ", ".join(SECTIONS[task][0].lower() for task in tasks), configuration]
        for (method, settings, configuration), tasks in cases.items()
    ]
    return _table(["method", "settings", "tasks", "configuration"], rows)


def _score(row: dict, metric: str) -> str:
    if pd.isna(row[metric]):
        return ""
    spread = row.get(f"{metric}_std_seeds")
    return f"{row[metric]:.3f}" + ("" if spread is None or pd.isna(spread) else f" ± {spread:.3f}")


def _differences(differences: pd.DataFrame) -> str:
    rows = []
    for row in differences.to_dict("records"):
        pair = f"{title_of(row['first'])} − {title_of(row['second'])}"
        group = "" if row["group"] == "all" else row["group"]
        interval = "one seed" if pd.isna(row["low"]) else f"{row['low']:+.3f} to {row['high']:+.3f}"
        heading = SECTIONS[row["task"]][0].lower()
        words = [pair, ", ".join(word for word in (heading, group) if word), row["readout"], HEADINGS[row["metric"]]]
        rows.append([*words, f"{row['difference']:+.3f}", interval, row["seeds"]])
    return _table(["difference", "task", "read-out", "score", "mean", "interval", "seeds"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
