"""What becomes tokens, decided from the data."""

import numpy as np
import pytest

from scjepa.tokens import TokenConfig, build_token_table
from scjepa.tokens.choice import MANY, TokenSpread, choose, count_spread, describe_tokens, left_out

AUTO = TokenConfig(n_tokens=16, ranks="auto", left_out="auto")


def counts_of(n_genes, n_cells=60, ubiquitous=0, seed=0):
    """Return counts in which each cell has some genes of its own, and the first ones are high in all cells."""
    counts = np.random.default_rng(seed).poisson(0.5, (n_cells, n_genes))
    counts[:, :ubiquitous] += 50
    return counts


def chosen(counts, names, config=AUTO):
    return choose(config, names, lambda without: count_spread(counts, without))


def names(n):
    return [f"Gene{i}" for i in range(n)]


def test_spread_counts_genes_and_what_cells_share():
    table = build_token_table(np.array([[3, 2, 0, 0], [3, 0, 2, 0]]), np.arange(4), 4, TokenConfig(n_tokens=2))
    spread = TokenSpread.of(table, 3)
    assert (spread.n_seen, spread.n_tokens) == (3, 2.0)
    assert spread.overlap == pytest.approx(0.5)
    assert spread.allowed == pytest.approx(2 / 3)
    assert spread.n_effective == pytest.approx(2 * np.sqrt(2))  # of halves and quarters


@pytest.mark.parametrize("n_genes", [20, 33, 166, 1020])
def test_targeted_panels_are_ranked_by_count(n_genes):
    assert chosen(counts_of(n_genes), names(n_genes)) == TokenConfig(n_tokens=16)


def test_ubiquitous_genes_and_whole_transcriptomes_are_seen():
    same = count_spread(counts_of(600, ubiquitous=16))
    assert same.same
    assert same.few
    assert same.poor
    sparse_counts = count_spread(counts_of(MANY + 500))
    assert sparse_counts.poor
    assert not sparse_counts.few
    assert not sparse_counts.same
    for counts in (counts_of(600, ubiquitous=16), counts_of(MANY + 500)):
        assert chosen(counts, names(counts.shape[1])).ranks == "spatial_ratio"


def test_few_genes_share_tokens_as_they_must():
    spread = count_spread(counts_of(20, ubiquitous=16))
    assert spread.overlap > 0.9
    assert not spread.same
    assert not spread.few


def test_kinds_are_left_out_where_they_are():
    panel = [*names(98), "BLANK_0001", "MT-ND1"]
    config = chosen(counts_of(100), panel)
    assert (config.ranks, config.left_out) == ("counts", ("control probe",))
    whole = [*names(MANY + 97), "MT-ND1", "RPL3", "NegPrb1"]
    config = chosen(counts_of(len(whole)), whole)
    assert config.left_out == ("control probe", "mitochondrial", "ribosomal")
    assert np.flatnonzero(left_out(config, whole)).tolist() == [MANY + 97, MANY + 98, MANY + 99]
    assert describe_tokens(config, whole).startswith("ranked by count over the gene's mean")
    assert describe_tokens(config, whole).endswith("; left out: 1 control probe, 1 mitochondrial, 1 ribosomal")


def test_what_is_said_is_done():
    whole = [*names(MANY + 99), "MT-ND1"]
    counts = counts_of(len(whole))
    asked = TokenConfig(n_tokens=16, ranks="nonzero_mean", left_out="auto")
    assert chosen(counts, whole, asked).ranks == "nonzero_mean"
    assert chosen(counts, whole, TokenConfig(ranks="auto", left_out=())).left_out == ()
    concrete = TokenConfig(n_tokens=16)
    assert choose(concrete, whole, lambda without: pytest.fail("nothing is to be decided")) is concrete


def test_a_panel_of_nothing_else_keeps_its_features():
    mitochondria = [f"MT-ND{i}" for i in range(MANY)]
    assert chosen(counts_of(MANY), mitochondria).left_out == ()
    probes = [f"BLANK_{i}" for i in range(30)]
    assert chosen(counts_of(30), probes).left_out == ()


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match=r"left_out 'mitochondria'.*'mitochondrial'"):
        TokenConfig(left_out="mitochondria")
    assert TokenConfig(left_out="ribosomal").left_out == ("ribosomal",)


def test_a_sample_of_cells_tells_the_same():
    counts = counts_of(600, n_cells=400, ubiquitous=16)
    assert count_spread(counts, n_cells=80).same
