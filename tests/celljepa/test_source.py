from __future__ import annotations

import numpy as np
import pytest
import torch

from scjepa.celljepa import CellSource, build_expression_table

N_GENES, LIMIT = 60, 12


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.4, 2, (20, N_GENES)))
    counts[4] = 0
    counts[7, :] = 0
    counts[7, :3] = [5, 1, 2]
    return build_expression_table(counts, np.arange(N_GENES), N_GENES)


def _cells(batch, row):
    own = batch.sequences == row
    return dict(zip(batch.genes[own].tolist(), batch.values[own].tolist(), strict=True))


def _all(table, cell):
    start, end = table.offsets[cell], table.offsets[cell + 1]
    return dict(zip(table.genes[start:end].tolist(), table.values[start:end].tolist(), strict=True))


@pytest.mark.parametrize("kept", ["top", "spread"])
def test_what_is_kept_depends_on_the_cell_alone(table, kept):
    source = CellSource(table, LIMIT, kept)
    together = source.batch(torch.arange(20))
    assert (together.lengths <= LIMIT).all()
    for cell in range(20):
        alone = _cells(source.batch(torch.tensor([cell])), 0)
        assert alone == _cells(together, cell)
        assert alone.items() <= _all(table, cell).items()
        assert len(alone) == min(LIMIT, table.lengths[cell])
    assert _cells(together, 4) == {}


def test_more_genes_may_be_embedded_than_are_drawn(table):
    source = CellSource(table, LIMIT, "spread", n_embedded=2 * LIMIT)
    cells = torch.arange(20)
    drawn, embedded = source.batch(cells, torch.Generator().manual_seed(0)), source.batch(cells)
    assert torch.equal(drawn.lengths, torch.from_numpy(table.lengths).clamp_max(LIMIT))
    assert torch.equal(embedded.lengths, torch.from_numpy(table.lengths).clamp_max(2 * LIMIT))
    assert (drawn.lengths < embedded.lengths).any()
    assert torch.equal(source.sequence_lengths(cells), embedded.lengths + 1)
    assert torch.equal(source.sequence_lengths(cells, training=True), drawn.lengths + 1)


def test_top_are_the_first_of_the_table_and_spread_are_not(table):
    top, spread = (CellSource(table, LIMIT, kept).batch(torch.arange(20)) for kept in ("top", "spread"))
    for cell in range(20):
        assert list(_cells(top, cell)) == list(_all(table, cell))[:LIMIT]
    assert not torch.equal(top.genes, spread.genes)


def test_spread_keeps_the_same_genes_of_all_cells_and_does_not_change_when_a_vocabulary_grows(table):
    order = CellSource(table, LIMIT, "spread")._order
    assert len(order.unique()) == N_GENES
    full = build_expression_table(np.ones((3, 90)), np.arange(90), 90)
    assert torch.equal(CellSource(full, LIMIT, "spread")._order[:N_GENES], order)
    batch = CellSource(full, LIMIT, "spread").batch(torch.arange(3))
    assert _cells(batch, 0) == _cells(batch, 1) == _cells(batch, 2)


def test_drawing_is_uniform_and_follows_the_generator(table):
    source = CellSource(table, LIMIT)
    cell = int(np.argmax(table.lengths))
    n = int(table.lengths[cell])
    draw = lambda seed: _cells(source.batch(torch.tensor([cell]), torch.Generator().manual_seed(seed)), 0)  # noqa: E731
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert n > LIMIT
    times = np.zeros(N_GENES)
    for seed in range(400):
        chosen = draw(seed)
        assert len(chosen) == LIMIT
        assert chosen.items() <= _all(table, cell).items()
        times[list(chosen)] += 1
    expressed = times[list(_all(table, cell))]
    expected = 400 * LIMIT / n
    assert (np.abs(expressed - expected) < 5 * np.sqrt(expected)).all()
    assert times.sum() == 400 * LIMIT


def test_short_cells_are_whole_and_lengths_count_cls(table):
    source = CellSource(table, LIMIT)
    batch = source.batch(torch.tensor([7, 4]), torch.Generator().manual_seed(0))
    assert _cells(batch, 0) == _all(table, 7)
    assert source.sequence_lengths(torch.tensor([7, 4])).tolist() == [4, 1]
    assert int(source.sequence_lengths().max()) == LIMIT + 1


def test_labels_travel_with_the_cells_and_do_not_count_as_data(table):
    labels = np.arange(20) % 3 - 1
    source = CellSource(table, LIMIT, labels=labels)
    assert source.batch(torch.tensor([5, 0, 2])).labels.tolist() == [1, -1, 1]
    assert len(source.arrays()) == len(CellSource(table, LIMIT).arrays())
    with pytest.raises(ValueError, match="20 cells and 3 labels"):
        CellSource(table, LIMIT, labels=np.zeros(3))
