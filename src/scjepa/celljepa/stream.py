"""Cells that stay on disk: stores of counts that are read in chunks of consecutive cells, and tokens made by batch.

What a collection of annbatch is (a zarr group of AnnData stores with the same genes), this reads; annbatch itself is
asked where a collection is to be made. Its loader decides which cells a batch has. Here the schedule of training does,
from the seed alone, so that a run can be resumed exactly and several processes share a batch: it shuffles as annbatch
does, chunks first and then the cells of the chunks that are in memory at one time.
"""

from __future__ import annotations

import itertools
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import anndata as ad
import numpy as np
import pandas as pd
import torch
from natsort import natsorted
from pandas.api.types import union_categoricals
from scipy import sparse
from torch import Tensor

from scjepa._core.counts import CHUNK_SIZE, as_csr, iter_rows
from scjepa._core.files import digest
from scjepa.celljepa.data import CellTables, binned, build_count_table, only
from scjepa.celljepa.source import CellBatch, CellSource
from scjepa.tokens.source import ChunkReading, move_batch
from scjepa.tokens.table import TokenTable

_MONITORED_CHUNKS, _MONITORED = 16, 512
"""Chunks that held-out cells are read from, and cells of them, at most: a reading is not to read the whole corpus."""


class Corpus:
    """Counts in several stores on disk, one below the other, read by chunks of consecutive cells.

    Parameters
    ----------
    matrices
        Sparse or dense matrices on disk, cells × genes; all have the same genes.
    marks
        What tells each store from others: path, size and time of change.
    chunk_size
        Cells read at once.
    n_chunks
        Chunks whose cells are shuffled together; twice as many stay in memory.
    """

    def __init__(self, matrices: Sequence[Any], marks: Sequence[str], chunk_size: int, n_chunks: int):
        self._matrices, self.marks = list(matrices), list(marks)
        self.chunk_size, self.n_chunks = chunk_size, n_chunks
        ends = np.cumsum([0, *(matrix.shape[0] for matrix in self._matrices)])
        starts = [np.arange(first, last, chunk_size) for first, last in itertools.pairwise(ends)]
        self._store = np.repeat(np.arange(len(starts)), [len(part) for part in starts])
        self._first, self._starts = ends, np.concatenate([*starts, ends[-1:]])
        self._read: OrderedDict[int, sparse.csr_array] = OrderedDict()
        self.n_read = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return int(self._first[-1]), int(self._matrices[0].shape[1])

    def chunks_of(self, cells: np.ndarray) -> np.ndarray:
        """Return the chunk of each cell."""
        return np.searchsorted(self._starts, cells, side="right") - 1

    def _chunk(self, number: int) -> sparse.csr_array:
        """Return the rows of a chunk, from memory where it was read lately."""
        if number in self._read:
            self._read.move_to_end(number)
            return self._read[number]
        store = int(self._store[number])
        start = int(self._starts[number] - self._first[store])
        stop = int(min(self._starts[number + 1], self._first[store + 1]) - self._first[store])
        while len(self._read) >= 2 * self.n_chunks:
            self._read.popitem(last=False)
        self._read[number] = as_csr(self._matrices[store][start:stop])
        self.n_read += 1
        return self._read[number]

    def rows(self, cells: np.ndarray) -> sparse.csr_array:
        """Return the counts of ``cells``, in their order."""
        chunks = self.chunks_of(cells)
        order = np.argsort(chunks, kind="stable")
        parts = [
            self._chunk(int(number))[cells[chunks == number] - int(self._starts[number])]
            for number in np.unique(chunks)
        ]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return sparse.csr_array(sparse.vstack(parts, format="csr"))[back]

    def lengths(self) -> np.ndarray:
        """Return ``(n_cells,)`` int64 counts that each cell has stored; of sparse stores no count is read for it."""
        parts = []
        for matrix in self._matrices:
            if hasattr(matrix, "group"):
                parts.append(np.diff(matrix.group["indptr"][...]))
            else:
                parts += [np.diff(rows.indptr) for _, rows in iter_rows(matrix, CHUNK_SIZE)]
        return np.concatenate(parts).astype(np.int64)


_CORPORA: dict[int, tuple[weakref.ref[ad.AnnData], Corpus]] = {}
"""Corpora by the identity of the AnnData objects made of them, for as long as each lives."""


def note(adata: ad.AnnData, corpus: Corpus) -> None:
    """Remember the corpus of an AnnData object."""
    mark = id(adata)
    _CORPORA[mark] = (weakref.ref(adata, lambda _: _CORPORA.pop(mark, None)), corpus)


def corpus_of(adata: ad.AnnData) -> Corpus | None:
    """Return the corpus that an AnnData object was made of, if it was; a copy of the object was not."""
    entry = _CORPORA.get(id(adata))
    return None if entry is None or entry[0]() is not adata else entry[1]


# -- opening stores ---------------------------------------------------------------------------------------------------


def stores_of(path: str | Path) -> list[tuple[str, Any]]:
    """Return the AnnData stores at a path by name: of an ``.h5ad`` file or a zarr store one, of a collection all.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    ValueError
        If no AnnData is there.
    """
    import h5py
    import zarr

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}. Pass the path of a collection, a zarr store or an .h5ad file.")
    if path.is_file():
        return [(str(path), h5py.File(path, "r"))]
    group = zarr.open_group(str(path), mode="r")
    if _is_anndata(group):
        return [(str(path), group)]
    files = [(str(file), h5py.File(file, "r")) for file in natsorted(path.glob("*.h5ad"), key=str)]
    groups = [(f"{path}/{name}", group[name]) for name in natsorted(group.group_keys()) if _is_anndata(group[name])]
    if not files and not groups:
        raise ValueError(f"{path} holds no AnnData: neither it nor a group in it has X, obs and var. Name another.")
    return [*groups, *files]


def _is_anndata(group: Any) -> bool:
    return {"obs", "var"} <= set(group.keys())


def _mark(name: str) -> str:
    """Return what tells a store from others of that name."""
    state = Path(name).stat()
    return f"{name} {state.st_size} {state.st_mtime_ns}"


def _matrix(store: Any, name: str, layer: str | None) -> Any:
    """Return the counts of a store, left on disk."""
    key = "X" if layer is None else f"layers/{layer}"
    if key not in store:
        there = sorted(store["layers"].keys()) if "layers" in store else []
        raise KeyError(f"{name} has no {key}. Name raw counts, layer=...; layers there: {there}.")
    element = store[key]
    if not hasattr(element, "keys"):
        return element
    if "csr" not in str(element.attrs.get("encoding-type")):
        raise ValueError(
            f"The counts of {name} are stored by genes (CSC), so that to read a cell is to read them all. Store them "
            "by cells: adata.X = adata.X.tocsr(); adata.write_zarr(path)."
        )
    return ad.io.sparse_dataset(element)


def open_corpus(
    paths: Sequence[str | Path], layer: str | None, columns: Sequence[str], chunk_size: int, n_chunks: int
) -> ad.AnnData:
    """Return an AnnData object of the cells of stores, whose counts stay on disk; its corpus is noted.

    Parameters
    ----------
    paths
        Collections, zarr stores or ``.h5ad`` files.
    layer
        Layer of the stores with raw counts, which are ``X`` of the result; ``None``: ``X``.
    columns
        Columns of ``obs`` that are read.
    chunk_size, n_chunks
        As in :class:`Corpus`.

    Raises
    ------
    FileNotFoundError, KeyError, ValueError
        If a store is not there, lacks what is named, or has other genes.
    """
    import dask.array as da

    stores = [each for path in paths for each in stores_of(path)]
    genes = pd.Index(ad.io.read_elem(stores[0][1]["var"]).index)
    matrices, frames = [], []
    for name, store in stores:
        own = pd.Index(ad.io.read_elem(store["var"]).index)
        if not own.equals(genes):
            raise ValueError(
                f"{name} has other genes than {stores[0][0]} ({len(own)} and {len(genes)}), or in another order. Make "
                "one collection of them: setup_annbatch(collection_path=..., paths=[...]), which needs annbatch."
            )
        matrices.append(_matrix(store, name, layer))
        frames.append(_obs_of(store, name, columns))
    corpus = Corpus(matrices, [_mark(name) for name, _ in stores], chunk_size, n_chunks)
    step = max(1, chunk_size * n_chunks)
    lazy = [ad.experimental.read_elem_lazy(_element(store, layer), chunks=(step, -1)) for _, store in stores]
    obs = _joined(frames, columns)
    adata = ad.AnnData(da.concatenate(lazy) if len(lazy) > 1 else lazy[0], obs=obs, var=pd.DataFrame(index=genes))
    note(adata, corpus)
    return adata


def _element(store: Any, layer: str | None) -> Any:
    return store["X" if layer is None else f"layers/{layer}"]


def _obs_of(store: Any, name: str, columns: Sequence[str]) -> pd.DataFrame:
    """Return the names of a store's cells and some of their columns."""
    group = store["obs"]
    absent = [column for column in columns if column not in group]
    if absent:
        there = sorted(key for key in group if key != group.attrs["_index"])
        raise KeyError(f"{name} has no obs[{absent[0]!r}]. Columns there: {', '.join(map(repr, there)) or 'none'}.")
    index = pd.Index(np.asarray(ad.io.read_elem(group[group.attrs["_index"]])).astype(object))
    return pd.DataFrame({column: ad.io.read_elem(group[column]) for column in columns}, index=index)


def _joined(frames: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """Return frames of cells one below the other; names that repeat get the number of their store in front."""
    index = frames[0].index.append([frame.index for frame in frames[1:]])
    if not index.is_unique:
        index = pd.Index([f"{number}-{name}" for number, frame in enumerate(frames) for name in frame.index])
    joined = {}
    for column in columns:
        parts = [frame[column].astype("category") for frame in frames]
        joined[column] = union_categoricals(parts, sort_categories=True)
    return pd.DataFrame(joined, index=index)


def make_collection(path: Path, paths: Sequence[str | Path], layer: str | None, **options: object) -> None:
    """Write a collection of AnnData files with annbatch.

    Raises
    ------
    ImportError
        If annbatch is not installed.
    """
    try:
        import zarr
        from annbatch import DatasetCollection
    except ImportError as error:
        raise ImportError(
            "To make a collection takes annbatch, which needs Python 3.12: pip install 'annbatch[zarrs]'. Files with "
            "the same genes can be read as they are: leave collection_path out."
        ) from error

    def opened(file: Any) -> ad.AnnData:
        ((name, store),) = stores_of(file)
        obs = ad.io.read_elem(store["obs"])
        _matrix(store, name, layer)
        lazy = ad.experimental.read_elem_lazy(_element(store, layer))
        return ad.AnnData(lazy, obs=obs, var=pd.DataFrame(index=ad.io.read_elem(store["var"]).index))

    with ad.settings.override(zarr_write_format=3):
        collection = DatasetCollection(zarr.open(str(path), mode="w"))
        collection.add_adatas([str(file) for file in paths], load_adata=opened, **options)


def annbatch_data(
    collection: str | Path | None,
    paths: Sequence[str | Path] | None,
    layer: str | None,
    columns: Sequence[str | None],
    sizes: tuple[int, int],
    *,
    rebuild: bool = False,
    **options: object,
) -> ad.AnnData:
    """Return the AnnData object of ``CellJEPA.setup_annbatch``, which explains the arguments."""
    if min(sizes) < 1:
        raise ValueError(f"chunk_size and preload_nchunks must be positive, found {sizes[0]} and {sizes[1]}.")
    if isinstance(paths, str | Path):
        paths = [paths]
    if collection is None and not paths:
        raise ValueError("Name what is to be read: collection_path=... or paths=[...].")
    named = [column for column in columns if column is not None]
    if collection is None:
        if options:
            raise TypeError(f"{', '.join(options)}: these are for a collection that is made; name collection_path=...")
        return open_corpus(cast(Sequence[str], paths), layer, named, *sizes)
    folder = Path(collection)
    if rebuild or not folder.exists():
        if not paths:
            raise FileNotFoundError(f"There is no collection {folder}. Pass paths=[...] of what to make it of.")
        make_collection(folder, paths, layer, **options)
        layer = None  # it has become X
    return open_corpus([folder], layer, named, *sizes)


# -- tokens by batch --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class StreamedCells:
    """The expressed genes of cells of a corpus; what a token table has of them all, made of some when asked for.

    Attributes
    ----------
    corpus
        The counts.
    gene_ids
        ``(n_genes,)`` vocabulary id of each column, -1 for those that are left out.
    n_vocabulary
        Genes in the vocabulary.
    n_bins
        Bins of values, that of zero included.
    lengths
        ``(n_cells,)`` int64 counts stored of each cell: its tokens at most.
    kept
        Vocabulary ids of the genes that may be tokens; ``None``: all.
    """

    corpus: Corpus
    gene_ids: np.ndarray
    n_vocabulary: int
    n_bins: int
    lengths: np.ndarray
    kept: np.ndarray | None = None

    @property
    def n_cells(self) -> int:
        """Cells of the corpus."""
        return len(self.lengths)

    def table(self, cells: np.ndarray) -> TokenTable:
        """Return the table of the expressed genes of ``cells``, in their order."""
        rows = self.corpus.rows(cells)
        if not rows.nnz:
            empty = np.zeros(0, dtype=np.uint16)
            offsets, n_expressed = np.zeros(len(cells) + 1, dtype=np.int64), np.zeros(len(cells), dtype=np.int32)
            return TokenTable(offsets, empty.astype(np.int32), empty, None, self.n_vocabulary, n_expressed)
        table = binned(build_count_table(rows, self.gene_ids, self.n_vocabulary), self.n_bins)
        return table if self.kept is None else only(table, self.kept)

    @property
    def mark(self) -> str:
        """What tells these cells and genes from others."""
        kept = np.zeros(0) if self.kept is None else self.kept
        return digest(self.corpus.marks, self.lengths, self.gene_ids, kept, [self.n_bins])


class StreamedSource(CellSource):
    """Batches of cells of a corpus, the same that a table of all of them would give.

    Parameters
    ----------
    cells
        The cells.
    n_tokens, kept, labels, device, n_embedded
        As in :class:`CellSource`.
    """

    _TABLES = ("_lengths", "_labels")

    def __init__(
        self,
        cells: StreamedCells,
        n_tokens: int,
        kept: str = "top",
        labels: np.ndarray | None = None,
        device: torch.device | str = "cpu",
        n_embedded: int | None = None,
    ):
        self.n_cells, self._cells, self._kept = cells.n_cells, cells, kept
        self.n_tokens = n_tokens
        self.n_embedded = n_tokens if n_embedded is None else n_embedded
        self._lengths = torch.from_numpy(cells.lengths)
        self._labels = torch.from_numpy(np.full(cells.n_cells, -1) if labels is None else np.asarray(labels, np.int64))
        corpus = cells.corpus
        self.reading = ChunkReading(corpus.chunks_of, corpus.n_chunks, corpus.n_chunks * corpus.chunk_size)
        self.to(device)

    @property
    def table_device(self) -> torch.device:
        """Where what is known of all cells is."""
        return torch.device("cpu")

    def to(self, device: torch.device | str) -> Self:
        """Give batches on ``device`` from now on."""
        self._device = torch.empty(0, device=device).device
        return self

    def cell_lengths(self, cells: Tensor | None = None) -> Tensor:
        """``(n,)`` int64 tokens of ``cells`` (default: all), at most."""
        return self._lengths if cells is None else self._lengths[cells]

    def arrays(self) -> list[np.ndarray]:
        """Return what embeddings depend on: the stores, by what tells them from others, and which genes are kept."""
        return [np.array([self._cells.mark, self._kept], dtype="U64"), np.array([self.n_embedded])]

    def batch(self, cells: Tensor, generator: torch.Generator | None = None) -> CellBatch:
        """Read the genes of ``cells``, ``(B,)`` int64, and gather them as :meth:`CellSource.batch` does."""
        cells = cells.cpu()
        labels = self._labels[cells].numpy()
        table = self._cells.table(cells.numpy())
        source = CellSource(table, self.n_tokens, self._kept, labels, "cpu", self.n_embedded)
        batch = source.batch(torch.arange(len(cells)), generator)
        return batch if self.resident else move_batch(batch, self._device)


def monitored(corpus: Corpus, held_out: np.ndarray, seed: int) -> np.ndarray:
    """Return the held-out cells that the monitor reads: of a few chunks, for each reading reads them."""
    chunks = corpus.chunks_of(held_out)
    rng = np.random.default_rng(seed)
    some = rng.permutation(np.unique(chunks))[:_MONITORED_CHUNKS]
    found = held_out[np.isin(chunks, some)]
    return np.sort(rng.permutation(found)[:_MONITORED])


def streamed(data: CellTables) -> StreamedCells | None:
    """Return the cells of tables that stay on disk; ``None`` where they are in memory."""
    tokens = cast(object, data.tokens)
    return tokens if isinstance(tokens, StreamedCells) else None
