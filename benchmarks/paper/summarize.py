"""Short tables of what `run.sh` has made, for the documentation: results/*.md.

    python -m benchmarks.paper.summarize

`sets.md` and `pairs.md`: methods × sets, each method at the read-out and settings that are best for it on that score.
`axes-*.md`: each level of an ablation against the default, seed by seed; of a pair with mixing and carried labels.
`grid-*.md`: normalizations of values × normalizations of ranks.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parent / "results"

SETS = {
    "V1": "table1-V1",
    "mPFC (3 mice jointly)": "table1-mPFC",
    "osmFISH": "table1-osmFISH",
    "brain (simulated counts)": "table1-brain",
}
PAIRS = {"V1 × osmFISH": "V1xosmFISH", "V1 × mPFC": "V1xmPFC"}

ROWS = {
    "**ST-JEPA**, `base`": ("stjepa base",),
    "**ST-JEPA**, `technologies`": ("stjepa technologies",),
    "CellCharter": ("cellcharter",),
    "squidpy, flavor `spatialleiden`": ("squidpy_spatialleiden",),
    "scVI, neighborhood means": ("scvi_mean",),
    "Banksy, with and without Harmony": ("banksy", "banksy_harmony"),
    "GraphST": ("graphst",),
    "Novae, trained from nothing": ("novae",),
    "squidpy, flavor `utag`": ("squidpy_utag",),
    "squidpy, flavor `neighborhood`": ("squidpy_neighborhood",),
    "squidpy, flavor `cellcharter`": ("squidpy_cellcharter",),
    "pooled input": ("pooled_input",),
    "untrained encoder": ("untrained",),
    "neighborhood PCA; z-scored; with Harmony": ("neighborhood_pca", "section_zscored_pca", "harmony_pca"),
}
"""Rows, and the methods of each; of ST-JEPA each preset is one."""

UNSEEDED = ("neighborhood_pca", "section_zscored_pca", "banksy", "squidpy_utag")
"""Methods without a seed: one run is all there is."""

WEIGHTED, ALL = "weighted by cells", "all"


def table_of(folder: str) -> pd.DataFrame:
    """Return a table, those of what failed among its rows, or none where it was not made."""
    path = RESULTS / folder / "table1.csv"
    if not path.is_file():
        return pd.DataFrame()
    table = pd.read_csv(path)
    ours = table["method"] == "stjepa"
    return table.assign(method=table["method"].where(~ours, table["method"] + " " + table["configuration"]))


def score(table: pd.DataFrame, methods: tuple[str, ...], metric: str, group: str | None = None) -> str:
    """Return the best of a score, and the standard deviation over seeds where there are several.

    A method that was run and has no such score, as one that gives clusters and no embedding, has a dash; one whose
    every run failed, `cannot`.
    """
    run = table[table["method"].isin(methods)] if len(table) else table
    if run.empty:
        return "not run"
    if run["reason"].notna().all():
        return "cannot"
    own = run if group is None else run[run["group"] == group]
    own = own[own[metric].notna()] if metric in own else own.iloc[:0]
    if own.empty:
        return "–"
    best = own.loc[own[metric].idxmax()]
    spread = best.get(f"{metric}_std_seeds")
    if best["method"] in UNSEEDED:
        return f"{best[metric]:.3f}"
    return f"{best[metric]:.3f} ± {spread:.3f}" if pd.notna(spread) else f"{best[metric]:.3f} (1)"


def sets() -> str:
    """Return NMI over the resolutions, and at the matched number, of every method on every set."""
    tables = {name: table_of(folder) for name, folder in SETS.items()}
    parts = []
    for title, metric in (("NMI over the resolutions", "nmi"), ("NMI at the matched number", "nmi_matched")):
        lines = [f"| {title} | {' | '.join(tables)} |", "|---" * (len(tables) + 1) + "|"]
        lines += [
            f"| {r} | {' | '.join(score(t, names, metric) for t in tables.values())} |" for r, names in ROWS.items()
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def pairs() -> str:
    """Return agreement weighted by cells, and mixing, of every method on every pair of technologies."""
    parts = []
    for name, pair in PAIRS.items():
        table, base = table_of(f"pairs-{pair}"), table_of(f"table1-{pair}")
        if table.empty:
            continue
        if not base.empty:
            table = pd.concat([table, base[base["method"] == "stjepa base"]], ignore_index=True)
        carried = [group for group in table["group"].dropna().unique() if " to " in group]
        head = [name, "NMI over the resolutions", "NMI at the matched number", "iLISI"]
        head += [f"labels carried, {group}" for group in carried]
        lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for row, methods in ROWS.items():
            cells = [score(table, methods, metric, WEIGHTED) for metric in ("nmi", "nmi_matched")]
            cells.append(score(table, methods, "ilisi_technology", ALL))
            cells += [score(table, methods, "transfer_accuracy", group) for group in carried]
            lines.append(f"| {row} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def axes(folder: str, readouts: tuple[str, str] = ("hops", "z30")) -> str:
    """Return every level against the default at two read-outs, and the untrained encoder beside the first."""
    table = pd.read_csv(RESULTS / folder / "table2.csv")
    table = table[table["reason"].isna()].astype({"value": str})
    table = table.sort_values("axis", kind="stable", key=lambda axis: pd.factorize(axis)[0])
    first, second = (table[table["readout"] == readout] for readout in readouts)
    head = ["option", "value", f"NMI, {readouts[0]}", f"matched, {readouts[0]}", f"untrained, {readouts[0]}"]
    ill = table["verdict"].dropna().ne("healthy").any()
    head += [f"NMI, {readouts[1]}", "CPU s", "seeds", *(["`diagnose()`"] if ill else [])]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    told: set[str] = set()
    for (_, one), (_, two) in zip(first.iterrows(), second.iterrows(), strict=True):
        axis = "" if one["axis"] in told else f"`{one['axis']}`"
        told.add(one["axis"])
        cells = [axis, f"**{one['value']}**" if one["default"] else one["value"]]
        cells += [
            against(one, "nmi"),
            against(one, "nmi_matched"),
            number(one.get("nmi_untrained")),
            against(two, "nmi"),
        ]
        cells += [f"{one['cpu_seconds']:.0f}", str(one["seeds"]), *([one["verdict"]] if ill else [])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def pair_axes(folder: str, readout: str = "aligned_hops") -> str:
    """Return every level on a pair of technologies: agreement weighted by cells, mixing, and labels carried over."""
    table = pd.read_csv(RESULTS / folder / "table2.csv")
    table = table[(table["readout"] == readout) & table["reason"].isna()].astype({"value": str})
    carried = [group for group in table["group"].unique() if " to " in group]
    head = ["option", "value", "NMI", "change", "matched", "change", "iLISI"]
    head += [*(f"labels carried, {group}" for group in carried), "seeds", "`diagnose()`"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    told: set[str] = set()
    for (axis, value), level in table.groupby(["axis", "value"], sort=False):
        by_group = level.set_index("group")
        own, everywhere = by_group.loc[WEIGHTED], by_group.loc[ALL]
        named = f"**{value}**" if own["default"] else value
        option = f"`{axis}`".replace(" × ", "` × `")  # a line of the cell each
        cells = ["" if axis in told else option, named, spread(own, "nmi"), change(own, "nmi")]
        cells += [spread(own, "nmi_matched"), change(own, "nmi_matched"), spread(everywhere, "ilisi_technology")]
        cells += [spread(by_group.loc[group], "transfer_accuracy") for group in carried]
        lines.append("| " + " | ".join([*cells, str(own["seeds"]), everywhere["verdict"]]) + " |")
        told.add(str(axis))
    return "\n".join(lines) + "\n"


def grid(folder: str, readouts: tuple[str, str] = ("hops", "z30")) -> str:
    """Return NMI over the resolutions, normalizations of values × those of ranks, at two read-outs."""
    table = pd.read_csv(RESULTS / folder / "table2.csv")
    table = table[table["reason"].isna()]
    parts = []
    for readout in readouts:
        own = table[table["readout"] == readout]
        values, ranks = zip(*(value.split(" × ") for value in own["value"]), strict=True)
        square = own.assign(of_values=values, of_ranks=ranks).pivot(index="of_values", columns="of_ranks", values="nmi")
        names = list(dict.fromkeys(values))
        head = [f"values, *{readout}*", *(f"ranks: {name}" for name in names)]
        lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        lines += [
            f"| {name} | " + " | ".join(number(square.loc[name].get(rank)) for rank in names) + " |" for name in names
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def harmony() -> str:
    """Return every method at the read-out of its best NMI over the resolutions, as it is and after Harmony."""
    table = pd.read_csv(RESULTS / "harmony.csv")
    short = {("stjepa technologies",): ("stjepa",), ("banksy", "banksy_harmony"): ("banksy",)}
    names = {
        short.get(methods, methods): row.removesuffix(", with and without Harmony") for row, methods in ROWS.items()
    }
    names |= {("section_zscored_pca",): "z-scored PCA"}
    parts = []
    for title, pair in PAIRS.items():
        own = table[table["pair"] == pair].dropna(axis="columns", how="all")
        carried = [column for column in own if " to " in column]
        metrics = ["nmi", "nmi_matched", "ilisi", "ilisi_in_regions", *carried]
        head = [title, "read-out", "NMI", "matched", "iLISI", "iLISI in layers"]
        head += [*(f"labels carried, {name}" for name in carried)]
        lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for methods, row in names.items():
            runs = own[own["method"].isin(methods)]
            if runs.empty or len(methods) > 1:
                continue
            runs = runs.groupby(["harmony", "method", "settings", "readout"])[metrics]
            means, spreads = runs.mean(), runs.std()
            for after in (False, True):
                best = (after, *means.loc[after]["nmi"].idxmax())
                cells = [
                    f"{means.loc[best, m]:.3f}" + ("" if pd.isna(d := spreads.loc[best, m]) else f" ± {d:.3f}")
                    for m in metrics
                ]
                lines.append("| " + " | ".join([f"{row}, Harmony" if after else row, f"*{best[-1]}*", *cells]) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def spread(row: pd.Series, metric: str) -> str:
    """Return a score, with its standard deviation over seeds where there are several."""
    over = row.get(f"{metric}_std_seeds")
    return number(row.get(metric)) + ("" if pd.isna(over) or row["seeds"] < 2 else f" ± {over:.3f}")


def against(row: pd.Series, metric: str) -> str:
    """Return the default's score, or a level's difference from it with the standard deviation over seeds."""
    return f"**{row[metric]:.3f}**" if row["default"] else change(row, metric)


def change(row: pd.Series, metric: str) -> str:
    """Return a level's difference from the default, with its standard deviation over seeds."""
    value, spread = row.get(f"{metric}_change"), row.get(f"{metric}_change_std_seeds")
    if pd.isna(value):
        return ""
    return f"{value:+.3f}" + ("" if pd.isna(spread) else f" ± {spread:.3f}")


def number(value: float | None) -> str:
    """Return three digits, or nothing."""
    return "" if value is None or pd.isna(value) else f"{value:.3f}"


def written(name: str, text: str) -> None:
    """Write a table; what is before and after a ± stays on its line."""
    (RESULTS / name).write_text(text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"))


if __name__ == "__main__":
    written("sets.md", sets())
    written("pairs.md", pairs())
    written("harmony.md", harmony())
    made = {"V1": axes, "simulated": axes, "lejepa-V1": axes, "V1xosmFISH": pair_axes, "grid-V1": grid}
    for name, table in made.items():
        if (RESULTS / f"table2-{name}" / "table2.csv").is_file():
            prefix = "" if name.startswith("grid") else "axes-"
            written(f"{prefix}{name}.md", table(f"table2-{name}"))
