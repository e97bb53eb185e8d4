from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scjepa.training import BatchSchedule, hold_out, spatial_blocks
from scjepa.training.plan import MASK, ORDER, derive_seed


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 200), batch_size=st.integers(1, 64), world=st.integers(1, 3), seed=st.integers(0, 9))
def test_an_epoch_never_repeats_a_cell_and_ranks_share_it(n, batch_size, world, seed):
    cells = np.arange(n) * 3
    if n < world:
        return
    schedule = BatchSchedule(cells, batch_size, seed, world)
    seen = torch.cat([schedule.batch(2, i, r) for i in range(len(schedule)) for r in range(world)])
    assert len(seen) == len(seen.unique())
    assert set(seen.tolist()) <= set(cells.tolist())
    assert len(schedule) >= 1
    assert n - len(seen) < schedule.batch_size * world


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 200), batch_size=st.integers(1, 64), n_groups=st.integers(1, 4), seed=st.integers(0, 9))
def test_grouped_batches_hold_one_group_and_every_group_comes(n, batch_size, n_groups, seed):
    groups = np.random.default_rng(seed).integers(0, n_groups, n) * 7
    schedule = BatchSchedule(np.arange(n), batch_size, seed, groups=groups)
    batches = [schedule.batch(0, i) for i in range(len(schedule))]
    assert all(len(set(groups[b.numpy()])) == 1 for b in batches)
    assert {int(groups[b[0]]) for b in batches} == set(groups.tolist())
    seen = torch.cat(batches)
    assert len(seen) == len(seen.unique())
    assert all(len(b) <= schedule.batch_size for b in batches)


def test_batches_follow_from_seed_epoch_and_index_alone():
    a, b = (BatchSchedule(np.arange(100), 10, 7) for _ in range(2))
    b.batch(5, 3)  # asking for other batches first changes nothing
    assert torch.equal(a.batch(1, 2), b.batch(1, 2))
    assert not torch.equal(a.batch(1, 2), a.batch(2, 2))
    assert not torch.equal(a.batch(1, 2), BatchSchedule(np.arange(100), 10, 8).batch(1, 2))


def test_derived_seeds_differ_by_purpose_and_place():
    seeds = {derive_seed(s, p, e, b) for s in range(3) for p in (ORDER, MASK) for e in range(4) for b in range(4)}
    assert len(seeds) == 3 * 2 * 4 * 4
    assert all(0 <= s < 2**63 for s in seeds)


def test_batch_out_of_range_is_refused():
    with pytest.raises(IndexError, match="10 batches"):
        BatchSchedule(np.arange(100), 10, 0).batch(0, 10)
    with pytest.raises(ValueError, match="no cells"):
        BatchSchedule(np.empty(0), 10, 0)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 400), n_sections=st.integers(1, 3), size=st.integers(1, 60), seed=st.integers(0, 99))
def test_blocks_are_small_compact_and_stay_in_their_section(n, n_sections, size, seed):
    rng = np.random.default_rng(seed)
    place, sections = rng.random((n, 2)), rng.integers(0, n_sections, n)
    blocks = spatial_blocks(place, sections, size)
    assert np.bincount(blocks).max() <= size
    assert np.bincount(blocks).min() >= 1
    for block in np.unique(blocks):
        assert len(np.unique(sections[blocks == block])) == 1
    order = rng.permutation(n)
    again = spatial_blocks(place[order], sections[order], size)
    same = lambda b: {frozenset(np.flatnonzero(b == c).tolist()) for c in np.unique(b)}  # noqa: E731
    assert same(blocks) == {frozenset(order[list(group)].tolist()) for group in same(again)}


def test_held_out_cells_are_whole_blocks_of_about_the_size_asked():
    rng = np.random.default_rng(0)
    place = rng.random((2000, 2))
    train, held = hold_out(place, None, 0.1, seed=3)
    assert sorted([*train, *held]) == list(range(2000))
    assert 0.08 <= len(held) / 2000 <= 0.14
    blocks = spatial_blocks(place, None, 40)
    assert not set(blocks[train]) & set(blocks[held])


def test_validation_by_section():
    sections = np.repeat([0, 1, 2], 50)
    train, held = hold_out(np.random.default_rng(0).random((150, 2)), sections, 0.2, by="section")
    assert len(np.unique(sections[held])) == 1
    assert len(held) == 50
    assert not set(sections[train]) & set(sections[held])
    with pytest.raises(ValueError, match="library_key"):
        hold_out(np.zeros((5, 2)), None, 0.2, by="section")
    with pytest.raises(ValueError, match="'block' or by 'section'"):
        hold_out(np.zeros((5, 2)), None, 0.2, by="cell")


def test_nothing_held_out_when_size_is_zero():
    train, held = hold_out(np.zeros((5, 2)), None, 0.0)
    assert len(train) == 5
    assert len(held) == 0
