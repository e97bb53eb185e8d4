"""The table of a SpatialData object as AnnData, with coordinates."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from scjepa._core import keys as _keys
from scjepa._core.instruments import how_to_read
from scjepa._core.options import unknown_name

if TYPE_CHECKING:
    from spatialdata import SpatialData

_GLOBAL = "global"


def table_of(
    data: AnnData | SpatialData,
    table_name: str | None = None,
    *,
    coordinate_system: str | Mapping[str, str] | None = None,
    spatial_key: str = _keys.SPATIAL,
) -> AnnData:
    """Return the cells of a SpatialData object as AnnData, with their coordinates in ``obsm``.

    It is the table itself and no copy: an embedding or niches written to it are in the SpatialData object too.

    Parameters
    ----------
    data
        A :class:`spatialdata.SpatialData` object. An AnnData object is returned as it is, with no other option.
    table_name
        Table to take, a name in ``sdata.tables``. May be left out where there is one table.
    coordinate_system
        Coordinate system in which centroids are computed, or one for each annotated region by its name. Default:
        ``"global"`` where an element has that, else its only one. Coordinates that the table has already must be those
        of the system that is named.
    spatial_key
        ``obsm`` key of the coordinates.

    Returns
    -------
    AnnData
        The table. Where it has no ``obsm[spatial_key]``, the centroids of the shapes, labels or points that it
        annotates are written there, ``(n_cells, 2 or 3)`` float64 in the unit of the coordinate system. Nothing else
        is written.

    Raises
    ------
    TypeError
        If ``data`` is neither SpatialData nor AnnData.
    KeyError
        If there is no table of that name, or an annotated element does not exist.
    ValueError
        If the table cannot be told from several, or there is none; coordinates are needed and cannot be computed (the
        table annotates nothing, an element lacks a cell, or does not have the coordinate system); or a coordinate
        system is named and the table has other coordinates.

    Examples
    --------
    >>> adata = scjepa.table_of(sdata)  # doctest: +SKIP
    """
    if isinstance(data, AnnData):
        _refuse_options(table_name=table_name, coordinate_system=coordinate_system)
        return data
    if not is_spatialdata(data):
        then = how_to_read(data) if isinstance(data, str | PathLike) else "Read one: spatialdata.read_zarr(path)."
        raise TypeError(f"Expected a SpatialData or AnnData object, found {type(data).__name__}. {then}")
    table = _table(data, table_name)
    if spatial_key not in table.obsm:
        table.obsm[spatial_key] = _centroids(data, table, coordinate_system, spatial_key)
    elif coordinate_system is not None:
        _check_system(data, table, coordinate_system, spatial_key)
    return table


def _refuse_options(**options: Any) -> None:
    """Raise where an option of SpatialData is given with AnnData, in which nothing looks at it."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name}={value!r} is of SpatialData, and this is AnnData. Leave it out.")


def _check_system(
    sdata: SpatialData, table: AnnData, coordinate_system: str | Mapping[str, str], spatial_key: str
) -> None:
    """Raise where the coordinates that are there are not those of the coordinate system that is asked for."""
    there = np.asarray(table.obsm[spatial_key], dtype=np.float64)
    wanted = _centroids(sdata, table, coordinate_system, spatial_key)
    if there.shape != wanted.shape or not np.allclose(there, wanted, rtol=1e-5, atol=1e-6 * np.ptp(wanted)):
        raise ValueError(
            f"The table has coordinates in obsm[{spatial_key!r}] that are not those of "
            f"coordinate_system={coordinate_system!r}: its first cell lies at {there[0].tolist()}, and there at "
            f"{wanted[0].tolist()}. Take those of that system under another key, table_of(sdata, "
            f"coordinate_system=..., spatial_key='{spatial_key}_computed'), or remove what is there first: "
            f"del sdata.tables[...].obsm[{spatial_key!r}]."
        )


def is_spatialdata(data: Any) -> bool:
    """Return whether ``data`` is a SpatialData object, without importing spatialdata."""
    spatialdata = sys.modules.get("spatialdata")
    return spatialdata is not None and isinstance(data, spatialdata.SpatialData)


def regions_of(table: AnnData) -> tuple[str | None, str | None]:
    """Return the ``obs`` columns that say which element, and which instance of it, a row of a table annotates."""
    attributes = table.uns.get("spatialdata_attrs", {})
    return attributes.get("region_key"), attributes.get("instance_key")


def _table(sdata: SpatialData, name: str | None) -> AnnData:
    names = list(sdata.tables)
    if name is not None:
        if name not in names:
            raise KeyError(unknown_name("table of the SpatialData object", name, names))
        return sdata.tables[name]
    if not names:
        raise ValueError("The SpatialData object has no table: there are no counts to work on.")
    if len(names) > 1:
        raise ValueError(
            f"The SpatialData object has {len(names)} tables, {', '.join(names)}. Name one: table_name=..."
        )
    return sdata.tables[names[0]]


def _centroids(
    sdata: SpatialData, table: AnnData, coordinate_system: str | Mapping[str, str] | None, spatial_key: str
) -> np.ndarray:
    """Return the centroid of what each row of the table annotates, matched by instance and not by order."""
    region_key, instance_key = regions_of(table)
    if region_key is None or instance_key is None:
        raise ValueError(
            "The table annotates no element, so no coordinates of its cells can be computed. "
            f"Put them there, table.obsm[{spatial_key!r}] = ..., or annotate shapes or labels: "
            "sdata.set_table_annotates_spatialelement(...)."
        )
    regions = table.obs[region_key].astype(str).to_numpy()
    for name in coordinate_system if isinstance(coordinate_system, Mapping) else ():
        if name not in regions:
            raise KeyError(unknown_name("region in coordinate_system", name, set(regions)))
    instances = table.obs[instance_key].to_numpy()
    found: np.ndarray | None = None
    for region in sorted(set(regions)):
        if region not in sdata:
            raise KeyError(f"The table annotates {region!r}, which the SpatialData object does not have.")
        wanted = coordinate_system.get(region) if isinstance(coordinate_system, Mapping) else coordinate_system
        centroids = _centroids_of(sdata[region], region, wanted)
        rows = np.flatnonzero(regions == region)
        position = centroids.index.get_indexer(instances[rows])
        if (position < 0).any():
            raise ValueError(
                f"{(position < 0).sum()} cells of the table are not in {region!r}, first the {instance_key} "
                f"{instances[rows[(position < 0).argmax()]]!r}. Keep those that are: "
                "spatialdata.match_table_to_element(...)."
            )
        values = centroids.to_numpy(dtype=np.float64)[position]
        if found is None:
            found = np.empty((table.n_obs, values.shape[1]))
        if values.shape[1] != found.shape[1]:
            raise ValueError("Some of the annotated elements have two dimensions and some three.")
        found[rows] = values
    if found is None:
        raise ValueError("The table has no cells.")
    return found


def _centroids_of(element: Any, region: str, coordinate_system: str | None) -> Any:
    """Return a data frame of centroids by instance."""
    from spatialdata import get_centroids
    from spatialdata.transformations import get_transformation

    systems = list(get_transformation(element, get_all=True))
    if coordinate_system is None:
        if _GLOBAL not in systems and len(systems) > 1:
            raise ValueError(
                f"{region!r} is in the coordinate systems {', '.join(systems)}. Name one: coordinate_system=..."
            )
        coordinate_system = _GLOBAL if _GLOBAL in systems else systems[0]
    if coordinate_system not in systems:
        raise ValueError(unknown_name(f"coordinate system of {region!r}", coordinate_system, systems))
    return get_centroids(element, coordinate_system=coordinate_system).compute()
