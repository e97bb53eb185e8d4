"""The shard: one section as a file of arrays, of which any part can be mapped without reading the rest.

A prepared folder holds::

    collection.json              the sections in their order, and the panels: all that opening a collection reads
    shards/<id>.safetensors      one section, as below
    shards/<id>.json             what is known of it: its source, its numbers, its digest
    shards/<id>.lock             while a process prepares it, which holds its lock
    panels/<panel>.json          names of the genes of a panel, for all shards that have it
    readout/, niches/            what was computed of the sections; may be deleted

Arrays of a shard, in the format of safetensors, of ``n`` cells and a panel of ``p`` genes:

``counts_data``, ``counts_indices``, ``counts_indptr``
    Counts, one cell after the other, without zeros: (nnz,) uint8, uint16 or uint32, or float32 where some are no whole
    numbers; (nnz,) uint16 or int32 places of their genes in the panel, rising within a cell; (n + 1,) int64, where each
    cell's begin.
``graph_indices``, ``graph_indptr``
    (n_edges,) int32 neighbors of each cell by the connectivities, as places in the section, the nearest first (of equal
    distance by coordinates, then by number); (n + 1,) int64, where each cell's begin.
``near_indices``, ``near_indptr``
    The same by what the distances say, where that is something else, as with a graph of ``transform="cosine"``; else
    not there.
``coordinates``
    (n, 2 or 3) float64.
``names``, ``names_indptr``
    (n_bytes,) uint8, ``obs_names`` in UTF-8, one after the other; (n + 1,) int64, where each begins.
``rows``
    (n,) int64 rows of the source; not there where the section is all of it.
``moment_columns``, ``moment_total``, ``moment_square``, ``moment_product``
    (q,) int32 genes that the linear method reads, without control probes and antibodies; (q,) float64 sums of their
    log-normalized counts and of the squares; (q, q) float32 sums of squares and products of their z-scores, not there
    where q > 2,500.

A neighbor table of any width is the first so many neighbors of each cell: :meth:`Shard.neighbors`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy import sparse

from scjepa._core import keys as _keys
from scjepa._core.counts import offsets_of
from scjepa._core.files import digest, mapped_arrays, whole
from scjepa.tl.sectionwise import SectionMoments
from scjepa.tokens import NeighborTable

if TYPE_CHECKING:
    import dask.array as da
    import pandas as pd

    from scjepa.cohort.collection import Collection


FORMAT = 1

_META = "scjepa"
"""Key of the JSON in the file's metadata."""

_KIND = "section"

_DIGESTED = ("counts_data", "counts_indices", "counts_indptr", "graph_indices", "graph_indptr", "coordinates", "names")
"""Arrays that the digest of a shard is of."""


@dataclass(frozen=True, eq=False)
class Shard:
    """One section: counts, graph, coordinates, names of cells and what the linear method needs, lazily mapped.

    Parameters
    ----------
    arrays
        By name, as the module says.
    n_genes
        Genes of the panel.
    path
        File that they are mapped from, for messages.
    """

    arrays: Mapping[str, np.ndarray]
    n_genes: int
    path: Path | None = field(default=None)

    @classmethod
    def load(cls, path: Path) -> Shard:
        """Map a shard that :meth:`save` wrote.

        Raises
        ------
        ValueError
            If the file is damaged, foreign or newer than this version.
        """
        about = _about(path)
        try:
            return cls(mapped_arrays(path), about["n_genes"], path)
        except (OSError, ValueError, KeyError) as error:
            raise damaged(path, str(error)) from error

    def save(self, path: Path) -> str:
        """Write the shard, whole or not at all, and return its digest."""
        found = self.digest()
        about = {"format": FORMAT, "kind": _KIND, "n_genes": self.n_genes, "digest": found}
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        with whole(path) as draft:
            save_file(arrays, draft, {_META: json.dumps(about)})
        return found

    def digest(self) -> str:
        """Return a hash of cells, counts, graph and coordinates."""
        return digest(*(self.arrays[name] for name in _DIGESTED))

    def check(self) -> None:
        """Read all of it, and compare it with what was written.

        Raises
        ------
        ValueError
            If it is not the same.
        """
        if self.path is not None and self.digest() != _about(self.path)["digest"]:
            raise damaged(self.path, "its arrays are not what was written")

    @property
    def n_cells(self) -> int:
        """Cells of the section."""
        return len(self.arrays["counts_indptr"]) - 1

    @property
    def counts(self) -> sparse.csr_array:
        """``(n_cells, n_genes)`` counts; the values are mapped, the places of genes are a copy."""
        a = self.arrays
        indices = a["counts_indices"].astype(np.int32)
        indptr = a["counts_indptr"]
        if indptr[-1] <= np.iinfo(np.int32).max:
            indptr = indptr.astype(np.int32)
        found = sparse.csr_array((a["counts_data"], indices, indptr), shape=(self.n_cells, self.n_genes), copy=False)
        found.has_canonical_format = True  # as they were written
        return found

    @cached_property
    def cells(self) -> np.ndarray:
        """``(n_cells,)`` names of the cells."""
        text, ends = self.arrays["names"].tobytes(), self.arrays["names_indptr"].tolist()
        names = [text[start:stop].decode() for start, stop in pairwise(ends)]
        return np.array(names, dtype=object)

    @property
    def coordinates(self) -> np.ndarray:
        """``(n_cells, 2 or 3)`` float64."""
        return self.arrays["coordinates"]

    @property
    def rows(self) -> np.ndarray:
        """``(n_cells,)`` rows of the source that the cells are."""
        return self.arrays.get("rows", np.arange(self.n_cells))

    def edges(self) -> sparse.csr_matrix:
        """Return the graph, ``(n_cells, n_cells)`` float32 ones, columns rising within a row."""
        indices, indptr = self.arrays["graph_indices"], self.arrays["graph_indptr"]
        ones = np.ones(len(indices), dtype=np.float32)
        graph = sparse.csr_matrix((ones, indices.copy(), indptr), shape=(self.n_cells, self.n_cells))
        graph.sort_indices()
        return graph

    def neighbors(self, n_neighbors: int) -> NeighborTable:
        """Return the nearest neighbors of each cell, ``n_neighbors`` at most, as places in the section."""
        of = "near" if "near_indices" in self.arrays else "graph"
        indices, indptr = self.arrays[f"{of}_indices"], self.arrays[f"{of}_indptr"]
        degrees = np.diff(indptr)
        if (degrees == n_neighbors).all():
            return NeighborTable(np.asarray(indices).reshape(-1, n_neighbors))
        columns = np.arange(n_neighbors)
        there = columns < degrees[:, None]
        index = np.full(there.shape, -1, dtype=np.int32)
        index[there] = indices[(indptr[:-1, None] + columns)[there]]
        return NeighborTable(index)

    @property
    def moment_columns(self) -> np.ndarray:
        """``(q,)`` int32 genes that the linear method reads."""
        return self.arrays["moment_columns"]

    @property
    def moments(self) -> SectionMoments:
        """What the linear method needs of the genes :attr:`moment_columns`."""
        a = self.arrays
        return SectionMoments(self.n_cells, a["moment_total"], a["moment_square"], a.get("moment_product"))


def pack_names(names: np.ndarray) -> dict[str, np.ndarray]:
    """Return names of cells as the arrays of a shard."""
    texts = [str(name).encode() for name in names]
    indptr = offsets_of(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)))
    return {"names": np.frombuffer(b"".join(texts), dtype=np.uint8), "names_indptr": indptr}


def pack_counts(counts: sparse.csr_array) -> dict[str, np.ndarray]:
    """Return counts, in canonical form, as the arrays of a shard, in the smallest types that lose nothing."""
    genes = np.uint16 if counts.shape[1] <= np.iinfo(np.uint16).max + 1 else np.int32
    return {
        "counts_data": small_counts(counts.data),
        "counts_indices": counts.indices.astype(genes, copy=False),
        "counts_indptr": counts.indptr.astype(np.int64, copy=False),
    }


def small_counts(values: np.ndarray) -> np.ndarray:
    """Return values that are not negative in the smallest type that holds them; float32 if some are fractions."""
    if not values.size:
        return values.astype(np.uint8)
    if values.dtype.kind == "f" and not (values == np.rint(values)).all():
        return values.astype(np.float32)
    largest = values.max()
    for kind in (np.uint8, np.uint16, np.uint32):
        if largest <= np.iinfo(kind).max:
            return values.astype(kind)
    return values.astype(np.float32)


def damaged(path: Path, what: str) -> ValueError:
    """Return the error of a shard that cannot be used."""
    return ValueError(f"The shard {path} is damaged: {what}. Prepare its section anew: collection.prepare()")


def _about(path: Path) -> dict:
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get(_META, "{}"))
    except FileNotFoundError as error:
        raise ValueError(f"The shard {path} is gone. Prepare its section anew: collection.prepare()") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, str(error)) from error
    if about.get("kind") != _KIND:
        raise ValueError(f"{path} is no shard of a section. Name the folder that scjepa prepare wrote.")
    if about["format"] > FORMAT:
        raise ValueError(
            f"{path} was written by a newer scjepa (shard format {about['format']}, this version reads {FORMAT}). "
            "Upgrade scjepa: pip install -U scjepa. Or prepare the sections anew, in another folder."
        )
    return about


# -- all sections as one object ---------------------------------------------------------------------------------------


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
