"""Scores of single-cell embeddings: AvgBIO and the suite of scib-metrics."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scjepa._core.anndata import as_embedding
from scjepa._core.arrays import group_codes, varied_embedding
from scjepa._core.html import as_html
from scjepa._core.keys import UNLABELLED
from scjepa._core.neighbors import nearest
from scjepa.metrics.clustering import _labelled, clustering_scores
from scjepa.metrics.integration import as_scib

if TYPE_CHECKING:
    from scjepa._core.arrays import Ignored, Labels, Matrix

RESOLUTIONS = tuple(round(0.1 * step, 1) for step in range(1, 21))
"""Leiden's resolutions among which AvgBIO takes the best."""


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
