"""A whole comparison of cells in one call: data and methods in, tidy results, tables and figures out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scjepa import __version__
from scjepa._core.keys import UNLABELLED
from scjepa.benchmark._run import _seeds, told_cost, warn_of_versions
from scjepa.benchmark._scoring import scored_with
from scjepa.benchmark._store import Run, RunKey, Store
from scjepa.benchmark._units import Data
from scjepa.benchmark.cells._data import read_corpus, read_target
from scjepa.benchmark.cells._embed import Bench
from scjepa.benchmark.cells._plan import CellEntry, Methods, chosen_tasks, entries_of
from scjepa.benchmark.cells._pretrained import Pretraining
from scjepa.benchmark.cells._results import CellBenchmarkResults
from scjepa.benchmark.cells._scoring import CellScoring
from scjepa.benchmark.cells._tasks import TASK_FUNCTIONS, Found
from scjepa.benchmark.cells._training import CellTraining
from scjepa.benchmark.methods import _memory
from scjepa.benchmark.methods._cache import source_digest
from scjepa.benchmark.methods._result import MethodError


def run_cells(
    target: Data,
    *,
    label: str,
    pretrain: Data | None = None,
    batch: str | None = None,
    layer: str | None = None,
    no_label: Sequence[str] = UNLABELLED,
    methods: Methods = "all",
    tasks: str | Sequence[str] = "auto",
    seeds: int | Sequence[int] = 3,
    training: CellTraining | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    scoring: CellScoring | None = None,
    out: str | Path | None = None,
    say: Callable[[str], None] | None = None,
) -> CellBenchmarkResults:
    """Compare embeddings of dissociated cells on a labelled set: Cell-JEPA, its controls, PCA, scVI and one's own.

    Cell-JEPA's models are trained on other cells than those that are scored; PCA, scVI and Harmony are fitted on the
    latter. No method sees a label, save in the task that fine-tunes, and there none of a test cell. A method that fails
    leaves a row with the reason.

    Parameters
    ----------
    target
        The cells that are scored: AnnData or the path of an h5ad file with raw counts, or one of them by name. Nothing
        of it is changed. Cells without a count are left out.
    label
        ``obs`` column of cell types. Cells without a label, or with one in ``no_label``, are left out.
    pretrain
        Cells to pretrain on, one set or several, joined by gene names; their labels are not read. ``None``: the cells
        of the target themselves, without labels (for fine-tuning, its training cells).
    batch
        ``obs`` column of the target's batches, for the task ``"batches"`` and for figures.
    layer
        Layer of raw counts in every set; default: ``X``.
    no_label
        Labels that name no type, such as ``"unassigned"``.
    methods
        ``"all"``, ``"models"`` (Cell-JEPA and its controls), ``"fitted"``, names of
        :data:`~scjepa.benchmark.CELL_METHODS`, or a mapping: from such a name to its options or ``None``, or from a
        name of your own to a function. It is called with AnnData of counts without labels (and ``seed`` where it has
        such a parameter) and returns ``(n_cells, n_dims)``; once for each set of cells, the thinned ones too, so give
        one that is fitted beforehand where that matters.
    tasks
        ``"zero_shot"`` (AvgBIO and the vote of neighbors), ``"dropout"`` (the same cells with fewer molecules),
        ``"batches"`` (the suite of scib-metrics), ``"finetune"`` (on nine tenths of the labels, scored on the rest),
        several of them, or ``"auto"``: all, batches where ``batch`` is named.
    seeds
        Number of seeds, or the seeds.
    training
        Preset of Cell-JEPA's models and changes to it, lengths, device, folder of models.
    options
        Options of methods by name, such as ``{"scvi": {"max_epochs": 50}, "modules": {"modules": "hallmark.gmt"}}``.
    scoring
        Read-outs, resolutions, shares of molecules, the split.
    out
        Folder that keeps models, every finished run, tidy results and tables. The same call goes on where a killed one
        stopped; what failed is tried again. ``None``: nothing is written.
    say
        Called with a line at each step.

    Returns
    -------
    CellBenchmarkResults
        ``rows``, ``table()``, ``differences()``, ``figures()``.

    Raises
    ------
    ValueError, KeyError, TypeError, FileNotFoundError
        If data, methods or options cannot be used, told before anything runs; if ``out`` holds results of other data,
        labels or scoring.

    Examples
    --------
    >>> def total_counts(adata):  # doctest: +SKIP
    ...     return np.log1p(adata.X.sum(axis=1))
    >>> methods = {"total counts": total_counts, "celljepa": None, "hvg_pca": None}  # doctest: +SKIP
    >>> results = scjepa.benchmark.run_cells(
    ...     adata, label="cell_type", pretrain=["a.h5ad", "b.h5ad"], methods=methods
    ... )  # doctest: +SKIP
    >>> print(results.markdown())  # doctest: +SKIP
    """
    training, scoring, say = training or CellTraining(), scoring or CellScoring(), say or (lambda _: None)
    chosen = _seeds(seeds)
    entries = entries_of(methods, training, options)
    kinds = chosen_tasks(tasks, batch is not None)
    cells = read_target(target, label, batch, layer, no_label)
    corpus = None if pretrain is None else read_corpus(pretrain, cells, layer)
    planned = _planned(entries, kinds, chosen)
    store = Store(out)
    data = {f"target: {cells.name}": cells.digest}
    store.claim({"label": label, "batch": batch, **asdict(scoring)}, data, [])
    with _models_in(out, training.models) as folder:
        bench = Bench(cells, corpus, scoring, Pretraining(folder, training.accelerator, say))
        keys = _run_all(bench, planned, store, say)
    store.arrange(keys)
    results = CellBenchmarkResults(store.rows(), store.runs(), store, cells, scoring, keys)
    warn_of_versions(results.runs["versions"], out)
    if out is not None:
        results.write(out)
    return results


@contextmanager
def _models_in(out: str | Path | None, models: str | Path | None) -> Iterator[Path]:
    if models is not None or out is not None:
        yield Path(models) if models is not None else Path(str(out)) / "models"
        return
    with TemporaryDirectory(prefix="scjepa-cells-") as folder:
        yield Path(folder)


Planned = tuple[CellEntry, str, int]
"""A method, a task and a seed."""


def _planned(entries: Sequence[CellEntry], tasks: Sequence[str], seeds: Sequence[int]) -> list[Planned]:
    """Return the runs: the first seed of all before the second, so that a stopped comparison compares."""
    found = [
        (entry, task, seed)
        for number, seed in enumerate(seeds)
        for task in tasks
        for entry in entries
        if entry.takes_part(task) and (number == 0 or entry.seeded(task))
    ]
    if not found:
        names = ", ".join(entry.name for entry in entries)
        raise ValueError(f"None of the methods ({names}) takes part in {', '.join(tasks)}.")
    return found


def _run_all(bench: Bench, planned: Sequence[Planned], store: Store, say: Callable[[str], None]) -> list[RunKey]:
    """Run what is missing; a result is made anew where the configuration, or the cells to pretrain on, changed."""
    codes = {(entry.name, task, seed): _code(bench, entry, task) for entry, task, seed in planned}
    missing = [
        (entry, task, seed)
        for entry, task, seed in planned
        if not store.finished(key_of(bench, entry, task, seed), codes[entry.name, task, seed])
    ]
    say(f"{len(planned)} runs, {len(planned) - len(missing)} of them there already")
    for number, (entry, task, seed) in enumerate(missing, start=1):
        done = execute(bench, entry, task, seed, codes[entry.name, task, seed])
        store.keep(done)
        say(f"[{number}/{len(missing)}] {entry.name}, {task}, seed {seed}: {told_cost(done.about)}")
    return [key_of(bench, entry, task, seed) for entry, task, seed in planned]


def key_of(bench: Bench, entry: CellEntry, task: str, seed: int) -> RunKey:
    """Return what a run is called."""
    configuration = entry.configuration(task)
    if entry.config is not None and bench.corpus is not None and entry.settings == "pretrained":
        configuration = f"{configuration}, on {bench.corpus.name}"
    return RunKey(bench.target.name, task, entry.name, entry.settings, configuration, seed)


def _code(bench: Bench, entry: CellEntry, task: str) -> str:
    """Return what a result rests on beside its key: configuration and cells to pretrain on, or one's own function."""
    code = entry.code(task)
    if entry.config is None or bench.corpus is None:
        return code
    return f"{code}.{bench.corpus.digest[:8]}"


def execute(bench: Bench, entry: CellEntry, task: str, seed: int, code: str) -> Run:
    """Run a method on a task and score what it gives; what fails is a reason, never an error."""
    found, reason = Found(), None
    _memory.reset_peak()
    try:
        found = TASK_FUNCTIONS[task](bench, entry, seed)
    except MethodError as failure:
        reason = str(failure)
    except Exception as error:  # noqa: BLE001 - one method must not stop the others; its reason goes into its row
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    of_code = {"scjepa": __version__, "source": source_digest()[:8], **scored_with()}
    about = {
        "seconds": found.took.seconds if reason is None else float("nan"),
        "cpu_seconds": found.took.cpu_seconds if reason is None else float("nan"),
        "peak_gib": _memory.peak_gib(),
        "reason": reason,
        "versions": " ".join(f"{name}={found}" for name, found in of_code.items()),
        "info": {"about": entry.method.about},
        "code": code,
    }
    arrays = {f"embedding_{name}": values for name, values in found.embeddings.items()}
    return Run(key_of(bench, entry, task, seed), about, found.rows, arrays)
