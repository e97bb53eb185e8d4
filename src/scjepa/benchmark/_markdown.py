"""Tables as text that reads well."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from scjepa.benchmark._readouts import HARMONY
from scjepa.benchmark._summary import CASE, HEALTHY

READOUT_WORDS = {
    "plain": "embedding as it is",
    "z30": "embedding, z-scored per section, 30 components",
    "hops": "cell embedding, z-scored per section, 20 components, hops 0-3 side by side",
    "niche": "cell embedding, predictive components, rings and weights chosen from the data",
    "niche+X": "cell embedding beside expression, predictive components, rings and weights chosen from the data",
    "aligned30": "embedding, one covariance in all sections, 30 components",
    "aligned_hops": "cell embedding, one covariance in all sections, 20 components, hops 0-3 side by side",
    "aligned_niche": "cell embedding, one covariance in all sections, predictive components, rings and weights chosen",
    "aligned_niche+X": "cell embedding beside expression, one covariance in all sections, predictive components, rings "
    "and weights chosen",
    "own": "the method's own clusters",
}

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

NOTE = """\
NMI and ARI: mean over resolutions (± standard deviation over resolutions; over the method's seeds). Matched: at the
number of clusters that equals the number of labels (± over seeds). Nothing after ±: there was one.
"""


def scib_note(runs: pd.DataFrame) -> str:
    """Return the sentence that stands beside every table of iLISI: the version of scib-metrics, of each run its own."""
    found = runs["versions"].astype(str).str.extract(r"scib-metrics=(\S+)")[0].fillna("a version that was not kept")
    return f"iLISI: scib-metrics {' and '.join(sorted(found.unique()))}; values of 0.5 and 0.6 are not compared.\n"


def _readout(name: str) -> str:
    before, plus, _ = name.partition(HARMONY)
    return READOUT_WORDS.get(before, before) + (", then Harmony" if plus else "")


def table_1_markdown(table: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Return Table 1: for each data, task, technology and read-out a table, and what could not be measured."""
    parts = [_note(table, runs)]
    scored = table[table["reason"].isna()]
    for (data, task, group, readout), rows in scored.groupby(["data", "task", "group", "readout"], sort=False):
        cells = f", {int(rows['n_cells'].iloc[0]):,} cells" if rows["n_cells"].notna().any() else ""
        parts.append(f"\n**{data}** ({task}), {group}{cells}: {_readout(readout)}\n")
        parts.append(_table(rows, ["method", "settings", "configuration"]))
    parts.append(_reasons(table))
    return "\n".join(part for part in parts if part) + "\n"


def table_2_markdown(table: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Return Table 2: for each data, technology, read-out and axis a table."""
    parts = [_note(table, runs)]
    scored = table[table["reason"].isna()]
    for (data, task, group, readout), rows in scored.groupby(["data", "task", "group", "readout"], sort=False):
        parts.append(f"\n**{data}** ({task}), {group}: {_readout(readout)}\n")
        value = rows["value"] + rows["default"].map({True: " (default)", False: ""})
        parts.append(_table(rows.assign(value=value), ["axis", "value"]))
    parts.append(_reasons(table))
    return "\n".join(part for part in parts if part) + "\n"


def _note(table: pd.DataFrame, runs: pd.DataFrame) -> str:
    of_lisi = [metric for metric in table if str(metric).startswith("ilisi")]
    return NOTE + (scib_note(runs) if table[of_lisi].notna().to_numpy().any() else "")


def _table(rows: pd.DataFrame, names: Sequence[str]) -> str:
    names = [name for name in names if name in ("method", "axis", "value") or rows[name].nunique() > 1]
    shown = [metric for metric in HEADINGS if metric in rows and rows[metric].notna().any()]
    ill = "verdict" in rows and (rows["verdict"].dropna() != HEALTHY).any()
    head = [*names, *(HEADINGS[metric] for metric in shown), "CPU s", "GiB", "seeds", *(["training"] if ill else [])]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows.to_dict("records"):
        cells = [*(str(row[name]).replace("|", "\\|") for name in names), *(_score(row, metric) for metric in shown)]
        cells += [_number(row["cpu_seconds"], ".0f"), _number(row["peak_gib"], ".2f"), str(row["seeds"])]
        if ill:
            cells.append("" if pd.isna(row["verdict"]) else row["verdict"])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _score(row: dict, metric: str) -> str:
    if pd.isna(row[metric]):
        return ""
    spreads = [row.get(f"{metric}_std_{cause}") for cause in ("resolutions", "seeds")]
    told = "; ".join(f"{spread:.3f}" for spread in spreads if spread is not None and not pd.isna(spread))
    value = f"{row[metric]:+.3f}" if metric.endswith("_change") else f"{row[metric]:.3f}"
    return value + (f" ± {told}" if told else "")


def _number(value: float, form: str) -> str:
    return "" if pd.isna(value) else format(value, form)


def _reasons(table: pd.DataFrame) -> str:
    failed = table[table["reason"].notna()]
    if failed.empty:
        return ""
    names = [*CASE, "group"]
    # What lies with the data holds for many methods and read-outs, which are named in one row.
    of = ["data", "task", "group", "reason"]
    named = failed.assign(**{name: failed[name].astype(object).fillna("").astype(str) for name in [*names, "reason"]})
    others = [name for name in names if name not in of]
    failed = named.groupby(of, sort=False)[others].agg(lambda column: ", ".join(dict.fromkeys(column))).reset_index()
    lines = ["\n**Not measured**\n", "| " + " | ".join(names) + " | reason |", "|---" * (len(names) + 1) + "|"]
    for row in failed.to_dict("records"):
        lines.append("| " + " | ".join(row[name].replace("|", "\\|") for name in [*names, "reason"]) + " |")
    return "\n".join(lines)
