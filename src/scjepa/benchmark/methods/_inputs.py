"""What every method is given: counts, sections, coordinates and the spatial graph, and never a label."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scjepa._core import keys as _keys
from scjepa._core.anndata import array_of, counts_of, missing_key, require_anndata, sparse_of, text_of, warn_of_words
from scjepa._core.graph import graph_call
from scjepa.tokens.counts import read_counts
from scjepa.tokens.neighborhoods import check_coordinates

ONE = "all"
"""Name of the section, or technology, where the data name none."""


def column_of(adata: AnnData, key: str | None, default: str, otherwise: str = ONE) -> pd.Categorical:
    """Return each cell's name in a column: ``key``, else ``default`` where it is there, else one name for all.

    Raises
    ------
    KeyError
        If ``key`` is not there.
    ValueError
        If a cell has no name.
    """
    if key is None and default in adata.obs:
        key = default
    if key is None:
        return pd.Categorical([otherwise] * adata.n_obs)
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


def coordinates_of(adata: AnnData, key: str) -> np.ndarray:
    """Return the coordinates as they are there; as float64 where they are texts or objects that are numbers.

    Raises
    ------
    ValueError
        If a cell has not two or three, or they are not finite numbers.
    """
    given = array_of(adata.obsm[key])
    try:
        numbers = check_coordinates(given, adata.obs_names)
    except ValueError as error:
        raise ValueError(f"adata.obsm[{key!r}]: {error}") from error
    return given if np.issubdtype(given.dtype, np.number) else numbers


def prepare(
    adata: AnnData,
    *,
    layer: str | None = None,
    library_key: str | None = None,
    technology_key: str | None = None,
    neighbors_key: str = _keys.SPATIAL,
    spatial_key: str = _keys.SPATIAL,
    obs: Sequence[str] = (),
    obsm: Sequence[str] = (),
) -> AnnData:
    """Return a new AnnData with what methods may see, under fixed names; counts and graph are not copied.

    Parameters
    ----------
    adata
        The user's; nothing of it is changed.
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

    Raises
    ------
    KeyError
        If something is not there.
    ValueError
        If the data are backed by a file, a cell has no section, or a coordinate is no finite number.
    """
    require_anndata(adata)
    counts = counts_of(adata, layer)
    if adata.isbacked:
        raise ValueError(f"adata is backed by {adata.filename}; methods need it in memory: adata = adata.to_memory().")
    columns = {
        _keys.SECTION: column_of(adata, library_key, _keys.SECTION),
        _keys.TECHNOLOGY: column_of(adata, technology_key, _keys.TECHNOLOGY),
        **{key: column_of(adata, key, key) for key in obs},
    }
    prepared = AnnData(
        sparse.csr_matrix(counts) if isinstance(counts, np.ndarray) or sparse.issparse(counts) else read_counts(counts),
        obs=pd.DataFrame(columns, index=adata.obs_names.rename(None)),
        var=pd.DataFrame(index=adata.var_names.rename(None)),
    )
    for key, name in ((spatial_key, _keys.SPATIAL), *((key, key) for key in obsm)):
        if key not in adata.obsm:
            where = "Put cell coordinates there, or name their key with spatial_key=..."
            then = where if name == _keys.SPATIAL else "Name one of them in the method's options."
            raise missing_key("obsm", key, adata.obsm, then)
        prepared.obsm[name] = coordinates_of(adata, key) if name == _keys.SPATIAL else array_of(adata.obsm[key])
    if _keys.PANEL in adata.varm:
        prepared.varm[_keys.PANEL] = pd.DataFrame(adata.varm[_keys.PANEL], index=prepared.var_names)
    for part in ("connectivities", "distances"):
        key = f"{neighbors_key}_{part}"
        if key not in adata.obsp:
            section = library_key or (_keys.SECTION if _keys.SECTION in adata.obs else None)
            call = graph_call(adata, section, neighbors_key=neighbors_key, spatial_key=spatial_key)
            raise missing_key("obsp", key, adata.obsp, f"Compute it: {call}.")
        prepared.obsp[f"{_keys.SPATIAL}_{part}"] = sparse_of(adata.obsp[key])
    params = adata.uns.get(f"{neighbors_key}_neighbors", {}).get("params", {})
    prepared.uns[f"{_keys.SPATIAL}_neighbors"] = {
        "connectivities_key": f"{_keys.SPATIAL}_connectivities",
        "distances_key": f"{_keys.SPATIAL}_distances",
        "params": {"coord_type": "generic", **{k: v for k, v in params.items() if isinstance(v, str | int | float)}},
    }
    return prepared


def digest(prepared: AnnData) -> str:
    """Return a checksum of everything in ``prepared``."""
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, np.ndarray):
            # NumPy's text arrays are hashed as bytes, arrays of objects by what they print.
            array = value.astype(str) if value.dtype == object else value
            found.update(f"{array.shape}{array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
        elif sparse.issparse(value):
            for part in (value.data, value.indices, value.indptr):
                add(part)
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


def with_counts(prepared: AnnData) -> tuple[AnnData, np.ndarray]:
    """Return the cells that have counts, and which these are: many methods take the logarithm of a cell's total."""
    has = np.asarray(prepared.X.sum(axis=1)).ravel() > 0
    return (prepared if has.all() else prepared[has].copy()), has


def restore(output: dict, has: np.ndarray) -> dict:
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
