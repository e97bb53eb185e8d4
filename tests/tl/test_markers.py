from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy.sparse import csr_matrix
from scipy.stats import mannwhitneyu

from scjepa.tl import niche_markers


def _adata(n_cells: int = 90, n_genes: int = 8) -> ad.AnnData:
    """Return three niches; gene0 to gene2 are high in one each, the others in none."""
    rng = np.random.default_rng(0)
    niche = np.arange(n_cells) % 3
    rate = np.full((n_cells, n_genes), 2.0)
    rate[np.arange(n_cells), niche] = 15.0
    adata = ad.AnnData(csr_matrix(rng.poisson(rate).astype(np.int32)))
    adata.obs_names = [f"c{i}" for i in range(n_cells)]
    adata.var_names = [f"gene{i}" for i in range(n_genes)]
    adata.obs["niche"] = pd.Categorical(niche.astype(str))
    return adata


def test_each_niche_is_told_by_its_gene():
    table = niche_markers(_adata())
    assert table.columns.tolist() == [
        "niche", "gene", "score", "log2_fold_change", "p_value", "p_adjusted", "share_in", "share_out",
    ]  # fmt: skip
    best = table.groupby("niche", observed=True).first()
    assert best["gene"].tolist() == ["gene0", "gene1", "gene2"]
    assert (best["log2_fold_change"] > 1.5).all()
    assert (best["p_adjusted"] < 1e-6).all()
    assert len(table) == 3 * 8
    for _, rows in table.groupby("niche", observed=True):
        assert rows["score"].is_monotonic_decreasing


def test_numbers_are_those_of_the_test_on_normalized_counts():
    adata = _adata()
    row = niche_markers(adata).set_index(["niche", "gene"]).loc[("1", "gene4")]
    counts = adata.X.toarray()
    values = np.log1p(counts / counts.sum(axis=1, keepdims=True) * np.median(counts.sum(axis=1)))[:, 4]
    within = (adata.obs["niche"] == "1").to_numpy()
    expected = mannwhitneyu(values[within], values[~within], method="asymptotic", use_continuity=False).pvalue
    assert row["p_value"] == pytest.approx(expected, rel=1e-3)
    assert row["share_in"] == pytest.approx((counts[within, 4] > 0).mean())
    assert row["share_out"] == pytest.approx((counts[~within, 4] > 0).mean())


def test_a_reference_niche_and_a_number_of_genes():
    adata = _adata()
    table = niche_markers(adata, reference="2", n_genes=2)
    assert table["niche"].unique().tolist() == ["0", "1"]
    assert table.groupby("niche", observed=True)["gene"].first().tolist() == ["gene0", "gene1"]
    assert len(table) == 4
    within = (adata.obs["niche"] == "2").to_numpy()
    shares = (adata.X.toarray()[within] > 0).mean(axis=0)
    np.testing.assert_allclose(table["share_out"], shares[[int(gene[4:]) for gene in table["gene"]]])


def test_logistic_regression_has_scores_alone():
    table = niche_markers(_adata(), method="logreg", n_genes=1)
    assert table["gene"].tolist() == ["gene0", "gene1", "gene2"]
    assert {"niche", "gene", "score"} <= set(table.columns)
    assert "p_value" not in table


def test_scanpy_reads_what_is_written(tmp_path):
    adata = _adata()
    table = niche_markers(adata, n_genes=3)
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = sc.get.rank_genes_groups_df(ad.read_h5ad(tmp_path / "a.h5ad"), group="0", key="rank_genes_niche")
    assert again["names"].tolist() == table.loc[table["niche"] == "0", "gene"].tolist()
    assert adata.uns["rank_genes_niche"]["params"]["groupby"] == "niche"


def test_counts_stay_as_they_are(snapshot):
    adata = _adata()
    adata.layers["other"] = adata.X.copy()
    before = snapshot(adata)
    niche_markers(adata)
    niche_markers(adata, layer="other")
    after = snapshot(adata)
    assert set(after) - set(before) == {("uns", "rank_genes_niche"), ("uns", "scjepa")}
    assert {name: after[name] for name in before} == before


def test_dense_counts_and_layers_give_the_same():
    adata = _adata()
    adata.layers["dense"] = adata.X.toarray()
    first = niche_markers(adata)
    adata.X = csr_matrix(adata.X.shape, dtype=np.int32)
    pd.testing.assert_frame_equal(niche_markers(adata, layer="dense"), first)
    assert adata.uns["scjepa"]["rank_genes_niche"]["layer"] == "dense"


def test_cells_without_a_niche_and_niches_of_one_cell_are_left_out():
    adata = _adata()
    adata.obs["niche"] = adata.obs["niche"].astype(str)
    adata.obs.loc["c0", "niche"] = "lonely"
    adata.obs.loc["c1", "niche"] = np.nan
    with pytest.warns(UserWarning, match="Niches of one cell are left out: lonely"):
        table = niche_markers(adata)
    assert table["niche"].unique().tolist() == ["0", "1", "2"]
    adata.obs["niche"] = "all"
    with pytest.raises(ValueError, match="Two niches of two cells or more"):
        niche_markers(adata)


def test_a_method_that_is_not_known_is_named_with_those_that_are():
    with pytest.raises(ValueError, match=r"Unknown method 'wilcoxn'. Did you mean 'wilcoxon'\?.*logreg"):
        niche_markers(_adata(), method="wilcoxn")


@pytest.mark.parametrize("number", [0, -3, 2.5])
def test_a_number_of_genes_that_cannot_be(number):
    with pytest.raises(ValueError, match="n_genes must be a whole number of at least 1"):
        niche_markers(_adata(), n_genes=number)


def test_counts_that_wrapped_are_told():
    adata = _adata()
    adata.X = csr_matrix((adata.X.toarray() * 20).astype(np.int8))
    with pytest.raises(ValueError, match="int8 holds no more than 127: a larger count became negative"):
        niche_markers(adata)


def test_what_is_no_count_is_told():
    adata = _adata()
    adata.layers["logged"] = np.log1p(adata.X.toarray())
    adata.layers["scaled"] = adata.X.toarray() - 1.0
    with pytest.warns(UserWarning, match=r"not whole numbers.*Raw counts are in adata.X"):
        niche_markers(adata, layer="logged")
    with pytest.raises(ValueError, match=r"has the value -1 in gene .*not negative"):
        niche_markers(adata, layer="scaled")
    with pytest.raises(KeyError, match="Did you mean 'scaled'"):
        niche_markers(adata, layer="scale")
    with pytest.raises(ValueError, match="reference must be 'rest' or one of the niches"):
        niche_markers(adata, reference="9")
    adata.uns["mine"] = {}
    with pytest.raises(ValueError, match="uns already has 'mine'"):
        niche_markers(adata, key_added="mine")
    adata.X = None
    with pytest.raises(ValueError, match=r"adata\.X is empty"):
        niche_markers(adata)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_gene_without_counts_has_no_score_and_no_warning():
    adata = _adata()
    counts = adata.X.toarray()
    counts[:, 5] = 0
    adata.X = csr_matrix(counts)
    table = niche_markers(adata)
    assert set(table.groupby("niche", observed=True)["gene"].first()) == {"gene0", "gene1", "gene2"}
