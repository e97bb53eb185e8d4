"""``scjepa prepare``: read the sections of many files once, for what follows to take one at a time.

Each section is written as a shard to a folder: its counts, its graph (that of the file, or of nearest neighbors) and
what the linear method needs. Memory does not grow with the number of files. A run that was killed is resumed by the
same command, and runs that share the folder share the work. Files may have different panels. After that, the folder can
stand in the place of files: scjepa niches finds niches in all sections and adds them to the files, or to copies of
them; scjepa fit trains a model on all cells, and scjepa embed writes their embeddings to a .npy file, or into copies of
the files.

    scjepa prepare study/*.h5ad --out prepared
    scjepa prepare study --out prepared --jobs 2 --errors skip
    scjepa prepare samples.csv --out prepared --layer counts
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scjepa.cli import options as shared
from scjepa.cli.options import Positive

if TYPE_CHECKING:
    from scjepa.cohort import Collection

_WHERE = ("layer", "library_key", "technology_key", "spatial_key", "neighbors_key", "rebuild_graph")

_OTHERS = ("readout", "use_rep", "map", "reference", "unit", "table", *_WHERE)
"""Options of ``scjepa niches`` that a prepared folder has no use for, or has decided on."""


@dataclass(frozen=True)
class Sources:
    """Arguments.

    Parameters
    ----------
    files
        Cells: .h5ad or .zarr; their folder; or a table of samples, .csv with a column path.
    """

    files: shared.Paths


@dataclass(frozen=True)
class Preparation:
    """Preparation.

    Parameters
    ----------
    out
        Folder of shards, which several runs may share.
    spatial_neighbors
        Neighbors of each cell in the spatial graph that is built where a file has none.
    jobs
        Processes, each with one section in memory.
    errors
        What becomes of files that cannot be read: stop at the first, or skip them and report them at the end.
    """

    out: Path | None = None
    spatial_neighbors: Positive = 10
    jobs: Positive = 1
    errors: Literal["raise", "skip"] = "raise"


def run(options: argparse.Namespace) -> None:
    """Prepare the sections of all files."""
    import scjepa

    if options.out is None:
        raise shared.UsageError("Name the folder of shards with --out.")
    progress = shared.Progress(options)
    given = options.files[0] if len(options.files) == 1 else options.files
    where = {name: value for name in _WHERE if (value := getattr(options, name)) is not None}
    collection = scjepa.Collection(given, folder=options.out, n_neighbors=options.spatial_neighbors, **where)
    report = collection.prepare(n_jobs=options.jobs, errors=options.errors)
    progress.step(f"{collection}: {report}".replace("\n", "; "))
    shared.written(options.out)
    if report.refused:
        print(f"scjepa: {len(report.refused)} refused: {'; '.join(report.refused.values())}", file=sys.stderr)


def is_prepared(paths: list[Path]) -> bool:
    """Return whether the arguments of a command are one prepared folder."""
    from scjepa.cohort.collection import MANIFEST

    return len(paths) == 1 and (paths[0] / MANIFEST).is_file()


def find_niches(options: argparse.Namespace, progress: shared.Progress) -> None:
    """Find niches in a prepared folder, and add them to its files or copies of them: ``scjepa niches PREPARED``."""
    import scjepa

    _refuse(options, _OTHERS if options.readout != "niche" else _OTHERS[1:])
    if options.out is None and not options.overwrite:
        raise shared.UsageError("Name where results go with --out, or add them to the files with --overwrite.")
    collection = scjepa.Collection.open(options.files[0])
    progress.step(f"niches of {collection.n_cells:,} cells in {len(collection)} section(s)")
    chosen = {"n_rings": options.rings, "own_weight": options.own_weight, "align": options.align or "auto"}
    resolution = 1.0 if options.resolution is None else options.resolution
    how = {"resolution": resolution, "key_added": options.key_added, "random_state": options.seed}
    sizes = collection.niches(options.n_niches, method=options.method, **how, **chosen).sum()
    progress.step(f"{len(sizes)} niches of {sizes.min():,} to {sizes.max():,} cells")
    for path in collection.write_back(options.out, key=options.key_added, overwrite=options.overwrite):
        shared.written(path)
    progress.step("done")


def to_train_on(options: argparse.Namespace, progress: shared.Progress) -> Collection:
    """Open a prepared folder for a model: ``scjepa fit PREPARED``."""
    import scjepa

    if options.model == "celljepa":
        raise shared.UsageError("A prepared folder is of cells in tissue; --model celljepa takes files.")
    _refuse(options, ("table", *_WHERE))
    collection = scjepa.Collection.open(options.files[0])
    progress.step(f"{collection.n_cells:,} cells in {len(collection)} section(s)")
    return collection


def embed(options: argparse.Namespace, progress: shared.Progress) -> None:
    """Embed the cells of a prepared folder, section after section: ``scjepa embed MODEL PREPARED``.

    To one .npy file, or into copies of the files of the sections, or into these themselves.
    """
    import scjepa
    from scjepa.cli.apply import scales_of
    from scjepa.cli.cells import SavedModel

    alone = options.out is not None and options.out.suffix == ".npy"
    _refuse(options, ("table", *(("format", "key_added") if alone else ()), *_WHERE))
    if options.out is None and not options.overwrite:
        raise shared.UsageError("Name a folder or a .npy file with --out, or add to the files with --overwrite.")
    if not alone and options.out is not None and options.out.suffix:
        raise shared.UsageError(
            f"{options.out}: cells of a prepared folder are embedded to one .npy file, or to a folder of copies."
        )
    if not alone and options.format not in (None, "h5ad", "zarr"):
        raise shared.UsageError("Copies of the files of a prepared folder are h5ad or zarr.")
    saved = SavedModel(options.model)
    if saved.kind.model != "STJEPA":
        raise shared.UsageError(f"{saved.name} is a {saved.kind.model} model; a prepared folder is of cells in tissue.")
    collection = scjepa.Collection.open(options.files[0])
    scales = scales_of(options.out if alone else Path("copy.h5ad"), options, saved.kind)
    model = saved.load(collection, options.accelerator, all_genes=options.genes == "all")
    progress.step(f"embedding {collection.n_cells:,} cells in {len(collection)} section(s)")
    files = {
        key: options.out if alone else collection.folder / "latent" / f"{scale}.npy" for scale, key in scales.items()
    }
    for scale, file in zip(scales, files.values(), strict=True):
        if options.overwrite and alone:
            forget(file)
        model.get_latent_representation(scale=scale, out=file)
    if alone:
        return _said(progress, options.out)
    how = {"format": options.format, "overwrite": options.overwrite}
    for path in collection.write_back(options.out, key=None, obsm=files, **how):
        _said(progress, path)
    for file in files.values():
        forget(file)


def _said(progress: shared.Progress, path: Path) -> None:
    progress.step(f"wrote {path}")
    shared.written(path)


def forget(file: Path) -> None:
    """Remove a file of embeddings, and what is known of it."""
    for name in ("", ".part", ".json"):
        file.with_name(f"{file.name}{name}").unlink(missing_ok=True)


def _refuse(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Refuse options that a prepared folder has no use for, or has decided on."""
    for name in names:
        if getattr(options, name, None) not in (None, False):
            raise shared.UsageError(f"--{name.replace('_', '-')} does not go with a prepared folder.")


COMMAND = shared.Command.of(__doc__, run, Sources, Preparation, (shared.Where, _WHERE))
