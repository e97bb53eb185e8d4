"""``scjepa embed``: embed the cells of files with a saved model.

Embed cells with a saved model of either kind. Each file is embedded by itself; genes are aligned with the model's by
name. The result is a copy of the file with the embedding in obsm, or the embedding alone (.npy, .csv, .parquet). The
paths written are printed on stdout. A .npy is written piece by piece: the same command goes on where it was killed.

    scjepa embed model section.h5ad --out embedded.h5ad
    scjepa embed model *.h5ad --out embedded/
    scjepa embed mouse-brain-small section.h5ad --out embedded.h5ad
    scjepa embed model section.h5ad --overwrite
    scjepa embed model section.h5ad --out cells.npy --scale cell
    scjepa embed model xenium.zarr --out embedded/ --format h5ad
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scjepa.cli import options as shared
from scjepa.cli.options import Key

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from scjepa.cli.cells import Model
    from scjepa.cli.io import DataFile

BOTH = "both"

TABLES = (".npy", ".csv", ".parquet")


@dataclass(frozen=True)
class Results:
    """Results.

    Parameters
    ----------
    out
        File to write (.h5ad, .zarr, .npy, .csv, .parquet), or a folder for one file each, named as the inputs; without
        it, embeddings are added to the input files, which takes --overwrite.
    format
        Of the files in a folder. Default: that of the inputs.
    overwrite
        Replace files that are there, and the embedding in them.
    scale
        Of STJEPA, neighborhood: the mean over a cell and its neighbors; cell: the cell seen in their context, which
        scjepa niches takes. Default: both, and neighborhood for .npy, .csv and .parquet. Of CellJEPA, cls: the vector
        of the cell; genes: the mean of its genes' vectors. Default: cls.
    key_added
        obsm key. Default: X_stjepa (neighborhood), X_stjepa_cell (cell), X_celljepa (cls), X_celljepa_genes (genes);
        with both scales, the second is KEY_cell or KEY_genes.
    genes
        known: genes the model does not know are left out; all: they are taken in, with vectors drawn at random.
    """

    out: Path | None = None
    format: Literal["h5ad", "zarr", "npy", "csv", "parquet"] | None = None
    overwrite: bool = False
    scale: Literal["neighborhood", "cell", "cls", "genes", "both"] | None = None
    key_added: Key | None = None
    genes: Literal["known", "all"] = "known"


def run(options: argparse.Namespace) -> None:
    """Embed the cells of each file."""
    from scjepa.cli.cells import SavedModel
    from scjepa.cli.io import data_files, plan, refuse_written

    progress = shared.Progress(options)
    files = data_files(options.files, options.table)
    suffix = None if options.format is None else f".{options.format}"
    targets = plan(files, options.out, options.overwrite, suffix, TABLES)
    saved = SavedModel(options.model)
    scales = [_scales(target, options, saved.kind) for target in targets]
    for file, target, keys in zip(files, targets, scales, strict=True):
        if target.suffix not in TABLES:
            refuse_written(file, "obsm", keys.values(), options.overwrite)
    for file, target, keys in zip(files, targets, scales, strict=True):
        adata = saved.cells_of(file, options)
        model = saved.load(adata, options.accelerator, all_genes=options.genes == "all")
        progress.step(f"{file.path}: embedding {adata.n_obs:,} cells")
        _write(model, adata.obs_names, file, target, keys, options.overwrite)
        progress.step(f"wrote {target}")
        shared.written(target)


def _scales(target: Path, options: argparse.Namespace, kind: shared.Kind) -> dict[str, str]:
    """Return the scales that go into a file, and the key of each."""
    alone = target.suffix in TABLES
    if options.scale not in (None, BOTH, *kind.scales):
        raise shared.UsageError(f"--scale {options.scale}: a {kind.model} model embeds {' and '.join(kind.scales)}.")
    if options.scale == BOTH and alone:
        raise shared.UsageError(f"{target} holds one embedding: name --scale {' or '.join(kind.scales)}.")
    first, second = kind.scales
    wanted = {None: (first,) if alone else kind.usual, BOTH: (first, second)}.get(options.scale, (options.scale,))
    if options.key_added is None:
        return {scale: kind.scales[scale] for scale in wanted}
    return {scale: options.key_added if i == 0 else f"{options.key_added}_{scale}" for i, scale in enumerate(wanted)}


def _write(
    model: Model, cells: pd.Index, file: DataFile, target: Path, keys: Mapping[str, str], overwrite: bool
) -> None:
    """Embed, and write an embedding alone or copies of files with embeddings."""
    from scjepa.cli.io import Additions, add, write_table

    if target.suffix == ".npy":
        (scale,) = keys
        target.parent.mkdir(parents=True, exist_ok=True)
        if overwrite:
            for path in (target, target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.json")):
                path.unlink(missing_ok=True)
        model.get_latent_representation(scale=scale, out=target)  # piece by piece, and from where a killed one stopped
        return
    embeddings = {key: model.get_latent_representation(scale=scale) for scale, key in keys.items()}
    if target.suffix not in TABLES:
        return add(file, Additions(obsm=embeddings), target)
    import pandas as pd

    ((key, embedding),) = embeddings.items()
    columns = [f"{key}_{i}" for i in range(embedding.shape[1])]
    write_table(pd.DataFrame(embedding, index=cells, columns=columns), target)


COMMAND = shared.Command.of(
    __doc__, run, shared.ModelAndFiles, Results, shared.Device, (shared.Where, shared.OF_PLACES)
)
