"""Gathered batches against a plain reference that goes from cell to cell and token to token."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scjepa.stjepa import Batch, TokenSource
from scjepa.tokens import NeighborTable, TokenConfig, TokenTable, build_token_table

FIELDS = ("sequences", "segments", "genes", "values", "ranks")


def reference(table, neighbors, cells, metatokens):
    """Return (sequence, segment, gene, value, rank) of each token, in order."""
    tokens = []
    for row, (cell, metatoken) in enumerate(zip(cells, metatokens, strict=True)):
        for segment, member in enumerate([cell, *neighbors.index[cell]]):
            own = range(table.offsets[member], table.offsets[member + 1]) if member >= 0 else ()
            for position, token in enumerate(own):
                rank = position if table.ranks is None else int(table.ranks[token])
                tokens.append((row, segment, int(table.genes[token]), float(table.values[token]), rank))
        if metatoken:
            tokens.append((row, neighbors.n_neighbors + 1, 0, 0.0, 0))
    return tokens


def unpack(batch):
    return list(zip(*(getattr(batch, name).tolist() for name in FIELDS), strict=True))


def assert_same(one, other):
    for name in (*FIELDS, "technologies"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.n_segments == other.n_segments


@st.composite
def sources(draw):
    """Return tables of a few cells: some without tokens, some with fewer neighbors than others, or with none."""
    n, k = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    lengths = draw(hnp.arrays(np.int64, n, elements=st.integers(0, 4)))
    lengths[draw(st.integers(0, n - 1))] += 1
    offsets = np.concatenate([[0], lengths.cumsum()])
    n_tokens = int(offsets[-1])
    dtype, largest = draw(st.sampled_from([(np.uint16, 65535), (np.float32, 2**24)]))
    values = draw(hnp.arrays(np.int64, n_tokens, elements=st.sampled_from([1, 2, 255, 32767, 32768, 65535, largest])))
    values = values.astype(dtype) if dtype is np.uint16 else values.astype(dtype) / draw(st.sampled_from([1, 8]))
    table = TokenTable(
        offsets=offsets,
        genes=draw(hnp.arrays(draw(st.sampled_from([np.int16, np.int32])), n_tokens, elements=st.integers(0, 30_000))),
        values=values.astype(dtype),
        ranks=draw(st.none() | hnp.arrays(np.int16, n_tokens, elements=st.integers(0, 200))),
        n_vocabulary=30_001,
        n_expressed=lengths.astype(np.int32),
    )
    index = draw(hnp.arrays(np.int32, (n, k), elements=st.integers(0, n - 1)))
    degrees = draw(hnp.arrays(np.int64, n, elements=st.integers(0, k)))
    index[np.arange(k) >= degrees[:, None]] = -1
    return table, NeighborTable(index), draw(hnp.arrays(np.int64, n, elements=st.integers(0, 3)))


@st.composite
def cases(draw):
    """Return tables, index cells in any order and more than once, and which sequences have a metatoken."""
    table, neighbors, technologies = draw(sources())
    cells = draw(st.lists(st.integers(0, table.n_cells - 1), max_size=7))
    metatokens = draw(st.lists(st.booleans(), min_size=len(cells), max_size=len(cells)))
    return table, neighbors, technologies, cells, metatokens


def gather(table, neighbors, technologies, cells, metatoken=False):
    return TokenSource(table, neighbors, technologies).batch(torch.tensor(cells, dtype=torch.int64), metatoken)


@settings(max_examples=200, deadline=None)
@given(case=cases())
def test_agrees_with_the_reference(case):
    table, neighbors, technologies, cells, metatokens = case
    batch = gather(*case[:-1], torch.tensor(metatokens, dtype=torch.bool))
    assert isinstance(batch, Batch)
    assert unpack(batch) == reference(table, neighbors, cells, metatokens)
    assert batch.technologies.tolist() == technologies[cells].tolist()
    assert (batch.n_sequences, batch.n_segments) == (len(cells), neighbors.n_neighbors + 1)
    assert batch.n_tokens == len(batch.genes)
    assert batch.values.dtype == torch.float32
    integers = (batch.sequences, batch.segments, batch.genes, batch.ranks, batch.technologies)
    assert {tensor.dtype for tensor in integers} == {torch.int64}


@settings(max_examples=50, deadline=None)
@given(case=cases(), metatoken=st.booleans())
def test_one_metatoken_flag_is_that_flag_for_all(case, metatoken):
    *source, cells, _ = case
    assert_same(gather(*source, cells, metatoken), gather(*source, cells, torch.full((len(cells),), metatoken)))


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_batch_knows_lengths_blocks_and_metatokens(case):
    table, neighbors, _, cells, metatokens = case
    batch = gather(*case[:-1], torch.tensor(metatokens, dtype=torch.bool))
    tokens = reference(table, neighbors, cells, metatokens)
    assert batch.lengths.tolist() == [sum(token[0] == row for token in tokens) for row in range(len(cells))]
    assert batch.is_metatoken.tolist() == [segment == batch.n_segments for _, segment, *_ in tokens]
    assert batch.blocks.tolist() == [row * (neighbors.n_neighbors + 2) + segment for row, segment, *_ in tokens]
    assert (batch.blocks.diff() >= 0).all()


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_source_knows_the_lengths_of_what_it_will_give(case):
    table, *_, cells, _ = case
    source = TokenSource(*case[:3])
    batch = source.batch(torch.tensor(cells, dtype=torch.int64))
    assert source.neighborhood_lengths()[cells].tolist() == batch.lengths.tolist()
    assert source.cell_lengths().tolist() == table.lengths.tolist()
    assert torch.bincount(batch.sequences[batch.segments == 0], minlength=len(cells)).tolist() == (
        source.cell_lengths()[cells].tolist()
    )


@settings(max_examples=100, deadline=None)
@given(case=cases(), data=st.data())
def test_select_keeps_tokens_and_the_numbers_of_sequences(case, data):
    batch = gather(*case[:-1], torch.tensor(case[-1], dtype=torch.bool))
    keep = torch.from_numpy(data.draw(hnp.arrays(bool, batch.n_tokens)))
    chosen = batch.select(keep)
    assert unpack(chosen) == [token for token, kept in zip(unpack(batch), keep.tolist(), strict=True) if kept]
    assert chosen.lengths.tolist() == torch.bincount(batch.sequences[keep], minlength=batch.n_sequences).tolist()
    assert (chosen.n_sequences, chosen.n_segments) == (batch.n_sequences, batch.n_segments)
    assert_same(batch.select(keep.nonzero()[:, 0]), chosen)


@settings(max_examples=50, deadline=None)
@given(case=cases(), times=st.integers(1, 3))
def test_repeat_is_the_batch_of_the_cells_repeated(case, times):
    *source, cells, metatokens = case
    flags = lambda copies: torch.tensor(metatokens * copies, dtype=torch.bool)  # noqa: E731
    repeated = gather(*source, cells, flags(1)).repeat(times)
    assert_same(repeated, gather(*source, cells * times, flags(times)))
    assert repeated.lengths.tolist() == gather(*source, cells, flags(1)).lengths.tolist() * times


@settings(max_examples=50, deadline=None)
@given(case=cases())
def test_a_neighborhood_does_not_depend_on_its_company(case):
    *source, cells, metatokens = case
    together = gather(*source, cells, torch.tensor(metatokens, dtype=torch.bool))
    for row, (cell, metatoken) in enumerate(zip(cells, metatokens, strict=True)):
        own = [(0, *token[1:]) for token in unpack(together) if token[0] == row]
        assert unpack(gather(*source, [cell], metatoken)) == own


@settings(max_examples=25, deadline=None)
@given(case=cases())
def test_moving_the_tables_changes_nothing(case):
    *tables, cells, metatokens = case
    source, flags = TokenSource(*tables, device=torch.device("cpu")), torch.tensor(metatokens, dtype=torch.bool)
    before = source.batch(torch.tensor(cells, dtype=torch.int64), flags)
    assert source.to("cpu") is source
    assert source.device == torch.device("cpu")
    assert_same(source.batch(torch.tensor(cells, dtype=torch.int64), flags), before)


def small():
    """Three cells: two tokens; none; one. The first has both others near, the second the third, the third no one."""
    table = build_token_table(np.array([[5, 5, 0], [0, 0, 0], [0, 0, 9]]), np.arange(3), 3, TokenConfig(ties="shared"))
    return table, NeighborTable(np.array([[1, 2], [2, -1], [-1, -1]], dtype=np.int32)), np.array([0, 0, 1])


def test_an_example_by_hand():
    batch = gather(*small(), [0, 1, 2], torch.tensor([True, False, True]))
    assert unpack(batch) == [
        (0, 0, 0, 5.0, 0),
        (0, 0, 1, 5.0, 0),  # a tie: the rank code of the first
        (0, 2, 2, 9.0, 0),  # segment 1 is a cell without tokens
        (0, 3, 0, 0.0, 0),
        (1, 1, 2, 9.0, 0),
        (2, 0, 2, 9.0, 0),
        (2, 3, 0, 0.0, 0),
    ]
    assert batch.lengths.tolist() == [4, 1, 2]
    assert TokenSource(*small()).neighborhood_lengths().tolist() == [3, 1, 1]


def test_all_tables_move():
    source = TokenSource(*small()).to("meta")
    tensors = [value for value in vars(source).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 6
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert source.device.type == "meta"


@pytest.mark.parametrize(("largest", "dtype"), [(32_768, torch.int16), (65_535, torch.int16), (65_536, torch.float32)])
def test_large_counts_arrive_as_they_are(largest, dtype):
    table = build_token_table(np.array([[largest, 1], [40_000, 0]]), np.arange(2), 2, TokenConfig())
    source = TokenSource(table, NeighborTable(np.array([[1], [0]], dtype=np.int32)), np.zeros(2, dtype=int))
    assert source._values.dtype == dtype
    assert source.batch(torch.tensor([0, 1])).values.tolist() == [largest, 1, 40_000, 40_000, largest, 1]


@pytest.mark.parametrize(("free", "resident"), [(10**9, True), (100, False), (None, True)])
def test_tables_move_to_a_device_only_if_they_fit(monkeypatch, free, resident):
    monkeypatch.setattr("scjepa.tokens.source.available_memory", lambda device: free)
    source = TokenSource(*small()).to("meta")
    assert source.resident is resident
    assert source.device.type == "meta"
    assert source.cell_lengths().device.type == ("meta" if resident else "cpu")


def test_batches_of_tables_that_stay_behind_are_moved(monkeypatch):
    monkeypatch.setattr("scjepa.tokens.source.available_memory", lambda device: 0)
    here = gather(*small(), [0, 2], True)
    there = TokenSource(*small(), "meta").batch(torch.tensor([0, 2]), True)
    for name in (*FIELDS, "technologies"):
        one, other = getattr(here, name), getattr(there, name)
        assert other.device.type == "meta"
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
    assert there.n_segments == here.n_segments


def test_tables_know_their_size():
    table, neighbors, technologies = small()
    source = TokenSource(table, neighbors, technologies)
    held = (table.offsets, table.genes, table.values, table.ranks, neighbors.index, technologies)
    assert source.nbytes == sum(array.nbytes for array in held)


@given(case=sources(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_mapped_tables_give_the_same_batches(case, data):
    table, neighbors, technologies = case
    cells = data.draw(st.lists(st.integers(0, table.n_cells - 1), min_size=1, max_size=6))
    with tempfile.TemporaryDirectory() as folder:
        table.save(Path(folder) / "t")
        neighbors.save(Path(folder) / "n")
        mapped = TokenTable.load(Path(folder) / "t"), NeighborTable.load(Path(folder) / "n")
        assert_same(gather(*mapped, technologies, cells), gather(*case, cells))


def test_repeat_once_is_the_batch_itself():
    batch = gather(*small(), [0, 2])
    assert batch.repeat(1) is batch


def test_tables_must_be_of_the_same_cells():
    table, neighbors, technologies = small()
    with pytest.raises(ValueError, match="tokens 3, neighbors 3, technologies 2"):
        TokenSource(table, neighbors, technologies[:2])
    with pytest.raises(ValueError, match="tokens 2, neighbors 3, technologies 3"):
        TokenSource(table.subset([0, 2]), neighbors, technologies)


def one_gene_cells(genes):
    """Return the table of cells with one count of one gene each."""
    n = len(genes)
    ones = np.ones(n, dtype=np.uint16)
    return TokenTable(np.arange(n + 1), genes, ones, None, n, ones.astype(np.int32))


def test_walks_follow_the_neighbors_and_never_leave_their_section():
    n, steps = 40, 3
    section = np.repeat([0, 1], n // 2)
    index = np.full((n, 2), -1, dtype=np.int32)
    for cell in range(n - 1):  # two chains; the last cell of each has nowhere to go
        if section[cell] == section[cell + 1]:
            index[cell, 0] = cell + 1
    table = one_gene_cells(np.zeros(n, dtype=np.int16))
    source = TokenSource(table, NeighborTable(index), np.zeros(n, dtype=np.int64))
    ends = source.walk(torch.arange(n), steps, torch.Generator().manual_seed(0)).numpy()
    expected = np.minimum(np.arange(n) + steps, np.where(section == 0, n // 2 - 1, n - 1))
    assert (ends == expected).all()


def test_gathered_batches_pair_each_cell_with_one_a_few_steps_away():
    from scjepa.stjepa import STJEPAModule
    from scjepa.stjepa.config import resolve

    n = 30
    index = np.stack([(np.arange(n) + 1) % n, (np.arange(n) - 1) % n], axis=1).astype(np.int32)
    table = one_gene_cells(np.arange(n, dtype=np.int16))
    source = TokenSource(table, NeighborTable(index), np.zeros(n, dtype=np.int64))
    config = resolve("demo", objective={"nearby_weight": 1.0, "nearby_steps": 2}, tokens={"n_neighbors": 2})
    batch = STJEPAModule(n, 1, config).gather(source, torch.arange(10), torch.Generator().manual_seed(0))
    own = batch.genes[batch.segments == 0]  # cell i has gene i
    assert torch.equal(own[:5], torch.arange(5))
    assert torch.equal(batch.partners, torch.arange(10).roll(5))
    assert set((((own[5:] - own[:5]) + n // 2) % n - n // 2).tolist()) <= {-2, 0, 2}
    assert len(own) == 10
