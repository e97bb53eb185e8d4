"""What every method is given: counts, sections, coordinates and the spatial graph, checked once, and never a label."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scjepa._core import keys as _keys
from scjepa._core.anndata import array_of, counts_of, missing_key, require_anndata, sparse_of, text_of, warn_of_words
from scjepa._core.counts import CountCheck, advice_on, read_counts
from scjepa._core.graph import graph_call
from scjepa._core.instruments import how_to_read, raw_output
from scjepa._core.squidpy import graph_call as squidpy_call
from scjepa._core.squidpy import spatial_graph
from scjepa._core.warn import warn
from scjepa.benchmark.method import Parts
from scjepa.tokens.neighbors import build_neighbor_table, check_coordinates
from scjepa.tokens.vocabulary import check_names

ONE = "all"
"""Name of the section, or technology, where the data name none."""

N_NEIGHBORS = 10
"""Neighbors in the spatial graph that is built where the data have none."""

GRAPH = CONNECTIVITIES, DISTANCES = f"{_keys.SPATIAL}_connectivities", f"{_keys.SPATIAL}_distances"
"""``obsp`` keys of the graph, as methods are given it."""

Data: TypeAlias = AnnData | str | PathLike | Mapping[str, object] | Sequence[object]
"""AnnData or the path of an h5ad file; several of them in a list, or by name."""


def read_named(data: Data, alone: str = "data 1") -> dict[str, AnnData]:
    """Return data sets by name, files read.

    Parameters
    ----------
    data
        AnnData objects or h5ad files.
    alone
        Name of a single AnnData object.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        If there is none, a file is not there or is no h5ad file, or two have one name.
    """
    if isinstance(data, AnnData):
        given: dict[str, object] = {alone: data}
    elif isinstance(data, Mapping):
        given = {str(name): one for name, one in data.items()}
    else:
        several = list(data) if isinstance(data, Sequence) and not isinstance(data, str) else [data]
        paths = [Path(one).stem if isinstance(one, str | PathLike) else None for one in several]
        names = [path or f"data {i}" for i, path in enumerate(paths, start=1)]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"Two data sets are called {twice[0]!r}. Name them: data={{'a': ..., 'b': ...}}.")
        given = dict(zip(names, several, strict=True))
    if not given:
        raise ValueError("There are no data: pass AnnData objects or paths of h5ad files.")
    return {name: _read(name, one) for name, one in given.items()}


def _read(name: str, one: object) -> AnnData:
    if not isinstance(one, str | PathLike):
        require_anndata(one, name)
        return one
    import anndata as ad

    place = Path(one)
    if not place.exists():
        raise FileNotFoundError(f"There is no file {one}.")
    if place.is_dir() or raw_output(place) is not None:
        raise TypeError(f"Expected an AnnData object or an h5ad file for {name!r}, found {one}. {how_to_read(one)}")
    return ad.read_h5ad(one)


@contextmanager
def named(name: str | None) -> Iterator[None]:
    """Put the name of a data set before the message of an error that is about it."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        if name is None or type(error) not in (KeyError, TypeError, ValueError):
            raise
        raise type(error)(f"{name!r}: {error.args[0]}") from error


def in_memory(adata: AnnData) -> AnnData:
    """Return the object itself; one that is backed by a file is refused."""
    require_anndata(adata)
    if adata.isbacked:
        raise ValueError(f"The data are backed by {adata.filename}. Read them: adata = adata.to_memory().")
    return adata


def column_of(adata: AnnData, key: str | None, default: str, otherwise: str = ONE) -> pd.Categorical:
    """Return each cell's name in a column: ``key``, else ``default`` where it is there, else one name for all.

    Raises
    ------
    KeyError
        If ``key`` is not there.
    ValueError
        If a cell has no name.
    """
    if key is None and default not in adata.obs:
        return pd.Categorical([otherwise] * adata.n_obs)
    key = default if key is None else key
    if key not in adata.obs:
        raise missing_key("obs", key, adata.obs.columns, "Name one of them, or none.")
    column = adata.obs[key]
    if column.isna().any():
        raise ValueError(
            f"{column.isna().sum()} cells have no {key!r}; the first is {column.index[column.isna()][0]!r}. Fill it "
            f"in, or drop these cells: adata = adata[adata.obs[{key!r}].notna()].copy()."
        )
    warn_of_words(column, default, key, surely=True)
    return pd.Categorical(text_of(column))


def prepare(
    adata: AnnData,
    *,
    name: str | None = None,
    layer: str | None = None,
    library_key: str | None = None,
    technology_key: str | None = None,
    neighbors_key: str = _keys.SPATIAL,
    spatial_key: str = _keys.SPATIAL,
    obs: Sequence[str] = (),
    obsm: Sequence[str] = (),
    graph: bool = True,
) -> AnnData:
    """Return a new AnnData with what methods may see, under fixed names; counts and graph are not copied.

    Parameters
    ----------
    adata
        The user's; nothing of it is changed.
    name
        What it is called where several are given: it stands in errors, and is the section and technology of data that
        name none.
    layer
        Layer of raw counts; default: ``X``.
    library_key, technology_key
        ``obs`` columns of section and technology. Default: ``"section"`` and ``"technology"`` where they are there,
        else one of each.
    neighbors_key
        squidpy's ``key_added``.
    spatial_key
        ``obsm`` key of the coordinates.
    obs, obsm
        Further columns and arrays that the method asked for by an option.
    graph
        Whether both matrices of the graph must be there.

    Raises
    ------
    KeyError
        If something is not there.
    ValueError
        If the data are backed by a file, values are no counts, gene names repeat, a cell has no section, or a
        coordinate is no finite number.
    """
    with named(name):
        counts = counts_of(in_memory(adata), layer)
        check_names(adata.var_names, "adata" if name is None else repr(name))
        columns = {
            _keys.SECTION: column_of(adata, library_key, _keys.SECTION, name or ONE),
            _keys.TECHNOLOGY: column_of(adata, technology_key, _keys.TECHNOLOGY, name or ONE),
            **{key: column_of(adata, key, key) for key in obs},
        }
        places = _places_of(adata, spatial_key, "" if name else ", or name their key with spatial_key=...")
        for key in obsm:
            if key not in adata.obsm:
                raise missing_key("obsm", key, adata.obsm, "Name one of them in the method's options.")
        read = read_counts(counts, check=CountCheck(adata.obs_names, adata.var_names, advice_on(adata, layer)))
        as_they_are = isinstance(counts, np.ndarray) or sparse.issparse(counts)
        prepared = AnnData(
            sparse.csr_matrix(counts) if as_they_are else read,
            obs=pd.DataFrame(columns, index=adata.obs_names.rename(None)),
            var=pd.DataFrame(index=adata.var_names.rename(None)),
            obsm={_keys.SPATIAL: places, **{key: array_of(adata.obsm[key]) for key in obsm if key != _keys.SPATIAL}},
        )
        if _keys.PANEL in adata.varm:
            prepared.varm[_keys.PANEL] = pd.DataFrame(adata.varm[_keys.PANEL], index=prepared.var_names)
        for part, fixed in zip(("connectivities", "distances"), GRAPH, strict=True):
            key = f"{neighbors_key}_{part}"
            if key in adata.obsp:
                prepared.obsp[fixed] = sparse_of(adata.obsp[key])
            elif graph:
                section = library_key or (_keys.SECTION if _keys.SECTION in adata.obs else None)
                call = graph_call(adata, section, neighbors_key=neighbors_key, spatial_key=spatial_key)
                raise missing_key("obsp", key, adata.obsp, f"Compute it: {call}.")
        note_graph(prepared, adata.uns.get(f"{neighbors_key}_neighbors", {}).get("params", {}))
        return prepared


def _places_of(adata: AnnData, key: str, more: str) -> np.ndarray:
    """Return the coordinates as they are there; as float64 where they are texts or objects that are numbers."""
    if key not in adata.obsm:
        then = f"Put cell coordinates there, such as adata.obsm[{key!r}] = adata.obs[['x', 'y']].to_numpy(){more}."
        raise missing_key("obsm", key, adata.obsm, then)
    given = array_of(adata.obsm[key])
    try:
        numbers = check_coordinates(given, adata.obs_names)
    except ValueError as error:
        raise ValueError(f"adata.obsm[{key!r}]: {error}") from error
    return given if np.issubdtype(given.dtype, np.number) else numbers


def note_graph(adata: AnnData, params: Mapping[str, object]) -> None:
    """Note where the graph is, and how it was made, as squidpy does; nothing else stays in ``uns``."""
    told = {"coord_type": "generic", **{k: v for k, v in params.items() if isinstance(v, str | int | float)}}
    adata.uns.clear()
    keys = {"connectivities_key": CONNECTIVITIES, "distances_key": DISTANCES}
    adata.uns[f"{_keys.SPATIAL}_neighbors"] = {**keys, "params": told}


def counts_only(name: str, adata: AnnData, layer: str | None) -> AnnData:
    """Return counts (int32, CSR) and names of cells and genes, and nothing else; the user's object is not changed."""
    from scjepa.datasets import thin_counts

    with named(name):
        in_memory(adata)
        if not adata.var_names.is_unique:
            twice = adata.var_names[adata.var_names.duplicated()][0]
            raise ValueError(f"Gene names occur twice, such as {twice!r}. Run adata.var_names_make_unique().")
        counts = thin_counts(adata, 1.0, layer=layer).X
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Observation names are not unique")
        cells = AnnData(counts, obs=pd.DataFrame(index=adata.obs_names), var=pd.DataFrame(index=adata.var_names))
        cells.obs_names_make_unique()
    return cells


# -- checksums, and cells without counts ---------------------------------------------------------------------------


def digest(prepared: AnnData) -> str:
    """Return a checksum of everything in ``prepared``."""
    found = hashlib.sha256()

    def add(value: object) -> None:
        if isinstance(value, np.ndarray):
            # NumPy's text arrays are hashed as bytes, arrays of objects by what they print.
            array = value.astype(str) if value.dtype == object else value
            found.update(f"{array.shape}{array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
        elif sparse.issparse(value):
            for part in ("data", "indices", "indptr"):
                add(getattr(value, part))
        else:
            found.update(repr(value).encode())

    add(np.asarray(prepared.obs_names))
    add(np.asarray(prepared.var_names))
    add(prepared.X)
    for slot in ("obs", "obsm", "obsp", "varm"):
        for key in sorted(getattr(prepared, slot).keys()):
            add(key)
            value = getattr(prepared, slot)[key]
            add(np.asarray(value) if slot in ("obs", "varm") else value)
    return found.hexdigest()


def digest_of_texts(values: np.ndarray) -> str:
    """Return a short checksum of texts."""
    return hashlib.sha256(repr(list(values)).encode()).hexdigest()[:8]


def with_counts(prepared: AnnData) -> tuple[AnnData, np.ndarray]:
    """Return the cells that have counts, and which these are: many methods take the logarithm of a cell's total."""
    has = np.asarray(prepared.X.sum(axis=1)).ravel() > 0
    return (prepared if has.all() else prepared[has].copy()), has


def restore(output: Parts, has: np.ndarray) -> Parts:
    """Put cells without counts back in their places: zeros, as ST-JEPA gives them, and a cluster of their own."""
    if has.all():
        return output
    filled = dict(output)
    # Shapes and types are checked later, so one that does not fit is left for that check.
    for part in ("embedding", "cell_embedding"):
        values = None if output.get(part) is None else np.asarray(output[part])
        if values is not None and np.issubdtype(values.dtype, np.number):
            if values.ndim == 2 and len(values) == has.sum():
                filled[part] = np.zeros((len(has), values.shape[1]), dtype=np.float32)
                filled[part][has] = values
    clusters = None if output.get("clusters") is None else np.asarray(output["clusters"])
    if clusters is not None and clusters.ndim in (1, 2) and len(clusters) == has.sum():
        filled["clusters"] = np.full((len(has), *clusters.shape[1:]), "no counts", dtype=object)
        filled["clusters"][has] = clusters.astype(str)
    return filled


# -- the graph of the data of a comparison: checked as ST-JEPA checks it, made whole, or built ----------------------


def graph_of(adata: AnnData) -> dict[str, sparse.csr_matrix]:
    """Return the matrices of the graph that the data have: both, one or none."""
    return {key: sparse_of(adata.obsp[key]) for key in GRAPH if key in adata.obsp}


def check_graph(name: str, adata: AnnData) -> None:
    """Refuse a graph that ST-JEPA would refuse, and warn as it does: every method and score reads the same graph.

    Parameters
    ----------
    name
        What the data set is called.
    adata
        What :func:`prepare` gave.

    Raises
    ------
    ValueError
        If edges join sections, or there is no edge.

    Warns
    -----
    UserWarning
        If cells have few neighbors, or the graph looks stale.
    """
    graph = graph_of(adata)
    if not graph:
        return
    params = adata.uns[f"{_keys.SPATIAL}_neighbors"]["params"]
    with warnings.catch_warnings(record=True) as caught, named(name):
        warnings.simplefilter("always")
        build_neighbor_table(
            graph.get(CONNECTIVITIES),
            graph.get(DISTANCES),
            adata.obsm[_keys.SPATIAL],
            N_NEIGHBORS,
            sections=adata.obs[_keys.SECTION].astype(str).to_numpy(),
            two_hop=params.get("transform") == "cosine",
            cell_names=adata.obs_names,
        )
    for warning in caught:
        warn(f"{name!r}: {warning.message}")


def complete_graph(adata: AnnData) -> None:
    """Compute the matrix that is not there from the other one and the coordinates: methods read either of them."""
    graph = graph_of(adata)
    if len(graph) != 1:
        return
    ((key, matrix),) = graph.items()
    edges = sparse.coo_matrix(matrix)
    if key == DISTANCES:
        # A stored 0 is an edge too: of two cells in one place.
        adata.obsp[CONNECTIVITIES] = sparse.csr_matrix((np.ones(edges.nnz), (edges.row, edges.col)), edges.shape)
        return
    is_edge = (edges.data != 0) & (edges.row != edges.col)
    row, col = edges.row[is_edge], edges.col[is_edge]
    place = np.asarray(adata.obsm[_keys.SPATIAL], dtype=np.float64)
    lengths = np.linalg.norm(place[row] - place[col], axis=1)
    adata.obsp[DISTANCES] = sparse.csr_matrix((lengths, (row, col)), edges.shape)


def add_graph(name: str, adata: AnnData) -> None:
    """Build the graph of nearest neighbors within sections, where there is none.

    Raises
    ------
    ValueError
        If a section has too few cells.
    """
    if graph_of(adata):
        return
    sizes = adata.obs[_keys.SECTION].value_counts()
    sizes = sizes[sizes > 0]
    if sizes.min() <= N_NEIGHBORS:
        raise ValueError(
            f"{name!r}: the section {str(sizes.idxmin())!r} has {sizes.min()} cells, too few for {N_NEIGHBORS} "
            f"neighbors each. Leave it out, or compute a graph of fewer: {squidpy_call(...)}."
        )
    spatial_graph(adata, n_neighs=N_NEIGHBORS, library_key=_keys.SECTION)


def of_one_kind(adatas: dict[str, AnnData]) -> None:
    """Leave out the graphs of data sets that are to be one where only some have one: a graph is of one kind."""
    have = [name for name, adata in adatas.items() if graph_of(adata)]
    without = [name for name in adatas if name not in have]
    if not have or not without:
        return
    for name in have:
        for key in graph_of(adatas[name]):
            del adatas[name].obsp[key]
    (one, one_has), (other, other_has) = (
        (", ".join(map(repr, names)), "has" if len(names) == 1 else "have") for names in (have, without)
    )
    warn(
        f"{one} {one_has} a spatial graph and {other} {other_has} none. They are of one technology and panel and are "
        f"taken together, so {N_NEIGHBORS} nearest neighbors within each section are used for all, and not the graph "
        f"of {one}. To use it, compute the same for {other}: {squidpy_call(..., ...)}."
    )
