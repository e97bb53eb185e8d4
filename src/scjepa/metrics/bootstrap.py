"""Whether a difference between two methods holds on other tissue: a paired bootstrap over spatial blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scjepa._core.arrays import tissue
from scjepa._core.keys import UNLABELLED
from scjepa._core.neighbors import spatial_blocks
from scjepa.metrics.clustering import _labelled, _paired

if TYPE_CHECKING:
    from scjepa._core.arrays import Ignored, Labels, Matrix

_ENTRIES_AT_ONCE = 2_000_000
"""Entries of the resampled tables that are scored at once (16 MB an array)."""


@dataclass(frozen=True)
class BlockBootstrap:
    """Difference of two methods' mean scores with its interval.

    Attributes
    ----------
    difference
        Mean score of ``a`` less that of ``b``, on the cells as they are.
    lower, upper
        Percentile interval of the resampled difference.
    share_above
        Share of resamples in which ``a`` is above ``b``.
    score_a, score_b
        Mean scores on the cells as they are.
    n_cells, n_blocks
        Labelled cells, and blocks they were cut into.
    resampled
        The difference in each resample, shape (n_bootstrap,). Means of these over independent data sets give the
        interval of the mean difference.
    """

    difference: float
    lower: float
    upper: float
    share_above: float
    score_a: float
    score_b: float
    n_cells: int
    n_blocks: int
    resampled: np.ndarray


def block_bootstrap(
    labels: Labels,
    clusterings_a: Any,
    clusterings_b: Any,
    coordinates: Matrix,
    sections: Labels | None = None,
    *,
    score: Literal["nmi", "ari"] = "nmi",
    n_bootstrap: int = 1000,
    n_blocks: int = 50,
    level: float = 0.95,
    seed: int = 0,
    ignore: Ignored = UNLABELLED,
) -> BlockBootstrap:
    """Resample spatial blocks to tell how sure the difference between two methods' scores is.

    Neighboring cells are not independent, so blocks of tissue are drawn with replacement, not cells. Each resample is
    the same for both methods (paired): every clustering is scored on the drawn cells, and the difference of the two
    means is kept. Clusterings are those of all cells; they are not made anew in a resample. What is estimated is
    hence the variation over tissue. Variation over model seeds is in the mean over clusterings only.

    Parameters
    ----------
    labels
        Known label of each cell, length n_cells.
    clusterings_a, clusterings_b
        Clusterings of the same cells by each method (seeds × resolutions): a sequence of arrays of length n_cells, an
        array of shape (n_clusterings, n_cells), a data frame with one clustering in each column, or one clustering.
        The methods may have different numbers.
    coordinates
        Array of shape (n_cells, 2 or 3), any unit.
    sections
        Section of each cell; ``None``: one section. No block crosses sections.
    score
        ``"nmi"`` (:func:`nmi`) or ``"ari"`` (:func:`ari`).
    n_bootstrap
        Resamples.
    n_blocks
        Blocks to cut the labelled cells into; halving gives this many to twice as many.
    level
        Share of the resamples inside the interval.
    seed
        Seed of the resamples.
    ignore
        Labels that mean "no label". Cells with these labels or NaN are left out.

    Returns
    -------
    BlockBootstrap
        ``difference``, ``lower``, ``upper``, ``share_above``, ``score_a``, ``score_b``, ``n_cells``, ``n_blocks``,
        ``resampled``.

    Raises
    ------
    ValueError
        If ``score`` or ``level`` is none of these, lengths differ, no cell has a label, a labelled cell has no
        cluster, a method has no clustering, coordinates have NaN, or the cells make a single block.
    """
    if score not in _SCORES:
        raise ValueError(f"score must be 'nmi' or 'ari', found {score!r}.")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, found {level}.")
    if n_bootstrap < 1 or n_blocks < 2:
        raise ValueError(f"n_bootstrap must be 1 or more and n_blocks 2 or more, found {n_bootstrap} and {n_blocks}.")
    places, codes = tissue(coordinates, sections, len(labels))
    _, kept = _labelled(labels, ignore)
    blocks = spatial_blocks(places[kept], codes[kept], -(-int(kept.sum()) // n_blocks))
    found = int(blocks.max()) + 1
    if found < 2:
        raise ValueError(f"{kept.sum()} labelled cells make one block; there is nothing to resample.")
    drawn = np.random.default_rng(seed).multinomial(found, np.full(found, 1 / found), size=n_bootstrap)
    weights = np.vstack([np.ones(found), drawn])  # the first row: the cells as they are
    a, b = (
        np.mean([_scores(table, weights, _SCORES[score]) for table in _tables(labels, given, blocks, ignore, name)], 0)
        for name, given in (("clusterings_a", clusterings_a), ("clusterings_b", clusterings_b))
    )
    resampled = (a - b)[1:]
    lower, upper = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return BlockBootstrap(
        difference=float(a[0] - b[0]),
        lower=float(lower),
        upper=float(upper),
        share_above=float((resampled > 0).mean()),
        score_a=float(a[0]),
        score_b=float(b[0]),
        n_cells=int(kept.sum()),
        n_blocks=found,
        resampled=resampled,
    )


def _tables(labels: Labels, given: Any, blocks: np.ndarray, ignore: Ignored, name: str) -> Iterator[np.ndarray]:
    """Yield for each clustering the number of cells by block, label and cluster, shape (blocks, labels, clusters)."""
    clusterings = [given[column] for column in given.columns] if hasattr(given, "columns") else given
    if len(clusterings) == 0:
        raise ValueError(f"{name} is empty: give at least one clustering.")
    if not hasattr(given, "columns") and np.ndim(next(iter(clusterings))) == 0:
        clusterings = [clusterings]
    for clusters in clusterings:
        rows, columns = (np.unique(codes, return_inverse=True)[1] for codes in _paired(labels, clusters, ignore))
        shape = (blocks.max() + 1, rows.max() + 1, columns.max() + 1)
        flat = np.ravel_multi_index((blocks, rows, columns), shape)
        yield np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape).astype(np.float64)


def _scores(table: np.ndarray, weights: np.ndarray, score: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Score the weighted sums of a clustering's tables, one for each row of weights."""
    flat = table.reshape(len(table), -1)
    step = max(1, _ENTRIES_AT_ONCE // flat.shape[1])
    parts = [weights[i : i + step] @ flat for i in range(0, len(weights), step)]
    return np.concatenate([score(part.reshape(-1, *table.shape[1:])) for part in parts])


def _nmi(tables: np.ndarray) -> np.ndarray:
    """Return the NMI of each table of counts by label and cluster, shape (n, labels, clusters)."""
    from scipy.special import entr

    shares = tables / tables.sum(axis=(1, 2), keepdims=True)
    of_labels = entr(shares.sum(axis=2)).sum(axis=1)
    of_clusters = entr(shares.sum(axis=1)).sum(axis=1)
    both = of_labels + of_clusters
    mutual = np.maximum(both - entr(shares).sum(axis=(1, 2)), 0)
    # One label and one cluster are the same partition, as scikit-learn has it.
    return np.divide(2 * mutual, both, out=np.ones_like(both), where=both > 0)


def _ari(tables: np.ndarray) -> np.ndarray:
    """Return the ARI of each table of counts by label and cluster, shape (n, labels, clusters)."""
    pairs, of_labels, of_clusters, every = (
        (counts * (counts - 1)).reshape(len(tables), -1).sum(axis=1) / 2
        for counts in (tables, tables.sum(axis=2), tables.sum(axis=1), tables.sum(axis=(1, 2)))
    )
    chance = np.divide(of_labels * of_clusters, every, out=np.zeros_like(every), where=every > 0)
    most = (of_labels + of_clusters) / 2
    # All in one group, or each cell a group of its own, on both sides: the same partition.
    same = most == chance
    return np.where(same, 1.0, (pairs - chance) / np.where(same, 1.0, most - chance))


_SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"nmi": _nmi, "ari": _ari}
