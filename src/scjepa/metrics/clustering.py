"""Scores of clusters: agreement with labels, how sure a difference is, and how far niches hang together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import pandas as pd
from scipy.special import entr

from scjepa._core.anndata import refuse_adata, warn_of_words
from scjepa._core.arrays import group_codes, tissue
from scjepa._core.checks import between, one_of
from scjepa._core.html import as_html
from scjepa._core.keys import UNLABELLED
from scjepa._core.leiden import EmbeddingGraph
from scjepa._core.neighbors import nearest_places, spatial_blocks
from scjepa._core.plain import whole

if TYPE_CHECKING:
    from scjepa._core.arrays import Ignored, Labels, Matrix

_ENTRIES_AT_ONCE = 2_000_000
"""Entries of the resampled tables that are scored at once (16 MB an array)."""


_Row: TypeAlias = "dict[str, object]"
"""Of a table of scores."""

Clusterings: TypeAlias = "Sequence[Labels] | Labels | pd.DataFrame"
"""One clustering of the cells, or several: a sequence or rows of an array of them, or the columns of a data frame."""


WEIGHTED = "weighted"
"""Group of means over groups, weighted by labelled cells."""


def _labelled(labels: Labels, ignore: Ignored, n_cells: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return int codes of the labels and which cells have one; ``n_cells`` are those of the embedding."""
    if n_cells is not None and len(labels) != n_cells:
        raise ValueError(f"The embedding has {n_cells} cells, labels {len(labels)}.")
    values = pd.Series(np.asarray(labels, dtype=object))
    ignored = [ignore] if isinstance(ignore, str) else list(ignore)
    kept = ~(values.isna() | values.isin(ignored)).to_numpy()
    if not kept.any():
        raise ValueError(f"None of the {len(values)} cells has a label (NaN and {ignored} do not count as labels).")
    warn_of_words(values[kept], "label")
    return pd.factorize(values)[0], kept


def _same_order(labels: Labels, clusters: Labels) -> None:
    """Raise if two Series hold the same cells in another order, for they are paired by position."""
    if not (isinstance(labels, pd.Series) and isinstance(clusters, pd.Series)):
        return
    cells, others = labels.index, clusters.index
    if not cells.equals(others) and cells.is_unique and cells.isin(others).all():
        raise ValueError("labels and clusters hold the same cells in another order; use clusters.loc[labels.index].")


def _paired(labels: Labels, clusters: Labels, ignore: Ignored) -> tuple[np.ndarray, np.ndarray]:
    """Return int codes of labels and clusters of the labelled cells."""
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
    of the labelled cells. Give embeddings of several sections, and their controls, the same
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
        If the lengths differ, no cell has a label, a cell has no group, the embedding has NaN, a group is called
        ``"weighted"`` next to the weighted mean, or there are no groups to take it over.

    Examples
    --------
    >>> scores = clustering_scores(adata.obsm["X_stjepa"], adata.obs["region"], seeds=range(3))
    >>> scores.groupby("matched")[["nmi", "ari"]].mean()
    """
    if weighted and groups is None:
        raise ValueError("weighted=True is a mean over groups, and there are none: groups=adata.obs['technology'].")
    codes, kept = _labelled(labels, ignore, len(embedding))
    n_labels = len(np.unique(codes[kept]))
    scored: list[tuple[_Row, np.ndarray]] = [({}, kept)] if groups is None else _labelled_of_groups(groups, kept)
    if weighted and any(group.get("group") == WEIGHTED for group, _ in scored):
        raise ValueError("A group is called 'weighted', which is the name of the mean's rows. Rename it.")
    graph = EmbeddingGraph(embedding, n_neighbors)
    rows: list[_Row] = []
    for seed in seeds:
        partitions = [(False, graph.leiden(resolution, seed)) for resolution in resolutions]
        if matched:
            partitions.append((True, graph.match(n_labels, seed, min_share)))
        for is_match, found in partitions:
            how = {"matched": is_match, "resolution": float(found.resolution), "seed": seed}
            some: list[_Row] = []
            for group, cells in scored:
                pair = codes[cells], found.labels[cells]
                scores = {"nmi": nmi(*pair, ignore=()), "ari": ari(*pair, ignore=())}
                some.append({**group, **how, "n_clusters": found.n_clusters, **scores})
            rows += [*some, _weighted(some)] if weighted else some
    columns = ["matched", "resolution", "seed", "n_clusters", "nmi", "ari"]
    return pd.DataFrame(rows, columns=[*scored[0][0], *columns])


def _weighted(rows: list[_Row]) -> _Row:
    """Return the mean of the groups of one clustering, weighted by cells."""
    table = pd.DataFrame(rows)
    means = {score: float(np.average(table[score], weights=table["n_cells"])) for score in ("nmi", "ari")}
    return {**rows[0], "group": WEIGHTED, "n_cells": int(table["n_cells"].sum()), **means}


def _labelled_of_groups(groups: Labels, kept: np.ndarray) -> list[tuple[_Row, np.ndarray]]:
    """Return name and size of each group that has labelled cells, and which cells these are."""
    codes, names = group_codes(groups, len(kept), "groups")
    members = [(name, kept & (codes == code)) for code, name in enumerate(names)]
    return [({"group": name, "n_cells": int(cells.sum())}, cells) for name, cells in members if cells.any()]


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

    _repr_html_ = as_html


def block_bootstrap(
    labels: Labels,
    clusterings_a: Clusterings,
    clusterings_b: Clusterings,
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
    scorers = {"nmi": _nmi, "ari": _ari}
    one_of(*scorers)("score", score)
    between(0, 1)("level", level)
    n_bootstrap, n_blocks = whole("n_bootstrap", n_bootstrap, least=1), whole("n_blocks", n_blocks, least=2)
    places, codes = tissue(coordinates, sections, len(labels))
    _, kept = _labelled(labels, ignore)
    n_cells = int(kept.sum())
    blocks = spatial_blocks(places[kept], codes[kept], -(-n_cells // n_blocks))
    found = int(blocks.max()) + 1
    if found < 2:
        raise ValueError(f"{n_cells} labelled cells make one block; there is nothing to resample.")
    drawn = np.random.default_rng(seed).multinomial(found, np.full(found, 1 / found), size=n_bootstrap)
    weights = np.vstack([np.ones(found), drawn])  # the first row: the cells as they are
    a, b = (
        np.mean([_scores(table, weights, scorers[score]) for table in _tables(labels, given, blocks, ignore, name)], 0)
        for name, given in (("clusterings_a", clusterings_a), ("clusterings_b", clusterings_b))
    )
    resampled = (a - b)[1:]
    lower, upper = map(float, np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2]))
    difference, above = float(a[0] - b[0]), float((resampled > 0).mean())
    return BlockBootstrap(difference, lower, upper, above, float(a[0]), float(b[0]), n_cells, found, resampled)


def _tables(labels: Labels, given: Clusterings, blocks: np.ndarray, ignore: Ignored, name: str) -> Iterator[np.ndarray]:
    """Yield for each clustering the number of cells by block, label and cluster, shape (blocks, labels, clusters)."""
    clusterings = [given[column] for column in given] if isinstance(given, pd.DataFrame) else list(given)
    if not clusterings:
        raise ValueError(f"{name} is empty: give at least one clustering.")
    for clusters in clusterings if np.ndim(clusterings[0]) else [given]:
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


@dataclass(frozen=True)
class NicheContinuity:
    """Continuity of niches in the tissue.

    Attributes
    ----------
    pas
        Percentage of abnormal spots, as a share in [0, 1]: cells whose niche differs from that of most of their
        nearest cells. Lower is smoother.
    chaos
        Mean distance to the nearest cell of the same niche, on standardized coordinates. Lower is more compact.
    like_neighbors
        Mean share of a cell's nearest cells that are of its niche, in [0, 1]. Higher is smoother.
    n_cells
        Cells scored.
    """

    pas: float
    chaos: float
    like_neighbors: float
    n_cells: int

    _repr_html_ = as_html


def niche_continuity(
    clusters: Labels, coordinates: Matrix, sections: Labels | None = None, *, n_neighbors: int = 10
) -> NicheContinuity:
    """Measure how far niches hang together: PAS, CHAOS and the share of like neighbors.

    Each is computed within each section and averaged over sections, weighted by cells. None of them knows what is
    right: a single niche has the best values of all, and so has whatever averages over wide neighborhoods. Read them
    together with NMI, never alone.

    Parameters
    ----------
    clusters
        Niche of each cell, length n_cells.
    coordinates
        Array of shape (n_cells, 2 or 3), any unit.
    sections
        Section of each cell; ``None``: one section.
    n_neighbors
        Nearest cells to look at, itself not among them; at most all others of the section.

    Returns
    -------
    NicheContinuity
        ``pas``: share of cells whose niche differs from that of more than half of their ``n_neighbors`` nearest cells
        (6 or more of 10). ``chaos``: for each cell, the distance to the nearest cell of the same niche in the section,
        each axis z-scored over the section (an axis without variation is left as it is); a niche's only cell in a
        section has none and is left out; NaN where no cell has one. ``like_neighbors``: mean share of the
        ``n_neighbors`` nearest cells that are of the cell's niche. ``n_cells``: cells of sections with more than one
        cell.

    Raises
    ------
    ValueError
        If lengths differ, a cell has no niche or no section, coordinates have NaN, ``n_neighbors`` is not positive, or
        every section has a single cell.
    """
    codes, _ = group_codes(clusters, len(clusters), "clusters")
    places, of_section = tissue(coordinates, sections, len(codes))
    n_neighbors = whole("n_neighbors", n_neighbors, least=1)
    like, apart = np.full((2, len(codes)), np.nan)
    for cells, neighbors, _ in nearest_places(places, of_section, n_neighbors):
        like[cells] = (codes[neighbors] == codes[cells][:, None]).mean(axis=1)
        spread = places[cells].std(axis=0)
        scaled = (places[cells] - places[cells].mean(axis=0)) / np.where(spread > 0, spread, 1)
        for members, _, distances in nearest_places(scaled, codes[cells], 1):
            apart[cells[members]] = distances[:, 0]
    scored = ~np.isnan(like)
    if not scored.any():
        raise ValueError("Every section has a single cell, so no cell has a neighbor.")
    found = apart[~np.isnan(apart)]
    return NicheContinuity(
        pas=float((like[scored] < 0.5).mean()),
        chaos=float(found.mean()) if len(found) else float("nan"),
        like_neighbors=float(like[scored].mean()),
        n_cells=int(scored.sum()),
    )
