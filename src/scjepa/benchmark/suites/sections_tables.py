"""The tables of a comparison on sections: Table 1, methods × metrics, and Table 2, an ablation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pandas as pd

from scjepa.benchmark.readouts import HARMONY, READOUT_WORDS
from scjepa.benchmark.score import ALL
from scjepa.benchmark.store import TOOK, Level
from scjepa.benchmark.suites.section_models import OURS, UNTRAINED
from scjepa.benchmark.suites.tissue import SECTIONS, TECHNOLOGIES
from scjepa.benchmark.table import (
    CASE,
    KEYS,
    SPREAD,
    TableSpec,
    failures,
    markdown_table,
    number_text,
    scib_note,
    score_text,
    summarize,
    took,
)

WEIGHTED = "weighted by cells"
"""Group, or data, of means weighted by labelled cells."""

PLACE = ["data", "task", "readout", "group"]
"""Where methods are compared with each other."""

AGREEMENT = ("nmi", "ari", "nmi_matched", "ari_matched")
"""Scores that are weighted by labelled cells."""

CONTINUITY = ("pas", "chaos", "like_neighbors")

HEALTHY = "healthy"
"""The verdict that nothing is to be said about."""

MIXING = ("ilisi_technology", "mmd_technology", "ilisi_section", "mmd_section")

HEADINGS = {
    "nmi": "NMI",
    "ari": "ARI",
    "nmi_matched": "NMI matched",
    "ari_matched": "ARI matched",
    "ilisi_technology": "iLISI",
    "mmd_technology": "MMD²",
    "ilisi_section": "iLISI of sections",
    "mmd_section": "MMD² of sections",
    "like_neighbors": "like neighbors",
    "transfer_accuracy": "accuracy of carried labels",
    "transfer_macro_f1": "macro-F1",
    "transfer_majority_rate": "accuracy of the commonest label",
    "share_full": "cells that fill L",
    "nmi_change": "NMI against default",
    "nmi_matched_change": "NMI matched against default",
    "ilisi_technology_change": "iLISI against default",
    "nmi_untrained": "NMI untrained",
    "nmi_matched_untrained": "NMI matched untrained",
    "ilisi_technology_untrained": "iLISI untrained",
}

METRICS = (*AGREEMENT, *MIXING, *CONTINUITY, "n_clusters")

NOTE = """\
NMI and ARI: mean over resolutions (± standard deviation over resolutions; over the method's seeds). Matched: at the
number of clusters that equals the number of labels (± over seeds). Nothing after ±: there was one.
"""


def tidy_values(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows that have a value, and those of means over technologies and over data beside them."""
    values = rows[rows["metric"].notna() & rows["value"].notna()]
    return pd.concat([values, _weighted(values), _weighted_over_data(values)], ignore_index=True)


def _weighted(values: pd.DataFrame) -> pd.DataFrame:
    """Return means over technologies of a task, weighted by their labelled cells, for each clustering."""
    shown = values[values["metric"].isin(AGREEMENT) & (values["group"] != ALL) & (values["task"] == TECHNOLOGIES)]
    return _mean(shown, [*CASE, "metric", "seed", "leiden_seed"], group=WEIGHTED)


def _weighted_over_data(values: pd.DataFrame) -> pd.DataFrame:
    """Return means over all data that have been taken by themselves, weighted by labelled cells.

    A data set whose sections were taken together counts as that. Only what has a score for all of them has a mean.
    """
    shown = values[values["metric"].isin(AGREEMENT) & (values["task"] != TECHNOLOGIES)]
    whole = shown["data"].str.split(": ").str[0]
    together = set(shown.loc[shown["task"] == SECTIONS, "data"])
    shown = shown[(shown["task"] == SECTIONS) | ~whole.isin(together)]
    n_data = shown["data"].nunique()
    if n_data < 2:
        return shown.iloc[:0]
    keys = [*CASE[2:], "metric", "seed", "leiden_seed"]
    complete = shown.groupby(keys, dropna=False)["data"].transform("nunique") == n_data
    return _mean(shown[complete], keys, data=WEIGHTED, task="each by itself", group=WEIGHTED)


def _mean(shown: pd.DataFrame, keys: list[str], **named: str) -> pd.DataFrame:
    """Return weighted means; at the matched number of clusters whatever the resolution that gave it."""
    matched = shown["metric"].str.endswith("_matched")
    shown = shown.assign(resolution=shown["resolution"].where(~matched), weight=shown["n_cells"].astype(float))
    shown = shown.assign(weighed=shown["value"] * shown["weight"])
    sums = shown.groupby([*keys, "resolution"], sort=False, dropna=False)[["weighed", "weight"]].sum().reset_index()
    sums["value"] = sums["weighed"] / sums["weight"]
    sums["n_cells"] = sums["weight"].astype("Int64")
    return sums.drop(columns=["weighed", "weight"]).assign(**named)


def table_1(rows: pd.DataFrame) -> pd.DataFrame:
    """Return methods × metrics for each data set and technology, and weighted by cells.

    Parameters
    ----------
    rows
        Tidy results.

    Returns
    -------
    pandas.DataFrame
        A row for each data, task, method, settings, configuration, read-out and group (technology, ``"all"`` cells, or
        ``"weighted by cells"``), best NMI first within a group: ``n_cells``, ``nmi`` and ``ari`` (means over
        resolutions, seeds and Leiden's seeds) with ``_std_resolutions``, ``_std_seeds`` and ``_std_leiden``;
        ``nmi_matched``, ``ari_matched``, mixing and continuity with ``_std_seeds``; ``seconds``, ``cpu_seconds``,
        ``peak_gib`` (means over seeds), ``seeds``. A run that failed has a row with the ``reason``.
    """
    if rows["value"].isna().all():
        nothing = [*KEYS, "n_cells", *AGREEMENT, *TOOK, "seeds"]
        return failures(rows).reindex(columns=[*nothing, "reason"])
    summary = summarize(tidy_values(rows))
    transfer = sorted({metric for metric in summary["metric"] if metric.startswith("transfer_")})
    spec = TableSpec(HEADINGS, (*METRICS, *transfer), {"nmi": tuple(SPREAD), "ari": tuple(SPREAD)}, AGREEMENT)
    wide = spec.wide(summary)
    wide = wide.merge(took(rows), on=CASE[:-1], how="left")
    wide["rank"] = wide["nmi"].fillna(wide.get("nmi_matched"))
    wide = wide.sort_values("rank", ascending=False, kind="stable").drop(columns="rank")
    wide = wide.sort_values(PLACE, kind="stable", key=_in_order_of(rows))
    return pd.concat([wide.assign(reason=None), failures(rows)], ignore_index=True)[[*wide.columns.tolist(), "reason"]]


def _in_order_of(rows: pd.DataFrame) -> Callable[[pd.Series], pd.Series]:
    """Return a key that sorts as names first come, means after what they are of, and carried labels last."""
    carried = set(rows.loc[rows["metric"].astype(object).fillna("").str.startswith("transfer_"), "group"])
    last = {ALL: 1, WEIGHTED: 2}

    def key(column: pd.Series) -> pd.Series:
        first = [name for name in dict.fromkeys(rows[column.name].dropna()) if name not in last]
        places = {name: i + (len(first) + 2 if name in carried else 0) for i, name in enumerate(first)}
        return column.map(lambda name: places.get(name, len(first) + last.get(name, 0)))

    return key


def table_2(
    rows: pd.DataFrame,
    levels: Sequence[Level],
    occupancy: pd.DataFrame | None = None,
    verdicts: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return the ablation: :func:`table_1` for each level of each axis.

    Parameters
    ----------
    rows
        Tidy results.
    levels
        Levels of the axes.
    occupancy
        For the axis ``tokens.n_tokens``: rows of :func:`scjepa.benchmark.occupancy` by ``data``.
    verdicts
        Rows of :func:`verdicts_of`, for a column ``verdict``.

    Returns
    -------
    pandas.DataFrame
        ``axis``, ``value`` and ``default`` before the columns of :func:`table_1`; the default is a row of every axis.
        Agreement and mixing against the default, seed by seed, such as ``nmi_change`` and ``nmi_change_std_seeds``: a
        seed moves all levels alike, so that their difference is steadier than they are. Where the untrained encoder
        took part, agreement and mixing of it at the same level, such as ``nmi_untrained``.
    """
    if not levels:
        return pd.DataFrame()
    table = table_1(rows[rows["method"] == OURS])
    beside, changes = _untrained(rows), _changes(rows, levels)
    if verdicts is not None:
        table = table.merge(verdicts, on=["data", "task", "configuration"], how="left")
    parts = []
    for level in levels:
        own = table[table["configuration"] == level.configuration]
        own = own.assign(axis=level.axis, value=level.value, default=level.default)
        if not changes.empty:
            change = changes[changes["configuration"] == level.configuration].drop(columns="configuration")
            own = own.merge(change, on=PLACE, how="left")
        if not beside.empty:
            control = beside[beside["configuration"] == level.untrained].drop(columns="configuration")
            own = own.merge(control, on=PLACE, how="left")
        if occupancy is not None and level.axis == "tokens.n_tokens":
            full = occupancy[occupancy["n_tokens"] == int(level.value)]
            own = own.merge(full[["data", "group", "share_full", "mean_fill"]], on=["data", "group"], how="left")
        parts.append(own)
    found = pd.concat(parts, ignore_index=True)
    first = ["axis", "value", "default"]
    return found[[*first, *[column for column in found.columns if column not in first]]]


def verdicts_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Return what ``diagnose()`` said of ST-JEPA's runs by ``data``, ``task`` and ``configuration``.

    ``verdict`` is ``"healthy"`` where it said so of every seed, else what it said and of how many:
    ``"collapsed (2 of 3)"``.
    """
    keys = ["data", "task", "configuration"]
    own = runs[(runs["method"] == OURS) & runs["reason"].isna()]
    said = own[keys].assign(verdict=[json.loads(info).get("verdict") for info in own["info"]]).dropna()

    def told(verdicts: pd.Series) -> str:
        ill = verdicts[verdicts != HEALTHY].value_counts(sort=False)
        return ", ".join(f"{name} ({n} of {len(verdicts)})" for name, n in ill.items()) or HEALTHY

    return said.groupby(keys, sort=False)["verdict"].agg(told).reset_index()


def _changes(rows: pd.DataFrame, levels: Sequence[Level]) -> pd.DataFrame:
    """Return differences from the default by configuration, mean and standard deviation over seeds they share."""
    default = next((level.configuration for level in levels if level.default), None)
    values = tidy_values(rows[rows["method"] == OURS])
    values = values[values["metric"].isin((*AGREEMENT, *MIXING))]
    means = values.groupby([*PLACE, "metric", "seed", "configuration"], sort=False)["value"].mean().unstack()
    if default not in means:
        return pd.DataFrame()
    changes = means.drop(columns=default).sub(means[default], axis=0).stack().rename("change").reset_index()
    if changes.empty:
        return pd.DataFrame()
    over_seeds = changes.groupby([*PLACE, "configuration", "metric"], sort=False)["change"].agg(["mean", "std"])
    wide = over_seeds.unstack("metric")
    wide.columns = [f"{metric}_change{'' if kind == 'mean' else '_std_seeds'}" for kind, metric in wide.columns]
    return wide.reset_index()


def _untrained(rows: pd.DataFrame) -> pd.DataFrame:
    """Return agreement and mixing of the untrained encoder by configuration, their columns named as its own."""
    own = rows[(rows["method"] == UNTRAINED) & rows["value"].notna()]
    if own.empty:
        return pd.DataFrame()
    table = table_1(own)
    table = table[table["reason"].isna()]
    scores = [metric for metric in (*AGREEMENT, *MIXING) if metric in table]
    named = {metric: f"{metric}_untrained" for metric in scores}
    return table[["configuration", *PLACE, *scores]].rename(columns=named)


# -- as text -------------------------------------------------------------------------------------------------------


def markdown_1(table: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Return Table 1: for each data, task, technology and read-out a table, and what could not be measured."""
    return _markdown(table, runs, ["method", "settings", "configuration"])


def markdown_2(table: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Return Table 2: for each data, technology, read-out and axis a table."""
    default = table["default"].map({True: " (default)", False: ""})
    return _markdown(table.assign(value=table["value"] + default), runs, ["axis", "value"])


def _markdown(table: pd.DataFrame, runs: pd.DataFrame, names: Sequence[str]) -> str:
    of_lisi = [metric for metric in table if str(metric).startswith("ilisi")]
    parts = [NOTE + (scib_note(runs) if table[of_lisi].notna().to_numpy().any() else "")]
    scored = table[table["reason"].isna()]
    for (data, task, group, readout), rows in scored.groupby(["data", "task", "group", "readout"], sort=False):
        counted = names[0] == "method" and rows["n_cells"].notna().any()
        cells = f", {int(rows['n_cells'].iloc[0]):,} cells" if counted else ""
        parts.append(f"\n**{data}** ({task}), {group}{cells}: {_readout(readout)}\n")
        parts.append(_table(rows, names))
    parts.append(_reasons(table))
    return "\n".join(part for part in parts if part) + "\n"


def _readout(name: str) -> str:
    before, plus, _ = name.partition(HARMONY)
    return READOUT_WORDS.get(before, before) + (", then Harmony" if plus else "")


def _table(rows: pd.DataFrame, names: Sequence[str]) -> str:
    names = [name for name in names if name in ("method", "axis", "value") or rows[name].nunique() > 1]
    shown = TableSpec(HEADINGS, (), {}).shown(rows)
    ill = "verdict" in rows and (rows["verdict"].dropna() != HEALTHY).any()
    lines = []
    for row in rows.to_dict("records"):
        cells = [*(row[name] for name in names), *(score_text(row, metric) for metric in shown)]
        cells += [number_text(row["cpu_seconds"], ".0f"), number_text(row["peak_gib"], ".2f"), row["seeds"]]
        lines.append([*cells, *([number_text(row["verdict"], "")] if ill else [])])
    ends = ["CPU s", "GiB", "seeds", *(["training"] if ill else [])]
    return markdown_table([*names, *(HEADINGS[metric] for metric in shown), *ends], lines)


def _reasons(table: pd.DataFrame) -> str:
    failed = table[table["reason"].notna()]
    if failed.empty:
        return ""
    # What lies with the data holds for many methods and read-outs, which are named in one row.
    of = ["data", "task", "group", "reason"]
    named = failed.assign(**{name: failed[name].astype(object).fillna("").astype(str) for name in [*KEYS, "reason"]})
    others = [name for name in KEYS if name not in of]
    failed = named.groupby(of, sort=False)[others].agg(lambda column: ", ".join(dict.fromkeys(column))).reset_index()
    return "\n**Not measured**\n\n" + markdown_table([*KEYS, "reason"], failed[[*KEYS, "reason"]].to_numpy().tolist())
