from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from scjepa.celljepa import hide
from scjepa.nn import VALUE_ENCODERS


def _hidden(batch, seed=0, ratio=0.4):
    return hide(batch, (ratio,), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("cls", ["learned", "mean"])
def test_cls_does_not_know_of_hidden_genes_but_of_visible_ones(make_cells, make_module, cls):
    batch, encoder = make_cells(), make_module(encoder={"cls": cls}).context
    hidden = _hidden(batch)
    cells, _ = encoder(batch, hidden)
    values, genes = batch.values.clone(), batch.genes.clone()
    values[hidden] = 7.0
    genes[hidden] = (genes[hidden] + 11) % 30
    assert torch.equal(encoder(replace(batch, values=values), hidden)[0], cells)
    assert torch.equal(encoder(replace(batch, genes=genes), hidden)[0], cells)
    for name, shift in (("values", 9.0), ("genes", 1)):
        changed = getattr(batch, name).clone()
        seen = (~hidden).nonzero()[-1]
        changed[seen] = (changed[seen] + shift) % 30
        other = encoder(replace(batch, **{name: changed}), hidden)[0]
        row = batch.sequences[seen]
        assert not torch.allclose(other[row], cells[row])


def test_a_hidden_gene_knows_its_identity_and_the_visible_ones_and_no_value_of_a_hidden_one(make_cells, make_module):
    batch, encoder = make_cells(), make_module().context
    hidden = _hidden(batch)
    _, tokens = encoder(batch, hidden)
    rows = batch.sequences[hidden]
    assert rows[0] == rows[1] == 0  # the first cell hides several
    values, genes = batch.values.clone(), batch.genes.clone()
    values[hidden] += 3
    assert torch.equal(encoder(replace(batch, values=values), hidden)[1], tokens)
    first = hidden.nonzero()[0]
    genes[first] = (genes[first] + 1) % 30
    after = encoder(replace(batch, genes=genes), hidden)[1]
    assert not torch.allclose(after[0], tokens[0])
    assert torch.equal(after[1:], tokens[1:])


def test_cls_begins_as_the_mean_of_the_visible_tokens_if_asked_to(make_cells, make_module):
    batch, encoder = make_cells(), make_module(encoder={"cls": "mean", "value": "bound", "gene_std": 0.03}).context
    hidden = _hidden(batch)
    for block in encoder.transformer.blocks:  # nothing is added: what <cls> begins as is what comes out
        for linear in block.adds_to_residual():
            linear.weight.data.zero_()
    cells, _ = encoder(batch, hidden)
    for row in range(batch.n_sequences):
        seen = (batch.sequences == row) & ~hidden
        if not seen.any():
            assert (cells[row] == 0).all()
            continue
        mean = (encoder.embedding.gene(batch.genes[seen]) * batch.values[seen, None] / 50).mean(0)
        torch.testing.assert_close(cells[row], (mean - mean.mean()) / mean.std(correction=0), rtol=1e-3, atol=1e-3)
    prompt = torch.randn(batch.n_sequences, 32)
    torch.testing.assert_close(encoder(batch, hidden, prompt)[0], encoder.transformer.norm(prompt))


@pytest.mark.parametrize("cls", ["learned", "mean"])
@pytest.mark.parametrize("value", list(VALUE_ENCODERS))
def test_cells_do_not_depend_on_each_other_or_on_the_order_of_genes(make_cells, make_module, value, cls):
    batch, module = make_cells(), make_module(encoder={"value": value, "cls": cls})
    together = module.embed(batch)
    for row in range(batch.n_sequences):
        own = batch.sequences == row
        alone = replace(
            batch.select(own), sequences=torch.zeros(int(own.sum()), dtype=torch.long), labels=torch.zeros(1)
        )
        torch.testing.assert_close(module.embed(alone)[0], together[row], rtol=1e-4, atol=1e-5)
    order = torch.randperm(batch.n_tokens, generator=torch.Generator().manual_seed(1))
    order = order[torch.argsort(batch.sequences[order], stable=True)]
    torch.testing.assert_close(module.embed(batch.select(order)), together, rtol=1e-4, atol=1e-5)


def test_visible_genes_are_what_the_last_block_gives_where_all_is_computed(make_cells, make_module):
    batch, encoder = make_cells(), make_module().context
    hidden = _hidden(batch)
    cells, tokens = encoder(batch, hidden)
    all_cells, all_tokens = encoder(batch, hidden, genes=True)
    torch.testing.assert_close(all_cells, cells)
    assert len(all_tokens) == batch.n_tokens
    torch.testing.assert_close(all_tokens[int((~hidden).sum()) :], tokens)


def test_pooling_and_cells_without_genes(make_cells, make_module):
    batch, module = make_cells(), make_module()
    cls, genes = module.embed(batch), module.embed(batch, scale="genes")
    assert cls.shape == genes.shape == (5, 32)
    assert (cls[2] == 0).all()
    assert (genes[2] == 0).all()
    tokens = module(batch)[1]
    torch.testing.assert_close(genes[3], tokens[batch.sequences == 3].mean(0))
    with pytest.raises(ValueError, match="Did you mean 'genes'"):
        module.embed(batch, scale="gene")


def test_a_prompt_stands_in_the_place_of_cls(make_cells, make_module):
    batch, encoder = make_cells(), make_module().context
    everything = torch.ones(batch.n_tokens, dtype=torch.bool)
    own = encoder.embedding.cls.expand(5, -1)
    torch.testing.assert_close(encoder(batch, everything, own)[1], encoder(batch, everything)[1])
    prompted = encoder(batch, everything, torch.randn(5, 32))[1]
    assert not torch.allclose(prompted, encoder(batch, everything)[1])


@pytest.mark.parametrize("ratio", [0.05, 0.4, 0.95])
def test_hidden_shares(make_cells, ratio):
    batch = make_cells(lengths=(40 % 31, 2, 1, 0, 20))
    hidden = hide(batch, (ratio,), torch.Generator().manual_seed(3))
    counts = torch.bincount(batch.sequences[hidden], minlength=5)
    for n, found in zip(batch.lengths.tolist(), counts.tolist(), strict=True):
        assert found == min(max(round(ratio * n), 1), max(n - 1, 0))


def test_several_shares_are_drawn_from_and_hiding_repeats(make_cells):
    batch = make_cells(lengths=(20,))
    drawn = {int(hide(batch, (0.25, 0.5, 0.75), torch.Generator().manual_seed(s)).sum()) for s in range(30)}
    assert drawn == {5, 10, 15}
    one, two = (hide(batch, (0.4,), torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one, two)
