"""A whole comparison on sections in one call: data and methods in, tidy results, tables and figures out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scjepa.benchmark import table as tables
from scjepa.benchmark.inputs import Data
from scjepa.benchmark.method import OWN, REGISTRY, Method, MethodResult
from scjepa.benchmark.outcome import missing_option, outcome
from scjepa.benchmark.score import ALL, HARMONY, READOUT_WORDS, Scoring, score
from scjepa.benchmark.store import Level, RunKey, Scored, Store
from scjepa.benchmark.study import Entry, Methods, Options, Results, Say, Study
from scjepa.benchmark.suites.section_models import OURS, UNTRAINED, Axes, ablation, entries_of
from scjepa.benchmark.suites.tissue import AUTO, SECTIONS, TECHNOLOGIES, Task, make_tasks, read_units
from scjepa.benchmark.table import CASE, KEYS, failures, occupancy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scjepa.stjepa.config import STJEPAConfig

METHODS: Mapping[str, Method] = MappingProxyType(REGISTRY["sections"])
"""Methods by name."""


def run(
    data: Data,
    *,
    label: str | None = None,
    technology: str | None = None,
    section: str | None = None,
    layer: str | None = None,
    methods: Methods = "all",
    tasks: str | Sequence[str] = AUTO,
    seeds: int | Sequence[int] = 3,
    preset: str | STJEPAConfig = "base",
    options: Options | None = None,
    axes: Axes | None = None,
    scoring: Scoring | None = None,
    out: str | Path | None = None,
    timeout: float | None = None,
    say: Say | None = None,
) -> BenchmarkResults:
    """Compare methods on one's own sections: the same data, read-outs, clusterings and scores for all.

    Methods see counts, sections, technologies, coordinates and the spatial graph, and the number of labels where they
    make clusters of their own; never a label. A method that is missing or fails leaves a row with the reason.

    Parameters
    ----------
    data
        AnnData or the path of an h5ad file, with raw counts and ``obsm["spatial"]``; several in a list or by name. The
        spatial graph ``obsp["spatial_connectivities"]`` is used where it is there, else 10 nearest neighbors within
        each section are taken. Nothing of it is changed.
    label
        ``obs`` column of known regions. Cells with NaN or ``"unlabelled"`` take part and are not scored. ``None``:
        only mixing and continuity are measured.
    technology, section
        ``obs`` columns. Default: ``"technology"`` and ``"section"`` where they are there; else each data set is one of
        its own. Two data sets of one technology with different genes count as two technologies.
    layer
        Layer of raw counts; default: ``X``.
    methods
        ``"all"``, ``"controls"``, ``"peers"``, names of :data:`~scjepa.benchmark.METHODS`, or a mapping: from such a
        name to its options or ``None``, or from a name of your own to a function. It is called with AnnData without
        labels (and with ``seed``, ``n_niches``, ``genes`` where it has such parameters) and returns an array: an
        embedding, or one cluster for each cell (whole numbers or names). A function with a parameter ``genes`` is given
        all genes and embeds by those named; others are given the genes that all technologies measured.
    tasks
        ``"within"`` (each section by itself), ``"sections"`` (all sections of a technology together),
        ``"technologies"`` (all together: trained on full panels, embedded by shared genes), several of them, or
        ``"auto"``: each technology by itself, and all together where there are several.
    seeds
        Number of seeds, or the seeds; a method that knows none is run once.
    preset
        Preset of ST-JEPA and of the controls that share its encoder.
    options
        Options of methods by name, such as ``{"novae_zero_shot": {"weights": folder}}``. ``{"novae": {"settings":
        "tutorial"}}`` takes a method in one of its settings only; default: in all.
    axes
        An ablation of ST-JEPA: values by option, such as ``{"tokens.n_tokens": [16, 32], "masking.ratio": [0.3,
        0.6]}``, changed one at a time from ``preset``; for a grid a tuple of options, with tuples of values.
    scoring
        Resolutions, Leiden's seeds, read-outs.
    out
        Folder that keeps every finished run, tidy results and tables. The same call goes on where a killed one stopped;
        what failed is tried again. Several processes may write to one folder, each with its methods. ``None``: nothing
        is written.
    timeout
        Seconds after which a method in a process of its own is ended.
    say
        Called with a line at each step.

    Returns
    -------
    BenchmarkResults
        ``rows``, ``table_1()``, ``table_2()``, ``figures()``.

    Raises
    ------
    ValueError, KeyError, TypeError, FileNotFoundError, NotADirectoryError
        If data, methods or options cannot be used, told before anything runs; if ``out`` holds results of other data,
        labels or scoring, or tables of something else.

    Examples
    --------
    >>> def total_counts(adata):  # doctest: +SKIP
    ...     return np.log1p(adata.X.sum(axis=1))
    >>> results = scjepa.benchmark.run(
    ...     adata, label="region", methods={"total counts": total_counts, "neighborhood_pca": None}
    ... )  # doctest: +SKIP
    >>> results.table_1()  # doctest: +SKIP
    """
    scoring, store = scoring or Scoring(), Store(out)
    entries, levels = ablation(entries_of(methods, preset=preset, options=options), axes or {})
    asked = [entry.method.asked(entry.options) for entry in entries]
    obs, obsm = (sorted({name for one in asked for name in one[kind]}) for kind in ("obs", "obsm"))
    where = {"technology": technology, "section": section, "layer": layer}
    units = read_units(data, label, keep_obs=obs, keep_obsm=obsm, **where)
    suite = SectionSuite(make_tasks(units, tasks), scoring, timeout)
    study = Study(suite, entries, seeds, store, say)
    store.claim({"label": label, **asdict(scoring)}, {f"{t.kind}: {t.data}": t.digest for t in suite.tasks()}, levels)
    study.run()
    results = BenchmarkResults(store.rows(), store.runs(), store, suite.tasks())
    results.keep_in(out)
    return results


@dataclass
class SectionSuite:
    """Niches within a section, across sections, across technologies."""

    _tasks: Sequence[Task]
    scoring: Scoring
    timeout: float | None = None
    name: str = "sections"

    def tasks(self) -> Sequence[Task]:
        """Return what methods are asked to do."""
        return self._tasks

    def plans(self, task: Task, entry: Entry, first: bool) -> bool:
        """Return whether a method is run: one that knows no seed once."""
        return first or entry.method.seeded

    def key(self, task: Task, entry: Entry, seed: int) -> RunKey:
        """Return what a run is called."""
        return RunKey(task.data, task.kind, entry.name, entry.settings, entry.configuration, seed)

    def code(self, task: Task, entry: Entry) -> str:
        """Return a checksum of one's own function."""
        return entry.code

    def run(self, task: Task, entry: Entry, seed: int) -> MethodResult:
        """Run a method on a task.

        One that can embed by chosen genes is given all of them and embeds by those that all technologies measured;
        others are given the shared genes alone. One that makes clusters at resolutions is given the scoring's, and the
        number of labels to find a further one for.
        """
        method, options = entry.method, dict(entry.options)
        result = MethodResult(entry.name, entry.settings, seed)
        if missing_option(method, options) is not None:
            return MethodResult(entry.name, entry.settings, seed, error=f"It needs {method.needs}.")
        takes_genes = "genes" in method.options
        wide = task.shared is not None and takes_genes
        if wide:
            options["genes"] = list(task.shared or ())
        elif entry.settings == OWN and takes_genes:
            options["genes"] = list(task.adata.var_names)
        if self._resolutions(entry):
            options.update(resolutions=list(self.scoring.resolutions), min_share=self.scoring.min_share)
        arguments = {"seed": seed, "n_niches": task.n_labels or None, **method.fixed, **options}
        given = (task.adata if wide else task.narrow).copy()  # methods write to what they are given
        return outcome(method, result, given, arguments, timeout=self.timeout)

    def score(self, task: Task, entry: Entry, output: MethodResult) -> Scored:
        """Score what a method gave."""
        columns: list[float | None] = [*self._resolutions(entry)]
        if task.n_labels or not columns:
            columns.append(None)
        return score(task, output, self.scoring, columns)

    def _resolutions(self, entry: Entry) -> Sequence[float]:
        """Return the scoring's resolutions for a method that makes clusters at such, unless options name others."""
        takes = "resolutions" in entry.method.options and not {"resolution", "resolutions"} & set(entry.options)
        return self.scoring.resolutions if takes and entry.settings != OWN else ()


@dataclass
class BenchmarkResults(Results):
    """Scores of methods on sections, as rows, as tables, and as figures.

    ``group`` is a technology, or ``"all"``; the other columns are those of all comparisons.

    Attributes
    ----------
    rows
        Tidy results, a row for each value: ``data``, ``task``, ``method``, ``settings``, ``configuration``, ``seed``,
        ``readout``, ``group`` (technology, or ``"all"``), ``n_cells``, ``leiden_seed``, ``resolution``, ``metric``,
        ``value``, ``seconds``, ``cpu_seconds``, ``peak_gib`` and ``reason`` (why there is no value).
    runs
        A row for each run: what it took, versions of packages, what the method did, and why it failed.
    """

    _tasks: Sequence[Task] = field(repr=False)

    def table_1(self) -> pd.DataFrame:
        """Return methods × metrics for each data set and technology, and weighted by cells."""
        return table_1(self.rows)

    def table_2(self) -> pd.DataFrame:
        """Return the ablation, a row for each level of each axis; empty where there was none."""
        return table_2(self.rows, self._store.levels, self._occupancy(), verdicts_of(self.runs))

    def failures(self) -> pd.DataFrame:
        """Return what could not be measured, and why."""
        return failures(self.rows)

    def markdown(self) -> str:
        """Return Table 1 as text."""
        return markdown_1(self.table_1(), self.runs)

    def figures(self) -> dict[str, Figure]:
        """Return every figure that the results allow, by name."""
        from scjepa.benchmark.figures import figures_of_sections

        return figures_of_sections(self._tasks, self._store, self.rows)

    def embedding(self, method: str, data: str, *, readout: str = "plain", **key: object) -> np.ndarray:
        """Return what was clustered of a method, ``(n_cells, n_dims)``.

        Parameters
        ----------
        method, data
            As in the columns.
        readout
            One of the scoring's, such as ``"plain"``.
        **key
            ``task``, ``settings``, ``configuration``, ``seed``: the first there is, where they are not given.

        Raises
        ------
        KeyError
            If there is no such run, or it gave no such embedding.
        """
        wanted = {"method": method, "data": data, **key}
        for found in self._store.keys:
            if all(getattr(found, name) == value for name, value in wanted.items()):
                arrays = self._store.arrays(found)
                if f"embedding_{readout}" in arrays:
                    return arrays[f"embedding_{readout}"]
        raise KeyError(
            f"There is no embedding {readout!r} of {wanted}; runs: {sorted({k.method for k in self._store.keys})}."
        )

    def _texts(self) -> dict[str, str]:
        """Return ``table1.csv``, ``table1.md``, and ``table2.csv`` and ``table2.md`` where there is an ablation."""
        one, two = self.table_1(), self.table_2()
        texts = {"table1.csv": one.to_csv(index=False, float_format="%.6g"), "table1.md": markdown_1(one, self.runs)}
        if len(two):
            texts["table2.csv"] = two.to_csv(index=False, float_format="%.6g")
            texts["table2.md"] = markdown_2(two, self.runs)
        return texts

    def _occupancy(self) -> pd.DataFrame | None:
        lengths = [int(level.value) for level in self._store.levels if level.axis == "tokens.n_tokens"]
        if not lengths:
            return None
        parts = []
        for task in self._tasks:
            own = occupancy(task.adata.X, task.technologies, lengths=lengths)
            if own["group"].nunique() > 1:
                own = pd.concat([own, occupancy(task.adata.X, lengths=lengths).assign(group=ALL)])
            parts.append(own.assign(data=task.data))
        return pd.concat(parts, ignore_index=True).drop_duplicates(["data", "group", "n_tokens"])


# -- tables ---------------------------------------------------------------------------------------------------------

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

SHOWN = (
    *("nmi", "ari", "nmi_matched", "ari_matched", "ilisi_technology", "mmd_technology", "ilisi_section", "mmd_section"),
    *("like_neighbors", "transfer_accuracy", "transfer_macro_f1", "transfer_majority_rate", "share_full"),
    *("nmi_change", "nmi_matched_change", "ilisi_technology_change"),
    *("nmi_untrained", "nmi_matched_untrained", "ilisi_technology_untrained"),
)
"""Scores of the text, in their order."""

METRICS = (*AGREEMENT, *MIXING, *CONTINUITY, "n_clusters")

NOTE = """\
NMI and ARI: mean over resolutions (± standard deviation over resolutions; over the method's seeds). Matched: at the
number of clusters that equals the number of labels (± over seeds). Nothing after ±: there was one.
"""


def tidy_values(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows that have a value, and those of means over technologies and over data beside them."""
    values = rows[rows["metric"].notna() & rows["value"].notna()]
    if values.empty:
        return values
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

    def best_first(found: pd.DataFrame) -> pd.DataFrame:
        best = found["nmi"].fillna(found["nmi_matched"]).sort_values(ascending=False, kind="stable").index
        return found.loc[best].sort_values(PLACE, kind="stable", key=_in_order_of(rows))

    values = tidy_values(rows)
    transfer = sorted({metric for metric in values["metric"] if metric.startswith("transfer_")})
    spreads = {"nmi": tuple(tables.SPREAD), "ari": tuple(tables.SPREAD)}
    return tables.scores(rows, values, (*METRICS, *transfer), best_first, spreads, AGREEMENT)


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
    parts = [NOTE + (tables.scib_note(runs) if table[of_lisi].notna().to_numpy().any() else "")]
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
    shown = tables.with_values(rows, SHOWN)
    ill = "verdict" in rows and (rows["verdict"].dropna() != HEALTHY).any()
    lines = []
    for row in rows.to_dict("records"):
        cells = [*(row[name] for name in names), *(tables.score_text(row, metric) for metric in shown)]
        took = [tables.number_text(row[name], form) for name, form in (("cpu_seconds", ".0f"), ("peak_gib", ".2f"))]
        lines.append([*cells, *took, row["seeds"], *([tables.number_text(row["verdict"], "")] if ill else [])])
    ends = ["CPU s", "GiB", "seeds", *(["training"] if ill else [])]
    return tables.markdown_table([*names, *map(tables.heading, shown), *ends], lines)


def _reasons(table: pd.DataFrame) -> str:
    failed = table[table["reason"].notna()]
    if failed.empty:
        return ""
    # What lies with the data holds for many methods and read-outs, which are named in one row.
    of = ["data", "task", "group", "reason"]
    named = failed.assign(**{name: failed[name].astype(object).fillna("").astype(str) for name in [*KEYS, "reason"]})
    others, columns = [name for name in KEYS if name not in of], [*KEYS, "reason"]
    failed = named.groupby(of, sort=False)[others].agg(lambda column: ", ".join(dict.fromkeys(column))).reset_index()
    return "\n**Not measured**\n\n" + tables.markdown_table(columns, failed[columns].to_numpy().tolist())
