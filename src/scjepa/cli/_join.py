"""The cells of one or several files as the AnnData object that a model is set up on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from scjepa import _keys
from scjepa.cli._cells import MEASURED, Cells, Where, X

if TYPE_CHECKING:
    from scjepa.models._data import DataKeys


def section_names(cells: Sequence[Cells]) -> list[np.ndarray]:
    """Return each cell's section, file by file: what the file says, else the file's name.

    A section is one piece of tissue, so where two files have one of the same name the file's name is put before it.
    """
    given = [_named(part.sections, part) for part in cells]
    distinct = [set(names) for names in given]
    shared = {name for i, one in enumerate(distinct) for other in distinct[:i] for name in one & other}
    return [
        np.array([f"{part.file.name}/{name}" if name in shared else name for name in names], dtype=object)
        for part, names in zip(cells, given, strict=True)
    ]


def technology_names(cells: Sequence[Cells]) -> list[np.ndarray]:
    """Return each cell's technology, file by file: what the file says, else the file's name."""
    return [_named(part.technologies, part) for part in cells]


def _named(names: pd.Series | None, cells: Cells) -> np.ndarray:
    return np.full(len(cells.names), cells.file.name, dtype=object) if names is None else names.to_numpy(dtype=object)


def as_anndata(cells: Cells, keys: DataKeys, section: np.ndarray, technology: np.ndarray) -> ad.AnnData:
    """Return the cells of one file with everything under the names that ``keys`` gives."""
    columns = {keys.library_key: section, keys.technology_key: technology}
    obs = pd.DataFrame({key: pd.Categorical(v) for key, v in columns.items() if key is not None}, index=cells.names)
    adata = ad.AnnData(
        X=cells.counts if keys.layer is None else None,
        obs=obs,
        var=pd.DataFrame(index=cells.genes),
        layers={} if keys.layer is None else {keys.layer: cells.counts},
        obsm={keys.spatial_key: cells.coordinates},
        obsp={f"{keys.neighbors_key}_{part}": matrix for part, matrix in cells.edges.items()},
    )
    if cells.graph_parameters:
        adata.uns[f"{keys.neighbors_key}_neighbors"] = cells.graph_parameters
    return adata


def join(cells: Sequence[Cells], keys: DataKeys) -> ad.AnnData:
    """Return the cells of all files together: the union of their genes, 0 where a file does not have one.

    Which genes each technology measured is in ``varm["measured"]`` where ``keys.panel_key`` says so.

    Raises
    ------
    ValueError
        If gene names are not unique in a file, no two files share a gene, or graphs are of two kinds.
    """
    sections, technologies = section_names(cells), technology_names(cells)
    for part in cells:
        if not part.genes.is_unique:
            twice = part.genes[part.genes.duplicated()][0]
            raise ValueError(
                f"{part.file.path}: gene names must be unique, {twice!r} occurs more than once. "
                "Call adata.var_names_make_unique() and write it anew."
            )
    parts = [as_anndata(*a) for a in zip(cells, [keys] * len(cells), sections, technologies, strict=True)]
    if len(parts) == 1:
        whole = parts[0]
    else:
        _check_together(cells)
        whole = _concatenated(parts, cells, keys)
    if keys.panel_key is not None:
        whole.varm[keys.panel_key] = measured_by(cells, technologies, whole.var_names)
    return whole


def _check_together(cells: Sequence[Cells]) -> None:
    dimensions = {part.coordinates.shape[1] for part in cells}
    if len(dimensions) > 1:
        raise ValueError("Some files have coordinates of two columns and some of three. Take files of one kind.")
    transforms = {str(part.graph_parameters.get("params", {}).get("transform")) for part in cells}
    parts = {tuple(sorted(part.edges)) for part in cells}
    if len(transforms) > 1 or len(parts) > 1:
        raise ValueError("The files hold spatial graphs of different kinds. Build them anew: --rebuild-graph.")
    for part in cells[1:]:
        if not len(cells[0].genes.intersection(part.genes)):
            raise ValueError(
                f"{part.file.path} (genes {', '.join(part.genes[:3])}, ...) shares no gene with {cells[0].file.path} "
                f"({', '.join(cells[0].genes[:3])}, ...). Gene names must be of one kind, and of one species."
            )


def _concatenated(parts: Sequence[ad.AnnData], cells: Sequence[Cells], keys: DataKeys) -> ad.AnnData:
    for part in parts:
        _make_sparse(part, keys.layer)
    names = pd.Index(np.concatenate([part.names for part in cells]))
    whole = ad.concat(
        parts,
        join="outer",
        pairwise=True,
        fill_value=0,
        index_unique=None if names.is_unique else "-",
        keys=[part.file.name for part in cells],
    )
    for key in (keys.library_key, keys.technology_key):
        if key is not None:
            whole.obs[key] = whole.obs[key].astype("category")
    first = parts[0].uns.get(f"{keys.neighbors_key}_neighbors")
    if first is not None:
        whole.uns[f"{keys.neighbors_key}_neighbors"] = first
    return whole


def _make_sparse(adata: ad.AnnData, layer: str | None) -> None:
    counts: Any = adata.X if layer is None else adata.layers[layer]
    if sparse.issparse(counts):
        return
    if layer is None:
        adata.X = sparse.csr_matrix(counts)
    else:
        adata.layers[layer] = sparse.csr_matrix(counts)


def measured_by(cells: Sequence[Cells], technologies: Sequence[np.ndarray], genes: pd.Index) -> pd.DataFrame:
    """Return the genes × technologies table of what was measured.

    A file's own ``varm["measured"]`` tells where it has a column for each of its technologies. Else a technology
    measured all genes of its file, and where a file has several, those of which one of its cells has a count.
    """
    names = sorted({name for part in technologies for name in part})
    table = pd.DataFrame(False, index=genes, columns=names)
    for part, own in zip(cells, technologies, strict=True):
        present = sorted(set(own))
        if part.measured is not None and set(present) <= set(part.measured.columns):
            for name in present:
                table.loc[part.genes, name] |= part.measured[name].to_numpy(dtype=bool)
        elif len(present) == 1:
            table.loc[part.genes, present[0]] = True
        else:
            for name in present:
                counted = np.asarray((part.counts[own == name] != 0).sum(axis=0)).ravel() > 0
                table.loc[part.genes, name] |= counted
    return table


def keys_for(cells: Sequence[Cells], where: Where) -> DataKeys:
    """Return the keys of a model of these cells: sections and technologies where files say, or are several."""
    from scjepa.models._data import DataKeys

    many = len(cells) > 1
    library = where.library_key or _keys.SECTION
    technology = where.technology_key or _keys.TECHNOLOGY
    return DataKeys(
        layer=None if where.layer == X else where.layer,
        library_key=library if many or cells[0].sections is not None else None,
        technology_key=technology if many or cells[0].technologies is not None else None,
        spatial_key=where.spatial_key,
        neighbors_key=where.neighbors_key,
        panel_key=MEASURED if many or cells[0].measured is not None else None,
    )
