"""``scjepa niches``: files of cells in, with embeddings or without, niches and a map out."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from scjepa._core import keys as _keys
from scjepa.cli._command import Command, UsageError
from scjepa.cli._options import add_files, add_table, positive
from scjepa.cli._progress import Progress, written

PICTURES = (".png", ".pdf", ".svg")

NICHE, PLAIN = "niche", "plain"
"""Read-outs: what cells and the rings around them tell of their place, and an embedding as it is."""

ALIGNMENTS = ("auto", "scale", "covariance", "center", "none")
"""What :func:`scjepa.tl.niche_readout` takes, without importing it for a page of help."""

MAX_RINGS = 3
"""As :class:`scjepa.tl.NicheReadout` has it."""

NOTHING = "none"
"""``--standardize-by`` for no column."""

_OF_NICHE = ("rings", "own_weight", "align", "layer")
"""Options that the read-out ``plain`` has no use for."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``scjepa niches``."""
    add_files(parser, "cells with raw counts, with embeddings as scjepa embed wrote them, or with both")
    group = parser.add_argument_group("what is clustered")
    group.add_argument(
        "--readout",
        default=NICHE,
        choices=[NICHE, PLAIN],
        help=f"{NICHE}: predictive components of expression and of the cell embedding, of each cell beside their means "
        f"over the rings around it (scjepa.tl.niche_readout); {PLAIN}: an embedding as it is (default: {NICHE})",
    )
    group.add_argument(
        "--use-rep",
        action="append",
        metavar="KEY",
        help=f"obsm key of an embedding, or X for expression; for {NICHE} may be repeated (default: {NICHE}: X and "
        f"{_keys.EMBEDDING_CELL}, or the one of them that is there: without an embedding it is the linear method, "
        f"which needs no model; {PLAIN}: {_keys.EMBEDDING})",
    )
    group.add_argument(
        "--standardize-by",
        metavar="COLUMN",
        help=f"obs column of groups that are aligned first, against batch effects ({PLAIN}: z-scored); 'section' is "
        f"there in any case, {NOTHING!r}: over all cells (default: section for {NICHE}, {NOTHING} for {PLAIN})",
    )
    _add_niche_readout(parser.add_argument_group(f"the read-out {NICHE}: what follows from the data, or is set"))
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


def _add_niche_readout(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--rings",
        type=int,
        choices=range(MAX_RINGS + 1),
        metavar="N",
        help=f"rings beside the cell itself, 0 to {MAX_RINGS} (default: chosen from the data)",
    )
    group.add_argument(
        "--own-weight",
        type=float,
        metavar="W",
        help="weight of the cell itself against that of its rings, 1: the same (default: chosen from the data)",
    )
    group.add_argument(
        "--align",
        choices=ALIGNMENTS,
        help="what sections are made to have in common: mean and variance of each gene or dimension (scale), "
        "covariances too (covariance), means (center), nothing (none); auto: scale, or center where sections differ "
        "in what they consist of (default: auto)",
    )


def _add_where(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where things are in the files")
    group.add_argument("--layer", help="layer of raw counts, or X for the matrix (default: X)")
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
    _check_readout(options)
    files = data_files(options.files, options.table)
    targets = plan(files, options.out, options.overwrite)

    import scjepa
    from scjepa.cli._additions import Additions, add
    from scjepa.cli._embeddings import EXPRESSION, read_all, sources_of

    sources = sources_of(files, options, progress.note)
    adata, rows = read_all(files, sources, options, progress.note)
    sections = adata.obs[_keys.SECTION].nunique()
    progress.step(f"niches of {adata.n_obs:,} cells in {sections} section(s)")
    by = options.standardize_by
    if options.readout == NICHE:
        chosen = {"n_rings": options.rings, "own_weight": options.own_weight, "align": options.align}
        with warnings.catch_warnings():  # told of the file, and not of what was read from it
            warnings.filterwarnings("ignore", message=".*the values are not whole numbers")
            scjepa.tl.niche_readout(adata, sources, library_key=by, **chosen)
        what = "linear method" if sources == [EXPRESSION] else "read-out"
        progress.step(f"{what}: {adata.uns[_keys.UNS][_keys.EMBEDDING_NICHE]['chosen']}")
        rep, by = _keys.EMBEDDING_NICHE, None
    else:
        (rep,) = sources
    if options.readout == PLAIN and sections > 1 and by is None:
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
            obsm={rep: adata.obsm[rep][own]} if options.readout == NICHE else {},
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


def _check_readout(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, and fill in what depends on the read-out."""
    if options.readout == PLAIN:
        idle = [name for name in _OF_NICHE if getattr(options, name) is not None]
        if idle:
            raise UsageError(f"--{idle[0].replace('_', '-')} is for --readout {NICHE}, not for {PLAIN}.")
        if len(options.use_rep or ()) > 1:
            raise UsageError(f"--readout {PLAIN} takes one --use-rep, found {', '.join(options.use_rep)}.")
    elif options.standardize_by == NOTHING:
        if options.align not in (None, NOTHING):
            raise UsageError(
                f"--standardize-by {NOTHING} aligns nothing, so it does not go with --align {options.align}."
            )
        options.align = NOTHING
    elif options.standardize_by is None:
        options.standardize_by = _keys.SECTION
    if options.standardize_by == NOTHING:
        options.standardize_by = None
    options.align = options.align or ALIGNMENTS[0]


COMMAND = Command(
    name="niches",
    summary="cluster cells, embedded or not, into niches, and draw them on the tissue",
    description=(
        "Cluster the cells of all files together into niches: read-out, nearest-neighbor graph, then Leiden. Files\n"
        "without embeddings are read by the linear method, from expression alone, in seconds: a first look that needs\n"
        "no model. Each file gets an obs column with its cells' niches, which mean the same in all of them, and the\n"
        "read-out that was clustered. What the read-out chose from the data is told on stderr and noted in the files.\n"
        "The paths written are printed on stdout."
    ),
    examples=(
        "scjepa niches section.h5ad --n-niches 8 --out niches.h5ad",
        "scjepa niches embedded.h5ad --n-niches 8 --overwrite",
        "scjepa niches embedded/*.h5ad --n-niches 8 --out results/ --map niches.png",
        "scjepa niches embedded.h5ad --resolution 0.6 --out niches.h5ad --map map.pdf --reference region --unit µm",
        "scjepa niches embedded/*.h5ad --use-rep X_stjepa_cell --rings 2 --out alone/",
        "scjepa niches embedded/*.h5ad --readout plain --standardize-by section --overwrite",
    ),
    add_options=add_options,
    run=run,
)
