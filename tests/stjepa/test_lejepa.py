"""The objective of the paper's first version: views, SIGReg and the adversary; SIGReg beside the other objective."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scjepa.nn import sigreg
from scjepa.nn.losses import standardize_over_batch
from scjepa.stjepa import TechnologyAdversary, draw_mask, pool

V1 = {"name": "lejepa"}


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


def epps_pulley(x):
    """The statistic over the whole line in closed form, for draws ``(n,)``."""
    pairs = np.exp(-0.5 * (x[:, None] - x[None]) ** 2).sum() / len(x)
    return math.sqrt(2 * math.pi) * (pairs - math.sqrt(2) * np.exp(-(x**2) / 4).sum() + len(x) / math.sqrt(3))


@pytest.mark.parametrize("draw", ["normal", "uniform", "exponential"])
def test_sigreg_is_the_epps_pulley_statistic_of_the_projections(draw):
    x = getattr(np.random.default_rng(0), draw)(size=200)
    # Of one dimension every direction is the axis itself or its reverse, for which the statistic is the same.
    ours = sigreg(torch.from_numpy(x)[:, None], 8, _rng())
    assert float(ours) == pytest.approx(epps_pulley(x), rel=0.02, abs=0.02)


def test_sigreg_is_about_one_for_gaussians_and_grows_with_every_way_to_be_none():
    gaussian = torch.randn(512, 16, generator=_rng())
    base = float(sigreg(gaussian, 64, _rng(1)))
    assert 0.6 < base < 1.6
    for other in (gaussian * 0.1, gaussian * 3, gaussian + 1, gaussian[:, :1].repeat(1, 16), torch.zeros(512, 16)):
        assert sigreg(other, 64, _rng(1)) > 5 * base
    collapsed = math.sqrt(2 * math.pi) * (1 - math.sqrt(2) + 1 / math.sqrt(3))
    assert float(sigreg(torch.zeros(512, 16), 64)) == pytest.approx(512 * collapsed, rel=0.03)  # the tails beyond 3


def test_sigreg_makes_collapsed_vectors_gaussian():
    x = (0.05 * torch.randn(128, 4, generator=_rng()) + 0.5).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    for step in range(150):
        optimizer.zero_grad()
        sigreg(x, 32, _rng(step)).backward()
        optimizer.step()
    x = x.detach()
    assert x.mean(0).abs().max() < 0.15
    torch.testing.assert_close(torch.cov(x.T), torch.eye(4), atol=0.25, rtol=0)


def test_views_are_samples_of_their_own_and_directions_follow_the_generator():
    views = torch.randn(2, 64, 8, generator=_rng())
    one, other = (sigreg(views[[i, i]], 16, _rng()) for i in (0, 1))
    torch.testing.assert_close(sigreg(views, 16, _rng()), (one + other) / 2)
    assert sigreg(views, 16, _rng(1)) != sigreg(views, 16, _rng(2))


def test_the_loss_is_what_it_says(make_model, make_batch):
    model, batch = make_model(objective={**V1, "n_views": 3, "sigreg_share": 0.2}), make_batch()
    output = model.loss(batch, _rng(4))
    repeated = batch.repeat(3)
    rng = _rng(4)
    masked = draw_mask(repeated, "stratified", 0.6, rng)
    visible = repeated.select(~masked)
    pooled = pool(model.context(visible), visible, "neighborhood")
    views = model.objective.projector(standardize_over_batch(pooled)).view(3, 5, -1)
    invariance = views.var(0, unbiased=False).mean()
    torch.testing.assert_close(output.terms["invariance_loss"], invariance.detach())
    expected = 0.8 * invariance + 0.2 * sigreg(views, 256, rng) + output.terms["technology_loss"]
    torch.testing.assert_close(output.loss, expected)
    assert 0 < output.ratios["views"] < 1
    assert output.targets is None


def test_one_encoder_no_predictor_and_a_copy_that_is_always_up_to_date(make_model, make_batch):
    model = make_model(objective=V1)
    assert not model.objective.has_teacher
    assert not any("predictor" in name or "heads" in name for name, _ in model.named_parameters())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.loss(make_batch(), _rng()).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    optimizer.step()
    model.update_target(0.0)
    for context, target in zip(model.context.parameters(), model.target.parameters(), strict=True):
        assert torch.equal(context, target)


def test_the_adversary_learns_and_the_encoder_is_taught_the_reverse():
    torch.manual_seed(0)
    pooled = torch.randn(40, 8, requires_grad=True)
    technologies = torch.arange(40) % 2
    plain, weighted = (TechnologyAdversary(8, 2, weight) for weight in (1.0, 0.25))
    weighted.load_state_dict(plain.state_dict())
    gradients = []
    for adversary in (plain, weighted):
        loss = adversary(pooled, technologies)
        direct = torch.nn.functional.cross_entropy(
            adversary.technology(torch.nn.functional.gelu(adversary.hidden(pooled))), technologies
        )
        torch.testing.assert_close(loss, direct)
        (wanted,) = torch.autograd.grad(direct, pooled)
        loss.backward()
        torch.testing.assert_close(pooled.grad, -adversary.weight * wanted, atol=1e-6, rtol=1e-4)
        pooled.grad = None
        gradients.append(adversary.hidden.weight.grad)
    torch.testing.assert_close(*gradients)  # the classifier itself learns at full strength


def test_with_the_adversary_technologies_can_be_told_apart_less_well():
    """Vectors whose first dimension is the technology: minimizing the adversary's loss takes it out."""
    torch.manual_seed(0)
    technologies = torch.arange(200) % 2
    x = torch.randn(200, 6)
    x[:, 0] = 3.0 * technologies - 1.5
    shift = torch.nn.Parameter(torch.zeros(2, 6))  # what an encoder could do
    adversary = TechnologyAdversary(6, 2, 1.0)
    groups = [{"params": [shift]}, {"params": adversary.parameters(), "weight_decay": 0.1}]
    optimizer = torch.optim.SGD(groups, lr=0.5)  # plain steps: the two do not circle about each other
    for _ in range(300):
        optimizer.zero_grad()
        adversary(x + shift[technologies], technologies).backward()
        optimizer.step()
    moved = (x + shift[technologies]).detach()
    gap = (moved[technologies == 0].mean(0) - moved[technologies == 1].mean(0)).norm()
    assert gap < 1.0  # of 3 at first


def test_sigreg_guards_the_other_objective_and_costs_nothing_unasked(make_model, make_batch):
    batch = make_batch()
    plain, guarded = (make_model(objective={"sigreg_weight": w}).loss(batch, _rng(2)) for w in (0.0, 0.5))
    assert "sigreg_loss" not in plain.terms
    torch.testing.assert_close(guarded.loss, plain.loss + 0.5 * guarded.terms["sigreg_loss"])
    alone = {"variance_weight": 0.0, "covariance_weight": 0.0, "cell_weight": 0.0, "neighborhood_weight": 0.0}
    output = make_model(objective={**alone, "sigreg_weight": 0.5}).loss(batch, _rng(2))
    assert set(output.terms) == {"token_loss", "sigreg_loss"}


def test_an_empty_or_single_sequence_is_finite(make_model, make_batch):
    batch = make_batch(n_sequences=3)
    only = batch.select((batch.sequences == 1).nonzero()[:, 0][:1])
    for some in (only, make_batch(n_sequences=1)):
        output = make_model(objective=V1).loss(some, _rng())
        output.loss.backward()
        assert torch.isfinite(output.loss)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_views": 1}, "n_views must be 2 or more, found 1"),
        ({"sigreg_share": 1.5}, r"sigreg_share must lie in \[0.0, 1.0\]"),
        ({"sigreg_projections": 0}, "sigreg_projections must be positive"),
        ({"adversarial_weight": -1}, "adversarial_weight must not be negative"),
    ],
)
def test_wrong_options_are_told(make_config, options, words):
    with pytest.raises(ValueError, match=words):
        make_config(objective={**V1, **options})


def test_the_name_of_an_objective_will_do(make_config):
    assert make_config(objective="lejepa") == make_config(objective={"name": "lejepa"})
