"""``scjepa embed``: a model and files of cells in, embeddings out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scjepa._core import keys as _keys
from scjepa.cli._command import Command, UsageError
from scjepa.cli._options import add_accelerator, add_files, add_where
from scjepa.cli._progress import Progress, written

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from anndata import AnnData

    from scjepa.cli._files import DataFile

SCALES = {"neighborhood": _keys.EMBEDDING, "cell": _keys.EMBEDDING_CELL}
"""Scales, and the ``obsm`` key of each."""

BOTH = "both"

FORMATS = ("h5ad", "zarr", "npy", "csv", "parquet")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``scjepa embed``."""
    parser.add_argument("model", metavar="MODEL", help="folder of a saved model, or name of a checkpoint")
    add_files(parser, "cells to embed; their genes are aligned with the model's by name")
    group = parser.add_argument_group("results")
    group.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="file to write (.h5ad, .zarr, .npy, .csv, .parquet), or a folder for one file each, named as the inputs; "
        "without it, embeddings are added to the input files, which takes --overwrite",
    )
    group.add_argument("--format", choices=FORMATS, help="of the files in a folder (default: that of the inputs)")
    group.add_argument(
        "--overwrite", action="store_true", help="replace files that are there, and the embedding in them"
    )
    group.add_argument(
        "--scale",
        choices=[*SCALES, BOTH],
        help="neighborhood: the mean over a cell and its neighbors; cell: the cell seen in their context, which scjepa "
        "niches takes (default: both, and neighborhood for .npy, .csv and .parquet)",
    )
    group.add_argument(
        "--key-added",
        metavar="KEY",
        help=f"obsm key (default: {SCALES['neighborhood']}, and {SCALES['cell']} for the scale of cells); with both "
        "scales, that of cells is KEY_cell",
    )
    parser.add_argument(
        "--genes",
        default="known",
        choices=["known", "all"],
        help="known: genes the model does not know are left out; all: they are taken in, with vectors drawn at random "
        "(default: known)",
    )
    add_accelerator(parser)
    add_where(parser, of_model=True)


def run(options: argparse.Namespace) -> None:
    """Embed the cells of each file."""
    from scjepa.cli._files import data_files
    from scjepa.cli._outputs import TABLES, plan

    progress = Progress(options)
    files = data_files(options.files, options.table)
    suffix = None if options.format is None else f".{options.format}"
    targets = plan(files, options.out, options.overwrite, suffix, tables=True)
    scales = [_scales(target, options) for target in targets]
    for file, target, keys in zip(files, targets, scales, strict=True):
        if not options.overwrite and target.suffix not in TABLES:
            _refuse_users_embedding(file, keys)

    from scjepa.cli._models import SavedModel

    saved = SavedModel(options.model)
    for file, target, keys in zip(files, targets, scales, strict=True):
        adata = saved.cells_of(file, options)
        model = saved.load(adata, options.accelerator, all_genes=options.genes == "all")
        progress.step(f"{file.path}: embedding {adata.n_obs:,} cells")
        _write(model, adata, file, target, keys, options.overwrite)
        progress.step(f"wrote {target}")
        written(target)


def _scales(target: Path, options: argparse.Namespace) -> dict[str, str]:
    """Return the scales that go into a file, and the key of each."""
    from scjepa.cli._outputs import TABLES

    alone = target.suffix in TABLES
    scale = options.scale or ("neighborhood" if alone else BOTH)
    if scale == BOTH and alone:
        raise UsageError(f"{target} holds one embedding: name --scale neighborhood or cell.")
    if scale != BOTH:
        return {scale: options.key_added or SCALES[scale]}
    added = options.key_added
    return SCALES if added is None else {"neighborhood": added, "cell": f"{added}_cell"}


def _refuse_users_embedding(file: DataFile, keys: Mapping[str, str]) -> None:
    with file.opened() as group:
        there = [key for key in keys.values() if f"obsm/{key}" in group]
    if there:
        raise FileExistsError(
            f"{file.path} has obsm[{there[0]!r}] already. Pass --overwrite to replace it, or name another: --key-added."
        )


def _write(model: Any, adata: AnnData, file: DataFile, target: Path, keys: Mapping[str, str], overwrite: bool) -> None:
    from scjepa.cli._outputs import TABLES, drafted

    if target.suffix == ".npy":
        (scale,) = keys
        if overwrite:
            for path in (target, target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.json")):
                path.unlink(missing_ok=True)
        model.get_latent_representation(scale=scale, out=target)
        return
    embeddings = {key: model.get_latent_representation(scale=scale) for scale, key in keys.items()}
    if target.suffix in TABLES:
        ((key, embedding),) = embeddings.items()
        with drafted(target) as draft:
            _write_table(embedding, adata, key, draft)
        return
    from scjepa.cli._additions import Additions, add

    add(file, Additions(obsm=embeddings), target)


def _write_table(embedding: np.ndarray, adata: AnnData, key: str, path: Path) -> None:
    import pandas as pd

    table = pd.DataFrame(embedding, index=adata.obs_names, columns=[f"{key}_{i}" for i in range(embedding.shape[1])])
    table.index.name = "cell"
    if path.suffix == ".csv":
        table.to_csv(path)
        return
    try:
        table.to_parquet(path)
    except ImportError as error:
        raise UsageError(f"--format parquet needs pyarrow: pip install pyarrow. ({error})") from error


COMMAND = Command(
    name="embed",
    summary="embed the cells of files with a saved model",
    description=(
        "Embed cells with a saved model. Each file is embedded by itself; genes are aligned with the model's by name.\n"
        "The result is a copy of the file with the embedding in obsm, or the embedding alone (.npy, .csv, .parquet).\n"
        "The paths written are printed on stdout. A .npy is written piece by piece: the same command goes on where\n"
        "it was killed."
    ),
    examples=(
        "scjepa embed model section.h5ad --out embedded.h5ad",
        "scjepa embed model *.h5ad --out embedded/",
        "scjepa embed mouse-brain-small section.h5ad --out embedded.h5ad",
        "scjepa embed model section.h5ad --overwrite",
        "scjepa embed model section.h5ad --out cells.npy --scale cell",
        "scjepa embed model xenium.zarr --out embedded/ --format h5ad",
    ),
    add_options=add_options,
    run=run,
)
