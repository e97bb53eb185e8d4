from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from scjepa.nn.encoder import VALUE_ENCODERS
from scjepa.nn.losses import covariance_loss, standardize_over_batch, variance_loss
from scjepa.stjepa import MASKING_SCHEMES, OBJECTIVES, STJEPAModule, pool
from scjepa.stjepa.config import PRESETS, resolve
from scjepa.stjepa.module import RANK_ENCODERS, sinusoids
from scjepa.stjepa.objectives import draw_mask

PAPER = {"cell_weight": 0.0, "neighborhood_weight": 0.0, "variance_weight": 0.0, "covariance_weight": 0.0}


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_no_gradient_reaches_the_target_encoder_and_ema_alone_moves_it(make_model, make_batch):
    model = make_model()
    before = copy.deepcopy(model.target.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    model.loss(make_batch(), _rng()).loss.backward()
    assert all(p.grad is None for p in model.target.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.context.parameters())
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in model.target.state_dict().items())
    context = model.context.state_dict()
    model.update_target(0.9)
    for name, value in model.target.named_parameters():
        torch.testing.assert_close(value.detach(), 0.9 * before[name] + 0.1 * context[name])


def test_target_stays_in_evaluation_mode(make_model):
    model = make_model(encoder={"dropout": 0.5}).train()
    assert model.context.training
    assert not any(m.training for m in model.target.modules())


@pytest.mark.parametrize("backend", ["per_sequence", "bucketed"])
def test_loss_and_gradients_do_not_depend_on_the_attention_backend(make_model, make_batch, backend):
    results = []
    for name in ("padded", backend):
        model = make_model(encoder={"attention": name})
        output = model.loss(make_batch(), _rng(3))
        output.loss.backward()
        results.append((output.loss.detach(), model.context.embedding.gene.weight.grad.clone()))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-6)


def test_masked_values_do_not_reach_the_prediction(make_model, make_batch):
    """Changing the counts of masked tokens changes targets, never predictions (the paper's loss)."""
    from scjepa.stjepa import draw_mask

    model, batch = make_model(objective=PAPER), make_batch()
    masked = draw_mask(batch, "stratified", 0.6, _rng(1))
    first = model.loss(batch, _rng(1))
    changed = batch.repeat(1).select(torch.arange(batch.n_tokens))
    changed.values[masked] += 7
    second = model.loss(changed, _rng(1))
    torch.testing.assert_close(first.predictions, second.predictions)
    assert not torch.allclose(first.targets, second.targets)


def test_rank_queries_do_not_know_the_gene(make_model, make_batch):
    from scjepa.stjepa import draw_mask

    batch = make_batch()
    masked = draw_mask(batch, "stratified", 0.6, _rng(1))
    changed = batch.select(torch.arange(batch.n_tokens))
    changed.genes[masked] = (changed.genes[masked] + 1) % 30
    for query, same in (("rank", True), ("gene", False)):
        model = make_model(objective={**PAPER, "query": query})
        a, b = (model.loss(x, _rng(1)).predictions for x in (batch, changed))
        assert torch.allclose(a, b) is same


def test_targets_are_layer_normed_unless_switched_off(make_model, make_batch):
    normed = make_model(objective=PAPER).loss(make_batch(), _rng()).targets
    torch.testing.assert_close(normed.mean(1), torch.zeros(len(normed)), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.std(1, unbiased=False), torch.ones(len(normed)), atol=1e-3, rtol=0)
    raw = make_model(objective={**PAPER, "target_norm": "none"}).loss(make_batch(), _rng()).targets
    assert not torch.allclose(normed, raw)


def test_literal_target_view_encodes_the_masked_tokens_alone(make_model, make_batch):
    """In the ``masked`` view, visible counts cannot reach the targets; in the ``all`` view they do."""
    from scjepa.stjepa import draw_mask

    batch = make_batch()
    masked = draw_mask(batch, "stratified", 0.6, _rng(1))
    changed = batch.select(torch.arange(batch.n_tokens))
    changed.values[~masked & ~batch.is_metatoken] += 5
    for view, same in (("masked", True), ("all", False)):
        model = make_model(objective={**PAPER, "target_view": view})
        a, b = (model.loss(x, _rng(1)).targets for x in (batch, changed))
        assert torch.allclose(a, b, atol=1e-6) is same


def test_several_masks_share_targets_and_query_fraction_thins_queries(make_model, make_batch):
    batch = make_batch(empty_cells=False)
    one = make_model(masking={"n_masks": 1}).loss(batch, _rng())
    four = make_model(masking={"n_masks": 4}).loss(batch, _rng())
    quarter = make_model(masking={"n_masks": 4, "query_fraction": 0.25}).loss(batch, _rng())
    assert len(four.genes) == 4 * len(one.genes)
    assert len(quarter.genes) == round(len(four.genes) / 4)


def test_four_masks_equal_four_single_losses(make_model, make_batch):
    """Averaged over tokens, M masks in one pass are M passes."""
    batch = make_batch(empty_cells=False)
    model = make_model(masking={"n_masks": 3}, objective=PAPER)
    together = model.loss(batch, _rng(5))
    parts = together.predictions.chunk(3), together.targets.chunk(3)
    expected = torch.stack([(p - t).abs().mean() for p, t in zip(*parts, strict=True)]).mean()
    torch.testing.assert_close(together.terms["token_loss"], expected)
    torch.testing.assert_close(parts[1][0].shape, parts[1][1].shape)


@pytest.mark.parametrize("value", list(VALUE_ENCODERS))
@pytest.mark.parametrize("rank", list(RANK_ENCODERS))
def test_every_encoder_choice_trains(make_model, make_batch, value, rank):
    model = make_model(encoder={"value": value, "rank": rank, "segment": rank})
    output = model.loss(make_batch(), _rng())
    output.loss.backward()
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize("scheme", list(MASKING_SCHEMES))
def test_every_masking_scheme_trains(make_model, make_batch, scheme):
    assert torch.isfinite(make_model(masking={"scheme": scheme}).loss(make_batch(), _rng()).loss)


def test_value_mlp_table_equals_direct_mlp(make_model, make_batch):
    encoder = VALUE_ENCODERS["mlp"](32)
    gene = torch.randn(400, 32)
    values = torch.randint(0, 9, (400,)).float()
    torch.testing.assert_close(encoder(gene, values), gene + encoder.mlp(values[:, None]))


def test_rank_and_segment_codes_are_never_ambiguous():
    """PE_rank(i) + PE_segment(j) differs for all (i, j): their bases differ."""
    rank, segment = sinusoids(64, 64, 10_000.0), sinusoids(12, 64, 100.0)
    sums = (rank[:, None] + segment[None]).reshape(-1, 64)
    distance = torch.cdist(sums, sums) + torch.eye(len(sums)) * 9
    assert distance.min() > 1e-2


def test_empty_and_single_token_sequences_are_finite(make_model, make_batch):
    batch = make_batch(n_sequences=3)
    only = batch.select((batch.sequences == 1).nonzero()[:, 0][:1])
    output = make_model().loss(only, _rng())
    assert torch.isfinite(output.loss)
    output.loss.backward()
    assert (pool(make_model()(only), only, "neighborhood")[0] == 0).all()


def test_metatoken_is_not_pooled_but_is_attended(make_model, make_batch):
    model, batch = make_model(), make_batch()
    plain = batch.select((~batch.is_metatoken).nonzero()[:, 0])
    with_meta, without = (pool(model(b), b, "neighborhood") for b in (batch, plain))
    assert not torch.allclose(with_meta, without)
    tokens = model(batch)
    altered = tokens.clone()
    altered[batch.is_metatoken] = 1e3
    torch.testing.assert_close(pool(altered, batch, "neighborhood"), with_meta)


def test_guards_know_collapse_from_health():
    healthy, collapsed = torch.randn(500, 16), torch.ones(500, 16)
    assert variance_loss(healthy) < 0.1 < 0.9 < variance_loss(collapsed)
    assert covariance_loss(healthy) < covariance_loss(healthy[:, :1].repeat(1, 16))
    z = standardize_over_batch(healthy * 3 + 2)
    torch.testing.assert_close(z.std(0), torch.ones(16), atol=1e-3, rtol=0)


def test_parameter_counts_are_those_of_the_paper_guide():
    """One block at D = 768 has 7.088M parameters; the 5-layer encoder with 1,669 genes 37.0M."""
    with torch.device("meta"):
        model = STJEPAModule(1669, 2, PRESETS["paper"])
        ablation = STJEPAModule(1669, 2, PRESETS["paper_ablation"])
    block = sum(p.numel() for p in model.context.transformer.blocks[0].parameters())
    assert block == 7_087_872
    assert abs(model.parameter_counts()["encoder"] / 1e6 - 37.0) < 0.1
    assert abs(ablation.parameter_counts()["encoder"] / 1e6 - 22.8) < 0.1


def test_unknown_objective_and_encoder_names_are_told():
    with pytest.raises(ValueError, match="Did you mean 'ijepa'"):
        STJEPAModule(5, 1, resolve("demo", objective={"name": "ijep"}))
    with pytest.raises(ValueError, match="Unknown value encoder"):
        STJEPAModule(5, 1, resolve("demo", encoder={"value": "nope"}))
    assert "ijepa" in OBJECTIVES


def test_nearby_predicts_the_pooled_neighborhood_of_the_partner(make_model, make_batch):
    batch = make_batch(n_sequences=6)
    partners = torch.tensor([3, 4, 5, 0, 1, 2])
    model = make_model(objective={**PAPER, "token_weight": 0.0, "nearby_weight": 1.0})
    right = model.loss(replace(batch, partners=partners), _rng(1)).terms
    wrong = model.loss(replace(batch, partners=partners.roll(1)), _rng(1)).terms
    assert set(right) == {"nearby_loss"}
    assert right["nearby_loss"] != wrong["nearby_loss"]
    two = model.loss(replace(batch.repeat(2), partners=torch.cat([partners, partners + 6])), _rng(1)).terms
    assert torch.isfinite(two["nearby_loss"])
    assert float(model.loss(batch, _rng(1)).loss) == 0.0  # without partners nothing is predicted


def test_masks_of_one_batch_share_its_partners(make_model, make_batch):
    batch = replace(make_batch(n_sequences=4), partners=torch.tensor([2, 3, 0, 1]))
    repeated = batch.repeat(3)
    assert torch.equal(repeated.partners, torch.tensor([2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9]))
    model = make_model(masking={"n_masks": 3}, objective={"nearby_weight": 1.0})
    assert torch.isfinite(model.loss(batch, _rng()).loss)


def test_agreed_pooled_objectives_are_squared_differences_of_the_pooled_vectors_themselves(make_model, make_batch):
    only = {"token_weight": 0.0, **PAPER, "nearby_weight": 0.0, "neighborhood_weight": 2.0}
    model, batch = make_model(objective={**only, "pooled": "agreed"}), make_batch()
    assert not list(model.objective.heads.parameters())
    output = model.loss(batch, _rng())
    masked = draw_mask(batch, model.config.masking.scheme, model.config.masking.ratio, _rng())
    visible = batch.select((~masked).nonzero()[:, 0])
    student = pool(model.context(visible), visible, "neighborhood")
    teacher = pool(model.target(batch), batch, "neighborhood")
    torch.testing.assert_close(output.loss, 2 * ((student - teacher) ** 2).mean())
    spread = (teacher - teacher.mean(0)).pow(2).mean()
    torch.testing.assert_close(output.ratios["neighborhood"], output.terms["neighborhood_loss"] / spread)
