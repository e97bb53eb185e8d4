from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scjepa.celljepa.data import binned, build_count_table
from scjepa.celljepa.perturb.module import PerturbedSource

N_CELLS, N_GENES, N_OUTSIDE = 20, 12, 2
PERTURBED = np.array([[-1, -1], [3, -1], [3, 7], [N_GENES + 1, 5]])  # control, one, two, one outside and one inside


def _source(n_tokens: int = 30, panel: np.ndarray | None = None, seed: int = 0) -> tuple[PerturbedSource, dict]:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.8, (N_CELLS, N_GENES))
    counts[:, 0] += 1
    table = build_count_table(sparse.csr_matrix(counts), np.arange(N_GENES), N_GENES)
    bins = binned(table, 51)
    dense = {"expression": np.log1p(counts), "changes": rng.normal(size=(4, N_GENES)), "codes": np.arange(N_CELLS) % 4}
    dense["bins"] = np.zeros((N_CELLS, N_GENES))
    dense["bins"][np.repeat(np.arange(N_CELLS), bins.lengths), bins.genes] = bins.values
    panel = np.arange(N_GENES) if panel is None else panel
    controls = np.flatnonzero(dense["codes"] == 0)
    how = (dense["codes"], PERTURBED, panel, controls, dense["changes"], n_tokens)
    return PerturbedSource(bins, np.log1p(table.values.astype(float)), *how), dense


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 20), st.lists(st.integers(0, N_CELLS - 1), min_size=1, max_size=6), st.integers(0, 99))
def test_perturbed_genes_are_always_among_the_tokens_and_each_gene_comes_once(n_tokens, cells, seed):
    source, dense = _source(n_tokens)
    batch = source.pairs(torch.tensor(cells), _rng(seed) if seed % 2 else None)
    for row, cell in enumerate(cells):
        own = batch.sequences == row
        genes = batch.genes[own].tolist()
        marked = batch.genes[own & batch.perturbed].tolist()
        assert len(set(genes)) == len(genes) <= n_tokens
        assert sorted(marked) == sorted(g for g in PERTURBED[dense["codes"][cell]] if g >= 0)
        inside = [g for g in genes if g < N_GENES]
        where = torch.tensor([g < N_GENES for g in genes])
        np.testing.assert_allclose(batch.expression[own][where], dense["expression"][cell, inside], rtol=1e-6)
        np.testing.assert_allclose(batch.change[own][where], dense["changes"][dense["codes"][cell], inside], rtol=1e-6)
        assert not batch.expression[own][~where].any()
        same = [(dense["bins"][c, inside] == batch.values[own][where].numpy()).all() for c in range(0, N_CELLS, 4)]
        assert any(same)  # the values are those of a control cell
    assert batch.labels.tolist() == [dense["codes"][cell] for cell in cells]
    assert batch.truth.n_sequences == len(cells)


def test_all_genes_are_there_if_there_is_room_expressed_or_not():
    source, _ = _source(30)
    batch = source.pairs(torch.arange(N_CELLS), _rng(0))
    for row in range(N_CELLS):
        genes = set(batch.genes[batch.sequences == row].tolist())
        assert set(range(N_GENES)) <= genes
    assert (batch.values == 0).any()


def test_without_a_generator_nothing_is_drawn_and_with_one_it_is():
    source, _ = _source(6)
    cells = torch.arange(8)
    one, two = source.pairs(cells), source.pairs(cells)
    assert torch.equal(one.genes, two.genes)
    assert torch.equal(one.values, two.values)
    draws = [source.pairs(cells, _rng(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0].genes, draws[1].genes)
    assert not torch.equal(draws[0].genes, draws[2].genes)


def test_genes_that_were_not_measured_are_not_asked():
    source, _ = _source(30, panel=np.array([0, 3, 4, 5, 7, 9]))
    batch = source.pairs(torch.arange(8), _rng(0))
    assert set(batch.genes.tolist()) <= {0, 3, 4, 5, 7, 9, N_GENES + 1}


@given(st.integers(1, 20))
def test_groups_have_each_measured_gene_once(n_tokens):
    source, _ = _source(n_tokens)
    groups = source.gene_groups()
    assert sorted(torch.cat(groups).tolist()) == list(range(N_GENES))
    assert max(len(group) for group in groups) <= max(1, n_tokens - 2)


def test_a_batch_to_predict_has_the_cells_given_and_no_truth():
    source, dense = _source()
    batch = source.to_predict(torch.tensor([5, 9]), torch.tensor([3, N_GENES + 1]), torch.arange(N_GENES))
    assert batch.expression is None
    for row, cell in enumerate((5, 9)):
        own = (batch.sequences == row) & (batch.genes < N_GENES)
        np.testing.assert_array_equal(batch.values[own], dense["bins"][cell, batch.genes[own]])
        marked = batch.genes[(batch.sequences == row) & batch.perturbed]
        assert sorted(marked.tolist()) == [3, N_GENES + 1]


def test_there_must_be_control_cells():
    source, dense = _source()
    with pytest.raises(ValueError, match="no control cells"):
        PerturbedSource(
            binned(build_count_table(np.ones((2, N_GENES)), np.arange(N_GENES), N_GENES), 51),
            np.ones(2 * N_GENES),
            np.zeros(2, int),
            PERTURBED,
            np.arange(N_GENES),
            np.array([], int),
            dense["changes"],
            10,
        )
    assert source.sequence_lengths(torch.arange(3)).tolist() == [15, 15, 15]
