"""``scjepa predict``: the niches of an atlas in new sections.

Give cells the niches of an atlas (scjepa.NicheAtlas, a folder), under the same names in every file. Each file gets an
obs column of niches, in which a cell that lies farther from the atlas than its own held-out cells is "unknown"; columns
of confidence and of the p-value of that; shares of votes of all niches (obsm), and the read-out. A section that does
not compare with the atlas, by genes, by the share of unknown cells or by how its cells vary, is told of on stderr. An
embedding that the atlas reads must be in the files: scjepa embed. The paths written are printed on stdout.

    scjepa predict new.h5ad --atlas atlas --out predicted.h5ad
    scjepa predict day*/*.h5ad --atlas atlas --out predicted/
    scjepa predict new.h5ad --atlas atlas --error 0.05 --key-added atlas_niche --overwrite
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scjepa._core import keys as _keys
from scjepa.cli import options as shared
from scjepa.cli.options import Column, Positive

if TYPE_CHECKING:
    from anndata import AnnData

    from scjepa.atlas import NicheAtlas
    from scjepa.cli.io import DataFile

_PLACES = tuple(name for name in shared.OF_PLACES if name != "technology_key")


@dataclass(frozen=True)
class Atlas:
    """Niches.

    Parameters
    ----------
    atlas
        Folder that NicheAtlas.save wrote.
    error
        Share of the atlas' own held-out cells that would be unknown, between 0 and 1. Default: the atlas'.
    spatial_neighbors
        Neighbors of each cell in the spatial graph that is built where a file has none. Default: the atlas'.
    """

    atlas: Path | None = None
    error: float | None = None
    spatial_neighbors: Positive | None = None


@dataclass(frozen=True)
class Results:
    """Results.

    Parameters
    ----------
    out
        File to write (.h5ad, .zarr), or a folder for one file each, named as the inputs; without it, niches are added
        to the input files, which takes --overwrite.
    overwrite
        Replace files that are there, and niches in them.
    key_added
        obs column of niches; the other columns begin with its name.
    """

    out: Path | None = None
    overwrite: bool = False
    key_added: Column = _keys.NICHE


def run(options: argparse.Namespace) -> None:
    """Predict the niches of each file."""
    from scjepa.atlas import NicheAtlas
    from scjepa.cli.io import data_files, plan, refuse_written

    if options.atlas is None:
        raise shared.UsageError("Name the atlas with --atlas: a folder that NicheAtlas.save wrote.")
    progress = shared.Progress(options)
    files = data_files(options.files, options.table)
    targets = plan(files, options.out, options.overwrite)
    atlas = NicheAtlas.load(options.atlas)
    progress.step(f"atlas: {atlas.describe()}")
    columns, arrays = atlas.written(options.key_added)
    for file in files:
        refuse_written(file, "obs", columns, options.overwrite)
        refuse_written(file, "obsm", arrays, options.overwrite)
    for file, target in zip(files, targets, strict=True):
        _predict(atlas, file, target, options, progress)
        shared.written(target)


def _predict(
    atlas: NicheAtlas, file: DataFile, target: Path, options: argparse.Namespace, progress: shared.Progress
) -> None:
    from scjepa.cli.io import Additions, add

    cells = _cells(atlas, file, options)
    key = options.key_added
    progress.step(f"{file.path}: niches of {cells.n_obs:,} cells")
    atlas.predict(cells, key, error=options.error)
    columns, arrays = atlas.written(key)
    additions = Additions(
        obs={name: cells.obs[name] for name in columns},
        obsm={name: cells.obsm[name] for name in arrays},
        uns={f"{key}_colors": cells.uns[f"{key}_colors"]},
        notes=cells.uns[_keys.UNS],
    )
    add(file, additions, target)
    sizes = cells.obs[key].value_counts(sort=False)
    progress.step(f"{', '.join(f'{name} {size:,}' for name, size in sizes.items() if size)}; wrote {target}")


def _cells(atlas: NicheAtlas, file: DataFile, options: argparse.Namespace) -> AnnData:
    """Return the cells of a file with counts in ``X``, the spatial graph, and the embeddings that the atlas reads."""
    from scjepa._core.anndata import array_of
    from scjepa.cli.cells import Names, add_graph, read_cells, read_parts

    names = Names.of(shared.KINDS["stjepa"], shared.Where())
    cells = read_cells(file, shared.Where.of(options), names, use_graph=not options.rebuild_graph)
    add_graph(cells, file, names, options.spatial_neighbors or atlas.n_neighbors, "--spatial-neighbors")
    embeddings = [f"obsm/{name}" for name in atlas.readout.sources_ if name != _keys.EXPRESSION]
    found = read_parts(file, None, embeddings, use_counts=False)
    cells.obsm.update({name: array_of(found.obsm[name]) for name in found.obsm})
    return cells


COMMAND = shared.Command.of(__doc__, run, shared.Files, Atlas, Results, (shared.Where, _PLACES))
