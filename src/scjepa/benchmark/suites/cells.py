"""A whole comparison of cells in one call: data and methods in, tidy results, tables and figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scjepa import __version__
from scjepa._core.keys import UNLABELLED
from scjepa.benchmark import table as tables
from scjepa.benchmark.inputs import Data
from scjepa.benchmark.memory import peak_gib, reset_peak
from scjepa.benchmark.method import REGISTRY, Method, Parts
from scjepa.benchmark.store import RunKey, Scored, Store
from scjepa.benchmark.study import Methods, Options, Results, Say, Study
from scjepa.benchmark.suites import cell_tasks
from scjepa.benchmark.suites.cell_models import CellEntry, CellTraining, Fitting, Pretraining, entries_of
from scjepa.benchmark.suites.cell_tasks import BATCHES, DROPOUT, FINETUNE, TASKS, ZERO_SHOT, CellOutput, CellScoring
from scjepa.benchmark.table import heading

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    training, scoring = training or CellTraining(), scoring or CellScoring()
    entries = entries_of(methods, training, options)
    kinds = cell_tasks.chosen_tasks(tasks, batch is not None)
    cells = cell_tasks.read_target(target, label, batch, layer, no_label)
    corpus = None if pretrain is None else cell_tasks.read_corpus(pretrain, cells, layer)
    store = Store(out)
    there = training.models or (out and Path(out) / "models")
    with nullcontext(there) if there else TemporaryDirectory(prefix="scjepa-cells-") as folder:
        say = say or (lambda _: None)
        models = Pretraining(Path(folder), cells, corpus, scoring, training.accelerator, say)
        study = Study(CellSuite(models, kinds), entries, seeds, store, say)
        store.claim({"label": label, "batch": batch, **asdict(scoring)}, {f"target: {cells.name}": cells.digest}, [])
        study.run()
    results = CellBenchmarkResults(store.rows(), store.runs(), store, cells, scoring, study.keys)
    results.keep_in(out)
    return results


@dataclass
class CellSuite:
    """Embeddings of labelled cells.

    Attributes
    ----------
    models
        Cell-JEPA's, the cells that they are trained on and those that are scored.
    kinds
        Names of tasks.
    """

    models: Pretraining
    kinds: Sequence[str]
    name: str = "cells"

    def tasks(self) -> Sequence[str]:
        """Return what methods are asked to do."""
        return self.kinds

    def plans(self, task: str, entry: CellEntry, first: bool) -> bool:
        """Return whether a method takes part, and its result depends on the seed, be it that of the thinning."""
        takes_part = not entry.method.tasks or task in entry.method.tasks
        return takes_part and (first or entry.method.seeded or task == DROPOUT)

    def key(self, task: str, entry: CellEntry, seed: int) -> RunKey:
        """Return what a run is called."""
        configuration, corpus = entry.configuration_of(task), self.models.corpus
        if entry.config is not None and corpus is not None and entry.settings == cell_tasks.PRETRAINED:
            configuration = f"{configuration}, on {corpus.name}"
        return RunKey(self.models.target.name, task, entry.name, entry.settings, configuration, seed)

    def code(self, task: str, entry: CellEntry) -> str:
        """Return a checksum of configuration and cells to pretrain on, or of one's own function."""
        corpus = self.models.corpus
        of_corpus = "" if entry.config is None or corpus is None else f".{corpus.digest[:8]}"
        return f"{entry.code_of(task)}{of_corpus}"

    def run(self, task: str, entry: CellEntry, seed: int) -> CellOutput:
        """Embed what the task scores."""
        fitting = Fitting(self.models, entry, seed)
        reset_peak()
        parts = list(TASKS[task].embed(fitting, self.models.target, self.models.scoring, seed))
        about: Parts = {"versions": {"scjepa": __version__}, "info": {"about": entry.method.description}}
        return CellOutput(seed, parts, **asdict(fitting.took), peak_gib=peak_gib(), **about)

    def score(self, task: str, entry: CellEntry, output: CellOutput) -> Scored:
        """Score what a method gave."""
        rows = TASKS[task].score(output.parts, self.models.target, self.models.scoring, output.seed)
        return Scored(rows, {part.readout: part.values for part in output.parts} if TASKS[task].keeps else {})


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

    _target: cell_tasks.TargetCells = field(repr=False)
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
        from scjepa.benchmark.figures import figures_of_cells

        return figures_of_cells(self._target, self._shown(), self.embeddings(), self.embeddings(BATCHES))

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
        both = {"table.csv": self.table(), "differences.csv": self.differences()}
        texts = {name: one.to_csv(index=False, float_format="%.4f") for name, one in both.items()}
        return {**texts, "table.md": self.markdown()}

    def _shown(self) -> pd.DataFrame:
        return shown(self.rows, self._planned)


# -- tables ---------------------------------------------------------------------------------------------------------

PAIRS = (("celljepa", "reconstruction_only"), ("celljepa", "untrained"), ("modules", "untrained_modules"))
"""Methods whose difference is told: the second begins each seed with the same weights as the first."""

COMPARED = {
    ZERO_SHOT: ("avg_bio", "nmi", "ari", "asw_scaled", "knn_accuracy"),
    DROPOUT: ("neighbors", "label_accuracy", "avg_bio"),
    BATCHES: ("bio", "batch", "total"),
    FINETUNE: ("accuracy", "macro_f1", "avg_bio"),
}
"""Scores whose differences are told."""

_BATCH = ("ilisi", "kbet", "bras", "graph_connectivity", "pcr_comparison", "bio", "batch", "total")

SECTIONS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    ZERO_SHOT: ("Zero-shot", "", ("avg_bio", "avg_bio_unscaled", "nmi", "ari", "asw", "asw_scaled", "knn_accuracy")),
    DROPOUT: ("Fewer molecules", "molecules", ("neighbors", "label_accuracy", "nmi", "avg_bio")),
    BATCHES: ("Batches", "", _BATCH),
    FINETUNE: ("Fine-tuning", "stage", ("accuracy", "macro_f1", "majority_rate", "avg_bio", "nmi", "ari", "asw")),
}
"""Of each task its heading, what its groups are, and the scores that are shown."""

_TOLD = {
    ZERO_SHOT: ("avg_bio", "knn_accuracy"),
    DROPOUT: ("label_accuracy",),
    BATCHES: ("total",),
    FINETUNE: ("accuracy",),
}
"""Scores whose differences are told; all are in the table of differences."""

_UNTOLD = ("100%", cell_tasks.BEFORE)
"""Groups that are told elsewhere: all molecules and no fine-tuning are zero-shot."""


def title_of(name: str) -> str:
    """Return the name of a method in tables and figures; one's own has the name it was given."""
    return REGISTRY["cells"][name].title or name if name in REGISTRY["cells"] else name


def place_of(name: str) -> int:
    """Return where a method stands in tables and figures; one's own come last."""
    return list(REGISTRY["cells"]).index(name) if name in REGISTRY["cells"] else len(REGISTRY["cells"])


def shown(rows: pd.DataFrame, planned: Sequence[RunKey]) -> pd.DataFrame:
    """Return the rows of the last call's configurations, and of methods that it did not name.

    A folder may hold a method in several configurations, of which tables and figures show one.
    """
    key = ["task", "method", "settings", "configuration"]
    asked = {tuple(getattr(run, name) for name in key) for run in planned}
    named = {(task, method) for task, method, *_ in asked}
    kept = [
        (task, method) not in named or (task, method, settings, configuration) in asked
        for task, method, settings, configuration in rows[key].itertuples(index=False)
    ]
    return rows[kept]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return methods × scores.

    Parameters
    ----------
    rows
        Tidy results.

    Returns
    -------
    pandas.DataFrame
        A row for each data, task, method, settings, configuration, read-out and group (the share of molecules, or the
        stage of fine-tuning): ``n_cells``, each score (mean over seeds) with ``_std_seeds`` (n - 1; NaN where there
        is one), ``seconds``, ``cpu_seconds``, ``peak_gib`` and ``seeds``. A run that failed has a row with the
        ``reason``.
    """
    values = rows[rows["metric"].notna() & rows["value"].notna()]

    def by_task(found: pd.DataFrame) -> pd.DataFrame:
        found["seeds"] = found.pop("seeds")  # behind what runs took
        by = pd.DataFrame({"task": found["task"].map(list(TASKS).index), "method": found["method"].map(place_of)})
        return found.loc[by.assign(came=_first_rows(values, found)).sort_values(["task", "method", "came"]).index]

    return tables.scores(rows, values, tuple(dict.fromkeys(values["metric"])), by_task)


def _first_rows(values: pd.DataFrame, found: pd.DataFrame) -> np.ndarray:
    """Return where each case first came among the rows."""
    first = {case: i for i, case in reversed(list(enumerate(values[tables.KEYS].itertuples(index=False, name=None))))}
    return np.array([first[case] for case in found[tables.KEYS].itertuples(index=False, name=None)])


def differences(rows: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Return paired differences between methods, seed by seed.

    Parameters
    ----------
    rows
        Tidy results, each method in one configuration; a pair with several is left out.
    confidence
        Of the interval.

    Returns
    -------
    pandas.DataFrame
        A row for each pair, task, read-out, group and score: ``first``, ``second``, ``difference`` (mean over seeds of
        first - second), ``low`` and ``high`` (Student's t over seeds; NaN where there is one), ``seeds``.
    """
    from scipy import stats

    found = []
    for first, second in PAIRS:
        sides = [rows[rows["method"] == name] for name in (first, second)]
        for task, metrics in COMPARED.items():
            a, b = (side[(side["task"] == task) & side["metric"].isin(metrics)] for side in sides)
            if a.empty or b.empty or a["configuration"].nunique() > 1 or b["configuration"].nunique() > 1:
                continue
            keys = ["data", "task", "readout", "group", "metric"]
            pairs = a.merge(b, on=[*keys, "seed"], suffixes=("_first", "_second"))
            pairs["difference"] = pairs["value_first"] - pairs["value_second"]
            for case, own in pairs.groupby(keys, sort=False):
                n, mean = len(own), own["difference"].mean()
                half = np.nan
                if n > 1:
                    half = stats.t.ppf((1 + confidence) / 2, n - 1) * own["difference"].std(ddof=1) / n**0.5
                about = dict(zip(keys, case, strict=True))
                found.append(
                    {"first": first, "second": second, **about}
                    | {"difference": mean, "low": mean - half, "high": mean + half, "seeds": n}
                )
    columns = ["first", "second", "data", "task", "readout", "group", "metric", "difference", "low", "high", "seeds"]
    return pd.DataFrame(found, columns=columns)


def note(scoring: CellScoring) -> str:
    """Return what the scores are."""
    low, high = min(scoring.resolutions), max(scoring.resolutions)
    part = 1 - scoring.test_size
    kept = {"top": "those of most counts", "spread": "as if drawn once for all cells"}
    genes = "as many as they were trained with" if scoring.n_tokens is None else f"at most {scoring.n_tokens:,}"
    which = "" if scoring.kept is None else f", {kept[scoring.kept]}"
    return (
        f"Means over seeds ± standard deviation. NMI and ARI are those of the best of {len(scoring.resolutions)} "
        f"resolutions of Leiden ({low:g} to {high:g}) by NMI, chosen with the labels, so upper bounds. ASW is the mean "
        "silhouette width of the labels; AvgBIO the mean of NMI, ARI and ASW from 0 to 1. Accuracy of neighbors: vote "
        f"of the {scoring.n_neighbors} nearest cells of the other folds ({scoring.folds} folds). Methods that are "
        "*fitted* have seen the counts of the cells that are scored (of fine-tuning: of its training cells); the "
        f"pretrained have not, unless the set was among theirs. Fine-tuning: {part:.0%} of the cells, split by seed "
        f"{scoring.split_seed}; labels of the others are voted by the {scoring.n_neighbors} nearest training cells. "
        f"Cell-JEPA's models embed of a cell's expressed genes {genes}{which}.\n"
    )


def markdown(table: pd.DataFrame, differences: pd.DataFrame, scoring: CellScoring, runs: pd.DataFrame) -> str:
    """Return the table: a part for each task, paired differences, and what could not be measured."""
    parts = [note(scoring)]
    scored = table[table["reason"].isna()]
    for task, (title, groups, metrics) in SECTIONS.items():
        own = scored[scored["task"] == task]
        if len(own):
            cells = f"{int(own['n_cells'].iloc[0]):,} cells"
            parts += [f"\n**{title}**: {own['data'].iloc[0]}, {cells}\n"]
            parts += [tables.scib_note(runs[runs["task"] == task])] if task == BATCHES else []
            parts += [_scores(own, groups, metrics)]
    parts += ["\n**Configurations**\n", _configurations(scored)] if len(scored) else []
    told = differences[~differences["group"].isin(_UNTOLD)]
    told = told[[metric in _TOLD[task] for task, metric in zip(told["task"], told["metric"], strict=True)]]
    if len(told):
        parts += ["\n**Paired differences**, by seed, with 95% intervals of Student's t\n", _differences(told)]
    failed = table[table["reason"].notna()]
    if len(failed):
        rows = [[row["task"], title_of(row["method"]), row["reason"]] for row in failed.to_dict("records")]
        parts += ["\n**Not measured**\n", tables.markdown_table(["task", "method", "reason"], rows)]
    return "\n".join(parts) + "\n"


def _scores(own: pd.DataFrame, groups: str, metrics: Sequence[str]) -> str:
    metrics, rows = tables.with_values(own, metrics), []
    for row in own.to_dict("records"):
        words = [title_of(row["method"]), row["settings"], row["readout"], *([row["group"]] if groups else [])]
        words += [tables.score_text(row, metric) for metric in metrics]
        rows.append([*words, tables.number_text(row["cpu_seconds"], ".0f"), row["seeds"]])
    head = ["method", "settings", "read-out", *([groups] if groups else []), *map(heading, metrics)]
    return tables.markdown_table([*head, "CPU s", "seeds"], rows)


def _configurations(scored: pd.DataFrame) -> str:
    """Return what each method was, the tasks of one configuration together."""
    cases = scored.groupby(["method", "settings", "configuration"], sort=False)["task"].unique()
    rows = [
        [title_of(method), settings, ", ".join(SECTIONS[task][0].lower() for task in tasks), configuration]
        for (method, settings, configuration), tasks in cases.items()
    ]
    return tables.markdown_table(["method", "settings", "tasks", "configuration"], rows)


def _differences(differences: pd.DataFrame) -> str:
    rows = []
    for row in differences.to_dict("records"):
        pair = f"{title_of(row['first'])} − {title_of(row['second'])}"
        group = "" if row["group"] == "all" else row["group"]
        interval = "one seed" if pd.isna(row["low"]) else f"{row['low']:+.3f} to {row['high']:+.3f}"
        what = ", ".join(word for word in (SECTIONS[row["task"]][0].lower(), group) if word)
        words = [pair, what, row["readout"], heading(row["metric"])]
        rows.append([*words, f"{row['difference']:+.3f}", interval, row["seeds"]])
    return tables.markdown_table(["difference", "task", "read-out", "score", "mean", "interval", "seeds"], rows)
