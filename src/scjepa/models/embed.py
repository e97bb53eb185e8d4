"""Embedding all cells of a source: chunk by chunk, in batches of similar length, into an array or a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from scjepa._core import progress
from scjepa._core.counts import CountMatrix, iter_rows
from scjepa._core.files import digest
from scjepa.models.estimate import AUTO, check_memory, embedding_bytes, token_budget
from scjepa.nn import JEPAModule
from scjepa.tokens.source import BatchT, TableSource

if TYPE_CHECKING:
    from tqdm import tqdm

CHUNK = 8192
"""Consecutive cells that are sorted by length and embedded together; what a killed run has to do again, at most."""

Out = np.ndarray | str | Path | None
"""Where embeddings are written: a new array, one of the user's, or a file."""


def embed_each(
    own: AnnData,
    adata: AnnData | Sequence[AnnData] | Mapping[str, AnnData] | None,
    out: Out,
    embed_one: Callable[[AnnData | None, Out], np.ndarray],
    key_added: str | None,
) -> np.ndarray | list[np.ndarray] | dict[str, np.ndarray]:
    """Return the embeddings of one AnnData object, or of each of several: a list, or by name.

    Parameters
    ----------
    own
        The model's own data, which ``None`` stands for.
    embed_one
        Gives the embeddings of one object, written to where is said.
    key_added
        Key of ``obsm`` under which they are put there, too.
    """

    def one(each: AnnData | None, to: Out) -> np.ndarray:
        embedding = embed_one(each, to)
        if key_added is not None:
            (own if each is None else each).obsm[key_added] = embedding
        return embedding

    if not isinstance(adata, Mapping | Sequence) or isinstance(adata, str):
        return one(adata, out)
    if out is not None:
        raise ValueError("out takes the result of one AnnData object; embed them one by one.")
    if isinstance(adata, Mapping):
        return {name: one(each, None) for name, each in adata.items()}
    return [one(each, None) for each in adata]


def check_batch_size(batch_size: int | str) -> None:
    """Refuse what is neither ``"auto"`` nor a positive whole number."""
    whole = isinstance(batch_size, int | np.integer) and not isinstance(batch_size, bool) and batch_size > 0
    if not whole and batch_size != AUTO:
        raise ValueError(f"batch_size must be 'auto' or a positive number of cells, found {batch_size!r}.")


def batches(
    source: TableSource[BatchT], cells: np.ndarray, batch_size: int | str, budget: int
) -> Iterator[tuple[np.ndarray, BatchT]]:
    """Yield cells and their batches; similar lengths together, so that little is padded.

    Parameters
    ----------
    cells
        ``(n,)`` int64 cells.
    batch_size
        Cells of a batch at most, or ``"auto"``.
    budget
        Tokens of an automatic batch at most, unless one cell alone has more.
    """
    lengths = source.sequence_lengths(torch.from_numpy(cells).to(source.table_device)).cpu().numpy()
    order = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    start = 0
    while start < len(order):
        if batch_size == AUTO:
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + budget, side="right")))
        else:
            stop = start + int(batch_size)
        taken = cells[order[start:stop]]
        yield taken, source.batch(torch.from_numpy(taken))
        start = stop


def chunks(
    source: TableSource[BatchT],
    module: JEPAModule,
    batch_size: int | str,
    first: int = 0,
    progress_bar: bool | None = None,
) -> Iterator[tuple[int, Iterator[tuple[np.ndarray, BatchT]]]]:
    """Yield for each chunk of cells from ``first`` on where it ends, and its cells and batches; a bar counts them."""
    budget = token_budget(module.config.encoder, source.device)
    step = CHUNK if source.reading is None else min(CHUNK, source.reading.n_cells)
    with progress.progress_bar(source.n_cells, "Embedding", "cells", asked=progress_bar, initial=first) as bar:
        for start in range(first, source.n_cells, step):
            stop = min(start + step, source.n_cells)
            yield stop, _counted(batches(source, np.arange(start, stop), batch_size, budget), bar)


def _counted(found: Iterator[tuple[np.ndarray, BatchT]], bar: tqdm) -> Iterator[tuple[np.ndarray, BatchT]]:
    """Yield batches, and count their cells once they are done."""
    for cells, batch in found:
        yield cells, batch
        bar.update(len(cells))


@torch.inference_mode()
def embed(
    module: JEPAModule,
    source: TableSource[BatchT],
    out: np.ndarray,
    embed_batch: Callable[[BatchT], Tensor],
    *,
    batch_size: int | str = AUTO,
    first: int = 0,
    after_chunk: Callable[[int], None] | None = None,
) -> None:
    """Write the embeddings of all cells from ``first`` on to ``out``.

    Parameters
    ----------
    out
        ``(n_cells, width)`` float32.
    embed_batch
        Gives the vectors of the sequences of a batch, ``(B, width)``.
    batch_size
        Cells at a time, or ``"auto"``: as many as memory allows.
    first
        Cells before this one are done already.
    after_chunk
        Called with the number of cells that are done, after each chunk of them.
    """
    for stop, chunk in chunks(source, module, batch_size, first):
        for cells, batch in chunk:
            out[cells] = embed_batch(batch).cpu().numpy()
        if after_chunk is not None:
            after_chunk(stop)


def embed_to(
    out: Out,
    module: JEPAModule,
    source: TableSource[BatchT],
    *,
    scale: str,
    encoder: str,
    batch_size: int | str,
    embed_batch: Callable[[BatchT], Tensor] | None = None,
) -> np.ndarray:
    """Return the embeddings of all cells of ``source``: in a new array, in ``out``, or in the file of that name.

    Parameters
    ----------
    scale, encoder
        How cells are embedded; a file is of one such way.
    embed_batch
        As in :func:`embed`. Default: what ``module`` gives at that scale.

    Raises
    ------
    ValueError, TypeError
        If ``out`` cannot be used, or memory will not do.
    FileExistsError
        If there is a file at ``out`` from another model or other data.
    """
    shape = (source.n_cells, module.config.encoder.width)
    check_embedding_memory(module, source, batch_size, 0 if out is not None else 4 * shape[0] * shape[1])
    pooled = embed_batch or (lambda batch: module.embed(batch, encoder, scale))
    if isinstance(out, str | Path):
        file = LatentFile(out, shape, fingerprint(module, encoder, source, scale))
        if file.done < source.n_cells:
            embed(module, source, file.array, pooled, batch_size=batch_size, first=file.done, after_chunk=file.keep)
        return file.finish()
    embedding = np.empty(shape, dtype=np.float32) if out is None else check_array(out, *shape)
    embed(module, source, embedding, pooled, batch_size=batch_size)
    return embedding


def check_embedding_memory(module: JEPAModule, source: TableSource, batch_size: int | str, result_bytes: int) -> None:
    """Refuse what memory will not hold: a large result, or a large batch."""
    what = f"The result, {source.n_cells:,} cells × {module.config.encoder.width},"
    then = "Let it be written to a file: get_latent_representation(out='latent.npy')."
    check_memory(result_bytes, torch.device("cpu"), what, then)
    what, then = f"Embedding with batch_size={batch_size!r}", "Lower it, or pass batch_size='auto'."
    check_memory(embedding_bytes(module, source, batch_size), source.device, what, then)


def why_empty(empty: np.ndarray, names: Sequence[str], counts: CountMatrix, without: str) -> str:
    """Return why cells have no token: no counts at all, or none of a gene that could be one.

    Parameters
    ----------
    empty
        ``(n_cells,)`` bool, true for at least one cell.
    names
        Of all cells.
    counts
        Raw counts of all cells and genes.
    without
        What the cells of the second kind lack, and the next call.
    """
    counted = np.concatenate([np.diff(rows.indptr) > 0 for _, rows in iter_rows(counts)])
    kinds = (
        (empty & ~counted, "have no counts at all: sc.pp.filter_cells(adata, min_counts=1) drops them."),
        (empty & counted, f"have counts, but {without}"),
    )
    return " ".join(
        f"{cells.sum():,} of them, first {names[int(cells.argmax())]!r}, {text}" for cells, text in kinds if cells.any()
    )


# -- files ----------------------------------------------------------------------------------------------------------

_NO_MATTER = ("attention", "dropout")
"""Options of encoders that embeddings do not depend on."""


def fingerprint(module: JEPAModule, encoder: str, source: TableSource, scale: str) -> dict[str, str]:
    """Return what embeddings depend on: the encoder's weights and options, the tables and the scale.

    Options, for encoders of as many heads or of another code of ranks have weights of the same shapes, which begin the
    same.
    """
    state = module.encoder(encoder).state_dict()
    weights = (part for name, w in state.items() for part in (name, w.cpu().numpy()))
    options = {name: value for name, value in asdict(module.config.encoder).items() if name not in _NO_MATTER}
    return {"weights": digest(*weights), "options": digest(options), "data": digest(*source.arrays()), "scale": scale}


def check_array(out: object, n_cells: int, width: int) -> np.ndarray:
    """Return ``out`` if embeddings can be written to it as it is.

    Raises
    ------
    TypeError, ValueError
        If it is no array, or its shape or type is not that of the embeddings, or it cannot be written to.
    """
    wanted = f"Pass np.empty(({n_cells}, {width}), dtype=np.float32), or the path of a .npy file."
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, a memory map or the path of a .npy file, found {type(out)}.")
    if out.shape != (n_cells, width) or out.dtype != np.float32:
        raise ValueError(f"out has the shape {out.shape} and dtype {out.dtype}. {wanted}")
    if not out.flags.writeable:
        raise ValueError(f"out cannot be written to (a memory map opened with mode 'r'?). {wanted}")
    return out


class LatentFile:
    """A ``.npy`` file of embeddings, resumed where a killed run left it.

    While it is being written it is called ``<name>.part``; ``<name>.json`` beside it holds what it is made from and how
    many cells are done, and stays when the file is finished, so that the same call finds it done.

    Parameters
    ----------
    path
        The file, ending in ``.npy``.
    shape
        ``(n_cells, width)``.
    made_from
        Fingerprint of model and data.

    Raises
    ------
    ValueError
        If the path does not end in ``.npy``.
    FileExistsError
        If there is a file, finished or not, that was made from another model or other data; nothing is replaced.
    """

    def __init__(self, path: str | Path, shape: tuple[int, int], made_from: dict[str, str]):
        self.path = Path(path)
        if self.path.suffix != ".npy":
            raise ValueError(f"out must be the path of a .npy file, found {str(self.path)!r}.")
        self._part = self.path.with_name(f"{self.path.name}.part")
        self._note = self.path.with_name(f"{self.path.name}.json")
        self._made_from = {**made_from, "shape": list(shape)}
        self.done = self._read_note()
        if self.path.exists():
            self.done = shape[0]
        elif self.done and self._part.is_file():
            self.array = np.lib.format.open_memmap(self._part, mode="r+")
        else:
            self.done = 0
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.array = np.lib.format.open_memmap(self._part, mode="w+", dtype=np.float32, shape=shape)
            self._write_note(0)

    def _read_note(self) -> int:
        """Return how many cells are done, after checking that what is there is of this model and data."""
        there = [path for path in (self.path, self._part) if path.exists()]
        if not there:
            return 0
        try:
            note = json.loads(self._note.read_text())
            made_from, done = note["made_from"], int(note["done"])
        except (OSError, ValueError, KeyError, TypeError):
            made_from, done = {}, 0
        if made_from != self._made_from:
            differs = [name for name, value in self._made_from.items() if made_from.get(name) != value]
            raise FileExistsError(
                f"{there[0]} exists and was not made by this call: {', '.join(differs)} differ. "
                f"Name another file, or delete {self.path.name}, {self._part.name} and {self._note.name}."
            )
        return done

    def _write_note(self, done: int) -> None:
        draft = self._note.with_name(f".{self._note.name}.{os.getpid()}")
        draft.write_text(json.dumps({"made_from": self._made_from, "done": done}, indent=1))
        draft.replace(self._note)

    def keep(self, done: int) -> None:
        """Put what has been written on disk, then note that ``done`` cells are."""
        self.array.flush()
        self._write_note(done)

    def finish(self) -> np.ndarray:
        """Give the file its name and return it, mapped into memory for reading."""
        if not self.path.exists():
            del self.array
            self._part.replace(self.path)
        return np.load(self.path, mmap_mode="r")
