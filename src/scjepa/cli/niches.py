"""``scjepa niches``: files with embeddings in, niches and a map out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scjepa import _keys
from scjepa.cli._command import Command, UsageError
from scjepa.cli._options import add_files, add_table, positive
from scjepa.cli._progress import Progress, written

if TYPE_CHECKING:
    from anndata import AnnData

    from scjepa.cli._files import DataFile

PICTURES = (".png", ".pdf", ".svg")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``scjepa niches``."""
    add_files(parser, "cells with embeddings, as scjepa embed wrote them")
    group = parser.add_argument_group("niches")
    number = group.add_mutually_exclusive_group()
    number.add_argument("--n-niches", type=positive, metavar="N", help="number of niches, over all files together")
    number.add_argument(
        "--resolution", type=float, default=1.0, metavar="R", help="Leiden's resolution: more, more niches (default: 1)"
    )
    group.add_argument(
        "--use-rep", default=_keys.EMBEDDING, metavar="KEY", help=f"obsm key (default: {_keys.EMBEDDING})"
    )
    group.add_argument(
        "--standardize-by",
        metavar="COLUMN",
        help="obs column within whose groups embeddings are z-scored first, against batch effects; "
        "'section' is there in any case (default: none)",
    )
    group.add_argument(
        "--n-neighbors",
        type=positive,
        default=15,
        metavar="K",
        help="neighbors of a cell in the graph of embeddings, itself included (default: 15)",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="seed of Leiden (default: 0)")
    group = parser.add_argument_group("results")
    group.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="file to write (.h5ad, .zarr), or a folder for one file each, named as the inputs; without it, niches are "
        "added to the input files, which takes --overwrite",
    )
    group.add_argument("--overwrite", action="store_true", help="replace files that are there, and niches in them")
    group.add_argument("--key", default=_keys.NICHE, metavar="COLUMN", help=f"obs column (default: {_keys.NICHE})")
    group.add_argument("--map", type=Path, metavar="PICTURE", help="draw niches on the tissue (.png, .pdf, .svg)")
    group.add_argument("--reference", metavar="COLUMN", help="obs column to draw beside them, such as region")
    group.add_argument("--unit", help="unit of the coordinates, such as µm: draws a scale bar")
    group = parser.add_argument_group("where things are in the files")
    group.add_argument(
        "--library-key",
        metavar="COLUMN",
        help="obs column of sections (default: 'section' where a file has it; else each file is a section)",
    )
    group.add_argument(
        "--spatial-key",
        default=_keys.SPATIAL,
        metavar="KEY",
        help=f"obsm key of coordinates (default: {_keys.SPATIAL})",
    )
    add_table(group)


def run(options: argparse.Namespace) -> None:
    """Find niches over all files together, and write each file's."""
    from scjepa.cli._additions import Additions, add
    from scjepa.cli._files import data_files
    from scjepa.cli._outputs import drafted, plan, refuse_existing

    progress = Progress(options)
    if options.map is not None:
        if options.map.suffix not in PICTURES:
            raise UsageError(f"--map {options.map}: pictures end in {', '.join(PICTURES)}.")
        refuse_existing(options.map, options.overwrite)
    elif options.reference or options.unit:
        raise UsageError("--reference and --unit are for the picture: name it with --map.")
    files = data_files(options.files, options.table)
    targets = plan(files, options.out, options.overwrite)
    adata, starts = _embedded(files, options)

    import scjepa

    sections = adata.obs[_keys.SECTION].nunique()
    progress.step(f"niches of {adata.n_obs:,} cells in {sections} section(s)")
    if sections > 1 and options.standardize_by is None:
        progress.note("Sections may differ by batch effects; --standardize-by section takes them out.")
    scjepa.tl.niches(
        adata,
        options.use_rep,
        n_niches=options.n_niches,
        resolution=options.resolution,
        n_neighbors=options.n_neighbors,
        key_added=options.key,
        random_state=options.seed,
        standardize_by=options.standardize_by,
    )
    sizes = adata.obs[options.key].value_counts()
    progress.step(f"{len(sizes)} niches of {sizes.min():,} to {sizes.max():,} cells")
    colors = f"{options.key}_colors"
    notes = {options.key: adata.uns[_keys.UNS][options.key]}
    for file, target, start, stop in zip(files, targets, starts, starts[1:], strict=False):
        column = adata.obs[options.key].iloc[start:stop]
        add(file, Additions(obs={options.key: column}, uns={colors: adata.uns[colors]}, notes=notes), target)
        written(target)
    if options.map is not None:
        with drafted(options.map) as draft:
            scjepa.pl.niches(
                adata,
                options.key,
                reference=options.reference,
                library_key=_keys.SECTION,
                unit=options.unit,
                save=draft,
            )
        written(options.map)
    progress.step("done")


def _embedded(files: list[DataFile], options: argparse.Namespace) -> tuple[AnnData, list[int]]:
    """Return the cells of all files with what niches and the map need, and where each file's begin and end."""
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from scjepa.cli._embeddings import read_embedded

    wanted = [name for name in (options.standardize_by, options.reference) if name not in (None, _keys.SECTION)]
    parts = [read_embedded(file, options, wanted) for file in files]
    widths = {part.embedding.shape[1] for part in parts}
    if len(widths) > 1:
        raise ValueError(
            f"obsm[{options.use_rep!r}] has {' and '.join(map(str, sorted(widths)))} dimensions in different files. "
            "Embed them all with one model."
        )
    given = [set(part.obs[_keys.SECTION]) for part in parts]
    for i, part in enumerate(parts):
        others = set().union(*(names for j, names in enumerate(given) if j != i))
        alike = part.obs[_keys.SECTION].isin(others)  # a section is one piece of tissue, so never in two files
        part.obs.loc[alike, _keys.SECTION] = files[i].name + "/" + part.obs.loc[alike, _keys.SECTION]
    obs = pd.concat([part.obs for part in parts])
    obs.index = pd.Index(np.arange(len(obs)).astype(str)) if not obs.index.is_unique else obs.index
    obs[_keys.SECTION] = obs[_keys.SECTION].astype("category")
    adata = AnnData(obs=obs, obsm={options.use_rep: np.concatenate([part.embedding for part in parts])})
    if options.map is not None:
        adata.obsm[_keys.SPATIAL] = np.concatenate([part.coordinates[:, :2] for part in parts])
    notes = [part.notes for part in parts if options.key in part.obs]
    if notes and all(options.key in note for note in notes):
        adata.uns[_keys.UNS] = {options.key: notes[0][options.key]}
    return adata, np.cumsum([0, *(len(part.obs) for part in parts)]).tolist()


COMMAND = Command(
    name="niches",
    summary="cluster embedded cells into niches, and draw them on the tissue",
    description=(
        "Cluster the embeddings of all files together into niches: nearest-neighbor graph, then Leiden. Each file\n"
        "gets an obs column with its cells' niches, which mean the same in all of them. The paths written are printed\n"
        "on stdout."
    ),
    examples=(
        "scjepa niches embedded.h5ad --n-niches 8 --overwrite",
        "scjepa niches embedded/*.h5ad --n-niches 8 --out results/ --map niches.png",
        "scjepa niches embedded/*.h5ad --standardize-by section --overwrite",
        "scjepa niches embedded.h5ad --resolution 0.6 --out niches.h5ad --map map.pdf --reference region --unit µm",
    ),
    add_options=add_options,
    run=run,
)
