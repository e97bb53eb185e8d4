"""Sections where they come from, files or objects in memory: which there are, and one of them read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scjepa._core import keys as _keys
from scjepa._core.anndata import (
    array_of,
    counts_of,
    in_memory,
    missing_key,
    notes_of,
    sparse_of,
    text_of,
)
from scjepa._core.counts import NAN, TARGET_SUM, CountCheck, as_csr, holds_counts, iter_rows, usual_advice
from scjepa._core.features import TRANSCRIPTS, kinds_of
from scjepa._core.files import digest
from scjepa._core.graph import edges_of, refuse_across
from scjepa._core.neighbors import nearest_places
from scjepa._core.squidpy import graph_call
from scjepa._core.stored import data_file
from scjepa.cohort.shard import Shard, pack_counts, pack_names, small_counts
from scjepa.tl.sectionwise import Features, SectionMoments
from scjepa.tokens.neighbors import check_coordinates, ordered_neighbors

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from h5py import Group  # or that of zarr, which is used alike

_ROWS = 32_768
"""Cells whose counts are read at once."""

_SAMPLES, _SAMPLE = 16, 2**16
"""Pieces of a file, and bytes of each, that its fingerprint is of."""


@dataclass(frozen=True)
class Reading:
    """What is read of a source, and where it is there; a shard is made anew where any of it changes.

    Attributes
    ----------
    layer
        Layer of raw counts; ``None``: ``X``. ``"X"``: the matrix, whatever its values are.
    library_key, technology_key
        ``obs`` columns of sections and technologies; ``None``: ``"section"`` and ``"technology"`` where they are there.
    spatial_key, neighbors_key
        ``obsm`` key of coordinates, and squidpy's ``key_added`` of a graph.
    n_neighbors
        Neighbors of each cell in the graph that is made where there is none.
    rebuild_graph
        Make it also where there is one.
    """

    layer: str | None = None
    library_key: str | None = None
    technology_key: str | None = None
    spatial_key: str = _keys.SPATIAL
    neighbors_key: str = _keys.SPATIAL
    n_neighbors: int = 10
    rebuild_graph: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the options by name."""
        return asdict(self)


@dataclass(frozen=True)
class Stamp:
    """What a file was when it was read.

    Attributes
    ----------
    size
        Bytes; of a folder those of all its files.
    mtime_ns
        When it was last changed, in nanoseconds; of a folder the latest of its files.
    fingerprint
        Hash of some pieces of it, all over the file; of a folder, of the names and sizes of its files.
    """

    size: int
    mtime_ns: int
    fingerprint: str

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Look at a file, or a folder."""
        if path.is_dir():
            facts = []
            for folder, _, names in os.walk(path):
                stats = [(name, os.stat(os.path.join(folder, name))) for name in names]
                facts += [(os.path.relpath(folder, path), name, s.st_size, s.st_mtime_ns) for name, s in stats]
            told = digest(sorted(each[:3] for each in facts))
            return cls(sum(each[2] for each in facts), max((each[3] for each in facts), default=0), told)
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, _sampled(path, status.st_size))

    def same_as(self, other: Stamp) -> bool:
        """Return whether a file is the same by all that was looked at, or was copied and nothing else."""
        return self.size == other.size and (self.mtime_ns == other.mtime_ns or self.fingerprint == other.fingerprint)


def _sampled(path: Path, size: int) -> str:
    """Return a hash of pieces of a file: of a small one all, of a large one some, the first and the last among them."""
    pieces = []
    with path.open("rb") as file:
        for start in np.unique(np.linspace(0, max(size - _SAMPLE, 0), _SAMPLES).astype(np.int64)).tolist():
            file.seek(start)
            pieces.append(np.frombuffer(file.read(_SAMPLE), dtype=np.uint8))
    return digest(size, *pieces)


@dataclass(frozen=True)
class Found:
    """A section of a source.

    Attributes
    ----------
    value
        What the column of sections says of it; ``None``: the source is one section.
    technology
        Its technology; ``None``: the source does not say.
    """

    value: str | None
    technology: str | None


class Source:
    """Cells of a file or an object, of which parts are read when they are asked for."""

    name: str

    def genes(self) -> np.ndarray:
        """Return the names of the genes."""
        raise NotImplementedError

    def cells(self) -> np.ndarray:
        """Return the names of the cells."""
        raise NotImplementedError

    def n_cells(self) -> int:
        """Return the number of cells."""
        raise NotImplementedError

    def column(self, key: str | None, usual: str) -> np.ndarray | None:
        """Return a column of ``obs`` as text: ``key``, else the usual one if it is there, else nothing.

        Raises
        ------
        KeyError
            If ``key`` is named and not there.
        ValueError
            If a cell has no value.
        """
        names = self._columns()
        if key is None and usual not in names:
            return None
        if key is not None and key not in names:
            raise missing_key("obs", key, names, "Name a column that is there, or none.")
        text = text_of(self._column(key or usual))
        missing = np.flatnonzero(text == np.array(None))
        if len(missing):
            raise ValueError(
                f"{len(missing):,} cells have no value in obs[{key or usual!r}]; the first is "
                f"{self.cells()[missing[0]]!r}. Fill the column, or leave these cells out."
            )
        return text

    def counts(self, layer: str | None) -> Any:
        """Return the counts, in memory or on disk.

        Raises
        ------
        KeyError, ValueError
            If there are none.
        """
        raise NotImplementedError

    def matrix(self, slot: str, key: str) -> Any:
        """Return a matrix of ``obsm`` or ``obsp``, in memory or on disk; ``None`` where it is not there."""
        raise NotImplementedError

    def keys(self, slot: str) -> list[str]:
        """Return the keys of ``obsm``, ``obsp`` or the layers."""
        raise NotImplementedError

    def notes(self) -> dict[str, Any]:
        """Return what scjepa noted of what it wrote, by key."""
        raise NotImplementedError

    def advice(self, layer: str | None) -> str:
        """Return where raw counts are, for values that are none."""
        there = [name for name in self.keys("layers") if name != layer and holds_counts(self.counts(name))]
        if there:
            return f"Raw counts are in the layer {there[0]!r}: pass layer={there[0]!r}."
        if layer not in (None, "X") and holds_counts(self.counts(None)):
            return "Raw counts are in X: leave the layer out."
        if holds_counts(self._raw()):
            return "Raw counts are in raw. Write them to a file: adata.raw.to_adata().write_h5ad('raw.h5ad')."
        return "No layer holds raw counts: take the file that these values were made from. For X as it is: layer='X'."

    def _raw(self) -> Any:
        raise NotImplementedError

    def _columns(self) -> list[str]:
        raise NotImplementedError

    def _column(self, key: str) -> pd.Series:
        raise NotImplementedError


class _InMemory(Source):
    """An AnnData object, in memory or backed."""

    def __init__(self, adata: AnnData) -> None:
        self._adata = adata

    def genes(self) -> np.ndarray:
        return np.asarray(self._adata.var_names.astype(str), dtype=object)

    def cells(self) -> np.ndarray:
        return np.asarray(self._adata.obs_names.astype(str), dtype=object)

    def n_cells(self) -> int:
        return int(self._adata.n_obs)

    def counts(self, layer: str | None) -> Any:
        return counts_of(self._adata, None if layer == "X" else layer)

    def matrix(self, slot: str, key: str) -> Any:
        return getattr(self._adata, slot).get(key)

    def keys(self, slot: str) -> list[str]:
        return [key for key in getattr(self._adata, slot) if key is not None]

    def notes(self) -> dict[str, Any]:
        return dict(notes_of(self._adata))

    def _raw(self) -> Any:
        return None if self._adata.raw is None else self._adata.raw.X

    def _columns(self) -> list[str]:
        return list(map(str, self._adata.obs.columns))

    def _column(self, key: str) -> pd.Series:
        return self._adata.obs[key]


class _Stored(Source):
    """An AnnData object in a file."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def genes(self) -> np.ndarray:
        return self._index("var")

    def cells(self) -> np.ndarray:
        return self._index("obs")

    def n_cells(self) -> int:
        obs = self._group["obs"]
        index = obs[obs.attrs["_index"]]
        return int((index["values"] if hasattr(index, "keys") else index).shape[0])

    def counts(self, layer: str | None) -> Any:
        place = "X" if layer in (None, "X") else f"layers/{layer}"
        if place not in self._group:
            names = ", ".join(map(repr, self.keys("layers"))) or "none"
            what = "matrix X" if place == "X" else f"layer {layer!r}"
            raise ValueError(f"There is no {what}. Name raw counts with layer=...; layers there: {names}.")
        return _on_disk(self._group[place])

    def matrix(self, slot: str, key: str) -> Any:
        return _on_disk(_all_there(self._group[slot][key])) if key in self.keys(slot) else None

    def keys(self, slot: str) -> list[str]:
        return sorted(self._group[slot]) if slot in self._group else []

    def notes(self) -> dict[str, Any]:
        from anndata.io import read_elem

        place = f"uns/{_keys.UNS}"
        return dict(read_elem(self._group[place])) if place in self._group else {}

    def _raw(self) -> Any:
        return _on_disk(self._group["raw/X"]) if "raw/X" in self._group else None

    def _index(self, part: str) -> np.ndarray:
        from anndata.io import read_elem

        group = self._group[part]
        names = read_elem(_all_there(group[group.attrs["_index"]]))
        return np.array([str(name) for name in names], dtype=object)

    def _columns(self) -> list[str]:
        return [str(name) for name in self._group["obs"].attrs["column-order"]]

    def _column(self, key: str) -> pd.Series:
        import pandas as pd
        from anndata.io import read_elem

        return pd.Series(read_elem(self._group["obs"][key]), name=key)


def _on_disk(element: Group) -> Any:
    """Return a matrix in a file such that it can be sliced without reading all of it; a data frame is read."""
    from anndata.io import read_elem, sparse_dataset

    if not hasattr(element, "keys"):
        return element  # zarr does not write pieces of counts that are all zeros: what is gone cannot be told
    _all_there(element)
    if str(element.attrs.get("encoding-type", "")).startswith("cs"):
        return sparse_dataset(element)
    return read_elem(element)


def _all_there(element: Group) -> Group:
    """Return an array or a sparse matrix in a file, unless some of it is gone, which zarr reads as zeros."""
    parts = ("data", "indices", "indptr")
    for array in [element[part] for part in parts if part in element] if hasattr(element, "keys") else [element]:
        n_there = getattr(array, "nchunks_initialized", None)
        if n_there is not None and n_there < array.nchunks:
            raise ValueError(
                f"{array.nchunks - n_there:,} of {array.nchunks:,} chunks of {str(array.name).strip('/')!r} are gone, "
                "which would be read as zeros. Copy it anew, or leave it out."
            )
    return element


@contextmanager
def opened_source(of: Path | AnnData) -> Iterator[Source]:
    """Open a file of cells, or take an object as it is."""
    if not isinstance(of, Path):
        yield _InMemory(of)
        return
    with data_file(of).opened() as group:
        yield _Stored(group)


def sections_in(source: Source, how: Reading) -> list[Found]:
    """Return the sections of a source, in the order in which they first occur.

    Raises
    ------
    ValueError
        If there are no cells or genes, a gene occurs twice, or a section has several technologies.
    """
    import pandas as pd

    genes = source.genes()
    n_cells = source.n_cells()
    if not n_cells or not len(genes):
        raise ValueError(f"There are no {'genes' if n_cells else 'cells'}. Leave it out.")
    again = pd.Index(genes)
    if not again.is_unique:
        raise ValueError(
            f"The gene {again[again.duplicated()][0]!r} is there twice, so genes of several panels cannot be matched: "
            "adata.var_names_make_unique()."
        )
    sections = source.column(how.library_key, _keys.SECTION)
    technologies = source.column(how.technology_key, _keys.TECHNOLOGY)
    if sections is None:
        sections = np.full(n_cells, None, dtype=object)
    found = []
    for value in pd.unique(sections):
        kinds = [None] if technologies is None else list(pd.unique(technologies[sections == value]))
        if len(kinds) > 1:
            raise ValueError(
                f"{'It' if value is None else f'The section {value!r}'} has cells of {len(kinds)} technologies, "
                f"{kinds[0]!r} and {kinds[1]!r}: a section is measured with one. Name the column of "
                "sections: library_key=..."
            )
        found.append(Found(value, kinds[0]))
    return found


def read_section(source: Source, value: str | None, how: Reading) -> Shard:
    """Read one section of a source, and make what a shard holds of it.

    Raises
    ------
    ValueError, KeyError, TypeError
        If there are no counts, a value is none, coordinates are missing or no numbers, an edge leaves the section, or
        there are too few cells for a graph.
    """
    genes, cells = source.genes(), source.cells()
    rows = None
    if value is not None:
        sections = source.column(how.library_key, _keys.SECTION)
        rows = np.flatnonzero(np.asarray(sections) == value)
        if not len(rows):
            raise ValueError(f"There are no cells of the section {value!r} any more. Make the collection anew.")
        if len(rows) == len(cells):
            rows = None
        else:
            cells = cells[rows]
    places = _coordinates(source, how, rows, cells)
    counts = _counts(source, how, rows, cells, genes)
    arrays = {**pack_counts(counts), **_graph(source, how, rows, cells, places)}
    arrays |= {"coordinates": places, **pack_names(cells)}
    if rows is not None:
        arrays["rows"] = rows
    return Shard({**arrays, **_moments(counts, list(genes))}, len(genes))


def _coordinates(source: Source, how: Reading, rows: np.ndarray | None, cells: np.ndarray) -> np.ndarray:
    stored = source.matrix("obsm", how.spatial_key)
    if stored is None:
        there = ", ".join(map(repr, source.keys("obsm"))) or "nothing"
        where = f"obsm[{how.spatial_key!r}]; obsm holds {there}"
        raise KeyError(f"There are no coordinates {where}. Name them: spatial_key=...")
    places = array_of(stored)
    _check_length(len(places), source, f"obsm[{how.spatial_key!r}]")
    places = check_coordinates(places if rows is None else places[rows], list(cells))
    if len(places) > 1 and (places == places[0]).all():
        raise ValueError(
            f"All {len(places):,} cells are at one place, {places[0].tolist()}, by obsm[{how.spatial_key!r}]. Name "
            "their coordinates: spatial_key=..."
        )
    return places


def _counts(
    source: Source, how: Reading, rows: np.ndarray | None, cells: np.ndarray, genes: np.ndarray
) -> sparse.csr_array:
    """Read counts some cells at a time, checked, and in small types from the start."""
    check = CountCheck(
        list(cells), list(genes), lambda kind: usual_advice(NAN) if kind == NAN else source.advice(how.layer)
    )
    data, indices, lengths, fraction = [], [], [], False
    small = np.uint16 if len(genes) <= np.iinfo(np.uint16).max + 1 else np.int32
    counts = source.counts(how.layer)
    _check_length(counts.shape[0], source, how.layer or "X")
    for start, chunk in _row_chunks(counts, rows):
        if chunk.indices.size and not 0 <= chunk.indices.min() <= chunk.indices.max() < len(genes):
            raise ValueError(
                f"{how.layer or 'X'} has a count of the gene {chunk.indices.max():,}, and there are {len(genes):,}. "
                "Copy the file anew, or leave it out."
            )
        check.see(chunk, start)
        data.append(small_counts(chunk.data))
        fraction = fraction or bool((chunk.data != np.rint(chunk.data)).any())
        indices.append(chunk.indices.astype(small))
        lengths.append(np.diff(chunk.indptr))
    if fraction and how.layer is None:
        raise ValueError(f"The values of X are no raw counts: some are fractions. {source.advice(None)}")
    check.tell()
    values = np.concatenate(data)
    if not values.size:
        raise ValueError(f"There are no counts: all values of {how.layer or 'X'} are 0. {source.advice(how.layer)}")
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])
    values = values.astype(np.float32, copy=False) if fraction else values
    if indptr[-1] <= np.iinfo(np.int32).max:
        indptr = indptr.astype(np.int32)
    found = sparse.csr_array((values, np.concatenate(indices).astype(np.int32), indptr), shape=(len(cells), len(genes)))
    found.has_canonical_format = True  # as iter_rows gives it
    return found


def _check_length(n_rows: int, source: Source, what: str) -> None:
    """Refuse an array of the cells that is of more or fewer of them."""
    if n_rows != source.n_cells():
        raise ValueError(f"{what} has {n_rows:,} rows, and there are {source.n_cells():,} cells. Write the file anew.")


def _row_chunks(counts: Any, rows: np.ndarray | None) -> Iterator[tuple[int, sparse.csr_array]]:
    """Yield some rows of a matrix at a time; of scattered ones all between the first and the last are read."""
    if getattr(counts, "format", "csr") != "csr":
        counts = sparse.csr_array(in_memory(counts))  # columns after columns: rows cannot be read by themselves
    if rows is None:
        yield from iter_rows(counts, _ROWS)
        return
    seen = 0
    for (start, stop), own in _ranges(rows):
        chunk = as_csr(counts[start:stop])
        yield seen, chunk if len(own) == stop - start else chunk[own]
        seen += len(own)


def _ranges(rows: np.ndarray) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Yield ranges of rows to read, and which rows of each are wanted."""
    last = int(rows[-1]) + 1
    for start in range(int(rows[0]), last, _ROWS):
        stop = min(start + _ROWS, last)
        own = rows[np.searchsorted(rows, start) : np.searchsorted(rows, stop)] - start
        if len(own):
            yield (start, stop), own


def _graph(
    source: Source, how: Reading, rows: np.ndarray | None, cells: np.ndarray, places: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the graph of a section as arrays of a shard: the one that is there, else nearest neighbors."""
    stored = {part: _square(source, how, part, rows, cells) for part in ("connectivities", "distances")}
    connectivities, distances = stored["connectivities"], stored["distances"]
    if how.rebuild_graph or (connectivities is None and distances is None):
        connectivities, distances = _nearest(places, how.n_neighbors), None
    edges = None if connectivities is None else edges_of(connectivities)
    if edges is None:
        indptr, indices = ordered_neighbors(None, distances, places)
        return {"graph_indptr": indptr, "graph_indices": indices}
    indptr, indices = ordered_neighbors(edges, None, places)
    found = {"graph_indptr": indptr, "graph_indices": indices}
    if distances is not None:
        near_indptr, near = ordered_neighbors(None, distances, places)
        if not (np.array_equal(indptr, near_indptr) and np.array_equal(indices, near)):
            found |= {"near_indptr": near_indptr, "near_indices": near}
    return found


def _square(
    source: Source, how: Reading, part: str, rows: np.ndarray | None, cells: np.ndarray
) -> sparse.csr_matrix | None:
    """Return a matrix of the graph, of one section."""
    key = f"{how.neighbors_key}_{part}"
    stored = None if how.rebuild_graph else source.matrix("obsp", key)
    if stored is None:
        return None
    if rows is None:
        whole = sparse_of(stored)
        if whole.shape[0] != len(cells):
            raise ValueError(f"obsp[{key!r}] has the shape {whole.shape}, and there are {len(cells):,} cells.")
        return whole
    chunks = [sparse_of(stored[slice(*ends)])[own] for ends, own in _ranges(rows)]  # with the zeros of distances
    taken = sparse.csr_matrix(sparse.vstack(chunks, format="csr"))
    place = np.full(stored.shape[0], -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    columns = place[taken.indices]
    if (columns < 0).any():
        sections = source.column(how.library_key, _keys.SECTION)
        row = np.repeat(rows, np.diff(taken.indptr))
        call = graph_call(how.n_neighbors, how.library_key or _keys.SECTION, key_added=how.neighbors_key)
        refuse_across(row, taken.indices, np.asarray(sections), list(source.cells()), f"obsp[{key!r}]", call)
    return sparse.csr_matrix((taken.data, columns, taken.indptr), shape=(len(rows), len(rows)))


def _nearest(places: np.ndarray, n_neighbors: int) -> sparse.csr_matrix:
    """Return the graph of nearest neighbors, the same as squidpy's."""
    n_cells = len(places)
    if n_cells <= n_neighbors:
        raise ValueError(
            f"The section has {n_cells} cells, too few for {n_neighbors} neighbors each. Leave it out, or take fewer: "
            f"n_neighbors={max(1, n_cells - 1)}."
        )
    _, neighbors, _ = next(iter(nearest_places(places, np.zeros(n_cells, dtype=np.int64), n_neighbors)))
    starts = np.arange(0, neighbors.size + 1, n_neighbors)
    ones = np.ones(neighbors.size, dtype=np.float32)
    return sparse.csr_matrix((ones, neighbors.ravel().astype(np.int32), starts), shape=(n_cells, n_cells))


def _moments(counts: sparse.csr_array, genes: Sequence[str]) -> dict[str, np.ndarray]:
    """Return what the linear method needs, as arrays of a shard."""
    columns = linear_columns(genes)
    features = Features(counts, TARGET_SUM)
    found = SectionMoments.of(features if len(columns) == len(genes) else features.narrowed(columns))
    arrays = {"moment_columns": columns.astype(np.int32), "moment_total": found.total, "moment_square": found.square}
    return arrays if found.product is None else {**arrays, "moment_product": found.product}


def linear_columns(genes: Sequence[str]) -> np.ndarray:
    """Return the genes that the linear method reads: without control probes and antibodies, unless all are such."""
    columns = np.flatnonzero(np.isin(kinds_of(genes).astype(str), TRANSCRIPTS))
    return columns if len(columns) else np.arange(len(genes))
