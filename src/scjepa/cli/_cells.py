"""What a model needs of a file: counts, coordinates, names of sections and technologies, and the spatial graph."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem

from scjepa._core import keys as _keys
from scjepa._core.anndata import array_of, text_of
from scjepa._core.features import types_of
from scjepa._core.squidpy import spatial_graph
from scjepa.cli._files import SPATIALDATA, DataFile
from scjepa.datasets import table_of

if TYPE_CHECKING:
    from scipy import sparse

X = "X"
"""``--layer`` that names the matrix itself."""

PANELS = (_keys.PANEL, "measured")
"""``varm`` keys under which genes × technologies tables of what was measured are: ours, and the simulator's."""

_PARTS = ("connectivities", "distances")


@dataclass(frozen=True)
class Where:
    """Where in a file things are; ``None``: where they usually are.

    Attributes
    ----------
    layer
        Layer of raw counts, or ``"X"``.
    library_key, technology_key
        ``obs`` columns of sections and technologies.
    spatial_key
        ``obsm`` key of coordinates.
    neighbors_key
        squidpy's ``key_added`` of the spatial graph.
    """

    layer: str | None = None
    library_key: str | None = None
    technology_key: str | None = None
    spatial_key: str = _keys.SPATIAL
    neighbors_key: str = _keys.SPATIAL

    @classmethod
    def of(cls, options: argparse.Namespace) -> Where:
        """Return where the command line says."""
        given = {name: getattr(options, name) for name in cls.__dataclass_fields__}
        return cls(**{name: key for name, key in given.items() if key is not None})


@dataclass
class Cells:
    """The cells of one file.

    Attributes
    ----------
    file
        The file.
    counts
        ``(n_cells, n_genes)`` sparse or dense; ``None`` where they were not asked for.
    names, genes
        Of the cells and the genes.
    coordinates
        ``(n_cells, 2 or 3)``.
    sections, technologies
        Name of each cell's; ``None`` where the file does not say.
    edges
        The spatial graph's matrices by ``"connectivities"`` and ``"distances"``; empty where there is none.
    graph_parameters
        What squidpy noted about the graph.
    panels
        Which technology measured which gene, genes × technologies, bool; ``None`` where the file does not say.
    feature_types
        What each feature is, a gene or an antibody; ``None`` where the file does not say.
    """

    file: DataFile
    counts: Any
    names: pd.Index
    genes: pd.Index
    coordinates: np.ndarray
    sections: pd.Series | None = None
    technologies: pd.Series | None = None
    edges: dict[str, sparse.csr_matrix] = field(default_factory=dict)
    graph_parameters: dict[str, Any] = field(default_factory=dict)
    panels: pd.DataFrame | None = None
    feature_types: pd.Series | None = None


def read_cells(file: DataFile, where: Where, *, use_graph: bool = True, use_counts: bool = True) -> Cells:
    """Read the cells of a file; layers, embeddings and what else it holds stay where they are.

    Parameters
    ----------
    use_graph
        Whether to take the spatial graph that is in the file.
    use_counts
        Whether to read counts.

    Raises
    ------
    ValueError
        If there is no cell, or a layer, a column or coordinates are not there; the message names the file and what it
        has.
    """
    with file.opened() as group:
        obs, var = read_elem(group["obs"]), read_elem(group["var"])
        refuse_empty(file, len(obs), len(var) if use_counts else None)
        counts = read_elem(matrix_of(group, where.layer, file)) if use_counts else None
        place = f"obsm/{where.spatial_key}"
        coordinates = read_elem(group[place]) if place in group else None
        cells = Cells(file, counts, obs.index.astype(str), var.index.astype(str), np.empty((0, 2)))
        if use_graph and "obsp" in group:
            keys = {part: f"{where.neighbors_key}_{part}" for part in _PARTS}
            cells.edges = {part: read_elem(group["obsp"][key]) for part, key in keys.items() if key in group["obsp"]}
            cells.graph_parameters = _graph_parameters(group, where.neighbors_key)
        cells.sections = sections_of(group, obs, file, where.library_key)
        cells.panels, cells.feature_types = _panels(group), types_of(var)
    if coordinates is None:
        coordinates = _computed_coordinates(file, where.spatial_key)
    cells.coordinates = array_of(coordinates)
    _check_coordinates(cells, where.spatial_key)
    cells.technologies = _column(obs, file, where.technology_key, [_keys.TECHNOLOGY], "--technology-key")
    return cells


def refuse_empty(file: DataFile, n_cells: int, n_genes: int | None) -> None:
    """Raise if a file has no cells or, where their number is given, no genes."""
    if n_cells == 0 or n_genes == 0:
        what = "cells" if n_cells == 0 else "genes"
        raise ValueError(f"{file.path} has no {what}: the table is there, with 0 {what}. Leave this file out.")


def matrix_of(group: Any, layer: str | None, file: DataFile) -> Any:
    """Return the matrix of counts, unread: a layer, or ``X``; one that is not there is a ``ValueError``."""
    layers = sorted(group["layers"]) if "layers" in group else []
    if layer in (None, X):
        if X not in group:
            hint = f"Name its counts: --layer {layers[0]}." if layers else "It has no counts at all."
            raise ValueError(f"{file.path} has no matrix X. {hint}")
        return group[X]
    if layer not in layers:
        raise ValueError(
            f"{file.path} has no layer {layer!r}; layers: {', '.join(layers) or 'none'}. Or take --layer X."
        )
    return group["layers"][layer]


def _panels(group: Any) -> pd.DataFrame | None:
    tables = (read_elem(group[f"varm/{key}"]) for key in PANELS if f"varm/{key}" in group)
    return next((table for table in tables if isinstance(table, pd.DataFrame)), None)


def _graph_parameters(group: Any, neighbors_key: str) -> dict[str, Any]:
    path = f"uns/{neighbors_key}_neighbors"
    return dict(read_elem(group[path])) if path in group else {}


def sections_of(group: Any, obs: pd.DataFrame, file: DataFile, key: str | None) -> pd.Series | None:
    """Return each cell's section: of the column ``key``, else ``"section"``, else what a SpatialData table annotates.

    ``None`` where the file says nothing of the kind.
    """
    usual = [_keys.SECTION]
    if "uns/spatialdata_attrs" in group:
        annotated = read_elem(group["uns/spatialdata_attrs"])
        region = annotated.get("region")
        if region is not None and np.size(region) > 1:
            usual.append(str(annotated["region_key"]))
    return _column(obs, file, key, usual, "--library-key")


def _computed_coordinates(file: DataFile, spatial_key: str) -> np.ndarray:
    """Return centroids of what a SpatialData table annotates; other files must have coordinates."""
    if file.kind != SPATIALDATA:
        with file.opened() as group:
            there = ", ".join(sorted(group["obsm"]) if "obsm" in group else []) or "nothing"
        raise ValueError(
            f"{file.path} has no coordinates obsm[{spatial_key!r}]; obsm holds {there}. Name them with --spatial-key."
        )
    import spatialdata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdata = spatialdata.read_zarr(file.path)
    return table_of(sdata, file.table, spatial_key=spatial_key).obsm[spatial_key]


def _check_coordinates(cells: Cells, spatial_key: str) -> None:
    place = cells.coordinates
    if place.ndim != 2 or place.shape[1] not in (2, 3):
        raise ValueError(
            f"{cells.file.path}: obsm[{spatial_key!r}] must have two or three columns, found {place.shape}."
        )
    try:
        place = cells.coordinates = place.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{cells.file.path}: obsm[{spatial_key!r}] must hold numbers: {error}.") from error
    lost = ~np.isfinite(place).all(axis=1)
    if lost.any():
        raise ValueError(
            f"{cells.file.path}: {lost.sum()} cells have no finite coordinates in obsm[{spatial_key!r}], first "
            f"{cells.names[lost.argmax()]!r}. Leave these cells out."
        )


def _column(obs: pd.DataFrame, file: DataFile, key: str | None, usual: Iterable[str], option: str) -> pd.Series | None:
    """Return a column of names: the one that is asked for, else a usual one, else nothing."""
    if key is None:
        key = next((name for name in usual if name in obs), None)
    if key is None:
        return None
    if key not in obs:
        columns = ", ".join(map(str, obs.columns)) or "none"
        raise ValueError(f"{file.path} has no column obs[{key!r}]; columns: {columns}. Name another with {option}.")
    absent = obs[key].isna().to_numpy()
    if absent.any():
        raise ValueError(
            f"{file.path}: obs[{key!r}] is missing for {absent.sum()} cells, first {obs.index[absent.argmax()]!r}. "
            "Fill it in, or leave these cells out."
        )
    return pd.Series(text_of(obs[key]), index=obs.index, name=key)


def add_graph(cells: Cells, n_neighbors: int, option: str = "--n-neighbors") -> None:
    """Build the graph of nearest neighbors within each section with squidpy, where the cells have none.

    Parameters
    ----------
    cells
        Get ``edges`` and ``graph_parameters``.
    n_neighbors
        Neighbors of each cell.
    option
        Option of the command line that sets their number, for the error.

    Raises
    ------
    ValueError
        If a section has too few cells for that many neighbors.
    """
    if cells.edges:
        return
    refuse_small_sections(cells, n_neighbors, option)
    sections = _section_names(cells)
    obs = pd.DataFrame({"section": pd.Categorical(sections)}, index=cells.names)
    adata = AnnData(obs=obs, obsm={_keys.SPATIAL: cells.coordinates})
    spatial_graph(adata, n_neighs=n_neighbors, library_key="section")
    cells.edges = {part: adata.obsp[f"{_keys.SPATIAL}_{part}"] for part in _PARTS}
    cells.graph_parameters = dict(adata.uns[f"{_keys.SPATIAL}_neighbors"])


def refuse_small_sections(cells: Cells, n_neighbors: int, option: str = "--n-neighbors") -> None:
    """Raise if a section has too few cells for a graph of ``n_neighbors`` neighbors each.

    Parameters
    ----------
    option
        Option of the command line that sets their number, for the error.
    """
    names, sizes = np.unique(_section_names(cells).astype(str), return_counts=True)
    if sizes.min() <= n_neighbors:
        raise ValueError(
            f"{cells.file.path}: the section {str(names[sizes.argmin()])!r} has {sizes.min()} cells, too few for "
            f"{n_neighbors} neighbors each. Leave it out, or take fewer: {option} {max(1, sizes.min() - 1)}."
        )


def _section_names(cells: Cells) -> np.ndarray:
    return np.full(len(cells.names), cells.file.name) if cells.sections is None else cells.sections.to_numpy()
