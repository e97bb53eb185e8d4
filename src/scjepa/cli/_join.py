"""The cells of one or several files as the AnnData object that a model is set up on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scjepa._core import keys as _keys
from scjepa.cli._cells import Cells, Where, X
from scjepa.datasets import concat

if TYPE_CHECKING:
    from scjepa.stjepa.data import DataKeys


def as_anndata(cells: Cells, keys: DataKeys) -> AnnData:
    """Return the cells of one file with everything under the names that ``keys`` gives.

    A file that does not say is one section, and one technology, of its name.
    """
    columns = {keys.library_key: cells.sections, keys.technology_key: cells.technologies}
    obs = pd.DataFrame(index=cells.names)
    for key, names in columns.items():
        if key is not None:
            values = np.full(len(cells.names), cells.file.name) if names is None else names.to_numpy()
            obs[key] = pd.Categorical(values)
    types = cells.feature_types
    said = {} if types is None else {types.name: types.array}
    adata = AnnData(
        X=cells.counts if keys.layer is None else None,
        obs=obs,
        var=pd.DataFrame(said, index=cells.genes),
        layers={} if keys.layer is None else {keys.layer: cells.counts},
        obsm={keys.spatial_key: cells.coordinates},
        obsp={f"{keys.neighbors_key}_{part}": matrix for part, matrix in cells.edges.items()},
    )
    if cells.graph_parameters:
        adata.uns[f"{keys.neighbors_key}_neighbors"] = cells.graph_parameters
    if keys.panel_key is not None and cells.panels is not None:
        adata.varm[keys.panel_key] = cells.panels
    return adata


def join(cells: Sequence[Cells], keys: DataKeys) -> AnnData:
    """Return the cells of all files together, as :func:`scjepa.concat` does.

    Raises
    ------
    ValueError
        If gene names are not unique in a file, one shares no gene with any other, or graphs are of two kinds.
    """
    if len(cells) == 1:
        return as_anndata(cells[0], keys)
    whole = _together(cells, keys)
    if keys.layer is not None:  # where the model will look for counts in other files too
        whole.layers[keys.layer], whole.X = whole.X, None
    return whole


def panels_of(cells: Cells, where: Where) -> pd.DataFrame:
    """Return which technology of a file measured which gene, genes × technologies, bool."""
    keys = replace(keys_for([cells], where), panel_key=_keys.PANEL)
    return _together([cells], keys).varm[_keys.PANEL]


def _together(cells: Sequence[Cells], keys: DataKeys) -> AnnData:
    """Return the cells of all files with counts in ``X``."""
    dimensions = {part.coordinates.shape[1] for part in cells}
    if len(dimensions) > 1:
        raise ValueError("Some files have coordinates of two columns and some of three. Take files of one kind.")
    named = {
        "section_key": keys.library_key,
        "technology_key": keys.technology_key,
        "panel_key": keys.panel_key,
        "spatial_key": keys.spatial_key,
        "neighbors_key": keys.neighbors_key,
    }
    given: dict[str, Any] = {name: key for name, key in named.items() if key is not None}
    return concat({part.file.name: as_anndata(part, replace(keys, layer=None)) for part in cells}, **given)


def keys_for(cells: Sequence[Cells], where: Where) -> DataKeys:
    """Return the keys of a model of these cells: sections and technologies where files say, or are several."""
    from scjepa.stjepa.data import DataKeys

    many = len(cells) > 1
    library = where.library_key or _keys.SECTION
    technology = where.technology_key or _keys.TECHNOLOGY
    return DataKeys(
        layer=None if where.layer == X else where.layer,
        library_key=library if many or cells[0].sections is not None else None,
        technology_key=technology if many or cells[0].technologies is not None else None,
        spatial_key=where.spatial_key,
        neighbors_key=where.neighbors_key,
        panel_key=_keys.PANEL if many or cells[0].panels is not None else None,
    )
