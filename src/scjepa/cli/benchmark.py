"""``scjepa benchmark``: compare methods, with controls, on your own sections or dissociated cells.

Run methods on the same data, and score all by the same read-outs, clusterings and metrics. With --data: ST-JEPA, its
controls and other methods on sections of tissue. With --target: embeddings of labelled dissociated cells, Cell-JEPA
pretrained on other cells (--pretrain), its controls, HVG-PCA and scVI. Methods never see the label. A method that is
not installed, or fails, leaves a row with the reason. Every finished run is kept: the same command goes on where a
killed one stopped. Tidy results, tables and figures are written; their paths are printed on stdout.

    scjepa benchmark --data a.h5ad b.h5ad --label region --technology-key technology --methods all --out results
    scjepa benchmark --data a.h5ad --label region --methods stjepa controls --preset demo --seeds 1 --out quick
    scjepa benchmark --data a.h5ad --label region --methods stjepa --out axes --ablate tokens.n_tokens=16,32,64 \
        --ablate masking.ratio=0.3,0.6,0.9
    scjepa benchmark --target c.h5ad --label cell_type --pretrain a.h5ad b.h5ad --out cells
    scjepa benchmark --target c.h5ad --label cell_type --batch-key batch --tasks batches --out batches
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from scjepa._core import keys as _keys
from scjepa._core import stored
from scjepa.celljepa.config import CellJEPAConfig
from scjepa.cli import io
from scjepa.cli import options as shared
from scjepa.cli.options import Accelerator, Column, Folder, Paths, Positive, UsageError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData

OWN = "own"
"""Value of an option that leaves a model as it is."""

_APPEND = {"action": "append"}


def _positive_or_own(text: str) -> int | str:
    return OWN if text == OWN else shared.positive(text)


@dataclass(frozen=True)
class Data:
    """What is compared on.

    Parameters
    ----------
    out
        Folder to write to; the same command goes on there.
    data
        sections: cells with raw counts and coordinates: .h5ad, .zarr (AnnData) or a SpatialData store.
    target
        cells: the dissociated cells that are scored, with raw counts, in such a file.
    pretrain
        cells: cells to pretrain on, joined by gene name; their labels are not read. Default: those of --target.
    models
        cells: folder of pretrained models, which several targets may share. Default: models in --out.
    """

    out: Folder = field(metadata={"required": True})
    data: Paths | None = None
    target: Annotated[Path, "FILE"] | None = None
    pretrain: Paths | None = None
    models: Folder | None = None


@dataclass(frozen=True)
class Columns:
    """Where things are in the files.

    Parameters
    ----------
    label
        obs column of known regions, or of cell types, to score against; without it only mixing and continuity of
        sections are measured.
    technology_key
        sections: obs column of technologies. Default: technology where a file has it; else each file is one.
    library_key
        sections: obs column of sections. Default: section where a file has it; else each file is one.
    batch_key
        cells: obs column of the target's batches, for the task batches.
    no_label
        cells: labels that name no type, whose cells are left out. Default: unlabelled.
    layer
        Layer of raw counts, in every file. Default: X.
    table
        Table of SpatialData stores that have several.
    """

    label: Column | None = None
    technology_key: Column | None = None
    library_key: Column | None = None
    batch_key: Column | None = None
    no_label: list[str] | None = None
    layer: str | None = None
    table: str | None = None


@dataclass(frozen=True)
class Compared:
    """What is compared.

    Parameters
    ----------
    methods
        all, or names of scjepa.benchmark.METHODS and the groups controls and peers; of cells: of CELL_METHODS, and
        models and fitted. Default: all.
    tasks
        sections: within (each by itself), sections (those of a technology together), technologies (all together,
        trained on full panels and embedded by shared genes). cells: zero_shot (AvgBIO of the embedding), dropout (the
        same cells with fewer molecules), batches (the suite of scib-metrics), finetune (labels of cells that
        fine-tuning has not seen). Default: auto, all that the data allow.
    seeds
        Seeds of each method. Default: 3.
    preset
        Preset of the model, and of its controls. Default: base for sections, demo for cells.
    set
        cells: change an option of that preset, such as objective.target_norm=batch; may be given several times.
    option
        An option of a method, such as novae.settings=tutorial, stjepa.training.max_steps=200 or scvi.max_epochs=50;
        may be repeated.
    max_steps
        cells: steps of pretraining of every model. Default: its preset's.
    finetune_epochs
        cells: passes of fine-tuning. Default: the preset's, 30.
    accelerator
        Device of ST-JEPA, or of Cell-JEPA's models. Default: the best there is.
    timeout
        sections: seconds after which a peer is ended.
    ablate
        sections: an axis of ST-JEPA and its values, such as tokens.n_tokens=16,32,64, one axis changed at a time; may
        be repeated.
    grid
        sections: axes of which every combination is run; may be repeated.
    """

    methods: list[str] | None = None
    tasks: list[str] | None = None
    seeds: Positive | None = None
    preset: str | None = None
    set: Annotated[str, "PART.OPTION=VALUE"] | None = field(default=None, metadata=_APPEND)
    option: Annotated[str, "METHOD.OPTION=VALUE"] | None = field(default=None, metadata=_APPEND)
    max_steps: Positive | None = None
    finetune_epochs: Positive | None = None
    accelerator: Accelerator | None = None
    timeout: float | None = None
    ablate: Annotated[str, "PART.OPTION=V1,V2"] | None = field(default=None, metadata=_APPEND)
    grid: Annotated[list[str], "PART.OPTION=V1,V2"] | None = field(default=None, metadata=_APPEND)


@dataclass(frozen=True)
class Scored:
    """How results are scored.

    Parameters
    ----------
    resolutions
        Resolutions of Leiden; of cells the best by NMI counts. Default: 0.6 0.8 1 1.2 1.4; of cells 0.1, 0.2 to 2.
    leiden_seeds
        sections: seeds of Leiden. Default: 3.
    readouts
        sections: plain (the embedding as it is), z30 (z-scored per section, 30 components), hops (that of the cells,
        z-scored per section, with its means over rings), niche (predictive components of that of the cells, rings and
        weights chosen from the data), niche+X (the same with expression), aligned30, aligned_hops, aligned_niche,
        aligned_niche+X (with one covariance in all sections), any of them followed by Harmony, as hops+harmony.
        cells: cls, genes (the mean of their vectors). Default: plain z30 hops niche niche+X; of cells cls genes.
    fractions
        cells: shares of the molecules that are kept. Default: 0.5 0.25 0.1.
    n_tokens
        cells: expressed genes of a cell that Cell-JEPA embeds at most; own: as its preset says. Default: 3000.
    kept
        cells: which of them; as if drawn once for all cells, those of most counts, or as its preset says. Default:
        spread.
    no_figures
        Write tables only.
    """

    resolutions: list[float] | None = None
    leiden_seeds: Positive | None = None
    readouts: list[str] | None = None
    fractions: list[float] | None = None
    n_tokens: Annotated[int, _positive_or_own] | None = None
    kept: Literal["spread", "top", "own"] | None = None
    no_figures: bool = False


_KEPT = "runs that had ended are kept, and the same command goes on with the others"

_OF_SECTIONS = ("data", "technology_key", "library_key", "timeout", "ablate", "grid", "leiden_seeds")
_OF_CELLS = (
    *("target", "pretrain", "models", "batch_key", "no_label", "set", "max_steps", "finetune_epochs"),
    *("fractions", "n_tokens", "kept"),
)


def run(options: argparse.Namespace) -> None:
    """Compare, and write tables and figures."""
    of_cells = options.target is not None
    if of_cells == (options.data is not None):
        raise UsageError("Name the sections to compare on with --data, or the dissociated cells with --target.")
    for name in _OF_SECTIONS if of_cells else _OF_CELLS:
        if getattr(options, name) is not None:
            here, there = ("--target", "--data") if of_cells else ("--data", "--target")
            raise UsageError(f"--{name.replace('_', '-')} belongs to {there}, and not to {here}.")
    progress = shared.Progress(options)
    results = (_of_cells if of_cells else _of_sections)(options, progress)
    paths = results.write(options.out)
    if not options.no_figures:
        progress.step("figures")
        paths += results.write_figures(options.out / "figures")
    for path in paths:
        shared.written(path)
    failed = results.runs["reason"].notna().sum()
    where = f", see {'table.md' if of_cells else 'table1.md'}" if failed else ""
    progress.step(f"done; {failed} of {len(results.runs)} runs failed{where}")


def _of_sections(options: argparse.Namespace, progress: shared.Progress) -> Any:
    axes, chosen = axes_of(options.ablate or (), options.grid or ()), method_options(options.option or ())
    files = io.data_files(options.data, options.table)

    from scjepa.benchmark import Scoring
    from scjepa.benchmark import run as compare

    if options.accelerator not in (None, "auto"):
        chosen.setdefault("stjepa", {})["accelerator"] = options.accelerator
    data = {file.name: _read(file, progress) for file in files}
    names = ("label", "layer", "methods", "tasks", "seeds", "preset", "out", "timeout")
    columns = {"technology_key": "technology", "library_key": "section"}
    how = {
        **_given(options, names),
        **_given(options, columns, columns),
        "options": chosen,
        "axes": axes,
        "scoring": Scoring(**_of(options, Scoring)),
    }
    with shared.stopped_with(_KEPT):
        return compare(data, **how, say=progress.step)


def _of_cells(options: argparse.Namespace, progress: shared.Progress) -> Any:
    if options.label is None:
        raise UsageError("--target needs --label COLUMN, the obs column of its cell types.")
    later = [text for text in options.set or () if text.split(".")[0].strip() in ("finetuning", "perturbation")]
    if later:
        raise UsageError(f"--set {later[0]}: parts are tokens, encoder, masking, objective, training.")
    changes, chosen = shared.changes_of(options.set or (), CellJEPAConfig), method_options(options.option or ())
    (target,) = io.data_files([options.target], options.table)
    corpus = io.data_files(options.pretrain, options.table) if options.pretrain else []

    from scjepa.benchmark import CellScoring, CellTraining, run_cells

    training = CellTraining(changes=changes, **_of(options, CellTraining))
    pretrain = {file.name: _read(file, progress) for file in corpus} or None
    cells = {target.name: _read(target, progress)}
    names = ("label", "layer", "no_label", "methods", "tasks", "seeds", "out")
    how = {
        **_given(options, names),
        **_given(options, ("batch_key",), {"batch_key": "batch"}),
        "options": chosen,
        "scoring": CellScoring(**_of(options, CellScoring)),
    }
    with shared.stopped_with(_KEPT):
        return run_cells(cells, pretrain=pretrain, training=training, **how, say=progress.step)


def _given(
    options: argparse.Namespace, names: Iterable[str], called: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Return the options that were given, by name, or by what they are ``called`` in Python."""
    found = {called.get(name, name): getattr(options, name, None) for name in names}
    return {name: None if value == OWN else value for name, value in found.items() if value is not None}


def _of(options: argparse.Namespace, how: type) -> dict[str, Any]:
    """Return the options that were given of the fields of a dataclass."""
    return _given(options, (part.name for part in fields(how)))


def _read(file: stored.DataFile, progress: shared.Progress) -> AnnData:
    """Read a file whole, and tell its size."""
    if file.kind == stored.SPATIALDATA:
        import spatialdata

        from scjepa.datasets import table_of

        adata = table_of(spatialdata.read_zarr(file.path), file.table)
    else:
        adata = stored.read_anndata(file)
    progress.step(f"{file.name}: {adata.n_obs:,} cells, {adata.n_vars:,} genes")
    return adata


# -- options of methods, and axes ----------------------------------------------------------------------------------


def method_options(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return options of methods, ``METHOD.PART.OPTION`` as ``"PART.OPTION"``; numbers are numbers, else text.

    Raises
    ------
    UsageError
        If one is written otherwise.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        method, dot, option = name.partition(".")
        if not (equals and dot):
            raise UsageError(f"--option takes METHOD.OPTION=VALUE, such as cellcharter.max_epochs=50; found {text!r}.")
        found.setdefault(method, {})[option] = _number_or_text(value)
    return found


def _number_or_text(value: str) -> int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(value)
    return value


def axes_of(ablate: Sequence[str], grids: Sequence[Sequence[str]]) -> dict[Any, list[Any]]:
    """Return axes by option, such as ``"tokens.n_tokens=16,32"``; grids by their options together.

    Raises
    ------
    UsageError
        If one is written otherwise, or an option or value is none there is.
    """
    axes: dict[Any, list[Any]] = dict(_axis(text, "--ablate") for text in ablate)
    for grid in grids:
        if len(grid) < 2:
            raise UsageError(f"--grid takes two axes or more, found {grid[0]!r}. For one: --ablate {grid[0]}.")
        each = [_axis(text, "--grid") for text in grid]
        axes[tuple(name for name, _ in each)] = list(product(*(values for _, values in each)))
    return axes


def _axis(text: str, option: str) -> tuple[str, list[Any]]:
    name, _, values = text.partition("=")
    part, _, own = name.strip().partition(".")
    if not (own and values):
        raise UsageError(f"{option} takes PART.OPTION=V1,V2, such as tokens.n_tokens=16,32; found {text!r}.")
    try:
        return f"{part}.{own}", [shared.changes_of([f"{part}.{own}={value}"])[part][own] for value in values.split(",")]
    except UsageError as error:
        raise UsageError(str(error).replace("--set", option, 1)) from error


COMMAND = shared.Command.of(__doc__, run, Data, Columns, Compared, Scored)


# -- the demonstration ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Demo:
    """Demonstration.

    Parameters
    ----------
    data
        h5ad with raw counts in X and obsm['spatial']. Default: simulated.
    label
        obs column of known regions to score against. Default: region if there.
    library_key
        obs column of sections. Default: section if there.
    out
        Folder to write to.
    preset
        Model size.
    steps
        Optimizer steps. Default: the preset's.
    n_niches
        Number of niches. Default: as many as there are labels.
    seed
        Seed of data, weights and niches.
    """

    data: Annotated[Path, "FILE"] | None = None
    label: Column | None = None
    library_key: Column | None = None
    out: Folder = Path("demo_out")
    preset: str = field(default="demo", metadata={"choices": list(shared.PRESETS)})
    steps: Positive | None = None
    n_niches: Positive | None = None
    seed: int = 0


def demo(options: argparse.Namespace) -> None:
    """``scjepa demo``: simulate tissue (or read a file), train, find niches, draw figures and a table with controls.

    Go the whole way: data, graph, training, niches, figures, and a table of scores with controls.

        scjepa demo
        scjepa demo --data my_section.h5ad --label region --out results
        scjepa demo --data my_section.h5ad --n-niches 12 --steps 1500
    """
    with shared.stopped_with("nothing of this model was saved"):
        run_demo(options, say=(lambda _: None) if options.quiet else print)


_CHOSEN = "chosen"
"""Column of the table: what the read-out chose from the data, where a row is read by it."""


def run_demo(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Run the whole job and write its figures and tables to ``options.out``; ``say`` is called with each line."""
    import time
    import warnings

    import pandas as pd

    import scjepa
    from scjepa._core.anndata import groups_of, labels_of, record_of
    from scjepa._core.squidpy import spatial_graph

    start = time.perf_counter()

    def step(text: str) -> None:
        say(f"[{time.perf_counter() - start:5.0f} s] {text}")

    adata = _load(options)
    section = _column(adata, options.library_key, _keys.SECTION, "--library-key")
    label = _column(adata, options.label, _keys.REGION, "--label")
    technology = _column(adata, None, _keys.TECHNOLOGY)
    if section is not None:  # squidpy takes categories alone
        adata.obs[section] = pd.Categorical(groups_of(adata, section))
    step(f"data: {adata.n_obs:,} cells, {adata.n_vars:,} genes" + ("" if options.data else " (simulated tissue)"))
    options.out.mkdir(parents=True, exist_ok=True)

    spatial_graph(adata, n_neighs=10, library_key=section)
    scjepa.STJEPA.setup_anndata(adata, technology_key=technology, library_key=section)
    model = scjepa.STJEPA(adata, preset=options.preset, seed=options.seed)
    say(repr(model))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This model is not trained")
        untrained = model.get_latent_representation(scale="cell")
    step("training")
    model.train(max_steps=options.steps)
    say(str(model.diagnose()))

    step("embeddings and niches")
    known = None if label is None else len(set(labels_of(adata.obs[label])) - {None})
    model.niches(n_niches=options.n_niches or known, random_state=options.seed)
    chosen = record_of(adata, _keys.EMBEDDING_NICHE)[_CHOSEN]
    say(f"read-out: {chosen}")

    step("figures")
    scjepa.pl.niches(adata, reference=label, library_key=section, save=options.out / "niches.png")
    scjepa.pl.training(model, save=options.out / "training.png")
    colors = [name for name in (_keys.NICHE, label, section) if name is not None]
    scjepa.pl.embedding(adata, color=colors, save=options.out / "embedding.png")
    model.save(options.out / "model", overwrite=True)
    adata.obs[[_keys.NICHE]].to_csv(options.out / "niches.csv")
    (options.out / "readout.txt").write_text(f"{chosen}\n")
    if label is not None:
        table = _score(adata, untrained, label, section)
        table.to_csv(options.out / "scores.csv", float_format="%.4f")
        say(f"\nAgreement of Leiden niches with {label!r} (mean over resolutions 0.6-1.4, and at {known} niches):")
        say(table.drop(columns=_CHOSEN).round(3).to_string())
    step(f"done: {options.out}/ holds " + ", ".join(sorted(path.name for path in options.out.iterdir())))
    say(f"The figure to look at first: {(options.out / 'niches.png').resolve()}")


def _load(options: argparse.Namespace) -> AnnData:
    if options.data is None:
        from scjepa.datasets import simulated_tissue

        return simulated_tissue(3000, difficulty="medium", seed=options.seed)

    return stored.read_anndata(*io.data_files([options.data]))


def _column(adata: AnnData, wanted: str | None, default: str, option: str = "") -> str | None:
    """Return the column the user named with an option, else the default where it exists."""
    from scjepa._core.anndata import column_of

    if wanted is not None:
        column_of(adata, wanted, f"Name one of these with {option}.")
    return wanted or (default if default in adata.obs else None)


def _score(adata: AnnData, untrained: np.ndarray, label: str, section: str | None) -> pd.DataFrame:
    """Score ST-JEPA and its controls.

    The trained and the untrained encoder are read by the same rule, with expression and alone; the linear method is
    expression alone by that rule. What chooses nothing: components of neighborhood means, and rings of z-scored
    components of ST-JEPA.
    """
    import numpy as np
    import pandas as pd

    from scjepa._core.anndata import groups_of, record_of
    from scjepa.benchmark import neighborhood_pca, score_table, section_zscored_pca
    from scjepa.tl import NicheReadout, aggregate, standardize

    graph, sections = adata.obsp[f"{_keys.SPATIAL}_connectivities"], groups_of(adata, section)
    counts, trained = adata, adata.obsm[_keys.EMBEDDING_CELL]
    embeddings = {"ST-JEPA": np.asarray(adata.obsm[_keys.EMBEDDING_NICHE])}
    chosen = {"ST-JEPA": record_of(adata, _keys.EMBEDDING_NICHE)[_CHOSEN]}
    for name, sources in {
        "ST-JEPA, embedding alone": {_keys.EMBEDDING_CELL: trained},
        "linear method": {_keys.EXPRESSION: counts},
        "untrained encoder": {_keys.EXPRESSION: counts, "untrained embedding": untrained},
        "untrained encoder, embedding alone": {"untrained embedding": untrained},
    }.items():
        rule = NicheReadout()
        embeddings[name] = rule.fit_transform(sources, graph, sections)
        chosen[name] = rule.describe()
    embeddings["neighborhood PCA"] = neighborhood_pca(adata)
    if section is not None and adata.obs[section].nunique() > 1:
        embeddings["neighborhood PCA, z-scored in sections"] = section_zscored_pca(adata, library_key=section)
    cells = standardize(trained, groups=sections, n_comps=20)
    embeddings["ST-JEPA, former read-out"] = aggregate(cells, connectivities=graph, n_hops=3)
    return score_table(embeddings, adata.obs[label]).assign(**{_CHOSEN: pd.Series(chosen)})


DEMO = shared.Command.of(demo.__doc__, demo, Demo)
