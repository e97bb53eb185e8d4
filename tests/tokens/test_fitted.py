"""The token table with normalizations fitted beforehand: cells, and genes, on their own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scjepa.tokens import NORMALIZATIONS, TokenConfig, build_token_table, fit_normalizations

NAMES = list(NORMALIZATIONS)


def unpack(table):
    """Return each cell's tokens as (genes, values, ranks), and its number of expressed genes."""
    cells = []
    for i in range(table.n_cells):
        own = slice(table.offsets[i], table.offsets[i + 1])
        ranks = range(own.stop - own.start) if table.ranks is None else table.ranks[own].tolist()
        cells.append((table.genes[own].tolist(), table.values[own].tolist(), list(ranks), int(table.n_expressed[i])))
    return cells


def random_counts():
    return np.random.default_rng(0).poisson(0.8, (40, 25))


@st.composite
def cases(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 12)))
    counts = draw(hnp.arrays(np.int64, shape, elements=st.sampled_from([0, 0, 0, 1, 1, 2, 3, 200])))
    counts[0, 0] = 1
    ids = np.array(draw(st.permutations(range(shape[1] + 3))))[: shape[1]]
    ids[1:][draw(hnp.arrays(bool, shape[1] - 1))] = -1
    return counts, ids, shape[1] + 3


@settings(max_examples=100, deadline=None)
@given(
    case=cases(),
    data=st.data(),
    ranks=st.sampled_from(NAMES),
    values=st.sampled_from(NAMES),
    ties=st.sampled_from(["order", "shared"]),
)
def test_with_fitted_normalizations_cells_do_not_depend_on_each_other(case, data, ranks, values, ties):
    counts, ids, n_vocabulary = case
    config = TokenConfig(n_tokens=4, ranks=ranks, values=values, ties=ties)
    groups = np.arange(len(counts)) % 2
    fitted = fit_normalizations(counts, ids, n_vocabulary, config, groups=groups, n_groups=2)
    every = build_token_table(counts, ids, n_vocabulary, config, groups=groups, n_groups=2, fitted=fitted)
    assert unpack(every) == unpack(build_token_table(counts, ids, n_vocabulary, config, groups=groups, n_groups=2))
    cells = np.array(data.draw(st.lists(st.integers(0, len(counts) - 1), min_size=1, max_size=12)))
    cells = np.append(cells, 0)  # which has a token
    some = build_token_table(
        counts[cells], ids, n_vocabulary, config, groups=groups[cells], n_groups=2, fitted=fitted, chunk_size=3
    )
    assert unpack(some) == unpack(every.subset(cells))


@pytest.mark.parametrize("ranks", NAMES)
@pytest.mark.parametrize("values", NAMES)
def test_tokens_of_chosen_genes_carry_what_they_carry_among_all(ranks, values):
    counts, ids = random_counts(), np.arange(25)
    config = TokenConfig(n_tokens=25, ranks=ranks, values=values)
    fitted = fit_normalizations(counts, ids, 25, config)
    chosen = np.array([20, 3, 7, 11])
    every = unpack(build_token_table(counts, ids, 25, config, fitted=fitted))
    some = unpack(build_token_table(counts, ids, 25, config, fitted=fitted, token_ids=chosen))
    for (genes, own, _, _), (few, few_own, few_ranks, n_expressed) in zip(every, some, strict=True):
        assert [*zip(few, few_own, strict=True)] == [t for t in zip(genes, own, strict=True) if t[0] in chosen]
        assert few_ranks == list(range(n_expressed))


def test_a_technology_that_was_not_fitted_on_gets_the_statistics_of_all():
    counts, ids, config = random_counts(), np.arange(25), TokenConfig(ranks="nonzero_mean", values="shifted_log")
    fitted = fit_normalizations(counts, ids, 25, config, groups=np.arange(40) % 2, n_groups=2)
    other = np.full(40, -1)
    table = build_token_table(counts, ids, 25, config, groups=other, n_groups=2, fitted=fitted)
    assert unpack(table) == unpack(build_token_table(counts, ids, 25, config))  # as if all were of one technology
    with pytest.raises(ValueError, match=r"code -1, outside 0\.\.1; -1 is a missing category"):
        build_token_table(counts, ids, 25, config, groups=other, n_groups=2)


def test_what_was_fitted_must_fit():
    counts, ids, config = random_counts(), np.arange(25), TokenConfig(values="shifted_log")
    fitted = fit_normalizations(counts, ids, 25, config)
    with pytest.raises(ValueError, match=r"are shifted_log, counts, but .* asks for 'nonzero_mean'.*fit_norm"):
        build_token_table(counts, ids, 25, TokenConfig(ranks="nonzero_mean"), fitted=fitted)
    with pytest.raises(ValueError, match=r"fitted on 25 genes and 1 technologies, .* come with 30 and 1"):
        build_token_table(counts, ids, 30, config, fitted=fitted)
    with pytest.raises(ValueError, match="come with 25 and 2"):
        build_token_table(counts, ids, 25, config, groups=np.arange(40) % 2, n_groups=2, fitted=fitted)
    with pytest.raises(ValueError, match=r"token_ids must lie in 0\.\.24, found 2\.\.25"):
        build_token_table(counts, ids, 25, config, token_ids=np.array([2, 25]))
    with pytest.raises(ValueError, match=r"25 of 25 genes in the vocabulary, 0 of them chosen as tokens"):
        build_token_table(counts, ids, 25, config, token_ids=np.array([], dtype=int))


# -- extended -----------------------------------------------------------------------------------------------------


def _extended(own, ranks="nonzero_mean", values="shifted_log"):
    """Return normalizations of 3 genes and technology 0, of 5 genes and technologies 0 and 1, and the extended."""
    config = TokenConfig(ranks=ranks, values=values)
    old = np.array([[4, 2, 0], [2, 0, 8]])
    new = np.array([[1, 0, 0, 10, 0], [3, 0, 0, 30, 7], [9, 9, 9, 0, 0]])
    first = fit_normalizations(old, np.arange(3), 3, config)
    further = fit_normalizations(new, np.arange(5), 5, config, groups=np.array([1, 1, 0]), n_groups=2)
    return first, further, first.extended(further, np.array([[False] * 5, [own, own, False, own, own]]))


@pytest.mark.parametrize("own", [True, False])
def test_extending_keeps_what_was_learned(own):
    first, _, both = _extended(own)
    assert (both.n_genes, both.n_groups) == (5, 2)
    means, old_means = both.by_name["nonzero_mean"].statistics, first.by_name["nonzero_mean"].statistics
    np.testing.assert_array_equal(means[0, :3], old_means[0])
    np.testing.assert_array_equal(means[-1, :3], old_means[-1])
    targets, old_targets = both.by_name["shifted_log"].statistics, first.by_name["shifted_log"].statistics
    assert targets[0] == old_targets[0]
    assert targets[-1] == old_targets[-1]


def test_new_genes_are_learned_and_new_technologies_where_their_own_is_asked_for():
    first, further, own = _extended(True)
    _, _, shared = _extended(False)
    of = lambda fitted, name: fitted.by_name[name].statistics  # noqa: E731
    assert of(own, "nonzero_mean")[:, 3].tolist() == [20.0, 20.0, 20.0]  # mean of 10 and 30
    assert of(shared, "nonzero_mean")[:, 4].tolist() == [7.0, 7.0, 7.0]
    np.testing.assert_array_equal(of(own, "nonzero_mean")[1, :2], of(further, "nonzero_mean")[1, :2])
    assert of(own, "nonzero_mean")[1, 2] == of(first, "nonzero_mean")[-1, 2]  # not measured by it
    np.testing.assert_array_equal(of(shared, "nonzero_mean")[1, :3], of(first, "nonzero_mean")[-1])
    assert of(own, "shifted_log")[1] == of(further, "shifted_log")[1] == np.median([11, 40])
    assert of(shared, "shifted_log")[1] == of(first, "shifted_log")[-1]


def test_extended_normalizations_tokenize_and_travel():
    _, _, both = _extended(True)
    config = TokenConfig(ranks="nonzero_mean", values="shifted_log")
    counts = np.array([[1, 2, 3, 4, 5]])
    table = build_token_table(counts, np.arange(5), 5, config, groups=np.array([1]), n_groups=2, fitted=both)
    assert table.n_tokens == 5
    back = type(both).from_arrays(config, both.to_arrays(), 5, 2)
    again = build_token_table(counts, np.arange(5), 5, config, groups=np.array([1]), n_groups=2, fitted=back)
    np.testing.assert_array_equal(table.values, again.values)


def test_extending_refuses_less_and_others():
    first, further, both = _extended(True)
    with pytest.raises(ValueError, match="fewer"):
        both.extended(first, np.ones((1, 3), dtype=bool))
    other = fit_normalizations(np.ones((2, 5)), np.arange(5), 5, TokenConfig(), n_groups=2)
    with pytest.raises(ValueError, match="asks for 'shifted_log'"):
        first.extended(other, np.ones((2, 5), dtype=bool))
    plain = fit_normalizations(np.ones((2, 3)), np.arange(3), 3, TokenConfig())
    assert plain.extended(other, np.ones((2, 5), dtype=bool)).to_arrays() == {}
    assert further.n_genes == 5
