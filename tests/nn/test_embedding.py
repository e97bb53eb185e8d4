"""What the encoders of values and places give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scjepa.nn import VALUE_ENCODERS
from scjepa.nn.encoder import signed_log1p
from scjepa.stjepa import SEGMENT_ENCODERS


@pytest.mark.parametrize("n_bins", [20, 50, 100])
def test_bins_are_mixtures_that_depend_on_the_value_alone(n_bins):
    torch.manual_seed(0)
    encoder = VALUE_ENCODERS["bins"].of(width=16, n_bins=n_bins)
    assert encoder.bins.weight.shape == (n_bins, 16)
    values = torch.randint(0, 9, (400,)).float()
    gene = torch.randn(400, 16)
    mixed = encoder(gene, values) - gene
    weights = encoder.weights(values[:, None])
    torch.testing.assert_close(weights.sum(1), torch.ones(400))
    torch.testing.assert_close(mixed, weights @ encoder.bins.weight, atol=1e-5, rtol=1e-4)  # from the distinct alone
    few = torch.linspace(0, 5, 7)
    torch.testing.assert_close(encoder(gene[:7], few) - gene[:7], encoder.weights(few[:, None]) @ encoder.bins.weight)


def test_bins_can_learn_any_function_of_the_value():
    torch.manual_seed(0)
    encoder = VALUE_ENCODERS["bins"](4, 20)
    values = torch.linspace(0, 4, 40)
    wanted = torch.stack([torch.sin(values), values > 2, (values - 2).abs(), -values], dim=1)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.02)
    for _ in range(600):
        optimizer.zero_grad()
        loss = (encoder(torch.zeros(40, 4), values) - wanted).pow(2).mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.02


def test_codes_of_places_tell_places_apart_and_need_them():
    encoder = SEGMENT_ENCODERS["coordinate"](11, 64)
    grid = torch.cartesian_prod(*[torch.arange(-3.0, 3.5, 0.5)] * 2)
    places = torch.cat([grid, torch.zeros(len(grid), 1)], dim=1)
    codes = encoder(torch.zeros(len(grid), dtype=torch.long), places)
    assert codes.shape == (len(grid), 64)
    torch.testing.assert_close(codes.pow(2).sum(1), torch.full((len(grid),), 32.0))
    apart = torch.cdist(codes, codes) + 9 * torch.eye(len(grid))
    assert apart.min() > 0.5  # of half a neighbor distance
    lifted = places + torch.tensor([0.0, 0.0, 1.0])
    assert (encoder(torch.zeros(len(grid), dtype=torch.long), lifted) - codes).norm(dim=1).min() > 0.5
    with pytest.raises(ValueError, match="this batch has none"):
        encoder(torch.zeros(3, dtype=torch.long))


def test_codes_of_near_places_are_alike():
    encoder = SEGMENT_ENCODERS["coordinate"](11, 64)
    steps = torch.tensor([[0.0, 0, 0], [0.2, 0, 0], [1.0, 0, 0], [4.0, 0, 0]])
    codes = encoder(torch.zeros(4, dtype=torch.long), steps)
    distances = (codes - codes[0]).norm(dim=1)
    assert (distances.diff() > 0).all()


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1))
def test_the_signed_logarithm_is_odd_and_the_plain_one_where_nothing_is_negative(values):
    values = torch.tensor(values)
    assert torch.equal(signed_log1p(values.abs()), values.abs().log1p())
    assert torch.equal(signed_log1p(-values), -signed_log1p(values))
