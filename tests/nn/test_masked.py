from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scjepa.nn import Packing, Transformer, TransformerConfig
from scjepa.nn.attention import MaskedPacking

BACKENDS = ["padded", "per_sequence", "bucketed"]
lengths = st.lists(st.tuples(st.integers(1, 7), st.integers(0, 6)), min_size=1, max_size=6)


def _packing(pairs) -> MaskedPacking:
    visible, masked = torch.tensor(pairs).unbind(1)
    return MaskedPacking(Packing(visible), Packing(masked))


def _allowed(pairs) -> torch.Tensor:
    """Return who may look at whom, written out: (queries, keys), true where the query sees the key."""
    rows = torch.arange(len(pairs))
    sequence = torch.cat([rows.repeat_interleave(n) for n in torch.tensor(pairs).unbind(1)])
    masked = torch.arange(len(sequence)) >= sum(n for n, _ in pairs)
    return (sequence[:, None] == sequence[None, :]) & ~masked[None, :] | torch.eye(len(sequence), dtype=torch.bool)


def _dense(q, k, v, allowed):
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~allowed, float("-inf")).softmax(-1), v)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25, deadline=None)
@given(pairs=lengths, seed=st.integers(0, 99), size=st.sampled_from([0.1, 1.0, 6.0]))
def test_outputs_and_gradients_are_those_of_a_dense_mask(backend, pairs, seed, size):
    n = sum(map(sum, pairs))
    q, k, v, weight = torch.randn(4, n, 2, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    tensors = [(size * x).requires_grad_() for x in (q, k, v)]
    packed = _packing(pairs).attend(*tensors, None, backend)
    dense = _dense(*tensors, _allowed(pairs))
    torch.testing.assert_close(packed, dense)
    for a, b in zip(*(torch.autograd.grad((x * weight).sum(), tensors) for x in (packed, dense)), strict=True):
        torch.testing.assert_close(a, b)


def test_large_scores_stay_finite_in_single_precision():
    pairs = [(3, 2), (1, 4)]
    q, k, v = torch.randn(3, 10, 2, 16, generator=torch.Generator().manual_seed(0))
    out = _packing(pairs).attend(30 * q, 30 * k, v, None, "auto")
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out, _dense(30 * q, 30 * k, v, _allowed(pairs)), rtol=1e-3, atol=1e-4)


def test_a_transformer_over_this_layout_is_one_under_the_mask_in_every_layer():
    torch.manual_seed(0)
    pairs = [(5, 3), (2, 0), (1, 4)]
    network = Transformer(TransformerConfig(width=32, n_layers=3, n_heads=2)).double()
    x = torch.randn(15, 32, dtype=torch.float64)
    allowed = _allowed(pairs)
    y = x
    for block in network.blocks:
        q, k, v = block.attention.qkv(block.attention_norm(y)).view(15, 3, 2, -1).unbind(1)
        y = y + block.attention.out(_dense(q, k, v, allowed).reshape(15, 32))
        y = y + block.mlp(block.mlp_norm(y))
    torch.testing.assert_close(network(x, _packing(pairs)), network.norm(y))


def test_some_rows_of_the_last_block_are_those_of_the_whole():
    torch.manual_seed(0)
    pairs = [(5, 3), (2, 0), (1, 4)]
    network, x = Transformer(TransformerConfig(width=32, n_layers=2, n_heads=2)), torch.randn(15, 32)
    first = torch.tensor([0, 5, 7])
    rows = torch.cat([first, torch.arange(8, 15)])
    asked = MaskedPacking(Packing(torch.ones(3, dtype=torch.long)), Packing(torch.tensor([3, 0, 4])))
    torch.testing.assert_close(network(x, _packing(pairs), rows, asked), network(x, _packing(pairs))[rows])


def test_visible_tokens_are_a_transformer_of_their_own():
    torch.manual_seed(0)
    pairs = [(4, 3), (2, 5)]
    network, x = Transformer(TransformerConfig(width=32, n_layers=2, n_heads=2)), torch.randn(14, 32)
    alone = network(x[:6], Packing(torch.tensor([4, 2])))
    torch.testing.assert_close(network(x, _packing(pairs))[:6], alone)
    changed = torch.cat([x[:6], 100 * x[6:]])
    assert torch.equal(network(changed, _packing(pairs))[:6], network(x, _packing(pairs))[:6])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_varlen_equals_the_dense_mask_on_cuda():
    pairs = [(int(a), int(b)) for a, b in torch.randint(1, 200, (12, 2))]
    n = sum(map(sum, pairs))
    q, k, v = torch.randn(3, n, 4, 64).cuda().bfloat16()
    visible, masked = (torch.tensor(x, device="cuda") for x in zip(*pairs, strict=True))
    out = MaskedPacking(Packing(visible), Packing(masked)).attend(q, k, v, None, "varlen")
    wanted = _dense(q.float(), k.float(), v.float(), _allowed(pairs).cuda())
    torch.testing.assert_close(out.float(), wanted, rtol=3e-2, atol=3e-2)
