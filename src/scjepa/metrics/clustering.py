"""Agreement of clusters with labels: NMI, ARI, and the evaluation of an embedding by Leiden clusters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core.anndata import refuse_adata, warn_of_words
from scjepa._core.arrays import group_codes
from scjepa._core.keys import UNLABELLED
from scjepa._core.leiden import EmbeddingGraph

if TYPE_CHECKING:
    import pandas as pd

    from scjepa._core.arrays import Ignored, Labels, Matrix

WEIGHTED = "weighted"
"""Group of means over groups, weighted by labelled cells."""


def _labelled(labels: Labels, ignore: Ignored) -> tuple[np.ndarray, np.ndarray]:
    """Return int codes of the labels (in sorted order) and which cells have one."""
    import pandas as pd

    values = pd.Series(np.asarray(labels, dtype=object))
    ignored = [ignore] if isinstance(ignore, str) else list(ignore)
    kept = ~(values.isna() | values.isin(ignored)).to_numpy()
    if not kept.any():
        raise ValueError(f"None of the {len(values)} cells has a label (NaN and {ignored} do not count as labels).")
    warn_of_words(values[kept], "label")
    return pd.factorize(values)[0], kept


def _same_order(labels: Labels, clusters: Labels) -> None:
    """Raise if two Series hold the same cells in another order, for they are paired by position."""
    import pandas as pd

    if not (isinstance(labels, pd.Series) and isinstance(clusters, pd.Series)):
        return
    cells, others = labels.index, clusters.index
    if not cells.equals(others) and cells.is_unique and cells.isin(others).all():
        raise ValueError("labels and clusters hold the same cells in another order; use clusters.loc[labels.index].")


def _paired(labels: Labels, clusters: Labels, ignore: Ignored) -> tuple[np.ndarray, np.ndarray]:
    """Return int codes of labels and clusters of the labelled cells."""
    import pandas as pd

    refuse_adata(labels, "labels")
    refuse_adata(clusters, "clusters")
    if len(labels) != len(clusters):
        raise ValueError(f"labels has {len(labels)} cells, clusters {len(clusters)}: give one of each for every cell.")
    _same_order(labels, clusters)
    codes, kept = _labelled(labels, ignore)
    found = pd.factorize(np.asarray(clusters, dtype=object))[0]
    missing = np.flatnonzero((found < 0) & kept)
    if len(missing):
        raise ValueError(f"{len(missing)} labelled cells have no cluster (NaN); the first is row {missing[0]}.")
    return codes[kept], found[kept]


def nmi(labels: Labels, clusters: Labels, *, ignore: Ignored = UNLABELLED) -> float:
    """Return the normalized mutual information of clusters with labels (arithmetic mean of the entropies).

    Parameters
    ----------
    labels
        Known label of each cell: array, list, Series or categorical of length n_cells.
    clusters
        Cluster of each cell, in the same order.
    ignore
        Labels that mean "no label". Cells with these labels or NaN are left out.

    Returns
    -------
    float
        0 (independent) to 1 (the same partition).

    Raises
    ------
    ValueError
        If the lengths differ, no cell has a label, a labelled cell has no cluster, or two Series hold the same cells
        in another order.
    """
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(*_paired(labels, clusters, ignore), average_method="arithmetic"))


def ari(labels: Labels, clusters: Labels, *, ignore: Ignored = UNLABELLED) -> float:
    """Return the adjusted Rand index of clusters with labels.

    Parameters and errors are those of :func:`nmi`.

    Returns
    -------
    float
        1 for the same partition, about 0 for independent ones, negative below chance.
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_paired(labels, clusters, ignore)))


def clustering_scores(
    embedding: Matrix,
    labels: Labels,
    *,
    resolutions: Sequence[float] = (0.6, 0.8, 1.0, 1.2, 1.4),
    n_neighbors: int = 15,
    seeds: Sequence[int] = (0,),
    matched: bool = True,
    min_share: float = 0.01,
    groups: Labels | None = None,
    weighted: bool = False,
    ignore: Ignored = UNLABELLED,
) -> pd.DataFrame:
    """Score an embedding by how well its Leiden clusters agree with labels, as the paper evaluates.

    The graph of nearest neighbors is built once on all cells; Leiden runs at each resolution, and at the resolution
    that gives as many clusters as there are labels (the search of :func:`scjepa.tl.niches`). NMI and ARI are those
    of the labelled cells. Give embeddings of several sections, and the controls beside them, the same
    :func:`scjepa.tl.standardize` first.

    Parameters
    ----------
    embedding
        Array of shape (n_cells, n_dims).
    labels
        Known label of each cell, length n_cells.
    resolutions
        Leiden's resolutions.
    n_neighbors
        Neighbors of each cell in the graph, itself included.
    seeds
        Seeds of Leiden; one set of rows for each. The graph is the same for all.
    matched
        Also cluster at the number of labels.
    min_share
        At the number of labels, clusters of a smaller share of the cells do not count, and their cells join the
        cluster of their nearest cell: a few cells that are nearest to each other alone are split off first, and would
        use up the number. 0: every cluster counts.
    groups
        Group of each cell, such as its technology: all cells are clustered together, and each group's cells are
        scored by themselves. ``None``: all labelled cells are scored as one.
    weighted
        With ``groups``: also give the mean over groups weighted by their labelled cells (the paper's weighted NMI and
        ARI), in rows of a group ``"weighted"``.
    ignore
        Labels that mean "no label"; cells with them or NaN are clustered and not scored.

    Returns
    -------
    pandas.DataFrame
        One row for each seed and resolution: ``matched`` (bool: the row of the matched number of clusters),
        ``resolution`` (used), ``seed``, ``n_clusters`` (among all cells), ``nmi``, ``ari``. The paper's figure for a
        seed is the mean of the rows that are not matched. With ``groups``, one row for each group that has labelled
        cells, and two more columns: ``group`` and ``n_cells`` (labelled). A spread over resolutions is no spread over
        seeds: group the rows by one and take means over the other first.

    Raises
    ------
    ValueError
        If the lengths differ, no cell has a label, a cell has no group, the embedding has NaN, or a group is called
        ``"weighted"`` beside the weighted mean.

    Examples
    --------
    >>> scores = clustering_scores(adata.obsm["X_stjepa"], adata.obs["region"], seeds=range(3))
    >>> scores.groupby("matched")[["nmi", "ari"]].mean()
    """
    import pandas as pd

    if len(embedding) != len(labels):
        raise ValueError(f"The embedding has {len(embedding)} cells, labels {len(labels)}.")
    codes, kept = _labelled(labels, ignore)
    n_labels = len(np.unique(codes[kept]))
    scored = [({}, kept)] if groups is None else _labelled_of_groups(groups, kept)
    graph = EmbeddingGraph(embedding, n_neighbors)
    rows = []
    for seed in seeds:
        partitions = [(False, graph.leiden(resolution, seed)) for resolution in resolutions]
        if matched:
            partitions.append((True, graph.match(n_labels, seed, min_share)))
        rows += [
            {
                **group,
                "matched": is_match,
                "resolution": float(found.resolution),
                "seed": seed,
                "n_clusters": found.n_clusters,
                "nmi": nmi(codes[cells], found.labels[cells], ignore=()),
                "ari": ari(codes[cells], found.labels[cells], ignore=()),
            }
            for is_match, found in partitions
            for group, cells in scored
        ]
    if weighted:
        if any(group.get("group") == WEIGHTED for group, _ in scored):
            raise ValueError("A group is called 'weighted', which is the name of the mean's rows. Rename it.")
        rows = [row for some in _runs(rows, len(scored)) for row in (*some, _weighted(some))]
    columns = ["matched", "resolution", "seed", "n_clusters", "nmi", "ari"]
    return pd.DataFrame(rows, columns=[*scored[0][0], *columns])


def _runs(rows: Sequence[dict[str, Any]], size: int) -> Iterator[Sequence[dict[str, Any]]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _weighted(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of the groups of one clustering, weighted by cells."""
    cells = [row["n_cells"] for row in rows]
    means = {score: float(np.average([row[score] for row in rows], weights=cells)) for score in ("nmi", "ari")}
    return {**rows[0], "group": WEIGHTED, "n_cells": sum(cells), **means}


def _labelled_of_groups(groups: Labels, kept: np.ndarray) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Return name and size of each group that has labelled cells, and which cells these are."""
    codes, names = group_codes(groups, len(kept), "groups")
    members = [(name, kept & (codes == code)) for code, name in enumerate(names)]
    return [({"group": name, "n_cells": int(cells.sum())}, cells) for name, cells in members if cells.any()]
