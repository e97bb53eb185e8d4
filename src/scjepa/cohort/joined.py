"""All sections of a collection as one AnnData object, whose counts stay in the shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from scipy import sparse

from scjepa._core import keys as _keys
from scjepa._core.files import digest
from scjepa.cohort.shard import Shard

if TYPE_CHECKING:
    import dask.array as da
    import pandas as pd

    from scjepa.cohort.collection import Collection

_ROWS, _ENTRIES = 65_536, 2**26
"""Cells of a block of counts, and cells × genes of it, at most: what is read at once."""


class JoinedSections(AnnData):
    """The sections of a collection, one after the other: AnnData that knows where it comes from.

    Counts are read from the shards when they are asked for, block by block. Copies and views of it are plain AnnData.

    Parameters
    ----------
    collection
        A prepared one.

    Attributes
    ----------
    tables
        Folder for what models make of the sections once.
    made_of
        Hash of the sections and of their order.
    setup
        What ``STJEPA.setup_anndata`` is told of it.
    """

    tables: Path
    made_of: str
    setup: dict[str, str]

    def __init__(self, collection: Collection) -> None:
        import pandas as pd

        obs, var = _obs_of(collection), pd.DataFrame(index=pd.Index(collection.vocabulary.names))
        super().__init__(_counts_of(collection), obs=obs, var=var)
        self.obsm[_keys.SPATIAL] = _coordinates_of(collection)
        self.obsp[f"{_keys.SPATIAL}_connectivities"] = _graph_of(collection)
        self.setup = {"library_key": _keys.SECTION}
        if _keys.TECHNOLOGY in obs:
            panels = collection.panels
            table = dict(zip(map(_keys.as_key, panels.technologies), panels.measured, strict=True))
            self.varm[_keys.PANEL] = pd.DataFrame(table, index=var.index)
            self.setup |= {"technology_key": _keys.TECHNOLOGY, "panel_key": _keys.PANEL}
        self.tables = collection.folder / "tables"
        self.made_of = digest([(one.facts.digest, one.facts.panel) for one in collection], list(var.index))


def _obs_of(collection: Collection) -> pd.DataFrame:
    """Return names of cells, with their section's before them, sections, and technologies where they are told apart."""
    import pandas as pd

    sizes = [one.n_cells for one in collection]
    names = [f"{one.name}/{cell}" for one in collection for cell in one.shard().cells]
    obs = pd.DataFrame(index=pd.Index(names, dtype=object))
    sections = [one.name for one in collection]
    obs[_keys.SECTION] = pd.Categorical.from_codes(np.repeat(np.arange(len(sizes)), sizes), categories=sections)
    if any(one.facts.technology for one in collection) or len({one.facts.panel for one in collection}) > 1:
        known = sorted({one.technology for one in collection})
        codes = [known.index(one.technology) for one in collection]
        obs[_keys.TECHNOLOGY] = pd.Categorical.from_codes(np.repeat(codes, sizes), categories=known)
    return obs


def _coordinates_of(collection: Collection) -> np.ndarray:
    first, *others = collection
    places = [one.shard().coordinates for one in collection]
    for section, found in zip(others, places[1:], strict=True):
        if found.shape[1] != places[0].shape[1]:
            raise ValueError(
                f"The section {section.name!r} has {found.shape[1]} coordinates of a cell, {first.name!r} has "
                f"{places[0].shape[1]}. Make collections of the one and of the other kind."
            )
    return np.concatenate(places)


def _graph_of(collection: Collection) -> sparse.csr_matrix:
    """Return the graph by which models order neighbors, block-diagonal, ``(n_cells, n_cells)`` float32 ones."""
    rows, columns, n_edges = [], [], 0
    for section in collection:
        arrays = section.shard().arrays
        of = "near" if "near_indices" in arrays else "graph"
        rows.append(arrays[f"{of}_indptr"][:-1] + n_edges)
        columns.append(arrays[f"{of}_indices"] + np.int32(section.start))
        n_edges += len(columns[-1])
    indices, indptr = np.concatenate(columns), np.concatenate([*rows, [n_edges]])
    size = (collection.n_cells, collection.n_cells)
    graph = sparse.csr_matrix((np.ones(n_edges, dtype=np.float32), indices, indptr), shape=size)
    graph.sort_indices()
    return graph


def _counts_of(collection: Collection) -> da.Array:
    """Return the counts of all sections by the genes of all panels, to be read block by block."""
    import dask.array as da
    from dask import delayed

    n_genes = len(collection.vocabulary)
    step = max(1, min(_ROWS, _ENTRIES // n_genes))
    kinds = {one.shard().arrays["counts_data"].dtype.kind for one in collection}
    dtype = np.dtype(np.float32 if "f" in kinds else np.int32)
    empty = sparse.csr_matrix((0, n_genes), dtype=dtype)
    blocks = []
    for section in collection:
        ids = collection.vocabulary.ids(section.genes)
        for start in range(0, section.n_cells, step):
            shape = (min(step, section.n_cells - start), n_genes)
            block = delayed(_read, pure=False)(section.path, start, ids, shape, dtype)
            blocks.append(da.from_delayed(block, shape, dtype, meta=empty))
    return da.concatenate(blocks, axis=0)


def _read(path: Path, start: int, ids: np.ndarray, shape: tuple[int, int], dtype: np.dtype) -> sparse.csr_matrix:
    """Return the counts of cells of a shard from ``start`` on, by the genes of all panels."""
    arrays = Shard.load(path).arrays
    indptr = arrays["counts_indptr"][start : start + shape[0] + 1]
    entries = slice(indptr[0], indptr[-1])
    genes = ids[arrays["counts_indices"][entries]].astype(np.int32)
    indptr = (indptr - indptr[0]).astype(np.int32)
    return sparse.csr_matrix((arrays["counts_data"][entries].astype(dtype), genes, indptr), shape=shape)
