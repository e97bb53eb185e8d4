"""A whole comparison of cells in one call: data and methods in, tidy results, tables and figures out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from scjepa import __version__
from scjepa._core.keys import UNLABELLED
from scjepa.benchmark.controls import BATCH, Embed
from scjepa.benchmark.inputs import Data
from scjepa.benchmark.memory import peak_gib, reset_peak
from scjepa.benchmark.method import OWN, REGISTRY, Method, checked_embedding
from scjepa.benchmark.outcome import Took
from scjepa.benchmark.store import RunKey, Scored, Store
from scjepa.benchmark.study import Methods, Options, Results, Say, Study
from scjepa.benchmark.suites.cell_models import (
    CellEntry,
    CellModel,
    CellTraining,
    Pretraining,
    embedder,
    entries_of,
    with_labels,
)
from scjepa.benchmark.suites.cell_tables import differences, markdown, place_of, shown, table
from scjepa.benchmark.suites.cell_tasks import (
    BATCHES,
    PLAIN,
    PRETRAINED,
    TASKS,
    ZERO_SHOT,
    CellOutput,
    CellScoring,
    Corpus,
    TargetCells,
    chosen_tasks,
    corpus_of,
    read_corpus,
    read_target,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scjepa.celljepa.model import CellJEPA

CELL_METHODS: Mapping[str, Method] = MappingProxyType(REGISTRY["cells"])
"""Methods by name."""


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
    options: Options | None = None,
    scoring: CellScoring | None = None,
    out: str | Path | None = None,
    say: Say | None = None,
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
    entries = entries_of(methods, training, options)
    kinds = chosen_tasks(tasks, batch is not None)
    cells = read_target(target, label, batch, layer, no_label)
    corpus = None if pretrain is None else read_corpus(pretrain, cells, layer)
    store = Store(out)
    with _models_in(out, training.models) as folder:
        suite = CellSuite(cells, corpus, scoring, Pretraining(folder, training.accelerator, say), kinds)
        study = Study(suite, entries, seeds, store, say)
        store.claim({"label": label, "batch": batch, **asdict(scoring)}, {f"target: {cells.name}": cells.digest}, [])
        study.run()
    results = CellBenchmarkResults(store.rows(), store.runs(), store, cells, scoring, study.keys)
    results.keep_in(out)
    return results


@contextmanager
def _models_in(out: str | Path | None, models: str | Path | None) -> Iterator[Path]:
    if models is not None or out is not None:
        yield Path(models) if models is not None else Path(str(out)) / "models"
        return
    with TemporaryDirectory(prefix="scjepa-cells-") as folder:
        yield Path(folder)


@dataclass
class CellSuite:
    """Embeddings of labelled cells.

    Attributes
    ----------
    target
        The cells that are scored.
    corpus
        The cells to pretrain on; ``None``: those of the target that a method may be fitted on.
    scoring
        How results are read out and scored.
    pretraining
        Cell-JEPA's models.
    kinds
        Names of tasks.
    """

    target: TargetCells
    corpus: Corpus | None
    scoring: CellScoring
    pretraining: Pretraining
    kinds: Sequence[str]
    name: str = "cells"
    _corpora: dict[str, Corpus] = field(default_factory=dict, repr=False)
    _embedded: dict[tuple[str, ...], tuple[np.ndarray, Took]] = field(default_factory=dict, repr=False)
    """The target's embeddings by Cell-JEPA's models, which several tasks ask for, and what they took."""

    def tasks(self) -> Sequence[str]:
        """Return what methods are asked to do."""
        return self.kinds

    def plans(self, task: str, entry: CellEntry, first: bool) -> bool:
        """Return whether a method takes part, and its result depends on the seed, be it that of the thinning."""
        takes_part = not entry.method.tasks or task in entry.method.tasks
        return takes_part and (first or entry.method.seeded or task == "dropout")

    def key(self, task: str, entry: CellEntry, seed: int) -> RunKey:
        """Return what a run is called."""
        configuration = entry.configuration_of(task)
        if entry.config is not None and self.corpus is not None and entry.settings == PRETRAINED:
            configuration = f"{configuration}, on {self.corpus.name}"
        return RunKey(self.target.name, task, entry.name, entry.settings, configuration, seed)

    def code(self, task: str, entry: CellEntry) -> str:
        """Return a checksum of configuration and cells to pretrain on, or of one's own function."""
        of_corpus = "" if entry.config is None or self.corpus is None else f".{self.corpus.digest[:8]}"
        return f"{entry.code_of(task)}{of_corpus}"

    def run(self, task: str, entry: CellEntry, seed: int) -> CellOutput:
        """Embed what the task scores."""
        fitting = Fitting(self, entry, seed)
        reset_peak()
        parts = list(TASKS[task].embed(fitting, self.target, self.scoring, seed))
        return CellOutput(
            seed,
            parts,
            seconds=fitting.took.seconds,
            cpu_seconds=fitting.took.cpu_seconds,
            peak_gib=peak_gib(),
            versions={"scjepa": __version__},
            info={"about": entry.method.description},
        )

    def score(self, task: str, entry: CellEntry, output: CellOutput) -> Scored:
        """Score what a method gave."""
        rows = TASKS[task].score(output.parts, self.target, self.scoring, output.seed)
        kept = {part.readout: part.values for part in output.parts} if TASKS[task].keeps else {}
        return Scored(rows, kept)

    def corpus_for(self, fit: TargetCells) -> Corpus:
        """Return the cells to pretrain on where a method may be fitted on ``fit``."""
        if self.corpus is not None:
            return self.corpus
        return self._corpora.setdefault(fit.digest, corpus_of(fit))

    def remembered(self, embed: Embed, about: tuple[str, ...], took: Took) -> Embed:
        """Return the function that embeds cells, the target once for all tasks."""

        def remembering(adata: AnnData) -> np.ndarray:
            if adata is not self.target.adata:
                return _timed(embed, took)(adata)
            if about not in self._embedded:
                own = Took()
                self._embedded[about] = (_timed(embed, own)(adata), own)
            embedding, own = self._embedded[about]
            took.add(own.seconds, own.cpu_seconds)
            return embedding

        return remembering


class Fitting:
    """A method with a seed, as a task asks for it; the time of the method alone, not of scoring, is in ``took``."""

    def __init__(self, suite: CellSuite, entry: CellEntry, seed: int) -> None:
        self.suite, self.entry, self.seed, self.took = suite, entry, seed, Took()
        self.settings = entry.settings

    def embedders(self, fit: TargetCells, integrate: bool = False) -> dict[str, Embed]:
        """Return what embeds cells, by read-out.

        Parameters
        ----------
        fit
            Cells that the method may be fitted on; their labels are not used.
        integrate
            Whether methods that can are to integrate batches.
        """
        suite, entry, run = self.suite, self.entry, self.entry.method.run
        if entry.settings == OWN and callable(run):  # it gets a copy each time
            return {PLAIN: _timed(lambda adata: run(adata.copy(), seed=self.seed), self.took)}
        if not isinstance(entry.method, CellModel) and callable(run):
            with self.took.counting(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                embed = run(fit.adata, seed=self.seed, batch_key=BATCH if integrate else None, **entry.options)
            return {PLAIN: _timed(embed, self.took)}
        corpus = suite.corpus_for(fit)
        model = suite.pretraining.model(entry, corpus, self.seed, self.took)
        about = (entry.name, entry.code_of(ZERO_SHOT), str(self.seed), corpus.digest)
        return {
            name: suite.remembered(embedder(model, suite.scoring, name), (*about, name), self.took)
            for name in suite.scoring.readouts
        }

    def finetuned(self, fit: TargetCells) -> dict[str, Embed]:
        """Return what embeds cells after fine-tuning on labels, by read-out; nothing for what is not fine-tuned."""
        if self.entry.config is None:
            return {}
        suite, labelled = self.suite, with_labels(fit.adata, fit.labels)
        with self.took.counting():
            model: CellJEPA = suite.pretraining.finetuned(self.entry, suite.corpus_for(fit), self.seed, labelled)
        return {name: _timed(embedder(model, suite.scoring, name), self.took) for name in suite.scoring.readouts}


def _timed(embed: Embed, took: Took) -> Embed:
    """Return the function, its time counted and its result checked."""

    def timed(adata: AnnData) -> np.ndarray:
        with took.counting():
            found = embed(adata)
        return checked_embedding(found, adata.n_obs)

    return timed


@dataclass
class CellBenchmarkResults(Results):
    """Scores of embeddings of cells, as rows, as a table, and as figures.

    Attributes
    ----------
    rows
        Tidy results, a row for each value: ``data``, ``task``, ``method``, ``settings``, ``configuration``, ``seed``,
        ``readout``, ``group`` (share of molecules, stage of fine-tuning, or ``"all"``), ``n_cells``, ``metric``,
        ``value``, ``seconds``, ``cpu_seconds``, ``peak_gib`` and ``reason`` (why there is no value); the other columns
        of :class:`~scjepa.benchmark.BenchmarkResults` are empty.
    runs
        A row for each run: what it took, and why it failed.
    """

    _target: TargetCells = field(repr=False)
    _scoring: CellScoring = field(repr=False)
    _planned: Sequence[RunKey] = field(repr=False)

    def table(self) -> pd.DataFrame:
        """Return methods × scores for each task, means over seeds.

        Of a method that the folder holds in several configurations, it has the one of the last call.

        Returns
        -------
        pandas.DataFrame
            ``data``, ``task``, ``method``, ``settings``, ``configuration``, ``readout``, ``group``, ``n_cells``, each
            score with ``_std_seeds``, ``seconds``, ``cpu_seconds``, ``peak_gib``, ``seeds`` and ``reason``.
        """
        return table(self._shown())

    def differences(self, confidence: float = 0.95) -> pd.DataFrame:
        """Return Cell-JEPA - reconstruction only, Cell-JEPA - untrained, and modules - untrained, paired by seed.

        Parameters
        ----------
        confidence
            Of the intervals.

        Returns
        -------
        pandas.DataFrame
            ``first``, ``second``, ``data``, ``task``, ``readout``, ``group``, ``metric``, ``difference``, ``low`` and
            ``high`` (Student's t over seeds; NaN where there is one seed), ``seeds``.
        """
        return differences(self._shown(), confidence)

    def markdown(self) -> str:
        """Return the table and the differences as text."""
        return markdown(self.table(), self.differences(), self._scoring, self.runs)

    def figures(self) -> dict[str, Figure]:
        """Return every figure that the results allow, by name: ``umap``, ``umap_batches``, ``avg_bio``, ``dropout``."""
        from scjepa.benchmark.suites.cell_figures import every_figure

        return every_figure(self._target, self._shown(), self.embeddings(), self.embeddings(BATCHES))

    def embeddings(self, task: str = ZERO_SHOT) -> dict[tuple[str, str], np.ndarray]:
        """Return embeddings of the target by method and read-out, of each method's first seed there.

        Parameters
        ----------
        task
            ``"zero_shot"`` or ``"batches"``, in which scVI is told batches.
        """
        kept = set(self._shown()["configuration"])
        found: dict[tuple[str, str], np.ndarray] = {}
        for key in sorted(self._store.keys, key=lambda key: key.seed):
            if key.task == task and key.configuration in kept:
                for name, values in self._store.arrays(key).items():
                    found.setdefault((key.method, name.removeprefix("embedding_")), values)
        return dict(sorted(found.items(), key=lambda item: place_of(item[0][0])))

    def _texts(self) -> dict[str, str]:
        """Return ``table.csv``, ``differences.csv`` and ``table.md``."""
        tables = {"table.csv": self.table(), "differences.csv": self.differences()}
        texts = {name: one.to_csv(index=False, float_format="%.4f") for name, one in tables.items()}
        return {**texts, "table.md": self.markdown()}

    def _shown(self) -> pd.DataFrame:
        return shown(self.rows, self._planned)
