"""Tables: means over what was repeated and how far each cause moves them, rendered as data frames and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scjepa._core.anndata import refuse_adata
from scjepa._core.counts import iter_rows
from scjepa.benchmark.store import TOOK
from scjepa.metrics import clustering_scores
from scjepa.tl import standardize

RUN = ["data", "task", "method", "settings", "configuration"]
"""What a run is of, beside its seed."""

CASE = [*RUN, "readout"]
"""What a row of a table is of, beside its group."""

KEYS = [*CASE, "group"]

SPREAD = {"resolutions": "resolution", "seeds": "seed", "leiden": "leiden_seed"}
"""Causes by which a score moves, and their columns."""


HEADINGS = {
    "nmi": "NMI",
    "ari": "ARI",
    "nmi_matched": "NMI matched",
    "ari_matched": "ARI matched",
    "ilisi": "iLISI",
    "ilisi_technology": "iLISI",
    "mmd_technology": "MMD²",
    "ilisi_section": "iLISI of sections",
    "mmd_section": "MMD² of sections",
    "transfer_accuracy": "accuracy of carried labels",
    "transfer_macro_f1": "macro-F1",
    "transfer_majority_rate": "accuracy of the commonest label",
    "share_full": "cells that fill L",
    "avg_bio": "AvgBIO",
    "asw": "ASW, −1 to 1",
    "asw_scaled": "ASW, 0 to 1",
    "avg_bio_unscaled": "AvgBIO of ASW, −1 to 1",
    "knn_accuracy": "accuracy of neighbors",
    "neighbors": "neighbors kept",
    "macro_f1": "macro F1",
    "majority_rate": "commonest label",
    "bras": "BRAS",
    "kbet": "kBET",
    "pcr_comparison": "PCR",
}
"""Scores that are told otherwise than by their own name."""


def heading(metric: str) -> str:
    """Return what tables and figures call a score, one beside the default or the untrained encoder too."""
    for end, words in (("_change", " against default"), ("_untrained", " untrained")):
        if metric.endswith(end):
            return f"{heading(metric.removesuffix(end))}{words}"
    return HEADINGS.get(metric, metric.replace("_", " "))


def wide(
    summary: pd.DataFrame,
    metrics: Sequence[str],
    spreads: Mapping[str, Sequence[str]] | None = None,
    always: Sequence[str] = (),
) -> pd.DataFrame:
    """Return a row for each case and group, scores as columns with their spreads.

    Parameters
    ----------
    summary
        What :func:`summarize` gave.
    metrics
        Columns in their order; others are left out. Those in ``always`` are there without a value.
    spreads
        Causes whose standard deviations stand behind a score, by its name; the method's seeds behind others.
    always
        Scores that every table has. How many cells a row is of is said by them, where there are any.
    """
    cells = summary.groupby(KEYS, sort=False)["n_cells"].first()
    counted = summary[summary["metric"].isin(always)]
    parts = [counted.groupby(KEYS, sort=False)["n_cells"].first().combine_first(cells).rename("n_cells")]
    for metric in metrics:
        own = summary[summary["metric"] == metric].set_index(KEYS)
        if len(own) or metric in always:
            parts.append(own["value"].rename(metric))
            causes = (spreads or {}).get(metric, ("seeds",))
            parts += [own[f"std_{cause}"].rename(f"{metric}_std_{cause}") for cause in causes]
    seeds = summary.groupby(KEYS, sort=False)["seeds"].max()
    return pd.concat([*parts, seeds], axis=1).reset_index()


def with_values(rows: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Return the scores that rows have a value of."""
    return [metric for metric in metrics if metric in rows and rows[metric].notna().any()]


def summarize(values: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each case, group and metric: the mean and its spreads.

    Parameters
    ----------
    values
        Tidy results that have a value.

    Returns
    -------
    pandas.DataFrame
        Columns of the case, ``group``, ``metric``, ``n_cells``, ``value``, and ``std_resolutions``, ``std_seeds`` and
        ``std_leiden``: the standard deviation (n - 1) over resolutions, over the method's seeds and over Leiden's, of
        the means over the other two; NaN where there is one. ``seeds`` counts the method's seeds.
    """
    keys = [*KEYS, "metric"]
    groups = values.groupby(keys, sort=False, dropna=False)
    table = groups.agg(n_cells=("n_cells", "first"), value=("value", "mean"), seeds=("seed", "nunique"))
    for name, column in SPREAD.items():
        # At the matched number of clusters the resolution is whatever gave it, not a cause of its own.
        shown = values if name != "resolutions" else values[~values["metric"].str.endswith("_matched")]
        means = shown.groupby([*keys, column], sort=False)["value"].mean()
        table[f"std_{name}"] = means.groupby(level=list(range(len(keys))), sort=False).std()
    return table.reset_index()


def scores(
    rows: pd.DataFrame,
    values: pd.DataFrame,
    metrics: Sequence[str],
    in_order: Callable[[pd.DataFrame], pd.DataFrame],
    spreads: Mapping[str, Sequence[str]] | None = None,
    always: Sequence[str] = (),
) -> pd.DataFrame:
    """Return the table of a comparison: cases with their scores and what they took, then what failed, with reasons.

    Parameters
    ----------
    rows
        Tidy results.
    values
        Those that have a value, and means beside them.
    metrics, spreads, always
        As in :func:`wide`.
    in_order
        Puts the cases in their order.
    """
    failed = failures(rows)
    if values.empty:
        return failed.reindex(columns=[*KEYS, "n_cells", *always, *TOOK, "seeds", "reason"])
    found = wide(summarize(values), metrics, spreads, always).merge(took(rows), on=RUN, how="left")
    found = in_order(found).assign(reason=None)
    return pd.concat([found, failed], ignore_index=True)[found.columns.tolist()]


def took(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what runs took, a row for each method and task: means over seeds."""
    return rows.groupby([*RUN, "seed"], sort=False)[list(TOOK)].mean().groupby(RUN, sort=False).mean().reset_index()


def failures(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each thing that could not be measured, with the reason and the seeds it holds for."""
    failed = rows[rows["reason"].notna()]
    counted = failed.groupby([*KEYS, "reason"], sort=False, dropna=False)["seed"].nunique().rename("seeds")
    return counted.reset_index()


# -- as text -------------------------------------------------------------------------------------------------------


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def score_text(row: Mapping[str, Any], metric: str) -> str:
    """Return a score of a row with its spreads over resolutions and over seeds; differences with their sign."""
    if pd.isna(row[metric]):
        return ""
    spreads = [row.get(f"{metric}_std_{cause}") for cause in ("resolutions", "seeds")]
    told = "; ".join(f"{spread:.3f}" for spread in spreads if spread is not None and not pd.isna(spread))
    value = f"{row[metric]:+.3f}" if metric.endswith("_change") else f"{row[metric]:.3f}"
    return value + (f" ± {told}" if told else "")


def number_text(value: float, form: str) -> str:
    """Return a number, or nothing where there is none."""
    return "" if pd.isna(value) else format(value, form)


def scib_note(runs: pd.DataFrame) -> str:
    """Return the sentence that stands beside every table of iLISI: the version of scib-metrics, of each run its own."""
    found = runs["versions"].astype(str).str.extract(r"scib-metrics=(\S+)")[0].fillna("a version that was not kept")
    return f"iLISI: scib-metrics {' and '.join(sorted(found.unique()))}; values of 0.5 and 0.6 are not compared.\n"


# -- of embeddings that are there ----------------------------------------------------------------------------------


def score_table(
    embeddings: Mapping[str, np.ndarray],
    labels: Any,
    *,
    sections: Any = None,
    seeds: Sequence[int] = (0, 1, 2),
    **options: Any,
) -> pd.DataFrame:
    """Score embeddings by their Leiden clusters' agreement with labels, all with the same read-out.

    Parameters
    ----------
    embeddings
        ``(n_cells, n_dims)`` arrays by name.
    labels
        Known label of each cell.
    sections
        Section of each cell: embeddings are then z-scored within sections and reduced to 30 components
        (:func:`scjepa.tl.standardize`). Default: embeddings as they are.
    seeds
        Seeds of Leiden.
    **options
        Those of :func:`scjepa.metrics.clustering_scores`, such as ``resolutions``.

    Returns
    -------
    pandas.DataFrame
        One row for each embedding, in the order given: ``nmi`` and ``ari`` (means over resolutions and seeds), and
        ``nmi_matched`` and ``ari_matched`` (at the number of clusters that equals the number of labels).
    """
    refuse_adata(embeddings, "embeddings")
    refuse_adata(labels, "labels")
    rows = {}
    for name, embedding in embeddings.items():
        shown = embedding if sections is None else standardize(embedding, groups=sections)
        scores = clustering_scores(shown, labels, seeds=seeds, **options)
        means = scores.groupby("matched")[["nmi", "ari"]].mean()
        rows[name] = {
            **means.loc[False].to_dict(),
            **{f"{key}_matched": value for key, value in means.loc[True].items()},
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


# -- how many of the L tokens of a cell there are genes for -----------------------------------------------------------

LENGTHS = (16, 32, 64, 128, 256, 512)


def expressed_genes(counts: Any) -> np.ndarray:
    """Return the number of genes that each cell expresses, ``(n_cells,)`` int64."""
    return np.concatenate([np.diff(rows.indptr).astype(np.int64) for _, rows in iter_rows(counts)])


def occupancy(counts: Any, groups: Any = None, *, lengths: Sequence[int] = LENGTHS) -> pd.DataFrame:
    """Return how far cells fill the L tokens that a configuration gives them.

    A longer L than cells express genes changes nothing: read an ablation of ``tokens.n_tokens`` beside this.

    Parameters
    ----------
    counts
        ``(n_cells, n_genes)``, sparse or dense.
    groups
        Group of each cell, such as its technology; ``None``: all cells are one, ``"all"``.
    lengths
        Values of ``tokens.n_tokens``.

    Returns
    -------
    pandas.DataFrame
        A row for each group and length: ``group``, ``n_tokens``, ``share_full`` (share of cells that express as many
        genes or more), ``mean_fill`` (mean share of the tokens that are there), ``median_genes`` (expressed by a cell)
        and ``n_cells``.

    Raises
    ------
    ValueError
        If a length is not positive or ``groups`` has another length.

    Examples
    --------
    >>> scjepa.benchmark.occupancy(adata.X, adata.obs["technology"])  # doctest: +SKIP
    """
    refuse_adata(counts, "counts")
    expressed = expressed_genes(counts)
    named = np.full(len(expressed), "all") if groups is None else np.asarray(groups).astype(str)
    if len(named) != len(expressed):
        raise ValueError(f"groups has {len(named)} entries, counts {len(expressed)} cells.")
    if not all(length > 0 for length in lengths):
        raise ValueError(f"lengths must be positive, found {list(lengths)}.")
    rows = [
        {
            "group": group,
            "n_tokens": int(length),
            "share_full": float((own >= length).mean()),
            "mean_fill": float(np.minimum(own, length).mean() / length),
            "median_genes": float(np.median(own)),
            "n_cells": len(own),
        }
        for group in np.unique(named)
        for own in [expressed[named == group]]
        for length in lengths
    ]
    return pd.DataFrame(rows)
