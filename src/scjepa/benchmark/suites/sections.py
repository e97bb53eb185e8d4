"""A whole comparison on sections in one call: data and methods in, tidy results, tables and figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scjepa.benchmark.inputs import Data
from scjepa.benchmark.method import OWN, REGISTRY, Method, MethodResult
from scjepa.benchmark.occupancy import occupancy
from scjepa.benchmark.outcome import missing_option, outcome
from scjepa.benchmark.score import ALL, Scoring, score
from scjepa.benchmark.store import RunKey, Scored, Store
from scjepa.benchmark.study import Entry, Methods, Options, Results, Say, Study
from scjepa.benchmark.suites.section_models import Axes, ablation, entries_of
from scjepa.benchmark.suites.sections_tables import failures, markdown_1, markdown_2, table_1, table_2, verdicts_of
from scjepa.benchmark.suites.tissue import AUTO, Columns, Task, make_tasks, read_units

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
    columns = Columns(label, technology, section, layer)
    obs, obsm = (
        sorted({e.options[key] for e in entries for key in getattr(e.method, kind) if e.options.get(key)})
        for kind in ("obs_options", "obsm_options")
    )  # the columns, and the arrays, that options name
    suite = SectionSuite(make_tasks(read_units(data, columns, obs, obsm), tasks), scoring, timeout)
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
        from scjepa.benchmark.suites.sections_figures import every_figure

        return every_figure(self._tasks, self._store, self.rows)

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
