"""How well batches mix in an embedding (iLISI, maximum mean discrepancy), and what stays near in another one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core.arrays import canonical_order, group_codes, varied_embedding
from scjepa._core.keys import UNLABELLED
from scjepa._core.neighbors import nearest
from scjepa._core.plain import whole
from scjepa.metrics.clustering import _labelled

if TYPE_CHECKING:
    from scib_metrics.nearest_neighbors import NeighborsResults

    from scjepa._core.arrays import Ignored, Labels, Matrix


_FEWEST_CELLS = 10
"""Cells below which a label says nothing about mixing (the bound that scib-metrics sets for kBET)."""


def ilisi(
    embedding: Matrix,
    batches: Labels,
    *,
    labels: Labels | None = None,
    n_neighbors: int = 90,
    ignore: Ignored = UNLABELLED,
) -> float:
    """Return how well batches mix among nearest neighbors: iLISI of scib-metrics, scaled to [0, 1].

    A cell's LISI is the inverse Simpson index of its neighbors' batches, each neighbor weighted by a Gaussian kernel
    whose width gives the perplexity ``n_neighbors // 3``. iLISI is the median over cells, less 1, over the number of
    batches less 1. Perfectly mixed batches of unequal size stay below 1.

    With ``labels``, the cells of each label are taken by themselves (their neighbors among themselves, scaled by the
    batches that have the label), and the mean over labels is weighted by their numbers of cells: integration within
    a niche, which is not had by throwing all niches together.

    Parameters
    ----------
    embedding
        Array of shape (n_cells, n_dims).
    batches
        Section, technology or other batch of each cell, length n_cells.
    labels
        Known label of each cell, length n_cells; ``None``: across labels, over all cells.
    n_neighbors
        Neighbors of each cell, itself included; at most all cells (of the label) are used.
    ignore
        Labels that mean "no label". Cells with these labels or NaN are left out when ``labels`` is given, and so are
        labels of one batch or of fewer than 10 cells.

    Returns
    -------
    float
        0 (no cell has a neighbor of another batch) to 1 (all batches equally near).

    Raises
    ------
    ValueError
        If the embedding has NaN or is constant, lengths differ, a cell has no batch, there is one batch, there are
        fewer than 10 cells, or no label has two batches.
    """
    embedding = varied_embedding(embedding)
    codes, _ = _batches(batches, len(embedding), "iLISI")
    n_neighbors = whole("n_neighbors", n_neighbors, least=_FEWEST_CELLS)
    groups = [np.arange(len(embedding))]
    if labels is not None:
        of_label, kept = _labelled(labels, ignore, len(embedding))
        groups = [np.flatnonzero((of_label == code) & kept) for code in np.unique(of_label[kept])]
    groups = [cells for cells in groups if len(cells) >= _FEWEST_CELLS and len(np.unique(codes[cells])) > 1]
    if not groups:
        what = f"There are fewer than {_FEWEST_CELLS} cells" if labels is None else "No label has 10 cells of 2 batches"
        raise ValueError(f"{what}, so there is no mixing to measure.")
    medians = np.array([np.nanmedian(lisi) for lisi in _lisi(embedding, codes, groups, n_neighbors)])
    scores = (medians - 1) / [len(np.unique(codes[cells])) - 1 for cells in groups]
    return float(np.average(scores, weights=[len(cells) for cells in groups]))


def _batches(batches: Labels, n_cells: int, score: str) -> tuple[np.ndarray, list[Any]]:
    """Return the batch of each cell as a code, and the names of the two or more batches."""
    codes, names = group_codes(batches, n_cells, "batches")
    if len(names) < 2:
        raise ValueError(f"{score} needs two batches or more; all {n_cells} cells are of batch {names[0]!r}.")
    return codes, names


def as_scib(indices: np.ndarray, distances: np.ndarray) -> NeighborsResults:
    """Return neighbors as scib-metrics takes them."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    return NeighborsResults(indices=indices.astype(np.int64), distances=distances.astype(np.float32))


def _lisi(embedding: np.ndarray, batches: np.ndarray, groups: list[np.ndarray], n_neighbors: int) -> list[np.ndarray]:
    """Return the LISI of the cells of each group, neighbors searched within the group.

    Groups with equally many neighbors share a call, for jax compiles anew for every shape.
    """
    from scib_metrics import lisi_knn

    sizes = np.array([min(n_neighbors, len(cells)) for cells in groups])
    lisi: list[np.ndarray] = [np.empty(0)] * len(groups)
    for size in np.unique(sizes):
        chosen = np.flatnonzero(sizes == size)
        parts = [nearest(embedding[groups[i]], int(size)) for i in chosen]
        starts = np.r_[0, np.cumsum([len(groups[i]) for i in chosen])]
        indices = np.vstack([part[0] + start for part, start in zip(parts, starts[:-1], strict=True)])
        distances = np.vstack([part[1] for part in parts])
        cells = np.concatenate([groups[i] for i in chosen])
        found = lisi_knn(as_scib(indices, distances), batches[cells])
        for i, values in zip(chosen, np.split(np.asarray(found), starts[1:-1]), strict=True):
            lisi[i] = values
    return lisi


def mmd(
    embedding: Matrix,
    batches: Labels,
    *,
    bandwidths: Sequence[float] = (0.25, 0.5, 1, 2, 4),
    n_cells: int = 2000,
    seed: int = 0,
) -> float:
    """Return the squared maximum mean discrepancy between batches with a Gaussian kernel, the mean over pairs.

    For cells x of one batch and y of another, MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y), each mean over pairs of
    different cells (the unbiased estimate). The kernel k is the mean over ``bandwidths`` b of
    exp(-d² / (2 (b m)²)), with m the median distance between all pairs of cells of the two batches.

    Parameters
    ----------
    embedding
        Array of shape (n_cells, n_dims).
    batches
        Technology or section of each cell, length n_cells.
    bandwidths
        Widths of the kernels as shares of the median distance. The score does not depend on the embedding's scale.
    n_cells
        Cells of each batch, drawn without replacement where it has more; a pair takes memory for a matrix of
        (2 ``n_cells``)² numbers.
    seed
        Seed of the draw, which does not depend on the order of the cells.

    Returns
    -------
    float
        About 0 (below it by chance) where batches lie alike; less than 2.

    Raises
    ------
    ValueError
        If the embedding has NaN or is constant, a cell has no batch, there is one batch, a batch has one cell, most
        cells of a pair are at one point, or a bandwidth is not positive.
    """
    embedding = varied_embedding(embedding).astype(np.float64)
    codes, names = _batches(batches, len(embedding), "MMD")
    if len(bandwidths) == 0 or not all(width > 0 for width in bandwidths):
        raise ValueError(f"bandwidths must be positive, found {bandwidths}.")
    n_cells = whole("n_cells", n_cells, least=2)
    few = [name for name, size in zip(names, np.bincount(codes), strict=True) if size < 2]
    if few:
        raise ValueError(f"Batch {few[0]!r} has a single cell: MMD needs two of each. Leave it out.")
    samples = []
    for code in range(len(names)):
        points = embedding[codes == code]
        points = points[canonical_order(points)]
        if len(points) > n_cells:
            points = points[np.random.default_rng([seed, code]).choice(len(points), n_cells, replace=False)]
        samples.append(points)
    pairs = combinations(range(len(names)), 2)
    return float(np.mean([_mmd(samples[i], samples[j], bandwidths, (names[i], names[j])) for i, j in pairs]))


def _mmd(x: np.ndarray, y: np.ndarray, bandwidths: Sequence[float], names: tuple[object, object]) -> float:
    from scipy.spatial.distance import pdist, squareform

    distances = pdist(np.vstack([x, y]))
    median = np.median(distances)
    if median == 0:
        raise ValueError(f"Most cells of {names[0]!r} and {names[1]!r} have the same embedding: there is no scale.")
    kernel = np.mean([np.exp(-np.square(distances / (width * median)) / 2) for width in bandwidths], axis=0)
    square = squareform(kernel, checks=False)  # 0 on the diagonal: a cell is no pair with itself
    n, m = len(x), len(y)
    within_x, within_y = square[:n, :n].sum() / (n * (n - 1)), square[n:, n:].sum() / (m * (m - 1))
    return within_x + within_y - 2 * square[:n, n:].mean()


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
