from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scjepa.stjepa import MASKING_SCHEMES, draw_mask


def _per_block(batch, mask):
    return {int(b): (int(mask[batch.blocks == b].sum()), int((batch.blocks == b).sum())) for b in batch.blocks.unique()}


@pytest.mark.parametrize("scheme", list(MASKING_SCHEMES))
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 500), ratio=st.floats(0.05, 0.95))
def test_every_scheme_leaves_something_to_see_and_to_predict(make_batch, scheme, seed, ratio):
    batch = make_batch(seed)
    mask = draw_mask(batch, scheme, ratio, torch.Generator().manual_seed(seed))
    assert not mask[batch.is_metatoken].any()
    for row in range(batch.n_sequences):
        own = mask[(batch.sequences == row) & ~batch.is_metatoken]
        if len(own) > 1:
            assert 0 < own.sum() < len(own)
        elif len(own) == 1:
            assert not own.any()


@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.9])
def test_stratified_masks_the_rounded_share_of_each_cell(make_batch, ratio):
    batch = make_batch(3, n_sequences=12, empty_cells=False)
    mask = draw_mask(batch, "stratified", ratio, torch.Generator().manual_seed(1))
    for block, (n_masked, n) in _per_block(batch, mask).items():
        if block % (batch.n_segments + 1) != batch.n_segments:
            assert n_masked == round(ratio * n)


def test_whole_cell_masks_all_tokens_of_a_cell_or_none(make_batch):
    batch = make_batch(5, n_sequences=10)
    mask = draw_mask(batch, "whole_cell", 0.5, torch.Generator().manual_seed(1))
    shares = {n_masked / n for n_masked, n in _per_block(batch, mask).values()}
    assert shares <= {0.0, 1.0}
    assert len(shares) == 2


def test_mixture_masks_whole_cells_in_some_neighborhoods_and_shares_in_others(make_batch):
    batch = make_batch(5, n_sequences=40, empty_cells=False)
    mask = draw_mask(batch, "mixture", 0.5, torch.Generator().manual_seed(1))
    by_cell = []
    for row in range(batch.n_sequences):
        own = (batch.sequences == row) & ~batch.is_metatoken
        shares = [float(mask[own & (batch.segments == s)].float().mean()) for s in batch.segments[own].unique()]
        by_cell.append(set(shares) <= {0.0, 1.0})
    assert 8 < sum(by_cell) < 32


def test_target_cell_masks_one_cell_of_each_neighborhood(make_batch):
    batch = make_batch(6, n_sequences=10)
    mask = draw_mask(batch, "target_cell", 0.9, torch.Generator().manual_seed(1))
    for row in range(batch.n_sequences):
        assert len(batch.segments[mask & (batch.sequences == row)].unique()) == 1


def test_rank_span_is_a_run_of_ranks(make_batch):
    batch = make_batch(7, n_sequences=8, empty_cells=False)
    mask = draw_mask(batch, "rank_span", 0.5, torch.Generator().manual_seed(1))
    for block in batch.blocks.unique():
        own = mask[batch.blocks == block]
        changes = int((own != own.roll(1)).sum())
        assert changes in (0, 2)  # one run around the circle


def test_masks_repeat_with_the_seed_and_differ_between_seeds(make_batch):
    batch = make_batch(1, n_sequences=8)
    draw = lambda s: draw_mask(batch, "stratified", 0.5, torch.Generator().manual_seed(s))  # noqa: E731
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_every_token_is_masked_sometimes(make_batch):
    batch = make_batch(2, n_sequences=4, empty_cells=False)
    generator = torch.Generator().manual_seed(0)
    share = torch.stack([draw_mask(batch, "stratified", 0.5, generator) for _ in range(400)]).float().mean(0)
    big = torch.bincount(batch.blocks)[batch.blocks] >= 2
    assert (share[big & ~batch.is_metatoken] > 0.3).all()
    assert (share[big & ~batch.is_metatoken] < 0.7).all()


def test_unknown_scheme_is_named(make_batch):
    with pytest.raises(ValueError, match="Did you mean 'stratified'"):
        draw_mask(make_batch(), "stratifed", 0.5)
