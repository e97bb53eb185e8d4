from __future__ import annotations

import copy

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from scjepa.models.reference import rows_like, rows_of_mean, train_new_rows_only


def _table(n: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(1, 9),
    names=st.lists(st.text(min_size=1, max_size=5), unique=True, max_size=6),
    seed=st.integers(0, 3),
    data=st.data(),
)
def test_a_new_row_depends_on_seed_and_name_alone(n, names, seed, data):
    known = _table(n, 4)
    (rows,) = rows_like([known], names, seed)
    assert rows.shape == (n + len(names), 4)
    assert torch.equal(rows[:n], known)
    order = data.draw(st.permutations(names))
    (again,) = rows_like([known], order[:3], seed)
    for place, name in enumerate(order[:3]):
        assert torch.equal(again[n + place], rows[n + names.index(name)])


def test_names_and_seeds_give_different_rows():
    known = _table(8, 4)
    (a,), (b,) = (rows_like([known], ["x", "y"], seed) for seed in (0, 1))
    assert not torch.allclose(a[8], a[9])
    assert not torch.allclose(a[8:], b[8:])


def test_new_rows_have_the_mean_and_covariance_of_the_known():
    known = _table(50, 3) @ torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 5.0]]) + 2
    (rows,) = rows_like([known], [f"gene{i}" for i in range(4000)], 0)
    new = rows[50:]
    torch.testing.assert_close(new.mean(0), known.mean(0), rtol=0, atol=0.3)
    torch.testing.assert_close(torch.corrcoef(new.T), torch.corrcoef(known.T), rtol=0, atol=0.06)
    torch.testing.assert_close(new.std(0), known.std(0), rtol=0.06, atol=0)


def test_tables_that_belong_together_stay_so():
    context = _table(20, 4)
    target = context @ _table(4, 4, seed=1)  # any linear relation
    rows, twins = rows_like([context, target], ["a", "b"], 0)
    torch.testing.assert_close(rows @ _table(4, 4, seed=1), twins, rtol=1e-4, atol=1e-4)


def test_many_known_rows_are_sampled():
    known = _table(5000, 2) + 3
    (rows,) = rows_like([known], [f"g{i}" for i in range(500)], 0)
    torch.testing.assert_close(rows[5000:].mean(0), known.mean(0), rtol=0, atol=0.2)


def test_rows_of_mean():
    known = _table(5, 3)
    (rows,) = rows_of_mean([known], 2)
    assert torch.equal(rows[:5], known)
    torch.testing.assert_close(rows[5:], known.mean(0).expand(2, 3))
    assert torch.equal(rows_of_mean([known], 0)[0], known)


def test_known_rows_stay_bit_for_bit_under_adamw():
    torch.manual_seed(0)
    module = nn.ModuleDict({"genes": nn.Embedding(6, 4), "out": nn.Linear(4, 1)})
    before = copy.deepcopy(module.state_dict())
    train_new_rows_only(module, [(module["genes"], 4)])
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.0)
    for _ in range(5):
        optimizer.zero_grad()
        module["out"](module["genes"](torch.arange(6))).pow(2).sum().backward()
        optimizer.step()
    after = module.state_dict()
    np.testing.assert_array_equal(after["genes.weight"][:4], before["genes.weight"][:4])
    assert not torch.equal(after["genes.weight"][4:], before["genes.weight"][4:])
    assert torch.equal(after["out.weight"], before["out.weight"])
