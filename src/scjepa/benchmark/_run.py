"""A whole comparison in one call: data and methods in, tidy results, tables and figures out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from operator import index
from pathlib import Path
from typing import Any

import pandas as pd

from scjepa._core.warn import warn
from scjepa.benchmark._execute import execute, key_of
from scjepa.benchmark._plan import Axes, Entry, Methods, ablation, entries_of
from scjepa.benchmark._results import BenchmarkResults
from scjepa.benchmark._scoring import Scoring
from scjepa.benchmark._store import Store
from scjepa.benchmark._tasks import AUTO, Task, make_tasks
from scjepa.benchmark._units import Columns, Data, read_units


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
    preset: Any = "base",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    axes: Axes | None = None,
    scoring: Scoring | None = None,
    out: str | Path | None = None,
    timeout: float | None = None,
    say: Callable[[str], None] | None = None,
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
    chosen = _seeds(seeds)
    entries, levels = ablation(entries_of(methods, preset=preset, options=options), axes or {})
    obs, obsm = _asked_for(entries)
    columns = Columns(label, technology, section, layer)
    found = make_tasks(read_units(data, columns, obs, obsm), tasks, obs, obsm)
    how = {"label": label, **asdict(scoring)}
    store.claim(how, {f"{task.kind}: {task.data}": task.digest for task in found}, levels)
    _run_all(found, entries, chosen, scoring, store, timeout, say or (lambda _: None))
    results = BenchmarkResults(store.rows(), store.runs(), store, found)
    warn_of_versions(results.runs.loc[results.runs["settings"] != "own", "code"], out)
    if out is not None:
        results.write(out)
    return results


def warn_of_versions(sources: pd.Series, out: str | Path | None) -> None:
    """Warn where runs of a folder were made by different versions of the code, which the column ``sources`` names."""
    if sources.nunique() > 1:
        warn(
            f"{out} holds results of {sources.nunique()} versions of scjepa's code (column {sources.name!r} of "
            "runs.csv). Name another folder to run all of them with this one."
        )


def told_cost(about: Mapping[str, Any]) -> str:
    """Return what a run took, in words; or why it failed."""
    return about["reason"] or f"{about['cpu_seconds']:.0f} s CPU, {about['peak_gib']:.2f} GiB"


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    if isinstance(seeds, str):
        raise TypeError(_no_seeds(seeds))
    try:
        chosen = list(range(index(seeds)))  # type: ignore[arg-type]
    except TypeError:
        chosen = _listed_seeds(seeds)  # type: ignore[arg-type]
    if not chosen:
        raise ValueError(f"There must be a seed or more, found seeds={seeds!r}.")
    return chosen


def _listed_seeds(seeds: Sequence[int]) -> list[int]:
    try:
        return [index(seed) for seed in seeds]
    except TypeError as error:
        raise TypeError(_no_seeds(seeds)) from error


def _no_seeds(seeds: Any) -> str:
    return f"seeds is the number of seeds, or a list of them, in whole numbers; found {seeds!r}."


def _asked_for(entries: Sequence[Entry]) -> tuple[list[str], list[str]]:
    """Return ``obs`` columns and ``obsm`` keys that options name."""
    obs = {entry.options[key] for entry in entries for key in entry.method.obs_options if entry.options.get(key)}
    obsm = {entry.options[key] for entry in entries for key in entry.method.obsm_options if entry.options.get(key)}
    return sorted(obs), sorted(obsm)


def _run_all(
    tasks: Sequence[Task],
    entries: Sequence[Entry],
    seeds: Sequence[int],
    scoring: Scoring,
    store: Store,
    timeout: float | None,
    say: Callable[[str], None],
) -> None:
    """Run what is missing: the first seed of all before the second, so that a stopped comparison compares."""
    planned = [
        (task, entry, seed)
        for number, seed in enumerate(seeds)
        for task in tasks
        for entry in entries
        if number == 0 or entry.method.seeded
    ]
    missing = [(t, e, s) for t, e, s in planned if not store.finished(key_of(t, e, s), e.code)]
    say(f"{len(planned)} runs, {len(planned) - len(missing)} of them there already")
    for number, (task, entry, seed) in enumerate(missing, start=1):
        done = execute(task, entry, seed, scoring, timeout)
        store.keep(done)
        words = [f"{task.data} ({task.kind})", entry.name, entry.settings, entry.configuration, f"seed {seed}"]
        say(f"[{number}/{len(missing)}] {', '.join(word for word in words if word != '-')}: {told_cost(done.about)}")
    store.arrange([key_of(*run) for run in planned])
