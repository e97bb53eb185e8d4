"""Drivers of niches by the linear read-out: which neighbors and which genes speak for a cell's niche."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from scjepa._core import keys as _keys
from scjepa._core.anndata import groups_of, record_of
from scjepa._core.graph import sections_of
from scjepa.tl._aggregate import hops_at, hops_of, rings_of
from scjepa.tl._moments import Features
from scjepa.tl._niche_readout import niche_readout_of, sources_of
from scjepa.tl.evidence import (
    Hidden,
    NicheEvidence,
    Null,
    Sampled,
    as_table,
    by_half,
    falls,
    gene_rows,
    labels_in,
    mean_differences,
    named_niches,
    neighbor_rows,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scjepa.tl._niche_estimator import NicheReadout


def niche_drivers(
    adata: AnnData,
    niche_key: str = _keys.NICHE,
    *,
    by: str = _keys.CELL_TYPE,
    niches: Sequence[str] | None = None,
    key: str = _keys.EMBEDDING_NICHE,
    genes: bool = True,
    n_cells: int = 200,
    n_permutations: int = 500,
    spatial_key: str = _keys.SPATIAL,
    random_state: int = 0,
) -> pd.DataFrame:
    """Tell which neighbors and which genes speak for each niche, by hiding them from the linear read-out.

    Of each niche some cells are drawn. One neighbor after another is hidden from a cell, that is, left out of the mean
    of its ring; then each gene, that is, set to its section's mean in the cell and its rings. How much the log-odds of
    the cell's niche fall is the effect. The log-odds are those of a linear discriminant of the niches in the read-out,
    fitted on the other half of the tissue, so all effects are in closed form. For a trained model see
    :meth:`scjepa.STJEPA.explain`.

    Parameters
    ----------
    adata
        Annotated data with niches, the read-out they were found in (:func:`niche_readout`) and what that was made of.
        Nothing is written.
    niche_key
        Column of ``adata.obs`` with niches, or any regions.
    by
        Column of ``adata.obs`` by which neighbors are distinguished: cell types, or the niches themselves.
    niches
        Niches to explain. Default: all.
    key
        Key in ``adata.obsm`` of the read-out.
    genes
        Whether to hide genes; they can be where the read-out reads expression, unless ``align="covariance"`` mixed
        them.
    n_cells
        Cells that stand for each niche, at most.
    n_permutations
        Times that the null deals, 20 or more; p-values are no smaller than 1 over one more.
    spatial_key
        Key in ``adata.obsm`` of coordinates, which tell blocks of tissue.
    random_state
        Seed of the sample and of the nulls.

    Returns
    -------
    pandas.DataFrame
        A row for each niche and driver, the strongest of a niche first:

        - ``niche``, ``kind`` (``"neighbor"`` or ``"gene"``), ``driver`` (a label of ``by``, or a gene), ``ring`` (0:
          the cell itself; missing for genes);
        - ``effect``: mean fall of the log-odds of the niche, in nats, when one such neighbor, or the gene, is hidden;
          negative where it speaks against the niche;
        - ``shift``: mean distance that the cell moves in the read-out, 1 being the root of its total variance;
        - ``n_cells``: cells that it was hidden from; at least five;
        - ``null_mean``, ``null_sd``, ``z`` and ``p_value`` (two-sided) against the null, and ``p_adjusted``
          (Benjamini-Hochberg within a niche and kind); missing where niches are told badly;
        - ``difference``, what a plain comparison says: of genes the mean log-normalized level in the niche less that in
          other cells, in standard deviations; of neighbors log2 of how much oftener they are in that ring than around
          the sampled cells of all niches. To rank marker genes it does better than ``effect``, which says what the
          read-out makes of a gene.

        The null of neighbors deals their labels anew among the cells of one niche and one compact block of 25 cells:
        a neighbor of that kind moves the cell no more than any other neighbor there. The null of genes deals anew
        which blocks of the sampled cells are the niche's: the gene tells of the niche no more within it than elsewhere.
        Niches were found from the same counts, so neither tests whether a niche exists.

    Warns
    -----
    UserWarning
        If the niches can hardly be predicted from the read-out. Then there are no p-values.

    Raises
    ------
    KeyError
        If niches, labels, the read-out or what it was made of is not there, with the next call.
    ValueError
        If a niche is empty or unknown, no cell has a label, fewer than two niches have ten cells, or an option is out
        of its range.

    Examples
    --------
    >>> scjepa.tl.find_niches(adata, n_niches=7)
    >>> drivers = scjepa.tl.niche_drivers(adata)
    >>> drivers[(drivers["kind"] == "neighbor") & (drivers["p_adjusted"] < 0.05)]
    """
    how, wanted = Null.of(n_permutations, random_state), named_niches(adata, niche_key, niches)
    tissue = ReadTissue.of(adata, key)
    labels, names = labels_in(adata, by)
    sampled = Sampled.of(adata, niche_key, n_cells, None, tissue.library_key, spatial_key, random_state)
    evidence = sampled.evidence(tissue.values)
    rows = neighbor_rows(hide_neighbors(tissue, sampled, evidence), sampled, labels, names, how)
    found = tissue.expression() if genes else None
    if found is not None:
        effect_on, gene_names = _effects_of_genes(tissue, sampled, evidence, found)
        differences = mean_differences(adata, sampled.codes, sampled.names, tissue.note.get("layer"))
        rows += gene_rows(effect_on, sampled, list(gene_names), differences, how)
    return as_table(rows, wanted, is_told=evidence.is_told)


@dataclass
class ReadTissue:
    """Cells in the linear read-out.

    Attributes
    ----------
    adata, note
        Annotated data, and what was noted of the read-out.
    readout
        The fitted read-out.
    edges
        ``(n_cells, n_cells)`` spatial graph.
    components
        Components of all cells by source, each ``(n_cells, n_components)``.
    values
        ``(n_cells, n_dims)`` the read-out.
    """

    adata: AnnData
    note: dict
    readout: NicheReadout
    edges: csr_matrix
    components: list[np.ndarray]
    values: np.ndarray

    @classmethod
    def of(cls, adata: AnnData, key: str) -> ReadTissue:
        """Read cells out as noted.

        Raises
        ------
        KeyError
            If the read-out or what it was made of is not there.
        """
        readout, note = niche_readout_of(adata, key), record_of(adata, key)
        edges, groups, _ = sections_of(adata, note["neighbors_key"], note.get("library_key"))
        sources = sources_of(adata, list(readout.sources_), note.get("layer"))
        components = [
            one.transform(sources[name], groups)
            for name, one in zip(readout.sources_, readout.components_, strict=True)
        ]
        values = readout._side_by_side([hops_of(own, edges, int(readout.n_rings_.max())) for own in components])
        return cls(adata, dict(note), readout, edges, components, values)

    @property
    def library_key(self) -> str | None:
        """Column of sections."""
        return self.note.get("library_key")

    def blocks(self) -> dict[tuple[int, int], tuple[slice, float]]:
        """Return by source and ring the columns of the read-out that hold its components, and their weight."""
        found, start = {}, 0
        for source, own in enumerate(self.components):
            for ring in np.flatnonzero(self.readout.weights_[source]):
                columns = slice(start, start + own.shape[1])
                found[source, int(ring)] = columns, self.readout.weights_[source][ring] / self.readout.sizes_[source]
                start = columns.stop
        return found

    def weights(self, evidence: NicheEvidence) -> dict[tuple[int, int], np.ndarray]:
        """Return by source and ring how scores of niches follow from components, ``(2, n_components, n_niches)``."""
        of_values = evidence.weights.swapaxes(1, 2)
        return {place: scale * of_values[:, columns] for place, (columns, scale) in self.blocks().items()}

    def expression(self) -> int | None:
        """Return the place of the expression among the sources; ``None`` where genes cannot be hidden from it."""
        if _keys.EXPRESSION not in self.readout.sources_ or self.readout.align_ == "covariance":
            return None
        return int(self.readout.sources_.index(_keys.EXPRESSION))


def hide_neighbors(tissue: ReadTissue, sampled: Sampled, evidence: NicheEvidence) -> Hidden:
    """Hide each neighbor of the sampled cells in turn, and each cell from itself."""
    cells, n_rings = sampled.cells, int(tissue.readout.n_rings_.max())
    scores = evidence.scores(tissue.values[cells].astype(np.float64), sampled.halves)
    parts = []
    for ring, (rows, near) in enumerate(_pairs(tissue.edges, cells, n_rings)):
        change, square = np.zeros((len(rows), scores.shape[1])), np.zeros(len(rows))
        for (source, of_ring), weights in tissue.weights(evidence).items():
            if of_ring == ring:
                moved = _moved(tissue, source, ring, cells, rows, near)
                change += by_half(moved, weights, sampled.halves[rows])
                size = tissue.readout.weights_[source][ring] / tissue.readout.sizes_[source]
                square += np.square(size * moved).sum(axis=1)
        effect = falls(scores[rows], scores[rows] + change, sampled.niches[rows])
        shift = np.sqrt(square) / evidence.spread
        parts.append(Hidden(rows, near, np.full(len(rows), ring), effect, shift))
    return Hidden(*(np.concatenate([getattr(part, name) for part in parts]) for name in Hidden.__annotations__))


def _pairs(edges: csr_matrix, cells: np.ndarray, n_rings: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for ring 0 (the cells themselves) and each further ring the pairs of sampled cell and neighbor."""
    found = [(np.arange(len(cells)), cells)]
    for ring in rings_of(edges, cells, n_rings):
        found.append((np.repeat(np.arange(len(cells)), np.diff(ring.indptr)), ring.indices.astype(np.int64)))
    return found


def _moved(
    tissue: ReadTissue, source: int, ring: int, cells: np.ndarray, rows: np.ndarray, near: np.ndarray
) -> np.ndarray:
    """Return how the mean of a ring moves when one of it is hidden, ``(n_pairs, n_components)``.

    The cell itself is hidden as the mean of all cells, which is 0. Where the only cell of a ring is hidden, the ring
    repeats the one before, as in the read-out.
    """
    own = tissue.components[source].astype(np.float64)
    if ring == 0:
        return -own[near]
    hops = hops_at(own, tissue.edges, cells, ring)
    size = np.bincount(rows, minlength=len(cells))[rows][:, None]
    mean = hops[ring][rows]
    without = (mean * size - own[near]) / np.maximum(size - 1, 1)
    return np.where(size > 1, without, hops[ring - 1][rows]) - mean


def _effects_of_genes(
    tissue: ReadTissue, sampled: Sampled, evidence: NicheEvidence, source: int
) -> tuple[Callable[[int], tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Return a function from a niche to effects and shifts of hiding each gene, and the names of the genes.

    Scores are linear in the standardized genes, so log-odds are taken of the scores with one gene's share left out.
    """
    components = tissue.readout.components_[source]
    levels = _levels(tissue, sampled, source)
    scores, halves = evidence.scores(tissue.values[sampled.cells].astype(np.float64), sampled.halves), sampled.halves
    # What a standardized gene puts into the scores of niches, by ring: (2, n_genes, n_niches).
    shares = {ring: components.loadings_ @ w for (of, ring), w in tissue.weights(evidence).items() if of == source}
    sizes = tissue.readout.weights_[source] / tissue.readout.sizes_[source]
    norms = np.linalg.norm(components.loadings_, axis=1)
    moved = (
        np.sqrt(np.sum([np.square(sizes[ring] * levels[ring] * norms) for ring in shares], axis=0)) / evidence.spread
    )

    def effect_on(code: int) -> tuple[np.ndarray, np.ndarray]:
        found = np.empty_like(levels[0], dtype=np.float64)
        for gene in range(found.shape[1]):
            share = np.zeros(scores.shape)
            for ring, of_gene in shares.items():
                share += levels[ring][:, gene, None] * of_gene[halves, gene]
            found[:, gene] = falls(scores, scores - share, code)
        return found, moved

    names = getattr(components, "feature_names_in_", None)
    numbers = np.arange(components.n_features_in_).astype(str)
    return effect_on, numbers if names is None else names


def _levels(tissue: ReadTissue, sampled: Sampled, source: int) -> list[np.ndarray]:
    """Return means of the standardized genes over each ring of the sampled cells, each ``(n, n_genes)``."""
    components, note = tissue.readout.components_[source], tissue.note
    n_rings = int(tissue.readout.n_rings_[source])
    rings = [csr_matrix(ring) for ring in rings_of(tissue.edges, sampled.cells, n_rings)]
    read = sources_of(tissue.adata, [_keys.EXPRESSION], note.get("layer"))[_keys.EXPRESSION]
    features = Features.of(read).taken(getattr(components, "feature_names_in_", None), components.n_features_in_)
    groups = groups_of(tissue.adata, note.get("library_key"))
    standardizer, _, codes = components._standardization(features, groups)
    own = np.empty((len(sampled.cells), features.n_features), dtype=np.float32)
    totals = [np.zeros_like(own) for _ in rings]
    for rows, chunk in features.chunks():
        values = standardizer.dense(chunk, codes[rows])
        inside = (sampled.cells >= rows.start) & (sampled.cells < rows.stop)
        own[inside] = values[sampled.cells[inside] - rows.start]
        for total, ring in zip(totals, rings, strict=True):
            total += ring[:, rows] @ values
    levels = [own]
    for total, ring in zip(totals, rings, strict=True):
        size = np.diff(ring.indptr)[:, None]
        levels.append(np.where(size > 0, total / np.maximum(size, 1), levels[-1]))
    return levels
