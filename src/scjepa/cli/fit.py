"""``scjepa fit``: train ST-JEPA or Cell-JEPA on files of cells and save the model.

Train a model on the cells of one or several files: ST-JEPA on cells in tissue, which have coordinates, Cell-JEPA on
dissociated cells. Files may hold different genes: cells are joined by gene name, and for ST-JEPA which genes each
technology measured is kept. The spatial graph in a file is used; where there is none, squidpy builds it within each
section. One device is used, also where there are several; in Python, model.train(devices=...) takes more. The model's
folder is printed on stdout.

    scjepa fit section.h5ad --out model
    scjepa fit mouse1.h5ad mouse2.h5ad --out model --preset demo --steps 600
    scjepa fit xenium.zarr merfish.h5ad --out model --layer counts --library-key sample
    scjepa fit *.h5ad --out model --encoder.n-layers 3 --set training.learning_rate=3e-4
    scjepa fit new.h5ad --from mouse-brain-small --out tuned --steps 300
    scjepa fit *.h5ad --out model --checkpoint-dir state --resume
    scjepa fit prepared --out model
    scjepa fit blood.h5ad --model celljepa --labels-key cell_type --finetune --out annotator
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from scjepa.cli import cohort, io
from scjepa.cli import options as shared
from scjepa.cli.options import Configuration, Folder, Positive, Values

if TYPE_CHECKING:
    from anndata import AnnData

    from scjepa.cli.cells import Model as Trained
    from scjepa.cli.cells import Names, SavedModel
    from scjepa.cohort import Collection

RUN_FILE, STATE_FILE, END_FILE = "run.json", "last.ckpt", "finished.json"
"""What is trained in a folder of states, the state, and where the model of a run that has ended is."""


@dataclass(frozen=True)
class Saving:
    """Where the model goes.

    Parameters
    ----------
    out
        Folder for the model.
    overwrite
        Replace a model that is there.
    """

    out: Folder = field(metadata={"required": True})
    overwrite: bool = False


@dataclass(frozen=True)
class Model:
    """Model and training.

    Parameters
    ----------
    model
        stjepa: cells and their neighborhoods in tissue; celljepa: dissociated cells. Default: stjepa, or that of
        --from.
    preset
        Size and recipe. Default: base.
    start
        Fine-tune this saved model or checkpoint, instead of starting from a --preset.
    freeze
        With --from, what stays as it is; encoder: only genes and technologies that are new to it learn. Default: none.
    finetune
        celljepa: fine-tune on the labels of --labels-key, after training, or with --from instead of it.
    modules
        celljepa: file of the gene modules that --preset modules has for tokens.
    steps
        Optimizer steps. Default: the preset's.
    epochs
        Passes over the cells, instead of --steps.
    batch_size
        Neighborhoods, or cells, a step. Default: the preset's.
    n_neighbors
        stjepa: neighbors of each cell, in the model and in the graph that is built where a file has none. Default: the
        preset's, 10.
    seed
        Seed of weights, batches and masks.
    accelerator
        Device; auto: the best there is.
    """

    model: Literal["stjepa", "celljepa"] | None = None
    preset: str | None = field(default=None, metadata={"choices": shared.ALL_PRESETS})
    start: shared.Saved | None = field(default=None, metadata={"flag": "--from"})
    freeze: Literal["none", "encoder"] | None = None
    finetune: bool = False
    modules: Annotated[str, "GMT"] | None = None
    steps: Positive | None = None
    epochs: Positive | None = None
    batch_size: Positive | None = None
    n_neighbors: Positive | None = None
    seed: int = 0
    accelerator: shared.Accelerator = "auto"


@dataclass(frozen=True)
class LongRuns:
    """Long runs.

    Parameters
    ----------
    checkpoint_dir
        Keep the state of training there.
    checkpoint_every
        Steps between two states. Default: 100.
    resume
        Go on from the state in --checkpoint-dir; a fresh start where none is; nothing where the run has ended.
    """

    checkpoint_dir: Folder | None = None
    checkpoint_every: Positive | None = None
    resume: bool = False


def run(options: argparse.Namespace) -> None:
    """Read, train, save."""
    import scjepa

    _check_usage(options)
    saved, kind, config = _model_of(options)
    # A pipeline that is run again resumes what has ended too: there is nothing left to do, which is no error.
    ended = options.resume and not options.overwrite and _has_ended(options.checkpoint_dir, options.out)
    if not ended:
        _check_out(options.out, options.overwrite)
    progress = shared.Progress(options)
    adata: AnnData | Collection
    if cohort.is_prepared(options.files):
        adata = cohort.to_train_on(options, progress)
        keys, marks = None, [f"{one.name} {one.facts.digest}" for one in adata]
    else:
        adata, keys, marks = _read(options, kind, config, progress)
    if options.checkpoint_dir is not None:
        _claim(options, config.to_dict(), marks)
    if ended:
        progress.step(f"this run has ended; its model is in {options.out}")
        return shared.written(options.out)
    model_class = getattr(scjepa, kind.model)
    if keys is not None:
        model_class.setup_anndata(adata, **keys.to_dict())
    if saved is None:
        modules = {"modules": options.modules} if options.modules else {}
        model = model_class(adata, preset=config, seed=options.seed, **modules)
    else:
        how = {"freeze": options.freeze or "none", "seed": options.seed, "accelerator": options.accelerator}
        model = model_class.from_pretrained(saved.path, adata, **how)
    progress.step("training")
    shown = repr(model)
    # Its first line tells who types Python to call model.train(), which is what comes next here.
    progress.note(shown if model.is_trained_ else shown.split("\n", 1)[1])
    _train(model, options, kind)
    progress.note(str(model.diagnose()))
    model.save(options.out, overwrite=options.overwrite)
    if options.checkpoint_dir is not None:
        _note(options.checkpoint_dir / END_FILE, {"out": str(options.out.resolve())})
    progress.step(f"saved the model to {options.out}")
    shared.written(options.out)


def _check_usage(options: argparse.Namespace) -> None:
    """Refuse options that contradict each other, before anything is read."""
    for name in ("resume", "checkpoint_every"):
        if getattr(options, name) and options.checkpoint_dir is None:
            flag = f"--{name.replace('_', '-')}"
            raise shared.UsageError(f"{flag} needs --checkpoint-dir, the folder that holds the state of training.")
    if options.steps is not None and options.epochs is not None:
        raise shared.UsageError("Give --steps or --epochs, not both.")
    if options.freeze and options.start is None:
        raise shared.UsageError("--freeze goes with --from.")
    if options.start is not None and (options.preset or options.n_neighbors or options.modules):
        raise shared.UsageError(
            "--preset, --n-neighbors and --modules are for new models; with --from, they are the model's own."
        )
    if options.finetune and options.labels_key is None:
        raise shared.UsageError("--finetune needs --labels-key, the obs column of labels.")


def _model_of(options: argparse.Namespace) -> tuple[SavedModel | None, shared.Kind, Configuration]:
    """Return the model to go on from, if any, what kind of model is trained, and its configuration."""
    if options.start is None:
        kind = shared.KINDS[options.model or "stjepa"]
        changes = list(options.set)
        if options.n_neighbors is not None:
            changes.append(f"tokens.n_neighbors={options.n_neighbors}")
        saved, config = None, shared.configuration(options.preset or "base", changes, kind)
    else:
        kinds = [shared.KINDS[options.model]] if options.model else list(shared.KINDS.values())
        if {path.partition("=")[0].rpartition(".")[0] for path in options.set} - {"training", "finetuning.training"}:
            raise shared.UsageError(
                "With --from, --set changes options of training only, such as training.learning_rate=3e-4."
            )
        from scjepa.cli.cells import SavedModel

        saved = SavedModel(options.start)
        kind, config = saved.kind, saved.kind.config.from_dict(saved.facts["config"])
        shared.changes_of(options.set, kind.config)
        if kind not in kinds:
            raise shared.UsageError(f"{options.start} is a {kind.model} model; leave --model out.")
    if kind.model != "CellJEPA" and (options.finetune or options.labels_key or options.batch_key or options.modules):
        raise shared.UsageError("--finetune, --labels-key, --batch-key and --modules are for --model celljepa.")
    return saved, kind, config


def _check_out(out: Path, overwrite: bool) -> None:
    """Refuse a folder that the model could not be saved to, before hours are spent on it."""
    io.refuse_existing(out, overwrite)
    if out.exists() and not (out / "model.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"{out} is not a saved model, so it is not replaced. Name another --out.")


# -- cells ---------------------------------------------------------------------------------------------------------


def _read(
    options: argparse.Namespace, kind: shared.Kind, config: Configuration, progress: shared.Progress
) -> tuple[AnnData, Names, list[str]]:
    """Return the cells of all files, with graphs, where a model is to look, and what tells each file's cells apart."""
    from scjepa.cli.cells import Names, NoCoordinatesError, add_graph, has_graph, join, read_cells

    files, where = io.data_files(options.files, options.table), shared.Where.of(options)
    names = Names.of(kind, where)
    cells, marks = [], []
    for file in files:
        try:
            part = read_cells(file, where, names, use_graph=not options.rebuild_graph)
        except NoCoordinatesError as error:
            raise ValueError(f"{error} Dissociated cells have none: --model celljepa.") from error
        graph = ""
        if isinstance(config, shared.STJEPAConfig):
            n = config.tokens.n_neighbors
            graph = ", its own graph" if has_graph(part, names) else f", graph of {n} neighbors"
            add_graph(part, file, names, n)
        progress.step(f"{file.path}: {part.n_obs:,} cells, {part.n_vars:,} genes{graph}")
        cells.append(part)
        if options.checkpoint_dir is not None:
            marks.append(f"{file.name} {part.shape} {_mark(part)}")
    return (*join(files, cells, names), marks)


def _mark(cells: AnnData) -> str:
    """Return a checksum of the cells of a file: what a state of training must have been made from."""
    from scjepa._core.anndata import sparse_of, text_of
    from scjepa._core.files import digest
    from scjepa.tokens.table import counts_digest, graph_digest

    counts = [counts_digest(matrix) for matrix in (cells.X, *cells.layers.values()) if matrix is not None]
    columns = [text_of(cells.obs[name]) for name in cells.obs]
    graph = graph_digest(*(sparse_of(matrix) for matrix in cells.obsp.values()))
    return digest(list(cells.obs_names), list(cells.var_names), *columns, *cells.obsm.values(), *counts, graph)


# -- training ------------------------------------------------------------------------------------------------------


def _train(model: Trained, options: argparse.Namespace, kind: shared.Kind) -> None:
    """Run the stages: training, fine-tuning on labels, or both; options of a run are those of the first."""
    stages = ["finetune"] if options.finetune and options.start else ["train", *["finetune"] * options.finetune]
    then = "nothing was saved; --checkpoint-dir keeps the state of training"
    if options.checkpoint_dir is not None:
        then = "the same command with --resume goes on"
    every = {} if options.checkpoint_every is None else {"checkpoint_every": options.checkpoint_every}
    changes = shared.changes_of(options.set, kind.config) if options.start else {}
    changes = changes.get("finetuning", {}) if stages == ["finetune"] else changes
    how = {"max_epochs": options.epochs, "max_steps": options.steps, "batch_size": options.batch_size}
    how["plan_kwargs"] = changes.get("training")
    with shared.stopped_with(then):
        for stage in stages:
            folder = options.checkpoint_dir
            getattr(model, stage)(
                accelerator=options.accelerator,
                checkpoint_dir=folder if folder is None or stage == stages[0] else folder / stage,
                ckpt_path="last" if options.resume else None,
                progress_bar=not options.quiet,
                **(how if stage == stages[0] else {}),
                **every,
            )


# -- the folder of states: what is trained there, so that nothing else is resumed -----------------------------------


def _claim(options: argparse.Namespace, config: Values, marks: list[str]) -> None:
    """Note in the folder of states what is being trained, or check that what is to be resumed is the same.

    Raises
    ------
    FileExistsError
        If there is a state, and it is not to be resumed.
    ValueError
        If it is that of another run.
    """
    folder, note = options.checkpoint_dir, options.checkpoint_dir / RUN_FILE
    # Every option of the model bears on its state, but for the device; what says where things are does through cells.
    training = {part.name: getattr(options, part.name) for part in fields(Model) if part.name != "accelerator"}
    training["set"] = options.set
    this = json.loads(json.dumps({"model": config, "training": training, "data": marks}))  # tuples become lists
    if not (folder / STATE_FILE).exists() and not (options.resume and (folder / END_FILE).exists()):
        (folder / END_FILE).unlink(missing_ok=True)
        return _note(note, this)
    if not options.resume:
        raise FileExistsError(
            f"{folder} holds the state of a run. Pass --resume to go on with it, or name another --checkpoint-dir."
        )
    before = _noted(note)
    differs = [name for name, value in this.items() if before.get(name) != value]
    if differs:
        raise ValueError(
            f"{folder} holds the state of another run: {' and '.join(differs)} differ. Give the same files and "
            "options, or name another --checkpoint-dir."
        )


def _note(path: Path, facts: Values) -> None:
    from scjepa._core.files import whole

    with whole(path) as draft:
        draft.write_text(json.dumps(facts, indent=1))


def _noted(path: Path) -> Values:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _has_ended(folder: Path, out: Path) -> bool:
    """Return whether the run of ``folder`` has ended and its model is still at ``out``."""
    return _noted(folder / END_FILE) == {"out": str(out.resolve())} and (out / "model.json").is_file()


COMMAND = shared.Command.of(__doc__, run, shared.Files, Saving, Model, shared.add_configuration, shared.Where, LongRuns)
