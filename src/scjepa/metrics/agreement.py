"""How much of what is near what survives, from one embedding of the same cells to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scjepa._core.arrays import varied_embedding
from scjepa._core.neighbors import nearest

if TYPE_CHECKING:
    from scjepa._core.arrays import Matrix


def neighbor_agreement(embedding: Matrix, other: Matrix, *, n_neighbors: int = 15) -> float:
    """Return the share of nearest neighbors that two embeddings of the same cells have in common.

    Parameters
    ----------
    embedding, other
        Arrays of shape (n_cells, n_dims) and (n_cells, n_other_dims), cells in one order, such as of cells and of the
        same cells after :func:`scjepa.datasets.thin_counts`.
    n_neighbors
        Neighbors of each cell (Euclidean, the cell itself left out), fewer than there are cells.

    Returns
    -------
    float
        Mean over cells of the number of common neighbors over ``n_neighbors``, in [0, 1]. Unrelated embeddings have
        about ``n_neighbors`` / (n_cells - 1).

    Raises
    ------
    ValueError
        If an embedding has NaN or is constant, the numbers of cells differ, or there are too few cells.
    """
    first = varied_embedding(embedding, what="the embedding")
    second = varied_embedding(other, len(first), what="the other embedding")
    if not 1 <= n_neighbors < len(first):
        raise ValueError(f"n_neighbors must lie in [1, {len(first) - 1}] for {len(first)} cells, found {n_neighbors}.")
    near, again = (nearest(values, n_neighbors + 1)[0][:, 1:] for values in (first, second))
    n = len(first)
    pairs, others = (np.sort((np.arange(n)[:, None] * n + indices).ravel()) for indices in (near, again))
    return float(np.intersect1d(pairs, others, assume_unique=True).size / pairs.size)
