from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scjepa.nn import ATTENTION_BACKENDS, Packing, attend, choose_backend

CPU_BACKENDS = ["per_sequence", "bucketed"]


def _plain(q, k, v, n_q, n_k):
    """Softmax attention written out, one sequence at a time."""
    out, i, j = [], 0, 0
    for a, b in zip(n_q, n_k, strict=True):
        scores = torch.einsum("qhd,khd->hqk", q[i : i + a], k[j : j + b]) / q.shape[-1] ** 0.5
        out.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[j : j + b]))
        i, j = i + a, j + b
    return torch.cat(out)


def _tensors(n_q, n_k, seed=0):
    generator = torch.Generator().manual_seed(seed)
    make = lambda n: torch.randn(n, 2, 16, generator=generator, requires_grad=True)  # noqa: E731
    return make(sum(n_q)), make(sum(n_k)), make(sum(n_k))


lengths = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 12)), min_size=1, max_size=7)


@pytest.mark.parametrize("backend", ["padded", *CPU_BACKENDS])
@settings(max_examples=40, deadline=None)
@given(pairs=lengths, seed=st.integers(0, 99))
def test_backends_equal_written_out_attention(backend, pairs, seed):
    n_q, n_k = [a for a, _ in pairs], [b for _, b in pairs]
    q, k, v = _tensors(n_q, n_k, seed)
    if not sum(n_q):
        return
    out = attend(q, k, v, Packing(torch.tensor(n_q)), Packing(torch.tensor(n_k)), backend)
    torch.testing.assert_close(out, _plain(q, k, v, n_q, n_k), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_gradients_equal_padded(backend):
    n = [5, 1, 9, 9, 3, 0, 2]
    q, k, v = _tensors(n, n)
    packing = Packing(torch.tensor(n))
    weights = torch.randn(sum(n), 2, 16)
    grads = {}
    for name in ("padded", backend):
        loss = (attend(q, k, v, packing, backend=name) * weights).sum()
        grads[name] = torch.autograd.grad(loss, (q, k, v))
    for a, b in zip(grads["padded"], grads[backend], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_queries_without_keys_are_zero_not_nan():
    q, k, v = _tensors([3, 2], [0, 4])
    for backend in ("padded", "per_sequence", "bucketed"):
        out = attend(q, k, v, Packing(torch.tensor([3, 2])), Packing(torch.tensor([0, 4])), backend)
        assert torch.isfinite(out).all()
        assert (out[:3] == 0).all()


def test_sequences_do_not_see_each_other():
    n = [4, 6, 5]
    q, k, v = _tensors(n, n)
    packing = Packing(torch.tensor(n))
    before = attend(q, k, v, packing)
    k2 = k.detach().clone()
    k2[4:10] += 100
    after = attend(q, k2, v, packing)
    torch.testing.assert_close(before[:4], after[:4])
    torch.testing.assert_close(before[10:], after[10:])
    assert not torch.allclose(before[4:10], after[4:10])


def test_backend_is_chosen_by_a_fixed_rule():
    assert choose_backend(torch.zeros(1, 2, 16)) == "bucketed"
    assert choose_backend(torch.zeros(1, 2, 16, dtype=torch.bfloat16)) == "bucketed"  # not on a GPU


def test_a_plan_is_made_once_for_all_layers():
    queries, keys = Packing(torch.tensor([2, 3])), Packing(torch.tensor([4, 1]))
    assert queries.plan("bucketed", keys) is queries.plan("bucketed", keys)
    assert queries.plan("bucketed", keys) is not queries.plan("bucketed", queries)


def test_unknown_backend_is_named():
    q, k, v = _tensors([2], [2])
    with pytest.raises(ValueError, match="Did you mean 'padded'"):
        attend(q, k, v, Packing(torch.tensor([2])), backend="paded")
    assert set(ATTENTION_BACKENDS) == {"padded", "per_sequence", "bucketed", "varlen"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_varlen_equals_padded_on_cuda():
    rng = np.random.default_rng(0)
    n = rng.integers(1, 300, 32).tolist()
    q, k, v = (t.detach().cuda().bfloat16() for t in _tensors(n, n))
    packing = Packing(torch.tensor(n, device="cuda"))
    a, b = (attend(q, k, v, packing, backend=name).float() for name in ("padded", "varlen"))
    torch.testing.assert_close(a, b, rtol=3e-2, atol=3e-2)
