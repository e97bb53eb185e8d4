from __future__ import annotations

import pytest
import torch

from scjepa.celljepa import CellBatch, GeneModuleJEPAModule, hide_modules
from scjepa.celljepa.config import resolve_cells
from scjepa.nn.losses import standardize_over_batch

MODULES = [[0, 1, 2, 3], [3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13]]  # gene 3 is of two, 14 to 29 of none


def _module(**parts):
    base = resolve_cells("modules", encoder={"width": 16, "n_layers": 1, "n_heads": 2})
    torch.manual_seed(0)
    return GeneModuleJEPAModule(30, resolve_cells(base, **parts), MODULES)


def _batch(genes, values, sequences, n=2):
    return CellBatch(
        torch.tensor(genes), torch.tensor(values, dtype=torch.float32), torch.tensor(sequences), torch.arange(n) % 2
    )


def test_a_module_s_token_is_the_sum_of_its_expressed_genes_and_its_own_vector():
    encoder = _module().context
    batch = _batch([1, 3, 20, 6, 3], [10.0, 50.0, 7.0, 5.0, 20.0], [0, 0, 0, 1, 1])
    tokens = encoder.tokens(batch)
    gene, own = encoder.embedding.gene.weight, encoder.module.weight
    torch.testing.assert_close(tokens[0, 0], (gene[1] * 0.2 + gene[3]) / 2 + own[0])
    torch.testing.assert_close(tokens[0, 1], gene[3] / 3**0.5 + own[1])
    torch.testing.assert_close(tokens[0, 3], own[3])
    torch.testing.assert_close(tokens[1, 2], gene[6] * 0.1 / 5**0.5 + own[2])


def test_the_student_cannot_see_a_hidden_module_s_genes_even_where_another_module_has_them():
    module = _module()
    hidden = torch.tensor([[True, False, False, False]] * 2)
    one = module.context(_batch([1, 3, 4, 6], [10.0, 50.0, 7.0, 5.0], [0, 0, 0, 1]), hidden)[0]
    same = module.context(_batch([2, 3, 4, 6], [40.0, 9.0, 7.0, 5.0], [0, 0, 0, 1]), hidden)[0]
    other = module.context(_batch([1, 3, 4, 6], [10.0, 50.0, 30.0, 5.0], [0, 0, 0, 1]), hidden)[0]
    torch.testing.assert_close(one, same)
    assert not torch.allclose(one[0], other[0])


def test_genes_of_no_module_and_their_order_do_not_matter():
    module = _module()
    one = module.embed(_batch([1, 20, 6], [10.0, 3.0, 5.0], [0, 0, 1]))
    other = module.embed(_batch([25, 1, 6], [33.0, 10.0, 5.0], [0, 0, 1]))
    torch.testing.assert_close(one, other)
    assert module.embed(_batch([1], [5.0], [0]))[1].abs().sum() == 0


@pytest.mark.parametrize("ratio", [0.01, 0.5, 0.99])
def test_so_many_modules_are_hidden_in_each_cell(ratio):
    hidden = hide_modules(50, 10, (ratio,), torch.device("cpu"), torch.Generator().manual_seed(0))
    wanted = {0.01: 1, 0.5: 5, 0.99: 9}[ratio]
    assert (hidden.sum(1) == wanted).all()
    assert hidden.any(0).all()


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_loss_is_the_squared_distance_written_out(make_cells, norm):
    off = {"variance_weight": 0.0, "covariance_weight": 0.0}
    module, batch = _module(objective={**off, "target_norm": norm}), make_cells()
    output = module.loss(batch, torch.Generator().manual_seed(3))
    hidden = hide_modules(5, 4, (0.5,), torch.device("cpu"), torch.Generator().manual_seed(3))
    wanted = module.target(batch)[1]
    wanted = standardize_over_batch(wanted) if norm == "batch" else wanted
    cells = module.context(batch, hidden)[0]
    total, count = 0.0, 0
    for row in range(5):
        for number in range(4):
            if hidden[row, number]:
                guess = module.objective.heads["module"](cells[row : row + 1], torch.tensor([number]))
                total, count = total + ((guess[0] - wanted[row, number]) ** 2).mean(), count + 1
    torch.testing.assert_close(output.loss, total / count)
    assert set(output.terms) == {"module_loss"}


def test_the_student_learns_and_the_teacher_gets_no_gradient(make_cells):
    module = _module()
    module.train()
    module.loss(make_cells(), torch.Generator().manual_seed(0)).loss.backward()
    assert all(p.grad is None for p in module.target.parameters())
    assert module.context.module.weight.grad.abs().sum() > 0
    assert module.context.embedding.gene.weight.grad[14:].abs().sum() == 0
    module.begin("finetuning")
    assert "contrast_loss" in module.loss(make_cells()).terms


def test_parts_that_need_the_other_kind_of_token_are_refused():
    with pytest.raises(ValueError, match="Where modules are tokens, objective has no part reconstruction_weight"):
        resolve_cells("demo", tokens={"unit": "module"})
    with pytest.raises(ValueError, match="Where genes are tokens, objective has no part module_weight"):
        resolve_cells("demo", objective={"module_weight": 1.0})


@pytest.mark.parametrize("option", [{"target_view": "masked"}, {"predictor": "none"}, {"jepa_distance": "squared"}])
def test_options_that_modules_do_not_read_are_refused_rather_than_ignored(option):
    (name,) = option
    with pytest.raises(ValueError, match=f"Where modules are tokens, objective.{name} does nothing"):
        resolve_cells("modules", objective=option)
    with pytest.raises(ValueError, match=f"finetuning.objective.{name} does nothing"):
        resolve_cells("modules", finetuning={"objective": option})
    resolve_cells("demo", objective=option)
