from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scjepa.celljepa import CellBatch, PerturbationJEPAModule, PerturbedBatch
from scjepa.celljepa.config import CellJEPAConfig, resolve_cells
from scjepa.celljepa.module import CellEmbedding
from scjepa.celljepa.perturb.module import PerturbedEmbedding, relative_error

N_GENES, N_OUTSIDE = 30, 2


@pytest.fixture
def control():
    return torch.rand(N_GENES, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def module(make_module, control):
    """Return what begins as a small pretrained encoder."""
    pretrained = make_module()
    torch.manual_seed(1)
    return PerturbationJEPAModule(pretrained.target, N_OUTSIDE, pretrained.config, control, delta_aware=True)


@pytest.fixture
def batch(make_cells):
    """Return three cells, each with one marked gene; the last cell's lies outside the vocabulary."""
    rng = torch.Generator().manual_seed(2)
    genes = torch.cat([torch.randperm(N_GENES, generator=rng)[:10] for _ in range(3)])
    genes[20] = N_GENES + 1
    perturbed = torch.zeros(30, dtype=torch.bool)
    perturbed[[0, 10, 20]] = True
    truth = make_cells(3, (8, 5, 9))
    return PerturbedBatch(
        genes,
        torch.randint(0, 51, (30,), generator=rng).float(),
        torch.arange(3).repeat_interleave(10),
        torch.tensor([0, 1, 1]),
        perturbed,
        expression=torch.rand(30, generator=rng) * (genes < N_GENES),
        change=torch.randn(30, generator=rng) * (genes < N_GENES),
        truth_genes=truth.genes,
        truth_values=truth.values,
        truth_sequences=truth.sequences,
    )


def test_at_first_no_change_is_predicted(module, batch, control):
    found = module.predict(batch)
    known = batch.genes < N_GENES
    assert torch.equal(found[known], control[batch.genes[known]])
    assert found[~known].tolist() == [0.0]


def test_predicting_from_nothing_knows_no_control(make_module, batch, control):
    pretrained = make_module(perturbation={"from_control": False})
    module = PerturbationJEPAModule(pretrained.target, N_OUTSIDE, pretrained.config, control, delta_aware=False)
    assert not module.predict(batch).any()


def _trained(module, batch):
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        module.loss(batch).loss.backward()
        optimizer.step()
        module.update_target(0.5)
    return module.eval()


def test_the_teacher_is_frozen_and_the_pretrained_encoder_untouched(make_module, batch, control):
    pretrained = make_module()
    before = {name: tensor.clone() for name, tensor in pretrained.state_dict().items()}
    module = PerturbationJEPAModule(pretrained.target, N_OUTSIDE, pretrained.config, control, delta_aware=True)
    teacher = {name: tensor.clone() for name, tensor in module.target.state_dict().items()}
    _trained(module, batch)
    assert all(torch.equal(tensor, before[name]) for name, tensor in pretrained.state_dict().items())
    assert all(torch.equal(tensor, teacher[name]) for name, tensor in module.target.state_dict().items())
    assert all(p.grad is None for p in module.target.parameters())
    assert not torch.equal(module.context.embedding.gene.weight[:N_GENES], teacher["embedding.gene.weight"])


def test_which_gene_is_marked_decides(module, batch):
    _trained(module, batch)
    found = module.predict(batch)
    moved = batch.perturbed.clone()
    moved[[0, 1]] = moved[[1, 0]]
    other = module.predict(replace(batch, perturbed=moved))
    assert not torch.allclose(found[:10], other[:10])
    assert torch.allclose(found[10:], other[10:], atol=1e-6)  # the other cells' business


def test_a_gene_outside_the_vocabulary_has_no_value_and_an_identity(module, batch):
    _trained(module, batch)
    found = module.predict(batch)
    values, genes = batch.values.clone(), batch.genes.clone()
    values[20] = 50.0 if values[20] < 25 else 1.0
    assert torch.equal(module.predict(replace(batch, values=values)), found)
    genes[20] = N_GENES
    assert not torch.allclose(module.predict(replace(batch, genes=genes))[21:], found[21:])


def test_the_loss_is_the_weighted_sum_of_its_terms(module, batch):
    output = module.loss(batch)
    weights = {"reconstruction": 1.0, "jepa": 1.0, "contrast": 0.8, "delta": 1.0}
    assert set(output.terms) == {f"{name}_loss" for name in weights}
    total = sum(weight * output.terms[f"{name}_loss"] for name, weight in weights.items())
    torch.testing.assert_close(output.loss.detach(), total)
    known = batch.genes < N_GENES
    expected = (module.predict(batch) - batch.expression)[known].square().mean()
    torch.testing.assert_close(output.terms["reconstruction_loss"], expected.detach())
    torch.testing.assert_close(output.terms["delta_loss"], torch.tensor(1.0))  # no change is predicted


def test_without_the_teacher_and_without_the_change_they_are_not_computed(make_module, batch, control):
    pretrained = make_module(perturbation={"objective": {"jepa_weight": 0.0}})
    module = PerturbationJEPAModule(pretrained.target, N_OUTSIDE, pretrained.config, control, delta_aware=False)
    module.target = None
    assert set(module.loss(batch).terms) == {"reconstruction_loss", "contrast_loss"}


def test_a_batch_to_predict_has_no_loss(module, batch):
    with pytest.raises(ValueError, match="one to predict"):
        module.loss(replace(batch, expression=None))
    with pytest.raises(ValueError, match="one to predict"):
        _ = replace(batch, truth_genes=None).truth


def test_selected_tokens_keep_what_belongs_to_them(batch):
    keep = torch.arange(30) % 3 == 0
    part = batch.select(keep)
    for name in ("genes", "values", "sequences", "perturbed", "expression", "change"):
        assert torch.equal(getattr(part, name), getattr(batch, name)[keep])
    assert torch.equal(part.truth.genes, batch.truth.genes)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 999), st.floats(0.0, 2.0))
def test_the_error_of_the_change_is_relative_to_the_change(lengths, seed, factor):
    rng = torch.Generator().manual_seed(seed)
    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    wanted, found = torch.randn(2, len(rows), generator=rng)
    wanted[rows == 0] = 0.0  # control: nothing changes
    ratios = [
        float((found - wanted)[rows == row].square().sum() / wanted[rows == row].square().sum())
        for row in range(1, len(lengths))
        if lengths[row]
    ]
    expected = sum(ratios) / len(ratios) if ratios else 0.0
    assert float(relative_error(found, wanted, rows, len(lengths))[0]) == pytest.approx(expected, rel=1e-3)
    scaled = float(relative_error(factor * wanted, wanted, rows, len(lengths))[0])
    assert scaled == pytest.approx((1 - factor) ** 2 if ratios else 0.0, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": {"cell_prompt_weight": 1.0}}, "no part cell_prompt_weight"),
        ({"objective": {"module_weight": 1.0}}, "no part module_weight"),
        ({"objective": {"target_view": "masked"}}, "target_view must be 'all'"),
        ({"objective": {"reconstruction_weight": 0.0}}, "must be positive"),
        ({"delta_weight": -1.0}, "must not be negative"),
    ],
)
def test_options_that_have_no_meaning_here_are_refused(make_module, options, message):
    with pytest.raises(ValueError, match=message):
        make_module(perturbation=options)


def test_genes_without_a_count_keep_their_identity_where_values_multiply():
    config = resolve_cells(CellJEPAConfig(), encoder={"value": "bound"})
    embedding = PerturbedEmbedding(CellEmbedding(N_GENES, config), 1, config)
    genes = torch.tensor([3, 4, 3, N_GENES])
    batch = CellBatch(genes, torch.tensor([0.0, 0.0, 25.0, 0.0]), torch.zeros(4, dtype=torch.long), torch.zeros(1))
    content = embedding(batch)
    torch.testing.assert_close(content[:2], 2 * embedding.gene(genes[:2]))
    torch.testing.assert_close(content[2], 1.25 * content[0])
    torch.testing.assert_close(content[3], embedding.gene(genes[3]))  # outside: of no value
