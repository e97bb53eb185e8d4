from __future__ import annotations

import pytest
import torch

from scjepa.celljepa import generate
from scjepa.training import parameter_groups


def _alternate(batch):
    return torch.arange(batch.n_tokens) % 2 == 0


@pytest.mark.parametrize("n_iterations", [1, 3])
def test_known_values_stay_and_unknown_ones_are_bins_whatever_was_written_there(make_cells, make_module, n_iterations):
    module, batch = make_module(), make_cells()
    unknown = _alternate(batch)
    values = generate(module.target, module.objective, batch, unknown, n_iterations)
    assert torch.equal(values[~unknown], batch.values[~unknown])
    assert ((values >= 0) & (values <= 50)).all()
    other = type(batch)(batch.genes, batch.values.masked_fill(unknown, 33.0), batch.sequences, batch.labels)
    assert torch.equal(generate(module.target, module.objective, other, unknown, n_iterations), values)


def test_one_iteration_is_the_gene_prompt_and_more_reads_its_own_predictions(make_cells, make_module):
    module, batch = make_module(), make_cells()
    unknown = _alternate(batch)
    once = generate(module.target, module.objective, batch, unknown, 1)
    values = module.objective.heads["value"](module.target(batch, unknown)[1]).clamp(0, 50)
    torch.testing.assert_close(once[unknown], values)
    assert not torch.equal(generate(module.target, module.objective, batch, unknown, 4), once)


def test_training_with_prompts_learns_what_a_cell_prompt_can_tell(make_cells, make_module):
    torch.manual_seed(0)
    module = make_module(objective={"jepa_weight": 0.0, "cell_prompt_weight": 1.0}, masking={"ratio": (0.25, 0.75)})
    batch = make_cells(lengths=(20, 20, 20))
    optimizer = torch.optim.AdamW(parameter_groups(module), lr=3e-3)
    losses = []
    for step in range(60):
        output = module.loss(batch, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.terms["cell_prompt_loss"]))
    assert losses[-1] < 0.5 * losses[0]


def test_a_model_without_value_head_says_so(make_cells, make_module):
    module, batch = make_module(objective={"reconstruction_weight": 0.0}), make_cells()
    with pytest.raises(ValueError, match="reconstruction_weight"):
        generate(module.target, module.objective, batch, _alternate(batch))
