"""Which cells a step sees and which are held out: all of it derived from (seed, epoch, batch, rank).

Nothing here has a state that a checkpoint would have to carry: a resumed run asks for the same batch and gets it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scjepa._core.neighbors import spatial_blocks

ORDER, MASK, MONITOR, DROPOUT = range(4)
"""What a derived seed is for: two purposes never share a stream."""


def derive_seed(seed: int, purpose: int, *position: int) -> int:
    """Return a 63-bit seed for ``purpose`` at ``position``, independent of every other position's."""
    state = np.random.SeedSequence([seed, purpose, *position]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def generator(device: torch.device | str, seed: int, purpose: int, *position: int) -> torch.Generator:
    """Return a torch generator on ``device`` for ``purpose`` at ``position``."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, purpose, *position))


class BatchSchedule:
    """The cells of every batch of every epoch.

    Each epoch is a permutation of the cells cut into batches. A last batch that is not full is dropped (its cells come
    in other epochs), because batch statistics of a handful of cells are noise. Several processes share a batch, each an
    equal part of it, so that what they train together is what one process trains on batches as large.

    Parameters
    ----------
    cells
        ``(n,)`` cells to draw from.
    batch_size
        Cells of a batch in one process.
    seed
        Seed of the permutations.
    world_size
        Processes that share a batch.
    groups
        ``(n,)`` codes, such as each cell's section: a batch then holds cells of one group only, and a group smaller
        than a batch is a batch of its own. Default: batches mix all cells.
    chunks, n_chunks
        ``(n,)`` codes of what is read from disk at once, and how many of them are in memory at one time: an epoch is
        then a permutation of the chunks, and within each ``n_chunks`` of them one of their cells. Default: all cells
        are at hand.

    Raises
    ------
    ValueError
        If there are no cells, or no group has a cell for each process; or cells in chunks are grouped.
    """

    def __init__(
        self,
        cells: np.ndarray,
        batch_size: int,
        seed: int,
        world_size: int = 1,
        groups: np.ndarray | None = None,
        chunks: np.ndarray | None = None,
        n_chunks: int = 1,
    ):
        if not len(cells):
            raise ValueError("There are no cells to train on.")
        self.cells = torch.from_numpy(np.array(cells, dtype=np.int64))
        self.seed = seed
        self.world_size = world_size
        self.batch_size = min(batch_size, max(1, len(self.cells) // world_size))
        if chunks is not None and groups is not None:
            raise ValueError(
                "batches='section' draws a batch from all cells of a section, and cells that stay on disk are read by "
                "chunks. Pass training={'batches': 'mixed'}."
            )
        self._chunks = None if chunks is None else torch.from_numpy(np.unique(chunks, return_inverse=True)[1])
        self._n_chunks = n_chunks
        codes = np.zeros(len(cells), dtype=np.int64) if groups is None else np.unique(groups, return_inverse=True)[1]
        self._groups = torch.from_numpy(codes)
        self._epoch: tuple[int, list[Tensor]] | None = None
        self._n_batches = len(self._cut(torch.arange(len(cells))))
        if not self._n_batches:
            raise ValueError(
                f"{len(cells)} cells to train on, of {codes.max() + 1} sections, are too few for {world_size} devices. "
                "Pass devices=1."
            )

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self._n_batches

    def _cut(self, order: Tensor) -> list[Tensor]:
        """Cut cells in this order into batches of one group each, which the processes can share equally."""
        order = order[torch.argsort(self._groups[order], stable=True)]
        size, batches = self.batch_size * self.world_size, []
        for group in order.split(torch.bincount(self._groups).tolist()):
            kept = max(1, len(group) // size) * size if len(group) >= size else len(group)
            batches += group[: kept - kept % self.world_size].split(size)
        return [batch for batch in batches if len(batch)]

    def _permuted(self, rng: torch.Generator) -> Tensor:
        """Return the cells in random order; those in chunks that are in memory together stay together."""
        order = torch.randperm(len(self.cells), generator=rng)
        if self._chunks is None:
            return order
        place = torch.randperm(int(self._chunks.max()) + 1, generator=rng)
        return order[torch.argsort(place[self._chunks[order]] // self._n_chunks, stable=True)]

    def batch(self, epoch: int, index: int, rank: int = 0) -> Tensor:
        """Return the ``(batch_size,)`` int64 cells of batch ``index`` of ``epoch`` in process ``rank``."""
        if not 0 <= index < len(self):
            raise IndexError(f"An epoch has {len(self)} batches; batch {index} was asked for.")
        if self._epoch is None or self._epoch[0] != epoch:
            rng = generator("cpu", self.seed, ORDER, epoch)
            batches = self._cut(self._permuted(rng))
            if self._chunks is None:
                batches = [batches[place] for place in torch.randperm(len(batches), generator=rng).tolist()]
            self._epoch = (epoch, batches)
        return self.cells[self._epoch[1][index].chunk(self.world_size)[rank]]


def hold_out(
    coordinates: np.ndarray, sections: np.ndarray | None, size: float, by: str = "block", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Split cells into training and held-out cells by whole spatial blocks or whole sections.

    A random split of cells would leak: a held-out cell's neighbors would be index cells of training.

    Parameters
    ----------
    coordinates, sections
        As in :func:`spatial_blocks`.
    size
        Share of cells to hold out; 0 holds out none.
    by
        ``"block"``: compact blocks of about 2% of the cells. ``"section"``: whole sections, at least one.
    seed
        Which blocks or sections.

    Returns
    -------
    tuple
        Sorted training cells and sorted held-out cells.

    Raises
    ------
    ValueError
        If ``by`` is not known, or sections are asked for where there is one only.
    """
    n_cells = len(coordinates)
    if by not in ("block", "section"):
        raise ValueError(f"Validation is by 'block' or by 'section', found {by!r}.")
    if size == 0:
        return np.arange(n_cells), np.empty(0, dtype=np.int64)
    if by == "section":
        units = np.zeros(n_cells, dtype=np.int64) if sections is None else np.asarray(sections)
        if len(np.unique(units)) < 2:
            raise ValueError(
                "Validation by section needs two sections or more; the data has one. "
                "Use validation='block', or name the sections with setup_anndata(adata, library_key=...)."
            )
    else:
        units = spatial_blocks(coordinates, sections, max(1, n_cells // 50))
    outside = held_out_groups(units, size, seed)
    return np.flatnonzero(~outside), np.flatnonzero(outside)


def held_out_groups(groups: np.ndarray, size: float, seed: int) -> np.ndarray:
    """Return ``(n_cells,)`` bool: the cells of groups drawn until they hold ``size`` of all cells; never all groups."""
    names, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(derive_seed(seed, ORDER)).permutation(len(names))[: len(names) - 1]
    held = order[: 1 + int(np.searchsorted(np.cumsum(sizes[order]), size * len(groups)))]
    return np.isin(groups, names[held])
