"""``scjepa fit``: files of cells in, a trained model out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scjepa.cli._command import Command, UsageError
from scjepa.cli._options import add_accelerator, add_files, add_where, changes_of, configuration, positive
from scjepa.cli._progress import Progress, stopped_with, written
from scjepa.stjepa.config import PRESETS, STJEPAConfig

if TYPE_CHECKING:
    from scjepa.cli._cells import Cells, Where


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``scjepa fit``."""
    add_files(parser, "cells with raw counts and coordinates, one section or several to a file")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder for the model")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is there")
    group = parser.add_argument_group("model and training")
    group.add_argument("--preset", choices=list(PRESETS), help="size and recipe (default: base)")
    group.add_argument(
        "--from",
        dest="start",
        metavar="MODEL",
        help="fine-tune this saved model or checkpoint, instead of starting from a --preset",
    )
    group.add_argument(
        "--freeze",
        choices=["none", "encoder"],
        help="with --from, what stays as it is; encoder: only genes and technologies that are new to it learn "
        "(default: none)",
    )
    group.add_argument("--steps", type=positive, metavar="N", help="optimizer steps (default: the preset's)")
    group.add_argument("--epochs", type=positive, metavar="N", help="passes over the cells, instead of --steps")
    group.add_argument("--batch-size", type=positive, metavar="N", help="neighborhoods a step (default: the preset's)")
    group.add_argument(
        "--n-neighbors",
        type=positive,
        metavar="K",
        help="neighbors of each cell, in the model and in the graph that is built where a file has none "
        "(default: the preset's, 10)",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of weights, batches and masks (default: 0)"
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PART.OPTION=VALUE",
        help="change an option of the preset, such as encoder.n_layers=3; may be given several times. "
        "Parts: tokens, encoder, masking, objective, training",
    )
    add_accelerator(group)
    add_where(parser)
    group = parser.add_argument_group("long runs")
    group.add_argument("--checkpoint-dir", type=Path, metavar="FOLDER", help="keep the state of training there")
    group.add_argument("--checkpoint-every", type=positive, metavar="N", help="steps between two states (default: 100)")
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on from the state in --checkpoint-dir; a fresh start where none is; nothing where the run has ended",
    )


def run(options: argparse.Namespace) -> None:
    """Read, train, save."""
    from scjepa.cli._state import claim, finish, is_finished

    _check_usage(options)
    # A pipeline that is run again resumes what has ended too: there is nothing left to do, which is no error.
    ended = options.resume and not options.overwrite and is_finished(options.checkpoint_dir, options.out)
    if not ended:
        _check_out(options.out, options.overwrite)

    from scjepa.cli._cells import Where
    from scjepa.cli._join import join, keys_for
    from scjepa.stjepa.model import STJEPA

    progress = Progress(options)
    config = _config(options)
    where = Where.of(options)
    cells = _read(options, where, config.tokens.n_neighbors, progress)
    keys = keys_for(cells, where)
    adata = join(cells, keys)
    if options.checkpoint_dir is not None:
        names = ("start", "freeze", "steps", "epochs", "batch_size", "seed", "set")
        claim(
            options.checkpoint_dir,
            resume=options.resume,
            model=config.to_dict(),
            training={name: getattr(options, name) for name in names},
            data=[[part.file.name, len(part.names), len(part.genes), _mark(part)] for part in cells],
        )
    if ended:
        progress.step(f"this run has ended; its model is in {options.out}")
        return written(options.out)
    STJEPA.setup_anndata(adata, **keys.to_dict())
    if options.start:
        how = {"freeze": options.freeze or "none", "seed": options.seed, "accelerator": options.accelerator}
        model = STJEPA.from_pretrained(options.start, adata, **how)
    else:
        model = STJEPA(adata, preset=config, seed=options.seed)
    progress.step("training")
    shown = repr(model)
    # Its first line tells who types Python to call model.train(), which is what comes next here.
    progress.note(shown if model.is_trained_ else shown.split("\n", 1)[1])
    _train(model, options)
    progress.note(str(model.diagnose()))
    model.save(options.out, overwrite=options.overwrite)
    if options.checkpoint_dir is not None:
        finish(options.checkpoint_dir, options.out)
    progress.step(f"saved the model to {options.out}")
    written(options.out)


def _check_usage(options: argparse.Namespace) -> None:
    """Refuse options that contradict each other, before anything is read."""
    if options.resume and options.checkpoint_dir is None:
        raise UsageError("--resume needs --checkpoint-dir, the folder that holds the state of training.")
    if options.checkpoint_every is not None and options.checkpoint_dir is None:
        raise UsageError("--checkpoint-every needs --checkpoint-dir, the folder to keep the state of training in.")
    if options.steps is not None and options.epochs is not None:
        raise UsageError("Give --steps or --epochs, not both.")
    if options.start is None:
        if options.freeze:
            raise UsageError("--freeze goes with --from.")
        _config(options)
        return
    if options.preset or options.n_neighbors:
        raise UsageError("--preset and --n-neighbors are for new models; with --from, they are the model's own.")
    if set(changes_of(options.set)) - {"training"}:
        raise UsageError("With --from, --set changes options of training only, such as training.learning_rate=3e-4.")


def _check_out(out: Path, overwrite: bool) -> None:
    """Refuse a folder that the model could not be saved to, before hours are spent on it."""
    from scjepa.cli._outputs import refuse_existing

    refuse_existing(out, overwrite)
    if out.exists() and not (out / "model.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"{out} is not a saved model, so it is not replaced. Name another --out.")


def _config(options: argparse.Namespace) -> STJEPAConfig:
    """Return the configuration of the model: the preset with changes, or that of the model to go on from."""
    if options.start is not None:
        from scjepa.cli._models import SavedModel

        return STJEPAConfig.from_dict(SavedModel(options.start).facts["config"])
    changes = list(options.set)
    if options.n_neighbors is not None:
        changes.append(f"tokens.n_neighbors={options.n_neighbors}")
    return configuration(options.preset or "base", changes)


def _read(options: argparse.Namespace, where: Where, n_neighbors: int, progress: Progress) -> list[Cells]:
    """Read the cells of each file, and build the graphs that are missing."""
    from scjepa.cli._cells import add_graph, read_cells
    from scjepa.cli._files import data_files

    cells = []
    for file in data_files(options.files, options.table):
        part = read_cells(file, where, use_graph=not options.rebuild_graph)
        graph = "its own graph" if part.edges else f"graph of {n_neighbors} neighbors"
        add_graph(part, n_neighbors)
        progress.step(f"{file.path}: {len(part.names):,} cells, {len(part.genes):,} genes, {graph}")
        cells.append(part)
    return cells


def _mark(cells: Cells) -> str:
    """Return a checksum of the cells of a file: what a state of training must have been made from."""
    from scjepa.models.cache import counts_digest, graph_digest
    from scjepa.tokens.cache import digest

    parts = [list(cells.names), list(cells.genes), cells.coordinates, counts_digest(cells.counts)]
    return digest(*parts, graph_digest(*(matrix.tocsr() for matrix in cells.edges.values())))


def _train(model: Any, options: argparse.Namespace) -> None:
    then = "nothing was saved; --checkpoint-dir keeps the state of training"
    if options.checkpoint_dir is not None:
        then = "the same command with --resume goes on"
    every = {} if options.checkpoint_every is None else {"checkpoint_every": options.checkpoint_every}
    with stopped_with(then):
        model.train(
            options.epochs,
            max_steps=options.steps,
            batch_size=options.batch_size,
            plan_kwargs=changes_of(options.set).get("training") if options.start else None,
            accelerator=options.accelerator,
            checkpoint_dir=options.checkpoint_dir,
            ckpt_path="last" if options.resume else None,
            progress_bar=not options.quiet,
            **every,
        )


COMMAND = Command(
    name="fit",
    summary="train ST-JEPA on files of cells and save the model",
    description=(
        "Train ST-JEPA on the cells of one or several files. Files may hold different genes: cells are joined by gene\n"
        "name, and which genes each technology measured is kept. The spatial graph in a file is used; where there is\n"
        "none, squidpy builds it within each section. One device is used, also where there are several; in Python,\n"
        "model.train(devices=...) takes more. The model's folder is printed on stdout."
    ),
    examples=(
        "scjepa fit section.h5ad --out model",
        "scjepa fit mouse1.h5ad mouse2.h5ad --out model --preset demo --steps 600",
        "scjepa fit xenium.zarr merfish.h5ad --out model --layer counts --library-key sample",
        "scjepa fit *.h5ad --out model --set encoder.n_layers=3 --set training.learning_rate=3e-4",
        "scjepa fit new.h5ad --from mouse-brain-small --out tuned --steps 300",
        "scjepa fit *.h5ad --out model --checkpoint-dir state --resume",
    ),
    add_options=add_options,
    run=run,
)
