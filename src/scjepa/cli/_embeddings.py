"""What finding and drawing niches needs of files that hold embeddings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem
from scipy import sparse

from scjepa import _keys
from scjepa._core.anndata import array_of, joined_notes
from scjepa.cli._cells import Cells, Where, add_graph, read_cells, refuse_empty, sections_of
from scjepa.cli._files import DataFile


@dataclass
class Embedded:
    """The embedded cells of one file.

    Attributes
    ----------
    obs
        The column ``"section"``, those that are asked for, and that of niches where there is one.
    embedding
        ``(n_cells, n_dims)``.
    cells
        Coordinates and spatial graph, where they are needed.
    notes
        What scjepa noted in ``uns``.
    """

    obs: pd.DataFrame
    embedding: np.ndarray
    cells: Cells | None
    notes: dict[str, Any]


def read_all(files: Sequence[DataFile], rep: str, options: argparse.Namespace) -> tuple[AnnData, list[slice]]:
    """Return the cells of all files with what niches and the map need, and which rows are each file's.

    Parameters
    ----------
    rep
        ``obsm`` key of the embedding.
    options
        Those of ``scjepa niches``.

    Raises
    ------
    ValueError
        If an embedding, a column or coordinates are not there, a graph cannot be built, or embeddings differ in width.
    """
    parts = [_read(file, rep, options) for file in files]
    widths = {part.embedding.shape[1] for part in parts}
    if len(widths) > 1:
        raise ValueError(
            f"obsm[{rep!r}] has {' and '.join(map(str, sorted(widths)))} dimensions in different files. Embed them all "
            "with one model."
        )
    _tell_sections_apart(parts, files)
    obs = pd.concat([part.obs for part in parts])
    if not obs.index.is_unique:
        obs.index = pd.Index(np.arange(len(obs)).astype(str))
    obs[_keys.SECTION] = obs[_keys.SECTION].astype("category")
    adata = AnnData(obs=obs, obsm={rep: np.concatenate([part.embedding for part in parts])})
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


def _tell_sections_apart(parts: Sequence[Embedded], files: Sequence[DataFile]) -> None:
    """Put the file's name before sections that several files have: a section is one piece of tissue."""
    given = [set(part.obs[_keys.SECTION]) for part in parts]
    for i, (part, file) in enumerate(zip(parts, files, strict=True)):
        alike = part.obs[_keys.SECTION].isin(set().union(*given[:i], *given[i + 1 :]))
        part.obs.loc[alike, _keys.SECTION] = file.name + "-" + part.obs.loc[alike, _keys.SECTION]


def _read(file: DataFile, rep: str, options: argparse.Namespace) -> Embedded:
    with file.opened() as group:
        obs = read_elem(group["obs"])
        refuse_empty(file, len(obs), None)
        embedding = _embedding(group, rep, file)
        notes = dict(read_elem(group["uns"][_keys.UNS])) if f"uns/{_keys.UNS}" in group else {}
        sections = sections_of(group, obs, file, options.library_key)
        if (
            options.readout == "rings"
            and f"obsm/{_keys.EMBEDDING_NICHE}" in group
            and _keys.EMBEDDING_NICHE not in notes
        ):
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
    return Embedded(kept, embedding, _cells(file, options), notes)


def _embedding(group: Any, rep: str, file: DataFile) -> np.ndarray:
    keys = sorted(group["obsm"]) if "obsm" in group else []
    if rep not in keys:
        raise ValueError(
            f"{file.path} has no obsm[{rep!r}]; obsm holds {', '.join(keys) or 'nothing'}. Embed its cells: scjepa "
            "embed MODEL FILE. Or name what to cluster: --readout plain --use-rep KEY."
        )
    embedding = array_of(read_elem(group["obsm"][rep]))
    if embedding.ndim != 2:
        raise ValueError(f"{file.path}: obsm[{rep!r}] is no matrix, cells × dimensions.")
    return embedding


def _cells(file: DataFile, options: argparse.Namespace) -> Cells | None:
    """Return coordinates for the map, and the spatial graph for rings."""
    rings = options.readout == "rings"
    if not rings and options.map is None:
        return None
    where = Where(library_key=options.library_key, spatial_key=options.spatial_key, neighbors_key=options.neighbors_key)
    cells = read_cells(file, where, use_graph=rings and not options.rebuild_graph, use_counts=False)
    if rings:
        add_graph(cells, options.spatial_neighbors, "--spatial-neighbors")
    return cells
