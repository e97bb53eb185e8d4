"""Tables: means over what was repeated and how far each cause moves them, rendered as data frames and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scjepa._core.anndata import refuse_adata
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


@dataclass(frozen=True)
class TableSpec:
    """Which scores a table has, and how they are told.

    Attributes
    ----------
    headings
        Of scores, in the order of the text.
    metrics
        Columns of the data frame, in their order; others are left out. Those in ``always`` are there without a value.
    spreads
        Causes whose standard deviations stand behind a score, by its name; the method's seeds behind others.
    always
        Scores that every table has. How many cells a row is of is said by them, where there are any.
    """

    headings: Mapping[str, str]
    metrics: Sequence[str]
    spreads: Mapping[str, Sequence[str]]
    always: Sequence[str] = ()

    def wide(self, summary: pd.DataFrame) -> pd.DataFrame:
        """Return a row for each case and group, scores as columns with their spreads, from :func:`summarize`."""
        cells = summary.groupby(KEYS, sort=False)["n_cells"].first()
        counted = summary[summary["metric"].isin(self.always)]
        parts = [counted.groupby(KEYS, sort=False)["n_cells"].first().combine_first(cells).rename("n_cells")]
        for metric in self.metrics:
            own = summary[summary["metric"] == metric].set_index(KEYS)
            if len(own) or metric in self.always:
                parts.append(own["value"].rename(metric))
                causes = self.spreads.get(metric, ("seeds",))
                parts += [own[f"std_{cause}"].rename(f"{metric}_std_{cause}") for cause in causes]
        seeds = summary.groupby(KEYS, sort=False)["seeds"].max()
        return pd.concat([*parts, seeds], axis=1).reset_index()

    def shown(self, rows: pd.DataFrame) -> list[str]:
        """Return the scores that rows have a value of."""
        return [metric for metric in self.headings if metric in rows and rows[metric].notna().any()]


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
