"""How many niches can be defended: what is found again in other cells, beyond what tissue without niches would show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from scipy.sparse import csr_matrix, issparse
from scipy.special import logsumexp

from scjepa._core import keys as _keys
from scjepa._core.anndata import embedding_of, entry_of
from scjepa._core.arrays import group_codes, members, principal_components, tissue, votes
from scjepa._core.counts import log_normalized_cells
from scjepa._core.graph import sections_of
from scjepa._core.html import as_html
from scjepa._core.leiden import MIN_SHARE, EmbeddingGraph, Partition
from scjepa._core.neighbors import neighbor_search, spatial_blocks
from scjepa._core.plain import seed_of, whole

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_BLOCK = 50
"""Cells of a spatial block at most: small, so that each half of the blocks holds every niche."""

_FEWEST_BLOCKS = 6
"""Blocks without which halves cannot be compared."""

_VOTERS = 15
"""Nearest cells that carry niches from one half to the other."""

_COMPS = 20
"""Principal components in which the likelihood is computed."""

_RIDGE = 1e-3
"""Ridge of a covariance, as a share of its mean variance."""

_MARKERS, _EFFECT = 3, 0.5
"""A niche has markers where its three best genes of one half differ by half a standard deviation in the other."""

_NULLS = 2
"""Splits for which cells without clusters are drawn: they vary less than those of tissue."""

_CLEAR = 0.4
"""Excess stability from which on a number can be clear. Found on simulated tissue and V1 (``benchmarks/niches``)."""

_TIE = 0.01
"""Stability by which two numbers may differ and count as equal: then the finer one is recommended."""

_GAIN = 0.1
"""Nats by which niches must raise the likelihood of a held-out cell."""


class NicheNumber(NamedTuple):
    """What speaks for each number of niches.

    Attributes
    ----------
    table
        A row for each number, the index ``n_niches``. ``stability``: adjusted Rand index of the niches of one half of
        the tissue, carried to the other, with those found there (mean; ``stability_sd`` over splits);
        ``stability_null``: the same of cells without clusters that have the same covariance; ``excess``: what is
        beyond, as a share of what could be; ``likelihood``: nats by which niches raise the mean log-likelihood of the
        surroundings of held-out cells; ``confidence``: mean share of the votes that a carried niche gets; ``markers``:
        share of niches whose marker genes hold in the other half, NaN without counts; ``coherence``: how much oftener
        than by chance neighbors have the same niche, 0 to 1.
    recommended
        The number to take; ``None``: no number is clear.
    reason
        Why, in a sentence.
    defensible
        Numbers as stable as the best but for its spread over splits; empty where none is clear.
    """

    table: pd.DataFrame
    recommended: int | None
    reason: str
    defensible: tuple[int, ...]

    def _repr_html_(self) -> str:
        return as_html(self)


def niche_number(
    adata: AnnData,
    n_niches: Iterable[int] = range(2, 16),
    use_rep: str | None = None,
    *,
    layer: str | None = None,
    library_key: str | None = None,
    neighbors_key: str = _keys.SPATIAL,
    n_splits: int = 5,
    n_neighbors: int = 15,
    max_cells: int = 5_000,
    random_state: int = 0,
) -> NicheNumber:
    """Say which number of niches can be defended, and where none can.

    The tissue is cut into small blocks, and half of them drawn at random. Niches are found in each half by itself, as
    :func:`niches` does, and carried to the other by a vote of the nearest cells: a number is stable where both
    agree. Cells without clusters agree too, more or less by the number, so the same is done with Gaussian cells of the
    same covariance. The number recommended is the most stable one (the finest of equals), and only where
    it exceeds these, and predicts held-out cells better than no niches do. A gradient or noise has no clear number.

    It judges clusters in the read-out. Whether they are anatomy only a label, or another stain, can tell; several
    numbers may be right, coarse and fine.

    Parameters
    ----------
    adata
        Annotated data with an embedding, coordinates and squidpy's spatial graph. Nothing is written to it.
    n_niches
        Numbers to look at, each 2 or more.
    use_rep
        Key in ``adata.obsm``. Default: ``"X_stjepa_niche"`` where it is there, else ``"X_stjepa"``.
    layer
        Layer of raw counts for the markers. Default: ``X``.
    library_key
        Column of ``adata.obs`` that tells sections apart. Default: ``"section"`` if there is such a column.
    neighbors_key
        squidpy's ``key_added``.
    n_splits
        Times to draw halves, 2 or more.
    n_neighbors
        Neighbors of each cell in the graph that niches are found in, itself included.
    max_cells
        Of more cells, blocks of about as many are drawn at random.
    random_state
        Seed of everything.

    Returns
    -------
    NicheNumber
        ``table``, ``recommended``, ``reason`` and ``defensible``.

    Raises
    ------
    KeyError
        If the embedding, the coordinates, the graph or ``library_key`` is not there.
    TypeError
        If a number is not an integer.
    ValueError
        If a number is below 2 or too large, there are fewer than six blocks of 50 cells, or the embedding
        has a NaN or is the same for all cells.

    Examples
    --------
    >>> scjepa.tl.niche_readout(adata)
    >>> found = scjepa.tl.niche_number(adata, range(2, 13))
    >>> print(found.reason)
    >>> scjepa.pl.niche_number(found)
    """
    import pandas as pd

    if isinstance(n_niches, int | np.integer):
        raise TypeError(
            f"n_niches must be numbers to compare, such as range(2, 16), found {n_niches}. To find so many: "
            f"scjepa.tl.niches(adata, n_niches={n_niches})."
        )
    numbers = sorted({whole("n_niches", number, least=2) for number in n_niches})
    if not numbers:
        raise ValueError("n_niches names no number; give some, such as n_niches=range(2, 16).")
    whole("n_splits", n_splits, least=2)
    whole("max_cells", max_cells, least=1)
    if use_rep is None:
        use_rep = _keys.EMBEDDING_NICHE if _keys.EMBEDDING_NICHE in adata.obsm else _keys.EMBEDDING
    rng = np.random.default_rng(seed_of(random_state))
    cells = _Tissue.of(adata, use_rep, layer, library_key, neighbors_key, max_cells, rng)
    if numbers[-1] * 4 > len(cells.embedding):
        raise ValueError(
            f"{numbers[-1]} niches cannot be compared in halves of {len(cells.embedding)} cells. Ask for fewer: "
            "n_niches=..."
        )
    rows = []
    for split in range(n_splits):
        halves = cells.halves(rng)
        for row in _compared(cells, cells.embedding, halves, numbers, n_neighbors, split):
            rows.append({**row, "split": split})
        if split < _NULLS:
            for row in _compared(None, _without_clusters(cells.embedding, rng), halves, numbers, n_neighbors, split):
                rows.append({"n_niches": row["n_niches"], "stability_null": row["stability"], "split": split})
    runs = pd.DataFrame(rows)
    table = runs.drop(columns="split").groupby("n_niches").mean()
    spread = runs.groupby(["n_niches", "split"])["stability"].mean().groupby("n_niches").std()
    table.insert(1, "stability_sd", spread)
    table.insert(3, "excess", (table["stability"] - table["stability_null"]) / (1 - table["stability_null"]))
    return NicheNumber(table, *recommend(table))


def recommend(table: pd.DataFrame) -> tuple[int | None, str, tuple[int, ...]]:
    """Return the number that a table speaks for, why, and the numbers that are as good; by :data:`_CLEAR`."""
    most = table["stability"].max()
    best = int(table.index[table["stability"] >= most - _TIE].max())  # a coarser one that is as stable loses a border
    row = table.loc[best]
    about = (
        f"{best} niches are the most stable (ARI {row['stability']:.2f} between halves of the tissue, "
        f"{row['stability_null']:.2f} without clusters"
    )
    if row["excess"] < _CLEAR:
        return None, f"No clear number: {about}), hardly more than a gradient or noise would show.", ()
    if row["likelihood"] < _GAIN:
        return None, f"No clear number: {about}), but they do not predict held-out cells.", ()
    as_good = table["stability"] >= row["stability"] - max(row["stability_sd"], 0.02)
    defensible = tuple(int(number) for number in table.index[as_good & (table["excess"] >= _CLEAR)])
    others = [str(number) for number in defensible if number != best]
    also = f" As stable, within the spread over splits: {', '.join(others)}." if others else ""
    return best, f"{about}) and predict held-out cells ({row['likelihood']:.2f} nats a cell).{also}", defensible


@dataclass(frozen=True)
class _Tissue:
    """The cells that are looked at: embedding, its components, blocks, edges, and log counts where there are counts."""

    embedding: np.ndarray
    components: np.ndarray
    blocks: np.ndarray
    edges: csr_matrix
    counts: csr_matrix | None

    @classmethod
    def of(
        cls,
        adata: AnnData,
        use_rep: str,
        layer: str | None,
        library_key: str | None,
        neighbors_key: str,
        max_cells: int,
        rng: np.random.Generator,
    ) -> _Tissue:
        """Read the cells of some blocks of the tissue, drawn at random where there are more than ``max_cells``."""
        embedding = embedding_of(adata, use_rep)
        if not np.ptp(embedding, axis=0).any():
            raise ValueError(f"All cells are alike in adata.obsm[{use_rep!r}]: there is nothing to find niches in.")
        graph, _, section_key = sections_of(adata, neighbors_key, library_key)
        places = entry_of(adata, "obsm", _keys.SPATIAL, "Blocks are cut by coordinates: write them there.")
        sections = None if section_key is None else adata.obs[section_key]
        blocks = spatial_blocks(*tissue(places, sections, adata.n_obs), _BLOCK)
        n_blocks = int(blocks.max()) + 1
        if n_blocks < _FEWEST_BLOCKS:
            raise ValueError(
                f"{adata.n_obs} cells make {n_blocks} blocks of {_BLOCK}; {_FEWEST_BLOCKS} or more are needed to "
                "compare halves of the tissue. Put sections together: scjepa.concat."
            )
        wanted = max(_FEWEST_BLOCKS, int(n_blocks * min(1.0, max_cells / adata.n_obs)))
        chosen = np.isin(blocks, rng.permutation(n_blocks)[:wanted])
        counts = None
        if layer is not None or adata.X is not None:
            counts = csr_matrix(log_normalized_cells(adata, layer, cells=chosen).X)
        values = embedding[chosen]
        centered = (values - values.mean(axis=0)).astype(np.float64)
        components = principal_components(centered, min(_COMPS, values.shape[1]))
        return cls(
            values, components, group_codes(blocks[chosen], len(values))[0], graph[chosen][:, chosen].tocsr(), counts
        )

    def halves(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the cells of two halves of the blocks, drawn at random."""
        n_blocks = int(self.blocks.max()) + 1
        first = (rng.permutation(n_blocks) < n_blocks // 2)[self.blocks]
        return np.flatnonzero(first), np.flatnonzero(~first)


def _compared(
    cells: _Tissue | None,
    values: np.ndarray,
    halves: tuple[np.ndarray, np.ndarray],
    numbers: list[int],
    n_neighbors: int,
    seed: int,
) -> Iterator[dict[str, float]]:
    """Yield for each number and direction how niches of one half do in the other; without ``cells`` stability alone."""
    from sklearn.metrics import adjusted_rand_score

    graphs = [EmbeddingGraph(values[half], n_neighbors, seed) for half in halves]
    voters = [
        neighbor_search(values[here], min(_VOTERS, len(here)), seed)(values[there])
        for here, there in (halves, halves[::-1])
    ]
    sides = None if cells is None else [_Side.of(cells, half) for half in halves]
    for number in numbers:
        found = [graph.match(number, seed, MIN_SHARE) for graph in graphs]
        for side in (0, 1):
            carried, share = _carried(found[side], voters[side])
            row = {"n_niches": number, "stability": adjusted_rand_score(carried, found[1 - side].labels)}
            if cells is not None and sides is not None:
                evidence = _evidence(cells.edges, sides[side], sides[1 - side], found[side].labels, carried)
                row |= evidence | {"confidence": float(share.mean())}
            yield row


def _carried(found: Partition, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the niche that most of each cell's nearest cells have, ``near`` (n, k), and the share of its votes."""
    counts = votes(found.labels[near], found.n_clusters)
    return counts.argmax(axis=1), counts.max(axis=1) / near.shape[1]


@dataclass(frozen=True)
class _Side:
    """One half of the tissue: its cells, their components, and log counts with mean and spread of each gene."""

    cells: np.ndarray
    components: np.ndarray
    counts: csr_matrix | None
    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, tissue: _Tissue, cells: np.ndarray) -> _Side:
        if tissue.counts is None:
            return cls(cells, tissue.components[cells], None, np.zeros(0), np.zeros(0))
        counts = tissue.counts[cells]
        mean = np.asarray(counts.mean(axis=0)).ravel()
        square = np.asarray(counts.multiply(counts).mean(axis=0)).ravel()
        return cls(cells, tissue.components[cells], counts, mean, np.sqrt(np.maximum(square - mean**2, 0)))


def _evidence(
    edges: csr_matrix, here: _Side, there: _Side, labels: np.ndarray, carried: np.ndarray
) -> dict[str, float]:
    both = np.empty(edges.shape[0], dtype=np.int64)
    both[here.cells], both[there.cells] = labels, carried
    train, test = here.components, there.components
    nothing = np.zeros(len(train), dtype=np.int64)
    return {
        "likelihood": _log_likelihood(train, labels, test) - _log_likelihood(train, nothing, test),
        "markers": _marked(here, labels, there, carried),
        "coherence": _coherence(both, edges),
    }


def _log_likelihood(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> float:
    """Return the mean log-likelihood of held-out cells under Gaussian niches of one covariance, but for a constant."""
    sizes = np.bincount(labels)
    means = _means(train, labels)
    rest = train - means[labels]
    covariance = rest.T @ rest / len(train)
    covariance += _RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    root = np.linalg.cholesky(covariance)
    cells, centers = (solve_triangular(root, each.T, lower=True).T for each in (test, means))
    apart = ((cells[:, None] - centers) ** 2).sum(axis=2)
    density = logsumexp(np.log(sizes / sizes.sum()) - apart / 2, axis=1)
    return float(density.mean() - np.log(np.diag(root)).sum())


def _means(values: np.ndarray | csr_matrix, labels: np.ndarray) -> np.ndarray:
    """Return the mean of the cells of each niche, (n_niches, n_dims)."""
    sizes = np.bincount(labels)
    summed = members(labels, len(sizes)) @ values
    return (summed.toarray() if issparse(summed) else summed) / np.maximum(sizes, 1)[:, None]


def _marked(here: _Side, labels: np.ndarray, there: _Side, carried: np.ndarray) -> float:
    """Return the share of niches whose best genes in one half mark them in the other; NaN without counts."""
    if here.counts is None:
        return np.nan
    first, second = _effects(here, labels), _effects(there, carried)
    best = np.argsort(-first, axis=1)[:, :_MARKERS]
    held = [(second[niche, best[niche]] >= _EFFECT).all() for niche in np.unique(carried)]
    return float(np.sum(held) / len(first))


def _effects(side: _Side, labels: np.ndarray) -> np.ndarray:
    """Return the mean of each gene in each niche less that of all other cells, in standard deviations of the gene."""
    others = 1 - (np.bincount(labels) / len(labels))[:, None]
    apart = (_means(side.counts, labels) - side.mean) / np.maximum(others, 1e-12)
    return np.divide(apart, side.spread, out=np.zeros_like(apart), where=side.spread > 0)


def _coherence(labels: np.ndarray, edges: csr_matrix) -> float:
    """Return how much oftener than by chance neighbors have the same niche, as a share of what could be."""
    links = edges.tocoo()
    if not links.nnz:
        return np.nan
    chance = float(((np.bincount(labels) / len(labels)) ** 2).sum())
    same = float((labels[links.row] == labels[links.col]).mean())
    return (same - chance) / (1 - chance) if chance < 1 else np.nan


def _without_clusters(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return Gaussian cells of the same mean and covariance."""
    covariance = np.cov(values.T.astype(np.float64)).reshape(values.shape[1], values.shape[1])
    lengths, axes = np.linalg.eigh(covariance)
    drawn = rng.normal(size=values.shape) * np.sqrt(np.maximum(lengths, 0))
    return (values.mean(axis=0) + drawn @ axes.T).astype(np.float32)
