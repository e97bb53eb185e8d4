"""What finding and drawing niches needs of files: embeddings, counts, coordinates and the spatial graph."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem
from scipy import sparse

from scjepa._core import keys as _keys
from scjepa._core.anndata import array_of, joined_notes
from scjepa.cli._cells import Cells, Where, X, add_graph, read_cells, refuse_empty, sections_of
from scjepa.cli._counts import holds_raw_counts, places_of_counts, where_counts_are
from scjepa.cli._files import DataFile
from scjepa.cli.niches import NICHE

EXPRESSION = "X"
"""Source of the read-out that is the counts, as :class:`scjepa.tl.NicheReadout` calls them; others are embeddings."""

Note = Callable[[str], None]


@dataclass
class Embedded:
    """The cells of one file.

    Attributes
    ----------
    obs
        The column ``"section"``, those that are asked for, and that of niches where there is one.
    embeddings
        ``(n_cells, n_dims)`` by ``obsm`` key.
    cells
        Coordinates, spatial graph and counts, where they are needed.
    notes
        What scjepa noted in ``uns``.
    """

    obs: pd.DataFrame
    embeddings: dict[str, np.ndarray]
    cells: Cells | None
    notes: dict[str, Any]


# -- what is read out -----------------------------------------------------------------------------------------------


def sources_of(files: Sequence[DataFile], options: argparse.Namespace, note: Note) -> list[str]:
    """Return what is read out: ``"X"`` for the counts, and ``obsm`` keys.

    Where the command line names nothing, the read-out for niches takes the counts and the embedding of cells. Files
    without an embedding are read from expression alone; of those whose counts cannot stand beside it, the embedding is.

    Parameters
    ----------
    options
        Those of ``scjepa niches``.
    note
        Is told why something is not read.

    Raises
    ------
    ValueError
        If some files have the embedding of cells and some have not, there is no layer of the name, or, where counts are
        asked for, they are elsewhere in the file.
    """
    if options.readout != NICHE:
        return list(options.use_rep or [_keys.EMBEDDING])
    if options.use_rep is not None:
        sources = list(dict.fromkeys(options.use_rep))
    else:
        sources = _there(files, options, note)
    if EXPRESSION in sources and (options.use_rep is not None or sources == [EXPRESSION]):
        _tell_of_values(files, options.layer, note)
    return sources


def _there(files: Sequence[DataFile], options: argparse.Namespace, note: Note) -> list[str]:
    """Return the usual sources that the files have."""
    key = _keys.EMBEDDING_CELL
    has = [_holds(file, f"obsm/{key}") for file in files]
    if not any(has):
        which = f"{files[0].path} has" if len(files) == 1 else "The files have"
        note(
            f"{which} no obsm[{key!r}]: niches are found by the linear method, from expression alone. To have an "
            "embedding beside it: scjepa fit, then scjepa embed."
        )
        return [EXPRESSION]
    if not all(has):
        one, other = files[has.index(False)].path, files[has.index(True)].path
        raise ValueError(
            f"{one} has no obsm[{key!r}], and {other} has. Embed its cells: scjepa embed MODEL FILE. Or read "
            "expression alone: --use-rep X."
        )
    reason = _why_no_counts(files, options.layer)
    if reason is not None:
        note(f"The embedding is read without expression beside it. {reason}")
        return [key]
    return [EXPRESSION, key]


def _why_no_counts(files: Sequence[DataFile], layer: str | None) -> str | None:
    """Return why counts cannot stand beside an embedding; ``None`` where they can."""
    for file in files:
        if layer in (None, X) and not _holds(file, X):
            return f"{file.path} has no matrix X: name a layer of raw counts with --layer."
        if not holds_raw_counts(file, layer):
            return _no_counts(file, layer)
    genes = [_genes_of(file) for file in files]
    if not all(_same(genes[0], other) for other in genes[1:]):
        shared = set(genes[0]).intersection(*genes[1:])
        return f"The files hold different genes, {len(shared):,} of them in all files; to read these: --use-rep X."
    return None


def _tell_of_values(files: Sequence[DataFile], layer: str | None, note: Note) -> None:
    """Tell of values that are no counts; raise where nobody asked for them by name, and counts are elsewhere."""
    for file in files:
        if holds_raw_counts(file, layer):
            continue
        told = _no_counts(file, layer)
        if layer is None and places_of_counts(file, layer):
            raise ValueError(f"{told} To take these values for counts: --layer X.")
        note(f"{told} They are taken for counts.")


def _no_counts(file: DataFile, layer: str | None) -> str:
    place = "X" if layer in (None, X) else f"the layer {layer!r}"
    return f"{file.path}: the values of {place} are no raw counts. {where_counts_are(file, layer)}"


def _holds(file: DataFile, place: str) -> bool:
    with file.opened() as group:
        return place in group


def _genes_of(file: DataFile) -> pd.Index:
    with file.opened() as group:
        return read_elem(group["var"]).index.astype(str)


def _same(one: pd.Index, other: pd.Index) -> bool:
    """Return whether genes are the same, in whatever order."""
    return one.equals(other) or (one.is_unique and other.is_unique and set(one) == set(other))


# -- the cells ------------------------------------------------------------------------------------------------------


def read_all(
    files: Sequence[DataFile], sources: Sequence[str], options: argparse.Namespace, note: Note
) -> tuple[AnnData, list[slice]]:
    """Return the cells of all files with what niches and the map need, and which rows are each file's.

    Parameters
    ----------
    sources
        What is read out, of :func:`sources_of`.
    options
        Those of ``scjepa niches``.
    note
        Is told which genes are left out.

    Raises
    ------
    ValueError
        If an embedding, a column or coordinates are not there, a graph cannot be built, embeddings differ in width, or
        counts have no gene in common.
    """
    parts = [_read(file, sources, options) for file in files]
    embeddings = {key: _together(key, [part.embeddings[key] for part in parts]) for key in parts[0].embeddings}
    counts, genes = _counts([part.cells for part in parts], note) if EXPRESSION in sources else (None, None)
    _tell_sections_apart(parts, files)
    obs = pd.concat([part.obs for part in parts])
    if not obs.index.is_unique:
        obs.index = pd.Index(np.arange(len(obs)).astype(str))
    obs[_keys.SECTION] = obs[_keys.SECTION].astype("category")
    adata = AnnData(counts, obs=obs, var=None if genes is None else pd.DataFrame(index=genes), obsm=embeddings)
    cells = [part.cells for part in parts if part.cells is not None]
    if cells:
        adata.obsm[_keys.SPATIAL] = np.concatenate([part.coordinates[:, :2] for part in cells])
        graphs = [next(iter(part.edges.values())) for part in cells if part.edges]
        if graphs:
            adata.obsp[f"{_keys.SPATIAL}_connectivities"] = sparse.block_diag(graphs, format="csr")
    notes = joined_notes([part.notes for part in parts], [part.obs for part in parts])
    if options.key in notes:  # else the column is the user's
        adata.uns[_keys.UNS] = {options.key: notes[options.key]}
    ends = np.cumsum([0, *(len(part.obs) for part in parts)]).tolist()
    return adata, [slice(*pair) for pair in pairwise(ends)]


def _together(key: str, embeddings: Sequence[np.ndarray]) -> np.ndarray:
    widths = {embedding.shape[1] for embedding in embeddings}
    if len(widths) > 1:
        raise ValueError(
            f"obsm[{key!r}] has {' and '.join(map(str, sorted(widths)))} dimensions in different files. Embed them all "
            "with one model."
        )
    return np.concatenate(embeddings)


def _counts(parts: Sequence[Cells | None], note: Note) -> tuple[sparse.csr_matrix, pd.Index]:
    """Return the counts of all files and their genes: those that all files hold, in the order of the first."""
    cells = [part for part in parts if part is not None]
    genes = cells[0].genes
    if not all(genes.equals(part.genes) for part in cells[1:]):
        for part in cells:
            if not part.genes.is_unique:
                twice = part.genes[part.genes.duplicated()][0]
                raise ValueError(
                    f"{part.file.path} has the gene {twice!r} twice, so genes of several files cannot be matched: "
                    "adata.var_names_make_unique()."
                )
        shared = set(genes).intersection(*(part.genes for part in cells[1:]))
        if not shared:
            names = "; ".join(f"{part.file.path}: {', '.join(part.genes[:3])}, ..." for part in cells)
            raise ValueError(f"No gene is in all files ({names}). Gene names must be of one kind, and of one species.")
        if any(len(part.genes) > len(shared) for part in cells):
            note(f"Expression is read from the {len(shared):,} genes that all files hold.")
        genes = genes[genes.isin(shared)]
    rows = [sparse.csr_matrix(part.counts)[:, part.genes.get_indexer(genes)] for part in cells]
    return sparse.vstack(rows, format="csr"), genes


def _tell_sections_apart(parts: Sequence[Embedded], files: Sequence[DataFile]) -> None:
    """Put the file's name before sections that several files have: a section is one piece of tissue."""
    given = [set(part.obs[_keys.SECTION]) for part in parts]
    for i, (part, file) in enumerate(zip(parts, files, strict=True)):
        alike = part.obs[_keys.SECTION].isin(set().union(*given[:i], *given[i + 1 :]))
        part.obs.loc[alike, _keys.SECTION] = file.name + "-" + part.obs.loc[alike, _keys.SECTION]


def _read(file: DataFile, sources: Sequence[str], options: argparse.Namespace) -> Embedded:
    with file.opened() as group:
        obs = read_elem(group["obs"])
        refuse_empty(file, len(obs), None)
        expression = options.readout == NICHE and EXPRESSION in sources
        embeddings = {key: _embedding(group, key, file) for key in sources if not (expression and key == EXPRESSION)}
        notes = dict(read_elem(group["uns"][_keys.UNS])) if f"uns/{_keys.UNS}" in group else {}
        sections = sections_of(group, obs, file, options.library_key)
        if options.readout == NICHE and f"obsm/{_keys.EMBEDDING_NICHE}" in group and _keys.EMBEDDING_NICHE not in notes:
            raise ValueError(
                f"{file.path} has an obsm[{_keys.EMBEDDING_NICHE!r}] that scjepa did not write. Rename it."
            )
    columns = [name for name in (options.standardize_by, options.reference) if name not in (None, _keys.SECTION)]
    for name in columns:
        if name not in obs:
            there = ", ".join(map(str, obs.columns)) or "none"
            raise ValueError(f"{file.path} has no column obs[{name!r}]; columns: {there}.")
    kept = obs[[name for name in dict.fromkeys([*columns, options.key]) if name in obs]].copy()
    kept[_keys.SECTION] = file.name if sections is None else sections
    return Embedded(kept, embeddings, _cells(file, options, expression), notes)


def _embedding(group: Any, rep: str, file: DataFile) -> np.ndarray:
    keys = sorted(group["obsm"]) if "obsm" in group else []
    if rep not in keys:
        raise ValueError(
            f"{file.path} has no obsm[{rep!r}]; obsm holds {', '.join(keys) or 'nothing'}. Embed its cells: scjepa "
            "embed MODEL FILE. Or name what to read: --use-rep KEY, or --use-rep X for expression alone."
        )
    embedding = array_of(read_elem(group["obsm"][rep]))
    if embedding.ndim != 2:
        raise ValueError(f"{file.path}: obsm[{rep!r}] is no matrix, cells × dimensions.")
    return embedding


def _cells(file: DataFile, options: argparse.Namespace, use_counts: bool) -> Cells | None:
    """Return coordinates for the map, and the spatial graph for rings; counts where they are read out."""
    rings = options.readout == NICHE
    if not rings and options.map is None:
        return None
    keys = ("layer", "library_key", "spatial_key", "neighbors_key")
    where = Where(**{key: getattr(options, key) for key in keys})
    cells = read_cells(file, where, use_graph=rings and not options.rebuild_graph, use_counts=use_counts)
    if rings:
        add_graph(cells, options.spatial_neighbors, "--spatial-neighbors")
    return cells
