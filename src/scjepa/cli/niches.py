"""``scjepa niches``: cluster cells, embedded or not, into niches, and draw them on the tissue.

Cluster the cells of all files together into niches: read-out, nearest-neighbor graph, then Leiden. Files without
embeddings are read by the linear method, from expression alone, in seconds: a first look that needs no model. Each file
gets an obs column with its cells' niches, which mean the same in all of them, and the read-out that was clustered. What
the read-out chose from the data is told on stderr and noted in the files. The paths written are printed on stdout.

    scjepa niches section.h5ad --n-niches 8 --out niches.h5ad
    scjepa niches embedded.h5ad --n-niches 8 --overwrite
    scjepa niches embedded/*.h5ad --n-niches 8 --out results/ --map niches.png
    scjepa niches embedded.h5ad --resolution 0.6 --out niches.h5ad --map map.pdf --reference region --unit µm
    scjepa niches embedded/*.h5ad --use-rep X_stjepa_cell --rings 2 --out alone/
    scjepa niches embedded/*.h5ad --readout plain --align scale --overwrite
    scjepa niches prepared --n-niches 12 --out results/
    scjepa niches starmap.h5ad osmfish.h5ad --readout shared --n-niches 8 --out together/
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scjepa._core import keys as _keys
from scjepa._core import stored
from scjepa._core.stored import DataFile
from scjepa.cli import cohort, io
from scjepa.cli import options as shared
from scjepa.cli.options import Column, Positive

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


PICTURES = (".png", ".pdf", ".svg")

NICHE, SHARED, PLAIN = "niche", "shared", "plain"
"""Read-outs: what cells and the rings around them tell of their place; the same of what technologies of different
panels have in common; and an embedding as it is."""

NOTHING = "none"
"""``--align`` for nothing."""

_ALIGN = {NICHE: "auto", SHARED: "covariance", PLAIN: NOTHING}
"""What sections are made to have in common, by read-out, where the command line says nothing."""

_OF_NICHE = ("rings", "own_weight", "layer")
"""Options that the read-out ``plain`` has no use for."""

Note = Callable[[str], None]


@dataclass(frozen=True)
class Readout:
    """What is clustered.

    Parameters
    ----------
    readout
        niche: predictive components of expression and of the cell embedding, of each cell and their means over the
        rings around it (scjepa.tl.niche_readout); shared: for technologies of different panels, the same of components
        of all genes of each, in what they have in common (scjepa.tl.shared_components); plain: an embedding as it is,
        also of dissociated cells.
    use_rep
        obsm key of an embedding, or X for expression; for niche may be repeated. Default: niche: X and X_stjepa_cell,
        or the one of them that is there: without an embedding it is the linear method, which needs no model; plain:
        X_stjepa, or X_celljepa where files have that instead.
    rings
        For niche: rings around the cell itself, 0 to 3. Default: chosen from the data.
    own_weight
        For niche: weight of the cell itself against that of its rings, 1: the same. Default: chosen from the data.
    align
        What sections are made to have in common, against batch effects: mean and variance of each gene or dimension
        (scale: z-scores), covariances too (covariance), means (center), nothing (none); for niche, auto: scale, or
        center where sections differ in what they consist of. Default: auto for niche, none for plain.
    """

    readout: Literal["niche", "shared", "plain"] = "niche"
    use_rep: shared.Key | None = field(default=None, metadata={"action": "append"})
    rings: Literal[0, 1, 2, 3] | None = None
    own_weight: float | None = None
    align: Literal["auto", "scale", "covariance", "center", "none"] | None = None


@dataclass(frozen=True)
class Clusters:
    """Niches.

    Parameters
    ----------
    n_niches
        Number of niches, over all files together.
    method
        How they are found: Leiden on all cells; Leiden on a sample of 50,000, carried to all (landmarks); k-means or a
        mixture of Gaussians of such a sample, which take --n-niches; auto: leiden up to 200,000 cells, then landmarks.
    resolution
        Leiden's resolution, instead: more, more niches. Default: 1.
    n_neighbors
        Neighbors of a cell in the graph of embeddings, itself included.
    seed
        Seed of Leiden.
    """

    n_niches: Positive | None = None
    method: Literal["auto", "leiden", "landmarks", "kmeans", "gmm"] = "auto"
    resolution: float | None = None
    n_neighbors: Positive = 15
    seed: int = 0


@dataclass(frozen=True)
class Results(shared.AddedNiches):
    """Results.

    Parameters
    ----------
    map
        Draw niches on the tissue (.png, .pdf, .svg).
    reference
        obs column to draw next to them, such as region.
    unit
        Unit of the coordinates, such as µm: draws a scale bar.
    spatial_neighbors
        Neighbors of each cell in the spatial graph that is built where a file has none.
    """

    map: Path | None = None
    reference: Column | None = None
    unit: str | None = None
    spatial_neighbors: Positive = 10


def run(options: argparse.Namespace) -> None:
    """Find niches over all files together, and write each file's."""
    progress = shared.Progress(options)
    if options.map is not None:
        if options.map.suffix not in PICTURES:
            raise shared.UsageError(f"--map {options.map}: pictures end in {', '.join(PICTURES)}.")
        io.refuse_existing(options.map, options.overwrite)
    elif options.reference or options.unit:
        raise shared.UsageError("--reference and --unit are for the picture: name it with --map.")
    if options.n_niches is not None and options.resolution is not None:
        raise shared.UsageError("Give --n-niches or --resolution, not both.")
    if cohort.is_prepared(options.files):
        cohort.find_niches(options, progress)
        return
    _check_readout(options)
    files = io.data_files(options.files, options.table)
    targets = io.plan(files, options.out, options.overwrite)
    sources = _sources_of(files, options, progress.note)
    adata, rows = _read_all(files, sources, options, progress.note)
    rep = _find(adata, sources, options, progress)
    key = options.key_added
    for file, target, own in zip(files, targets, rows, strict=True):
        additions = stored.Additions(
            obs={key: adata.obs[key].iloc[own]},
            obsm={} if options.readout == PLAIN else {rep: adata.obsm[rep][own]},
            uns={f"{key}_colors": adata.uns[f"{key}_colors"]},
            notes={name: note for name, note in adata.uns[_keys.UNS].items() if name != _keys.SHARED},
        )
        stored.add(file, additions, target)
        shared.written(target)
    if options.map is not None:
        _draw(adata, options)
    progress.step("done")


def _check_readout(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, and fill in what depends on the read-out."""
    if options.readout == PLAIN:
        idle = [name for name in _OF_NICHE if getattr(options, name) is not None]
        if idle:
            raise shared.UsageError(f"--{idle[0].replace('_', '-')} is for --readout {NICHE}, not for {PLAIN}.")
        if len(options.use_rep or ()) > 1:
            raise shared.UsageError(f"--readout {PLAIN} takes one --use-rep, found {', '.join(options.use_rep)}.")
        if options.align == _ALIGN[NICHE]:
            raise shared.UsageError(f"--align {options.align} is for --readout {NICHE}. Name one, such as scale.")
    elif options.readout == SHARED:
        idle = [name for name in ("use_rep", "align") if getattr(options, name) is not None]
        if idle:
            raise shared.UsageError(
                f"--{idle[0].replace('_', '-')} does not go with --readout {SHARED}, which reads the counts and "
                "aligns the covariances of sections."
            )
    if options.readout != SHARED:
        _refuse_technology(options)
    options.align = options.align or _ALIGN[options.readout]


def _refuse_technology(options: argparse.Namespace) -> None:
    if options.technology_key is not None:
        raise shared.UsageError(f"--technology-key is for --readout {SHARED}, not for {options.readout}.")


def _find(adata: AnnData, sources: Sequence[str], options: argparse.Namespace, progress: shared.Progress) -> str:
    """Find niches, and return the ``obsm`` key of what was clustered."""
    import scjepa

    sections = adata.obs[_keys.SECTION].nunique()
    progress.step(f"niches of {adata.n_obs:,} cells in {sections} section(s)")
    if options.readout == SHARED:
        scjepa.tl.shared_components(adata, _keys.TECHNOLOGY, library_key=_keys.SECTION)
        sources = [_keys.SHARED]
    if options.readout != PLAIN:
        chosen = {"n_rings": options.rings, "own_weight": options.own_weight, "align": options.align}
        with warnings.catch_warnings():  # told of the file, and not of what was read from it
            warnings.filterwarnings("ignore", message=".*the values are not whole numbers")
            scjepa.tl.niche_readout(adata, sources, library_key=_keys.SECTION, **chosen)
        what = "read-out" if _keys.EMBEDDING_CELL in sources else "linear method"
        progress.step(f"{what}: {adata.uns[_keys.UNS][_keys.EMBEDDING_NICHE]['chosen']}")
        rep = _keys.EMBEDDING_NICHE
    else:
        (rep,) = sources
        if options.align != NOTHING:
            scjepa.tl.standardize(adata, rep, library_key=_keys.SECTION, align=options.align)
            rep = f"{rep}_standardized"
        elif sections > 1:
            progress.note("Sections may differ by batch effects; --align scale takes them out.")
    how = {name: getattr(options, name) for name in ("n_niches", "method", "n_neighbors", "key_added")}
    how["resolution"] = 1.0 if options.resolution is None else options.resolution
    scjepa.tl.niches(adata, rep, random_state=options.seed, **how)
    sizes = adata.obs[options.key_added].value_counts()
    progress.step(f"{len(sizes)} niches of {sizes.min():,} to {sizes.max():,} cells")
    return rep


def _draw(adata: AnnData, options: argparse.Namespace) -> None:
    import scjepa
    from scjepa._core.files import whole

    how = {"reference": options.reference, "library_key": _keys.SECTION, "unit": options.unit}
    with whole(options.map) as draft:
        scjepa.pl.niches(adata, options.key_added, save=draft, **how)
    shared.written(options.map)


# -- what is read out ----------------------------------------------------------------------------------------------


def _sources_of(files: Sequence[DataFile], options: argparse.Namespace, note: Note) -> list[str]:
    """Return what is read out: ``"X"`` for the counts, and ``obsm`` keys.

    Where the command line names nothing, the read-out for niches takes the counts and the embedding of cells. Files
    without an embedding are read from expression alone; of those whose counts cannot be read with it, the embedding is.

    Parameters
    ----------
    note
        Is told why something is not read.

    Raises
    ------
    ValueError
        If some files have the embedding of cells and some have not, there is no layer of the name, or, where counts are
        asked for, they are elsewhere in the file.
    """
    if options.readout == SHARED:
        _tell_of_values(files, options.layer, note)
        return [_keys.EXPRESSION]
    if options.readout == PLAIN:
        of_cells = shared.KINDS["celljepa"].scales["cls"]
        other = not any(_holds(f, f"obsm/{_keys.EMBEDDING}") for f in files) and _holds(files[0], f"obsm/{of_cells}")
        return list(options.use_rep or [of_cells if other else _keys.EMBEDDING])
    sources = _usual_sources(files, options, note) if options.use_rep is None else list(dict.fromkeys(options.use_rep))
    if _keys.EXPRESSION in sources and (options.use_rep is not None or sources == [_keys.EXPRESSION]):
        _tell_of_values(files, options.layer, note)
    return sources


def _usual_sources(files: Sequence[DataFile], options: argparse.Namespace, note: Note) -> list[str]:
    """Return the usual sources that the files have."""
    key = _keys.EMBEDDING_CELL
    has = [_holds(file, f"obsm/{key}") for file in files]
    if not any(has):
        which = f"{files[0].path} has" if len(files) == 1 else "The files have"
        note(
            f"{which} no obsm[{key!r}]: niches are found by the linear method, from expression alone. To have an "
            "embedding with it: scjepa fit, then scjepa embed."
        )
        return [_keys.EXPRESSION]
    if not all(has):
        one, other = files[has.index(False)].path, files[has.index(True)].path
        raise ValueError(
            f"{one} has no obsm[{key!r}], and {other} has. Embed its cells: scjepa embed MODEL FILE. Or read "
            "expression alone: --use-rep X."
        )
    reason = _why_no_counts(files, options.layer)
    if reason is not None:
        note(f"The embedding is read without expression. {reason}")
        return [key]
    return [_keys.EXPRESSION, key]


def _why_no_counts(files: Sequence[DataFile], layer: str | None) -> str | None:
    """Return why counts cannot be read with an embedding; ``None`` where they can."""
    from scjepa.cli.cells import X, holds_raw_counts

    for file in files:
        if layer in (None, X) and not _holds(file, X):
            return f"{file.path} has no matrix X: name a layer of raw counts with --layer."
        if not holds_raw_counts(file, layer):
            return _no_counts(file, layer)
    genes = [_genes_of(file) for file in files]
    if not all(_same(genes[0], other) for other in genes[1:]):
        n_shared = len(set(genes[0]).intersection(*genes[1:]))
        return f"The files hold different genes, {n_shared:,} of them in all files; to read these: --use-rep X."
    return None


def _tell_of_values(files: Sequence[DataFile], layer: str | None, note: Note) -> None:
    """Tell of values that are no counts; raise where nobody asked for them by name, and counts are elsewhere."""
    from scjepa.cli.cells import holds_raw_counts, places_of_counts

    for file in files:
        if holds_raw_counts(file, layer):
            continue
        told = _no_counts(file, layer)
        if layer is None and places_of_counts(file, layer):
            raise ValueError(f"{told} To take these values for counts: --layer X.")
        note(f"{told} They are taken for counts.")


def _no_counts(file: DataFile, layer: str | None) -> str:
    from scjepa.cli.cells import X, where_counts_are

    place = "X" if layer in (None, X) else f"the layer {layer!r}"
    return f"{file.path}: the values of {place} are no raw counts. {where_counts_are(file, layer)}"


def _holds(file: DataFile, place: str) -> bool:
    with file.opened() as group:
        return place in group


def _genes_of(file: DataFile) -> pd.Index:
    from anndata.io import read_elem

    with file.opened() as group:
        return read_elem(group["var"]).index.astype(str)


def _same(one: pd.Index, other: pd.Index) -> bool:
    """Return whether genes are the same, in whatever order."""
    return one.equals(other) or (one.is_unique and other.is_unique and set(one) == set(other))


# -- the cells -----------------------------------------------------------------------------------------------------


def _read_all(
    files: Sequence[DataFile], sources: Sequence[str], options: argparse.Namespace, note: Note
) -> tuple[AnnData, list[slice]]:
    """Return the cells of all files with what niches and the map need, and which rows are each file's.

    Parameters
    ----------
    sources
        What is read out, of :func:`_sources_of`.
    note
        Is told which genes are left out.

    Raises
    ------
    ValueError
        If an embedding, a column or coordinates are not there, a graph cannot be built, embeddings differ in width, or
        counts have no gene in common.
    """
    import anndata as ad
    import numpy as np
    import pandas as pd

    from scjepa._core.anndata import joined_notes, notes_of

    parts = [_read(file, sources, options) for file in files]
    for key in parts[0].obsm:
        widths = sorted({part.obsm[key].shape[1] for part in parts})
        if len(widths) > 1:
            raise ValueError(
                f"obsm[{key!r}] has {' and '.join(map(str, widths))} dimensions in different files. Embed them all "
                "with one model."
            )
    if parts[0].X is not None and options.readout == NICHE:
        _check_genes(files, parts, note)
    _tell_sections_apart(files, parts)
    join: Literal["inner", "outer"] = "outer" if options.readout == SHARED else "inner"
    adata = ad.concat(parts, join=join, pairwise=True, fill_value=0)
    obs = pd.concat([part.obs for part in parts])
    adata.obs = obs if obs.index.is_unique else obs.set_axis(pd.RangeIndex(len(obs)).astype(str))
    adata.obs[_keys.SECTION] = adata.obs[_keys.SECTION].astype("category")
    notes = joined_notes([notes_of(part) for part in parts], [part.obs for part in parts])
    if options.key_added in notes:  # else the column is the user's
        adata.uns[_keys.UNS] = {options.key_added: notes[options.key_added]}
    ends = np.cumsum([0, *(part.n_obs for part in parts)]).tolist()
    return adata, [slice(*pair) for pair in pairwise(ends)]


def _read(file: DataFile, sources: Sequence[str], options: argparse.Namespace) -> AnnData:
    """Return the cells of a file: embeddings, notes, columns, and where they are needed places, graph and counts."""
    from anndata import AnnData

    from scjepa._core.anndata import array_of, entry_of, notes_of
    from scjepa.cli.cells import column_of, read_parts

    rings = options.readout != PLAIN
    expression = rings and _keys.EXPRESSION in sources
    keys = [key for key in sources if not (expression and key == _keys.EXPRESSION)]
    paths = [*(f"obsm/{key}" for key in keys), f"uns/{_keys.UNS}", "uns/spatialdata_attrs"]
    found = read_parts(file, options.layer, paths, use_counts=False)
    columns = [options.reference] if options.reference not in (None, _keys.SECTION) else []
    kept = {name: entry_of(found, "obs", name, "Name one of these.", str(file.path)) for name in columns}
    if options.key_added in found.obs:
        kept[options.key_added] = found.obs[options.key_added]
    sections = column_of(found, file, "library_key", options.library_key)
    kept[_keys.SECTION] = file.name if sections is None else sections
    if options.readout == SHARED:
        technologies = column_of(found, file, "technology_key", options.technology_key)
        kept[_keys.TECHNOLOGY] = file.name if technologies is None else technologies
    if not rings and options.map is None:
        cells = AnnData(obs=found.obs[[]])
    else:
        cells = _placed(file, options, expression)
    cells.obs = cells.obs[[]].assign(**kept)
    cells.obsm.update({key: array_of(_embedding(found, key, file)) for key in keys})
    cells.uns[_keys.UNS] = notes = notes_of(found)
    if rings and _holds(file, f"obsm/{_keys.EMBEDDING_NICHE}") and _keys.EMBEDDING_NICHE not in notes:
        raise ValueError(f"{file.path} has an obsm[{_keys.EMBEDDING_NICHE!r}] that scjepa did not write. Rename it.")
    return cells


def _placed(file: DataFile, options: argparse.Namespace, use_counts: bool) -> AnnData:
    """Return coordinates for the map, and the spatial graph for rings; counts where they are read out."""
    from scjepa.cli.cells import PARTS, Names, NoCoordinatesError, add_graph, read_cells

    rings, where = options.readout != PLAIN, shared.Where.of(options)
    names = Names.of(shared.KINDS["stjepa"], shared.Where())
    try:
        cells = read_cells(file, where, names, use_graph=rings and not options.rebuild_graph, use_counts=use_counts)
    except NoCoordinatesError as error:
        raise ValueError(f"{error} For groups of dissociated cells: --readout {PLAIN}.") from error
    if rings:
        add_graph(cells, file, names, options.spatial_neighbors, "--spatial-neighbors")
        graphs = [cells.obsp.pop(f"{_keys.SPATIAL}_{part}", None) for part in PARTS]
        cells.obsp[f"{_keys.SPATIAL}_connectivities"] = next(graph for graph in graphs if graph is not None)
    cells.obsm[_keys.SPATIAL] = cells.obsm[_keys.SPATIAL][:, :2]
    return cells


def _embedding(found: AnnData, key: str, file: DataFile) -> object:
    if key not in found.obsm:
        with file.opened() as group:
            there = ", ".join(sorted(group["obsm"])) if "obsm" in group else ""
        raise ValueError(
            f"{file.path} has no obsm[{key!r}]; obsm holds {there or 'nothing'}. Embed its cells: scjepa embed MODEL "
            "FILE. Or name what to read: --use-rep KEY, or --use-rep X for expression alone."
        )
    if len(found.obsm[key].shape) != 2:
        raise ValueError(f"{file.path}: obsm[{key!r}] is no matrix, cells × dimensions.")
    return found.obsm[key]


def _check_genes(files: Sequence[DataFile], parts: Sequence[AnnData], note: Note) -> None:
    """Raise where genes cannot be matched by name, and tell of those that are left out."""
    genes = [part.var_names for part in parts]
    if all(genes[0].equals(other) for other in genes[1:]):
        return
    for file, own in zip(files, genes, strict=True):
        if not own.is_unique:
            raise ValueError(
                f"{file.path} has the gene {own[own.duplicated()][0]!r} twice, so genes of several files cannot be "
                "matched: adata.var_names_make_unique()."
            )
    n_shared = len(set(genes[0]).intersection(*genes[1:]))
    if not n_shared:
        names = "; ".join(f"{file.path}: {', '.join(own[:3])}, ..." for file, own in zip(files, genes, strict=True))
        raise ValueError(f"No gene is in all files ({names}). Gene names must be of one kind, and of one species.")
    if any(len(own) > n_shared for own in genes):
        note(f"Expression is read from the {n_shared:,} genes that all files hold.")


def _tell_sections_apart(files: Sequence[DataFile], parts: Sequence[AnnData]) -> None:
    """Put the file's name before sections that several files have: a section is one piece of tissue."""
    given = [part.obs[_keys.SECTION].astype(str) for part in parts]
    for i, (part, file) in enumerate(zip(parts, files, strict=True)):
        others = set().union(*(set(names) for j, names in enumerate(given) if j != i))
        part.obs[_keys.SECTION] = given[i].where(~given[i].isin(others), file.name + "-" + given[i])


COMMAND = shared.Command.of(__doc__, run, shared.Files, Readout, Clusters, Results, (shared.Where, shared.OF_PLACES))
