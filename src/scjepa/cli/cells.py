"""The cells of files as the AnnData object that a model is set up on, and models on disk."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset

import scjepa
from scjepa._core import keys as _keys
from scjepa._core.anndata import array_of, entry_of, names_of, text_of
from scjepa._core.counts import holds_counts
from scjepa._core.features import types_of
from scjepa._core.squidpy import spatial_graph
from scjepa._core.stored import H5AD, SPATIALDATA, Additions, DataFile
from scjepa.cli.options import KINDS, Kind, Values, Where
from scjepa.datasets import concat, table_of
from scjepa.pretrained import MODEL_FILE, locate
from scjepa.tokens.neighbors import check_coordinates

if TYPE_CHECKING:
    from h5py import Group  # or that of zarr, which is used alike

    Model: TypeAlias = scjepa.STJEPA | scjepa.CellJEPA

X, RAW = "X", "raw"
"""``--layer`` that names the matrix itself; and where AnnData keeps what was set aside, often the counts."""

PANELS = (_keys.PANEL, "measured")
"""``varm`` keys under which genes × technologies tables of what was measured are: ours, and the simulator's."""

PARTS = ("connectivities", "distances")
"""Matrices of a spatial graph, as squidpy calls them."""

_COLUMNS = ("technology_key", "library_key", "batch_key", "labels_key")

_USUAL = {"library_key": (_keys.SECTION,), "technology_key": (_keys.TECHNOLOGY,)}
"""Columns that are taken where none is named."""


# -- one file ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Names:
    """What things are called in cells that were read, as ``setup_anndata`` is told; empty: they are not there."""

    layer: str = ""
    technology_key: str = ""
    library_key: str = ""
    spatial_key: str = ""
    neighbors_key: str = ""
    panel_key: str = ""
    batch_key: str = ""
    labels_key: str = ""

    @classmethod
    def of(cls, kind: Kind, where: Where) -> Names:
        """Return the names in cells that are read for a new model."""
        layer = "" if where.layer in (None, X) else where.layer
        if kind.model == "CellJEPA":
            return cls(layer, batch_key=where.batch_key or "batch", labels_key=where.labels_key or "")
        columns = (where.technology_key or _keys.TECHNOLOGY, where.library_key or _keys.SECTION)
        places = (where.spatial_key or _keys.SPATIAL, where.neighbors_key or _keys.SPATIAL)
        return cls(layer, *columns, *places, panel_key=_keys.PANEL)

    def to_dict(self) -> dict[str, str]:
        """Return those that there are: arguments of ``setup_anndata``."""
        return {name: value for name, value in asdict(self).items() if value}

    @property
    def columns(self) -> dict[str, str]:
        """Columns of ``obs``."""
        return {name: value for name, value in self.to_dict().items() if name in _COLUMNS}


def read_parts(file: DataFile, layer: str | None, paths: Sequence[str], *, use_counts: bool = True) -> AnnData:
    """Read counts, ``obs``, ``var`` and what else is at ``paths`` (``"obsm/spatial"``), where it is there.

    Raises
    ------
    ValueError
        If there is no cell, no gene where counts are read, or no layer of the name.
    """
    with file.opened() as group:
        obs, var = read_elem(group["obs"]), read_elem(group["var"])
        if not len(obs) or (use_counts and not len(var)):
            raise ValueError(f"{file.path} has no {'genes' if len(obs) else 'cells'}. Leave this file out.")
        obs.index, var.index = obs.index.astype(str), var.index.astype(str)
        counts = read_elem(matrix_of(group, layer, file)) if use_counts else None
        parts: dict[str, Values] = {}
        for slot, _, key in (path.partition("/") for path in paths if path in group):
            parts.setdefault(slot, {})[key] = read_elem(group[slot][key])
    return AnnData(counts, obs=obs, var=var, **parts)


def read_cells(
    file: DataFile, where: Where, names: Names, *, use_graph: bool = True, use_counts: bool = True
) -> AnnData:
    """Read what a model needs of a file; layers, embeddings and what else it holds stay where they are.

    Parameters
    ----------
    where
        Where things are in the file.
    names
        What they are called in the result; places are read where it names any. Columns of sections and technologies
        that the file has not are not made up.
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
    spatial, graph = where.spatial_key or _keys.SPATIAL, where.neighbors_key or _keys.SPATIAL
    has_places = bool(names.spatial_key)
    paths = [f"obsm/{spatial}", f"uns/{graph}_neighbors", *(f"varm/{key}" for key in PANELS)] if has_places else []
    paths += [f"obsp/{graph}_{part}" for part in PARTS] if has_places and use_graph else []
    found = read_parts(file, where.layer, [*paths, "uns/spatialdata_attrs"], use_counts=use_counts)
    types = types_of(found.var)
    cells = AnnData(
        None if names.layer else found.X,
        obs=pd.DataFrame(index=found.obs_names),
        var=pd.DataFrame({} if types is None else {types.name: types.array}, index=found.var_names),
        layers={names.layer: found.X} if names.layer and use_counts else {},
    )
    for part, name in names.columns.items():
        column = column_of(found, file, part, getattr(where, part))
        if column is not None:
            cells.obs[name] = column
    if has_places:
        _add_places(cells, found, file, spatial, graph, names)
    return cells


def _add_places(cells: AnnData, found: AnnData, file: DataFile, spatial: str, graph: str, names: Names) -> None:
    """Add coordinates, the spatial graph and the table of panels to cells."""
    stored = found.obsm[spatial] if spatial in found.obsm else _computed_coordinates(file, spatial)
    try:
        cells.obsm[names.spatial_key] = check_coordinates(array_of(stored), cells.obs_names)
    except ValueError as error:
        raise ValueError(f"{file.path}: obsm[{spatial!r}]: {error}") from error
    for part in PARTS:
        if f"{graph}_{part}" in found.obsp:
            cells.obsp[f"{names.neighbors_key}_{part}"] = found.obsp[f"{graph}_{part}"]
    if has_graph(cells, names) and f"{graph}_neighbors" in found.uns:
        cells.uns[f"{names.neighbors_key}_neighbors"] = dict(found.uns[f"{graph}_neighbors"])
    panels = next((found.varm[key] for key in PANELS if isinstance(found.varm.get(key), pd.DataFrame)), None)
    if names.panel_key and panels is not None:
        cells.varm[names.panel_key] = panels


def matrix_of(group: Group, layer: str | None, file: DataFile) -> Group:
    """Return the element of a layer, or of ``X``; one that is not there is a ``ValueError``."""
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


def column_of(found: AnnData, file: DataFile, part: str, key: str | None) -> pd.Categorical | None:
    """Return a column of names: the one that is asked for, else a usual one, else nothing.

    Of sections, what a SpatialData table annotates is usual as well.

    Parameters
    ----------
    part
        What it is, a field of :class:`Where`. Labels alone may be missing.
    """
    usual = list(_USUAL.get(part, ()))
    annotated = found.uns.get("spatialdata_attrs", {})
    if part == "library_key" and np.size(annotated.get("region", ())) > 1:
        usual.append(str(annotated["region_key"]))
    key = key or next((name for name in usual if name in found.obs), None)
    if key is None:
        return None
    column = entry_of(found, "obs", key, f"Name another with --{part.replace('_', '-')}.", str(file.path))
    return pd.Categorical(text_of(column) if part == "labels_key" else names_of(found, key, str(file.path)))


def _computed_coordinates(file: DataFile, spatial_key: str) -> np.ndarray:
    """Return centroids of what a SpatialData table annotates; other files must have coordinates."""
    if file.kind != SPATIALDATA:
        with file.opened() as group:
            there = ", ".join(sorted(group["obsm"]) if "obsm" in group else []) or "nothing"
        raise NoCoordinatesError(
            f"{file.path} has no coordinates obsm[{spatial_key!r}]; obsm holds {there}. Name them with --spatial-key."
        )
    import spatialdata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdata = spatialdata.read_zarr(file.path)
    return table_of(sdata, file.table, spatial_key=spatial_key).obsm[spatial_key]


class NoCoordinatesError(ValueError):
    """A file has no coordinates."""


# -- the spatial graph ---------------------------------------------------------------------------------------------


def has_graph(cells: AnnData, names: Names) -> bool:
    """Return whether cells have a spatial graph."""
    return any(f"{names.neighbors_key}_{part}" in cells.obsp for part in PARTS)


def add_graph(cells: AnnData, file: DataFile, names: Names, n_neighbors: int, option: str = "--n-neighbors") -> None:
    """Build the graph of nearest neighbors within each section with squidpy, where the cells have none.

    Parameters
    ----------
    n_neighbors
        Neighbors of each cell.
    option
        Option of the command line that sets their number, for the error.

    Raises
    ------
    ValueError
        If a section has too few cells for that many neighbors.
    """
    if has_graph(cells, names):
        return
    refuse_small_sections(cells, file, names, n_neighbors, option)
    library = names.library_key if names.library_key in cells.obs else None
    keys = {"spatial_key": names.spatial_key, "key_added": names.neighbors_key}
    spatial_graph(cells, n_neighs=n_neighbors, library_key=library, **keys)


def new_graph(cells: AnnData, file: DataFile, names: Names, key: str) -> Additions:
    """Return the graph that was built for cells, under ``key`` as squidpy writes it; nothing where the file has one."""
    with file.opened() as group:
        there = any(f"obsp/{key}_{part}" in group for part in PARTS)
    if there or not has_graph(cells, names):
        return Additions()
    parts = {f"{key}_{part}": cells.obsp[f"{names.neighbors_key}_{part}"] for part in PARTS}
    keys = {f"{part}_key": f"{key}_{part}" for part in PARTS}
    return Additions(obsp=parts, uns={f"{key}_neighbors": {**cells.uns[f"{names.neighbors_key}_neighbors"], **keys}})


def refuse_small_sections(
    cells: AnnData, file: DataFile, names: Names, n_neighbors: int, option: str = "--n-neighbors"
) -> None:
    """Raise if a section has too few cells for a graph of ``n_neighbors`` neighbors each."""
    sections = cells.obs[names.library_key] if names.library_key in cells.obs else [file.name] * cells.n_obs
    sizes = pd.Series(sections).value_counts()
    if sizes.min() <= n_neighbors:
        raise ValueError(
            f"{file.path}: the section {str(sizes.idxmin())!r} has {sizes.min()} cells, too few for {n_neighbors} "
            f"neighbors each. Leave it out, or take fewer: {option} {max(1, sizes.min() - 1)}."
        )


# -- counts --------------------------------------------------------------------------------------------------------


def holds_raw_counts(file: DataFile, layer: str | None) -> bool:
    """Return whether a layer, or ``X``, of a file has whole numbers from 0 on; its first cells tell.

    Raises
    ------
    ValueError
        If there is no such layer.
    """
    with file.opened() as group:
        return holds_counts(_on_disk(matrix_of(group, layer, file)))


def places_of_counts(file: DataFile, layer: str | None) -> list[str]:
    """Return the layers, :data:`X` and :data:`RAW` that hold raw counts, other than the one that is named."""
    with file.opened() as group:
        layers = sorted(group["layers"]) if "layers" in group else []
        places = {**{name: f"layers/{name}" for name in layers if name != layer}, RAW: f"{RAW}/X"}
        if layer not in (None, X):
            places = {X: X, **places}
        return [name for name, place in places.items() if place in group and holds_counts(_on_disk(group[place]))]


def where_counts_are(file: DataFile, layer: str | None) -> str:
    """Return where in a file raw counts are, and the option or call that takes them."""
    found = places_of_counts(file, layer)
    if not found:
        return "No layer holds raw counts, nor does 'raw': take the file that these values were made from."
    if found[0] != RAW:
        return f"Raw counts are in {'X' if found[0] == X else f'the layer {found[0]!r}'}: --layer {found[0]}."
    table = "" if file.table is None else ", the table of the SpatialData object"
    read = "read_h5ad" if file.kind == H5AD else "read_zarr"
    path = file.path if file.table is None else file.path / "tables" / file.table
    return (
        f"Raw counts are in 'raw', as adata.raw{table}. Write them to a file of their own, with obs and obsm, in "
        f"Python: anndata.{read}({str(path)!r}).raw.to_adata().write_h5ad('{file.name}_raw.h5ad')."
    )


def _on_disk(element: Group) -> object:
    """Return a matrix in a file such that it can be sliced without reading all of it."""
    return sparse_dataset(element) if hasattr(element, "keys") else element


# -- several files -------------------------------------------------------------------------------------------------


def join(files: Sequence[DataFile], cells: Sequence[AnnData], names: Names) -> tuple[AnnData, Names]:
    """Return the cells of all files together, and where in them a model is to look.

    Of one file, what it does not say is not looked for; of several, each is a section and a technology (or a batch) of
    its own where it does not say.

    Raises
    ------
    ValueError
        If gene names are not unique in a file, one shares no gene with any other, or graphs are of two kinds.
    """
    if len(cells) == 1:
        (one,) = cells
        absent = {part: "" for part, name in names.columns.items() if name not in one.obs}
        absent |= {} if names.panel_key in one.varm else {"panel_key": ""}
        return one, replace(names, **absent)
    named = {file.name: part for file, part in zip(files, cells, strict=True)}
    if not names.spatial_key:
        return _joined_cells(named, names), names
    if len({part.obsm[names.spatial_key].shape[1] for part in cells}) > 1:
        raise ValueError("Some files have coordinates of two columns and some of three. Take files of one kind.")
    whole = together(named, names)
    if names.layer:  # where the model will look for counts in other files too
        whole.layers[names.layer], whole.X = whole.X, None
    return whole, names


def together(named: Mapping[str, AnnData], names: Names) -> AnnData:
    """Return cells in tissue together, counts in ``X``, as :func:`scjepa.concat` does."""
    keys = {name: getattr(names, name) for name in ("technology_key", "panel_key", "spatial_key", "neighbors_key")}
    return concat(named, layer=names.layer or None, library_key=names.library_key, **keys)


def _joined_cells(named: Mapping[str, AnnData], names: Names) -> AnnData:
    """Return dissociated cells together; a gene that a file has not was not seen in its cells."""
    for name, part in named.items():
        if not part.var_names.is_unique:
            raise ValueError(f"{name!r} has the gene {part.var_names[part.var_names.duplicated()][0]!r} twice.")
        others = set().union(*(other.var_names for other in named.values() if other is not part))
        if not others.intersection(part.var_names):
            raise ValueError(
                f"{name!r} ({', '.join(part.var_names[:3])}, ...) shares no gene with any other file. Gene names must "
                "be of one kind, and of one species."
            )
        if names.batch_key not in part.obs:
            part.obs[names.batch_key] = name
    cells = [cell for part in named.values() for cell in part.obs_names]
    apart = "-" if len(set(cells)) < len(cells) else None
    whole = ad.concat(named, join="outer", merge="unique", fill_value=0, index_unique=apart)
    for name in names.columns.values():
        whole.obs[name] = whole.obs[name].astype("category")
    return whole


# -- models on disk ------------------------------------------------------------------------------------------------


class SavedModel:
    """A model on disk. Its weights are read by :meth:`load` alone.

    Parameters
    ----------
    name
        A folder that ``save`` or ``save_pretrained`` wrote, or the name of a checkpoint.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, or what describes it is damaged.
    """

    def __init__(self, name: str | Path) -> None:
        self.name = name
        self.path: Path = locate(name)
        try:
            self.facts: Values = json.loads((self.path / MODEL_FILE).read_bytes())
            model = str(self.facts["model"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path / MODEL_FILE} is damaged, or none of scjepa's: {error!r}.") from error
        kinds = {kind.model: kind for kind in KINDS.values()}
        if model not in kinds:
            known = " and ".join(kinds)
            raise ValueError(f"{name} is a {model} model; the command line serves {known}. Load it in Python.")
        self.kind = kinds[model]

    @cached_property
    def keys(self) -> Names:
        """Where the model finds what it reads."""
        known = {part.name for part in fields(Names)}
        return Names(**{name: value for name, value in self.facts["setup"].items() if value and name in known})

    @property
    def n_neighbors(self) -> int:
        """Neighbors of a cell that an ST-JEPA model looks at; of others 0."""
        return int(self.facts["config"]["tokens"].get("n_neighbors", 0))

    def cells_of(self, file: DataFile, options: argparse.Namespace) -> AnnData:
        """Return the cells of a file, with a graph, under the names that the model was set up with.

        Where the command line does not say where things are, they are looked for where the model's own data has them.
        A file that does not say is one section, and one technology, of its name.
        """
        keys = replace(self.keys, labels_key="")  # of the model's own cells alone
        with file.opened() as group:
            columns = set(group["obs"].attrs["column-order"])
        own = {name: key for name, key in keys.to_dict().items() if name not in _COLUMNS or key in columns}
        given: Values = {part.name: getattr(options, part.name, None) or own.get(part.name) for part in fields(Where)}
        use_graph = not getattr(options, "rebuild_graph", False)
        cells = read_cells(file, Where(**given), keys, use_graph=use_graph)
        if self.n_neighbors:
            add_graph(cells, file, keys, self.n_neighbors)
            for name in keys.columns.values():
                if name not in cells.obs:
                    cells.obs[name] = pd.Categorical([file.name] * cells.n_obs)
        return cells

    def load(self, adata: AnnData, accelerator: str, all_genes: bool = False) -> Model:
        """Return the model on ``adata``.

        Parameters
        ----------
        all_genes
            Take in genes that the model does not know, with vectors drawn at random, rather than leaving them out.
        """
        model = getattr(scjepa, self.kind.model)
        return (model.from_pretrained if all_genes else model.load)(self.path, adata, accelerator=accelerator)
