"""``scjepa fit``: files of cells in, a trained model out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scjepa._config import PRESETS, STJEPAConfig
from scjepa.cli._command import Command, UsageError
from scjepa.cli._options import add_accelerator, add_files, add_where, configuration, positive
from scjepa.cli._progress import Progress, written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scjepa.cli._cells import Cells

RUN_FILE, STATE_FILE = "run.json", "last.ckpt"
"""In ``--checkpoint-dir``: what is being trained on what, and the state of training."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``scjepa fit``."""
    add_files(parser, "cells with raw counts and coordinates, one section or several to a file")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder for the model")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is there")
    group = parser.add_argument_group("model and training")
    group.add_argument("--preset", default="base", choices=list(PRESETS), help="size and recipe (default: base)")
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
    group.add_argument(
        "--checkpoint-every", type=positive, default=100, metavar="N", help="steps between two states (default: 100)"
    )
    group.add_argument(
        "--resume", action="store_true", help="go on from the state in --checkpoint-dir; a fresh start where none is"
    )


def run(options: argparse.Namespace) -> None:
    """Read, train, save."""
    config = _config(options)
    if options.resume and options.checkpoint_dir is None:
        raise UsageError("--resume needs --checkpoint-dir, the folder that holds the state of training.")
    _check_out(options.out, options.overwrite)

    from scjepa.cli._cells import Where, add_graph, read_cells
    from scjepa.cli._files import data_files
    from scjepa.cli._join import join, keys_for

    progress = Progress(options)
    where = Where(
        layer=options.layer,
        library_key=options.library_key,
        technology_key=options.technology_key,
        **{key: getattr(options, key) for key in ("spatial_key", "neighbors_key") if getattr(options, key)},
    )
    cells = []
    for file in data_files(options.files, options.table):
        cells.append(part := read_cells(file, where, use_graph=not options.rebuild_graph))
        graph = "its own graph" if part.edges else f"graph of {config.tokens.n_neighbors} neighbors"
        add_graph(part, config.tokens.n_neighbors)
        progress.step(f"{file.path}: {len(part.names):,} cells, {len(part.genes):,} genes, {graph}")
    keys = keys_for(cells, where)
    adata = join(cells, keys)
    _check_run(options, config, cells)

    from scjepa import STJEPA

    STJEPA.setup_anndata(adata, **keys.to_dict())
    model = STJEPA(adata, preset=config, seed=options.seed)
    progress.step("training")
    progress.note(repr(model))
    _train(model, options, progress)
    progress.note(str(model.diagnose()))
    model.save(options.out, overwrite=options.overwrite)
    progress.step(f"saved the model to {options.out}")
    written(options.out)


def _config(options: argparse.Namespace) -> STJEPAConfig:
    changes = list(options.set)
    if options.n_neighbors is not None:
        changes.append(f"tokens.n_neighbors={options.n_neighbors}")
    if options.steps is not None and options.epochs is not None:
        raise UsageError("Give --steps or --epochs, not both.")
    return configuration(options.preset, changes)


def _check_out(out: Path, overwrite: bool) -> None:
    """Refuse a folder that the model could not be saved to, before hours are spent on it."""
    from scjepa.cli._outputs import refuse_existing

    refuse_existing(out, overwrite)
    if out.exists() and not (out / "model.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"{out} is not a saved model, so it is not replaced. Name another --out.")


def _check_run(options: argparse.Namespace, config: STJEPAConfig, cells: Sequence[Cells]) -> None:
    """Note in the checkpoint folder what is being trained, and refuse to resume anything else.

    Raises
    ------
    FileExistsError
        If there is a state of training and ``--resume`` is not given.
    ValueError
        If the state is of another model or other data.
    """
    folder = options.checkpoint_dir
    if folder is None:
        return
    this: dict[str, Any] = {
        "model": config.to_dict(),
        "training": {name: getattr(options, name) for name in ("steps", "epochs", "batch_size", "seed")},
        "data": [[part.file.name, len(part.names), len(part.genes)] for part in cells],
    }
    this = json.loads(json.dumps(this))  # tuples become lists, as they will be when read
    if (folder / STATE_FILE).exists():
        if not options.resume:
            raise FileExistsError(
                f"{folder} holds the state of a run. Pass --resume to go on with it, or name another --checkpoint-dir."
            )
        before = json.loads((folder / RUN_FILE).read_text()) if (folder / RUN_FILE).is_file() else {}
        differs = [name for name, value in this.items() if before.get(name) != value]
        if differs:
            raise ValueError(
                f"{folder} holds the state of another run: {' and '.join(differs)} differ. Give the same files and "
                "options, or name another --checkpoint-dir."
            )
        return
    from scjepa.cli._outputs import drafted

    with drafted(folder / RUN_FILE) as draft:
        draft.write_text(json.dumps(this, indent=1))


def _train(model: Any, options: argparse.Namespace, progress: Progress) -> None:
    try:
        model.train(
            options.epochs,
            max_steps=options.steps,
            batch_size=options.batch_size,
            accelerator=options.accelerator,
            devices=1,
            checkpoint_dir=options.checkpoint_dir,
            ckpt_path="last" if options.resume else None,
            checkpoint_every=options.checkpoint_every,
            progress_bar=not options.quiet,
        )
    except KeyboardInterrupt as stop:
        then = "nothing was saved; --checkpoint-dir keeps the state of training"
        if options.checkpoint_dir is not None:
            then = "the same command with --resume goes on"
        raise KeyboardInterrupt(f"interrupted; {then}") from stop


COMMAND = Command(
    name="fit",
    summary="train ST-JEPA on files of cells and save the model",
    description=(
        "Train ST-JEPA on the cells of one or several files. Files may hold different genes: cells are joined by gene\n"
        "name, and which genes each technology measured is kept. The spatial graph in a file is used; where there is\n"
        "none, squidpy builds it within each section. The model's folder is printed on stdout."
    ),
    examples=(
        "scjepa fit section.h5ad --out model",
        "scjepa fit mouse1.h5ad mouse2.h5ad --out model --preset demo --steps 600",
        "scjepa fit xenium.zarr merfish.h5ad --out model --layer counts --library-key sample",
        "scjepa fit *.h5ad --out model --set encoder.n_layers=3 --set training.learning_rate=3e-4",
        "scjepa fit *.h5ad --out model --checkpoint-dir state --resume",
    ),
    add_options=add_options,
    run=run,
)
