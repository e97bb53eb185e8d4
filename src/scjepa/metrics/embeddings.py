"""Scores of embeddings: how well batches mix, what stays near in another one, AvgBIO and the suite of scib-metrics."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scjepa._core.anndata import as_embedding
from scjepa._core.arrays import canonical_order, group_codes, varied_embedding
from scjepa._core.html import as_html
from scjepa._core.keys import UNLABELLED
from scjepa._core.neighbors import nearest
from scjepa._core.plain import whole
from scjepa.metrics.clustering import _labelled, clustering_scores

if TYPE_CHECKING:
    from scib_metrics.nearest_neighbors import NeighborsResults

    from scjepa._core.arrays import Ignored, Labels, Matrix


_FEWEST_CELLS = 10
"""Cells below which a label says nothing about mixing (the bound that scib-metrics sets for kBET)."""

RESOLUTIONS = tuple(round(0.1 * step, 1) for step in range(1, 21))
"""Leiden's resolutions among which AvgBIO takes the best."""


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


# -- AvgBIO and the suite of scib-metrics ------------------------------------------------------------------------------


@dataclass(frozen=True)
class AverageBio:
    """AvgBIO and its parts.

    Attributes
    ----------
    avg_bio
        Mean of ``nmi``, ``ari`` and ``asw_scaled``.
    avg_bio_unscaled
        Mean of ``nmi``, ``ari`` and ``asw``.
    nmi, ari
        At the resolution of the best NMI. It is chosen with the labels, so these are upper bounds.
    asw
        Mean silhouette width of the labels, in [-1, 1].
    asw_scaled
        (``asw`` + 1) / 2, in [0, 1], as scib gives it.
    resolution
        Leiden's resolution of the best NMI (the lowest of equals).
    n_clusters
        Clusters at that resolution.
    """

    avg_bio: float
    avg_bio_unscaled: float
    nmi: float
    ari: float
    asw: float
    asw_scaled: float
    resolution: float
    n_clusters: int

    _repr_html_ = as_html


def average_bio(
    embedding: Matrix,
    labels: Labels,
    *,
    resolutions: Sequence[float] = RESOLUTIONS,
    n_neighbors: int = 15,
    seed: int = 0,
    ignore: Ignored = UNLABELLED,
) -> AverageBio:
    """Return AvgBIO: the mean of NMI, ARI and silhouette width against known cell types.

    Parameters
    ----------
    embedding
        Array of shape (n_cells, n_dims).
    labels
        Known label of each cell.
    resolutions
        Leiden's resolutions; NMI and ARI are those of the resolution with the best NMI.
    n_neighbors
        Neighbors of each cell in the graph, itself included.
    seed
        Seed of Leiden.
    ignore
        Labels that mean "no label". Cells with these labels or NaN are left out altogether.

    Returns
    -------
    AverageBio
        ``avg_bio`` (silhouette width in [0, 1]), ``avg_bio_unscaled`` (in [-1, 1]) and the parts.

    Raises
    ------
    ValueError
        If the embedding has NaN or is constant, lengths differ, there is one label, or every cell has its own.
    """
    from sklearn.metrics import silhouette_score

    values, codes, _ = _labelled_cells(embedding, labels, ignore)
    scores = clustering_scores(
        values, codes, resolutions=resolutions, n_neighbors=n_neighbors, seeds=(seed,), matched=False, ignore=()
    )
    best = scores.loc[scores["nmi"].idxmax()]
    asw = float(silhouette_score(values, codes))
    nmi, ari = float(best["nmi"]), float(best["ari"])
    asw_scaled = (asw + 1) / 2
    means = (nmi + ari + asw_scaled) / 3, (nmi + ari + asw) / 3
    return AverageBio(*means, nmi, ari, asw, asw_scaled, float(best["resolution"]), int(best["n_clusters"]))


def scib_suite(
    embedding: Matrix,
    batches: Labels,
    labels: Labels,
    *,
    uncorrected: Matrix | None = None,
    ignore: Ignored = UNLABELLED,
) -> pd.Series:
    """Return the scores of scib-metrics for bio conservation and batch correction, as its ``Benchmarker`` sets them.

    Neighbors are exact up to 50,000 cells (15 for graph connectivity, 50 for kBET, 90 for LISI, the cell included).
    Within kBET scib-metrics searches once more, approximately and without a seed: its score differs a little from call
    to call, and the first call of a session takes most of a minute to compile.

    Parameters
    ----------
    embedding
        Array of shape (n_cells, n_dims).
    batches
        Batch of each cell.
    labels
        Known label of each cell.
    uncorrected
        Embedding of the same cells without correction, such as PCA of log counts, shape (n_cells, n_dims): what the
        comparison of principal component regression is made to. ``None``: ``pcr_comparison`` is NaN.
    ignore
        Labels that mean "no label". Cells with these labels or NaN are left out.

    Returns
    -------
    pandas.Series
        All in [0, 1], higher is better. Bio conservation: ``isolated_labels``, ``nmi_kmeans``, ``ari_kmeans``,
        ``silhouette_label``, ``clisi``. Batch correction: ``bras``, ``ilisi``, ``kbet``, ``graph_connectivity``,
        ``pcr_comparison``. Then ``bio`` and ``batch`` (their means, NaN left out) and ``total`` (0.6 bio + 0.4 batch).
        Totals with and without ``uncorrected`` are not comparable.

    Raises
    ------
    ValueError
        If an embedding has NaN or is constant, lengths differ, a cell has no batch, or there is one batch or one
        label.
    """
    import scib_metrics as scib

    of_batch, batch_names = group_codes(batches, len(labels), "batches")
    values, codes, kept = _labelled_cells(embedding, labels, ignore)
    of_batch = np.unique(of_batch[kept], return_inverse=True)[1]
    if of_batch.max() == 0:
        raise ValueError(
            f"The labelled cells are of one batch (batches there: {batch_names}); integration needs two. "
            "For one batch use scjepa.metrics.average_bio."
        )
    before = None
    if uncorrected is not None:
        before = varied_embedding(uncorrected, len(kept), "the uncorrected embedding")[kept].astype(np.float32)
    values = values.astype(np.float32)
    indices, distances = nearest(values, min(90, len(values)))
    near = {n: as_scib(indices[:, :n], distances[:, :n]) for n in (15, 50, 90)}
    kmeans = scib.nmi_ari_cluster_labels_kmeans(values, codes)
    bio = {
        "isolated_labels": scib.isolated_labels(values, codes, of_batch),
        "nmi_kmeans": kmeans["nmi"],
        "ari_kmeans": kmeans["ari"],
        "silhouette_label": scib.silhouette_label(values, codes),
        "clisi": scib.clisi_knn(near[90], codes),
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "PCR comparison score is negative")  # it is set to 0, as documented there
        warnings.filterwarnings("ignore", "Mean of empty slice")  # no label is large enough for kBET: NaN
        batch = {
            "bras": scib.bras(values, codes, of_batch),
            "ilisi": scib.ilisi_knn(near[90], of_batch),
            "kbet": scib.kbet_per_label(near[50], of_batch, codes),
            "graph_connectivity": scib.graph_connectivity(near[15], codes),
            "pcr_comparison": np.nan
            if before is None
            else scib.pcr_comparison(before, values, of_batch, categorical=True),
        }
    row = pd.Series({**bio, **batch}, dtype=float)
    row["bio"], row["batch"] = row[list(bio)].mean(), row[list(batch)].mean()
    row["total"] = 0.6 * row["bio"] + 0.4 * row["batch"]
    return row


def _labelled_cells(embedding: Matrix, labels: Labels, ignore: Ignored) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return embedding and label codes of the labelled cells, and which these are.

    Fewer than two labels, or as many as cells, raise.
    """
    values = as_embedding(embedding)
    _, kept = _labelled(labels, ignore, len(values))
    codes, names = group_codes(np.asarray(labels, dtype=object)[kept], int(kept.sum()), "labels")
    if not 2 <= len(names) < len(codes):
        raise ValueError(
            f"The {len(codes)} labelled cells have {len(names)} labels; a silhouette needs two or more, and fewer "
            "than there are cells."
        )
    return varied_embedding(values[kept]), codes, kept
