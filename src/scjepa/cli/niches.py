"""``scjepa niches``: files with embeddings in, niches and a map out."""

from __future__ import annotations

import argparse
from pathlib import Path

from scjepa import _keys
from scjepa.cli._command import Command, UsageError
from scjepa.cli._options import add_files, add_table, positive
from scjepa.cli._progress import Progress, written

PICTURES = (".png", ".pdf", ".svg")

READOUTS = {"rings": _keys.EMBEDDING_CELL, "plain": _keys.EMBEDDING}
"""Read-outs, and the embedding that each takes."""

NOTHING = "none"
"""``--standardize-by`` for no column."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``scjepa niches``."""
    add_files(parser, "cells with embeddings, as scjepa embed wrote them")
    group = parser.add_argument_group("what is clustered")
    group.add_argument(
        "--readout",
        default="rings",
        choices=list(READOUTS),
        help="rings: cell embeddings, and their means over the rings around each cell (scjepa.tl.niche_readout); "
        "plain: an embedding as it is (default: rings)",
    )
    group.add_argument(
        "--use-rep",
        metavar="KEY",
        help=f"obsm key of the embedding (default: {READOUTS['rings']} for rings, {READOUTS['plain']} for plain)",
    )
    group.add_argument(
        "--standardize-by",
        metavar="COLUMN",
        help="obs column within whose groups embeddings are z-scored first, against batch effects; 'section' is there "
        f"in any case, {NOTHING!r}: over all cells (default: section for rings, {NOTHING} for plain)",
    )
    group.add_argument(
        "--hops", type=positive, default=3, metavar="N", help="rings beside the cell itself (default: 3)"
    )
    group = parser.add_argument_group("niches")
    number = group.add_mutually_exclusive_group()
    number.add_argument("--n-niches", type=positive, metavar="N", help="number of niches, over all files together")
    number.add_argument(
        "--resolution", type=float, default=1.0, metavar="R", help="Leiden's resolution: more, more niches (default: 1)"
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
    _add_where(parser)


def _add_where(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where things are in the files")
    group.add_argument(
        "--library-key",
        metavar="COLUMN",
        help="obs column of sections (default: 'section' where a file has it; else each file is a section)",
    )
    for option, what in (
        ("--spatial-key", "obsm key of coordinates"),
        ("--neighbors-key", "squidpy's key_added of a spatial graph that is in the files"),
    ):
        group.add_argument(option, default=_keys.SPATIAL, metavar="KEY", help=f"{what} (default: {_keys.SPATIAL})")
    group.add_argument(
        "--spatial-neighbors",
        type=positive,
        default=10,
        metavar="K",
        help="neighbors of each cell in the spatial graph that is built where a file has none (default: 10)",
    )
    group.add_argument("--rebuild-graph", action="store_true", help="build the spatial graph anew where a file has one")
    add_table(group)


def run(options: argparse.Namespace) -> None:
    """Find niches over all files together, and write each file's."""
    from scjepa.cli._files import data_files
    from scjepa.cli._outputs import drafted, plan, refuse_existing

    progress = Progress(options)
    if options.map is not None:
        if options.map.suffix not in PICTURES:
            raise UsageError(f"--map {options.map}: pictures end in {', '.join(PICTURES)}.")
        refuse_existing(options.map, options.overwrite)
    elif options.reference or options.unit:
        raise UsageError("--reference and --unit are for the picture: name it with --map.")
    if options.standardize_by is None and options.readout == "rings":
        options.standardize_by = _keys.SECTION
    elif options.standardize_by == NOTHING:
        options.standardize_by = None
    files = data_files(options.files, options.table)
    targets = plan(files, options.out, options.overwrite)

    import scjepa
    from scjepa.cli._additions import Additions, add
    from scjepa.cli._embeddings import read_all

    rep = options.use_rep or READOUTS[options.readout]
    adata, rows = read_all(files, rep, options)
    sections = adata.obs[_keys.SECTION].nunique()
    progress.step(f"niches of {adata.n_obs:,} cells in {sections} section(s)")
    by = options.standardize_by
    if options.readout == "rings":
        scjepa.tl.niche_readout(adata, rep, by=by, n_rings=options.hops)
        rep, by = _keys.EMBEDDING_NICHE, None
    elif sections > 1 and by is None:
        progress.note("Sections may differ by batch effects; --standardize-by section takes them out.")
    scjepa.tl.niches(
        adata,
        rep,
        n_niches=options.n_niches,
        resolution=options.resolution,
        n_neighbors=options.n_neighbors,
        key_added=options.key,
        random_state=options.seed,
        standardize_by=by,
    )
    sizes = adata.obs[options.key].value_counts()
    progress.step(f"{len(sizes)} niches of {sizes.min():,} to {sizes.max():,} cells")
    colors = f"{options.key}_colors"
    for file, target, own in zip(files, targets, rows, strict=True):
        additions = Additions(
            obs={options.key: adata.obs[options.key].iloc[own]},
            obsm={rep: adata.obsm[rep][own]} if options.readout == "rings" else {},
            uns={colors: adata.uns[colors]},
            notes=adata.uns[_keys.UNS],
        )
        add(file, additions, target)
        written(target)
    if options.map is not None:
        how = {"reference": options.reference, "library_key": _keys.SECTION, "unit": options.unit}
        with drafted(options.map) as draft:
            scjepa.pl.niches(adata, options.key, save=draft, **how)
        written(options.map)
    progress.step("done")


COMMAND = Command(
    name="niches",
    summary="cluster embedded cells into niches, and draw them on the tissue",
    description=(
        "Cluster the embeddings of all files together into niches: nearest-neighbor graph, then Leiden. Each file\n"
        "gets an obs column with its cells' niches, which mean the same in all of them, and the read-out that was\n"
        "clustered. The paths written are printed on stdout."
    ),
    examples=(
        "scjepa niches embedded.h5ad --n-niches 8 --overwrite",
        "scjepa niches embedded/*.h5ad --n-niches 8 --out results/ --map niches.png",
        "scjepa niches embedded.h5ad --resolution 0.6 --out niches.h5ad --map map.pdf --reference region --unit µm",
        "scjepa niches embedded/*.h5ad --readout plain --standardize-by section --overwrite",
    ),
    add_options=add_options,
    run=run,
)
