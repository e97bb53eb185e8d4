"""What genes tell of surroundings."""

import numpy as np
import pytest
from scipy import sparse

from scjepa.tokens import NeighborTable, gene_weights, weights
from scjepa.tokens.weights import _CHANCE_PAIRS, _ERRORS, _LEAST


def grid(side=20, n_genes=12, seed=0):
    """Return counts on a grid, half of it with the first three genes up, its neighbors and two sections."""
    rng = np.random.default_rng(seed)
    y, x = np.divmod(np.arange(side**2), side)
    rate = np.full((side**2, n_genes), 2.0)
    rate[x < side // 2, :3] = 9.0
    rate[:, -1] = 0.01  # hardly any cell has the last gene
    index = np.full((side**2, 5), -1, dtype=np.int32)
    for i in range(side**2):
        near = [i + step for ok, step in ((x[i] > 0, -1), (x[i] < side - 1, 1)) if ok]
        near += [j for j in (i - side, i + side) if 0 <= j < side**2 and (j // side < side // 2) == (y[i] < side // 2)]
        index[i, : len(near)] = near
    return rng.poisson(rate), NeighborTable(index), (y >= side // 2).astype(int)


def by_hand(counts, index, sections):
    """Return the weights from dense arrays, cell by cell."""
    total = counts.sum(axis=1, keepdims=True)
    values = np.log1p(1e4 * counts / np.maximum(total, 1))
    own, near, degrees, kept = [], [], [], []
    for i, row in enumerate(index):
        here = [j for j in row if j >= 0 and total[j] > 0]
        if total[i] > 0 and here:
            own.append(values[i])
            near.append(values[here].mean(axis=0))
            degrees.append(len(here))
            kept.append(i)
    own, near, sections = np.array(own), np.array(near), sections[kept]
    for section in np.unique(sections):
        own[sections == section] -= own[sections == section].mean(axis=0)
        near[sections == section] -= near[sections == section].mean(axis=0)
    moran = (own * near).sum(axis=0) / np.maximum((own**2).sum(axis=0), 1e-300)
    expressing = (counts[kept] > 0).sum(axis=0)
    degree = np.mean(degrees)
    left = moran - _ERRORS * np.sqrt(2 / np.sum(degrees)) - 2 * _CHANCE_PAIRS / np.maximum(degree * expressing, 1e-300)
    return np.maximum(left / left.max(), _LEAST * (1 - expressing / len(kept)))


def test_weights_are_morans_i_less_what_chance_makes():
    counts, neighbors, sections = grid()
    counts[[3, 7, 8]] = 0  # cells without counts are no neighbors
    found = gene_weights(sparse.csr_matrix(counts), np.arange(12), 12, neighbors, sections)
    np.testing.assert_allclose(found, by_hand(counts, neighbors.index, sections), atol=2e-6)
    assert found[:3].min() > 0.3
    assert found[3:].max() < 0.1


def test_order_of_cells_and_genes_and_blocks_do_not_matter(monkeypatch):
    counts, neighbors, sections = grid()
    found = gene_weights(counts, np.arange(12), 12, neighbors, sections)
    rng = np.random.default_rng(1)
    order, columns = rng.permutation(len(counts)), rng.permutation(12)
    index = neighbors.index[order]
    moved = NeighborTable(np.where(index >= 0, np.argsort(order)[index], -1).astype(np.int32))
    monkeypatch.setattr(weights, "CELL_BLOCK", 17)
    again = gene_weights(sparse.csc_matrix(counts[order][:, columns]), columns, 12, moved, sections[order])
    np.testing.assert_allclose(again, found, atol=2e-6)


def test_rows_may_be_computed_when_they_are_read():
    counts, neighbors, _ = grid()

    class Lazy:
        shape = counts.shape

        def __getitem__(self, rows):
            return counts[rows]

    found = gene_weights(Lazy(), np.arange(12), 12, neighbors)
    np.testing.assert_array_equal(found, gene_weights(counts, np.arange(12), 12, neighbors))


def test_columns_outside_the_vocabulary_are_no_part_of_a_total():
    counts, neighbors, _ = grid()
    more = np.column_stack([counts, np.arange(len(counts)) ** 2])
    found = gene_weights(more, np.append(np.arange(12), -1), 12, neighbors)
    np.testing.assert_array_equal(found, gene_weights(counts, np.arange(12), 12, neighbors))


@pytest.mark.parametrize("case", ["noise", "constant", "no edges", "one cell", "no counts"])
def test_where_nothing_tells_all_genes_weigh_the_same(case):
    counts, neighbors, _ = grid()
    index = neighbors.index
    if case == "noise":
        counts = np.random.default_rng(0).poisson(2.0, counts.shape)
        counts[:, -1] = 1
    if case == "constant":
        counts = np.ones_like(counts)
    if case == "no edges":
        index = np.full_like(index, -1)
    if case == "one cell":
        counts, index = counts[:1], index[:1] * 0 - 1
    if case == "no counts":
        counts = np.zeros_like(counts)
    assert gene_weights(counts, np.arange(12), 12, NeighborTable(index)).tolist() == [1.0] * 12


def test_tables_of_other_cells_are_refused():
    counts, neighbors, _ = grid()
    with pytest.raises(ValueError, match="neighbors of 400"):
        gene_weights(counts[:10], np.arange(12), 12, neighbors)
