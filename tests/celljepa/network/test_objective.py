from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scjepa.celljepa import CONTRASTS, hide
from scjepa.celljepa.config import CellObjectiveConfig
from scjepa.celljepa.module import contrast

OFF = {"reconstruction_weight": 0.0, "jepa_weight": 0.0}


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_loss_is_the_weighted_sum_of_its_terms_written_out(make_cells, make_module):
    module, batch = make_module(objective={"reconstruction_weight": 2.0, "jepa_weight": 30.0}), make_cells()
    output = module.loss(batch, _generator())
    hidden = hide(batch, (0.4,), _generator())
    cells, tokens = module.context(batch, hidden)
    heads = module.objective.heads
    mse = ((heads["value"](tokens) - batch.values[hidden]) ** 2).mean()
    teacher = module.target(batch)[0]
    distance = (1 - F.cosine_similarity(heads["predictor"](cells), teacher)).mean()
    torch.testing.assert_close(output.terms["reconstruction_loss"], mse.detach())
    torch.testing.assert_close(output.terms["jepa_loss"], distance.detach())
    torch.testing.assert_close(output.loss, 2 * mse + 30 * distance)
    assert output.predictions.shape == output.targets.shape == (int(hidden.sum()), 1)
    assert torch.equal(output.genes, batch.genes[hidden])


@pytest.mark.parametrize("predictor", ["mlp", "none"])
def test_the_squared_distance_is_of_the_prediction_or_of_cls_itself(make_cells, make_module, predictor):
    options = {**OFF, "jepa_weight": 2.0, "jepa_distance": "squared", "predictor": predictor}
    module, batch = make_module(objective=options), make_cells()
    cells, _ = module.context(batch, hide(batch, (0.4,), _generator()))
    assert ("predictor" in module.objective.heads) == (predictor == "mlp")
    predicted = module.objective.heads["predictor"](cells) if predictor == "mlp" else cells
    output, whole = module.loss(batch, _generator()), module.target(batch)[0]
    torch.testing.assert_close(output.loss, 2 * ((predicted - whole) ** 2).mean())
    name, other = ("cell", whole.mean(0)) if predictor == "mlp" else ("views", predicted.roll(1, 0))
    torch.testing.assert_close(output.ratios[name], (output.loss / 2 / ((other - whole) ** 2).mean()).detach())


def test_no_gradient_reaches_the_teacher_and_it_moves_by_ema_alone(make_cells, make_module):
    module = make_module()
    module.train()
    assert not module.target.training
    module.loss(make_cells(), _generator()).loss.backward()
    assert all(p.grad is None for p in module.target.parameters())
    assert all(p.grad is not None for p in module.context.parameters())
    with torch.no_grad():
        module.context.embedding.cls += 1.0
    before = module.target.embedding.cls.clone()
    module.update_target(0.75)
    torch.testing.assert_close(module.target.embedding.cls, before + 0.25)


@pytest.mark.parametrize("view", ["all", "masked"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_teacher_s_view_and_norm_are_what_was_asked_for(make_cells, make_module, view, norm):
    module = make_module(objective={**OFF, "jepa_weight": 1.0, "target_view": view, "target_norm": norm})
    batch = make_cells()
    hidden = hide(batch, (0.4,), _generator())
    seen = module.target(batch if view == "all" else batch.select(hidden))[0]
    if norm == "batch":
        seen = (seen - seen.mean(0)) / (seen.std(0) + 1e-4)
    predicted = module.objective.heads["predictor"](module.context(batch, hidden)[0])
    wanted = (1 - F.cosine_similarity(predicted, seen)).mean()
    torch.testing.assert_close(module.loss(batch, _generator()).loss, wanted)


def test_without_jepa_weight_the_teacher_is_not_computed(make_cells, make_module, monkeypatch):
    module = make_module(objective={"jepa_weight": 0.0})
    monkeypatch.setattr(module.target, "forward", lambda *a, **k: pytest.fail("the teacher was computed"))
    output = module.loss(make_cells(), _generator())
    assert set(output.terms) == {"reconstruction_loss"}
    assert "predictor" not in module.objective.heads


@pytest.mark.parametrize(
    "term", ["reconstruction", "jepa", "cell_reconstruction", "cell_prompt", "contrast", "variance", "covariance"]
)
def test_every_term_trains_the_student(make_cells, make_module, term):
    weights = {**OFF, f"{term}_weight": 1.0}
    if term in ("variance", "covariance"):
        weights["jepa_weight"] = 1e-9
    module = make_module(objective=weights)
    output = module.loss(make_cells(), _generator())
    assert f"{term}_loss" in output.terms
    output.loss.backward()
    gradient = sum(float(p.grad.abs().sum()) for p in module.context.transformer.parameters() if p.grad is not None)
    assert gradient > 0


def test_the_cell_prompt_is_cut_off_and_hides_all_values(make_cells, make_module):
    module, batch = make_module(objective={**OFF, "cell_prompt_weight": 1.0}), make_cells()
    term = module.loss(batch, _generator()).terms["cell_prompt_loss"]
    cells = module.context(batch, hide(batch, (0.4,), _generator()))[0]
    everything = torch.ones(batch.n_tokens, dtype=torch.bool)
    values = module.objective.heads["value"](module.context(batch, everything, cells)[1])
    torch.testing.assert_close(term, F.mse_loss(values, batch.values).detach())


def test_finetuning_takes_other_weights_and_keeps_the_heads(make_cells, make_module):
    module = make_module()
    value, before = module.objective.heads["value"], set(module.state_dict())
    module.begin("finetuning")
    terms = module.loss(make_cells(), _generator()).terms
    assert set(terms) == {"reconstruction_loss", "jepa_loss", "cell_reconstruction_loss", "contrast_loss"}
    assert module.objective.heads["value"] is value
    assert {name for name in set(module.state_dict()) - before if "cell_value" not in name} == set()
    module.begin("pretraining")
    assert set(module.loss(make_cells(), _generator()).terms) == {"reconstruction_loss", "jepa_loss"}
    with pytest.raises(ValueError, match="finetuning, pretraining"):
        module.begin("perturbation")


def test_a_batch_without_genes_has_a_loss_of_zero(make_cells, make_module):
    output = make_module(objective={"jepa_weight": 0.0}).loss(make_cells(lengths=(0, 0)), _generator())
    assert output.loss.item() == 0


# -- ECS --------------------------------------------------------------------------------------------------------------


def _written_out(x, labels, config):
    unit = F.normalize(x, dim=1)
    n, own = len(x), config.self_pairs
    cosine = lambda i, j: float(unit[i] @ unit[j])  # noqa: E731
    others = lambda i: [j for j in range(n) if own or j != i]  # noqa: E731
    if config.contrast != "supervised":
        form = {
            "original": lambda c: (c - config.similarity) ** 2,
            "scgpt": lambda c: 1 - (max(c, 0.0) - config.similarity) ** 2,
        }[config.contrast]
        return np.mean([form(cosine(i, j)) for i in range(n) for j in others(i)])
    anchors = []
    known = [i for i in range(n) if labels[i] >= 0]
    for i in known:
        candidates = [j for j in known if own or j != i]
        total = sum(np.exp(cosine(i, j) / config.temperature) for j in candidates)
        positives = [j for j in candidates if labels[j] == labels[i]]
        if positives:
            shares = [np.exp(cosine(i, j) / config.temperature) / total for j in positives]
            anchors.append(-np.mean(np.log(shares)))
    return np.mean(anchors)


@pytest.mark.parametrize("name", list(CONTRASTS))
@pytest.mark.parametrize("self_pairs", [False, True])
def test_ecs_equals_the_formula_written_out(name, self_pairs):
    config = CellObjectiveConfig(contrast=name, self_pairs=self_pairs, temperature=0.2)
    x = torch.randn(9, 5, generator=_generator(), dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 1, 2, -1, -1, 3])
    assert float(contrast(x, labels, config)) == pytest.approx(_written_out(x, labels, config), rel=1e-5)


@pytest.mark.parametrize("name", list(CONTRASTS))
def test_ecs_of_too_few_cells_is_zero_and_differentiable(name):
    x = torch.randn(1, 5, requires_grad=True)
    value = contrast(x, torch.tensor([0]), CellObjectiveConfig(contrast=name))
    value.backward()
    assert float(value) == 0
    assert torch.isfinite(x.grad).all()


def test_supervised_contrast_prefers_labels_together():
    config = CellObjectiveConfig()
    x = torch.eye(2, 4).repeat(3, 1)
    together, apart = torch.tensor([0, 1] * 3), torch.tensor([0, 0, 0, 1, 1, 1])
    assert contrast(x, together, config) < contrast(x, apart, config)
