"""Predictive components: what they are, what changes nothing, and data that has nothing to give."""

from __future__ import annotations

import warnings

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import scjepa
from scjepa._core.counts import log_normalized
from scjepa.tl import PredictiveComponents, aggregate, predictive_components, predictive_genes
from scjepa.tl import _moments as moments
from scjepa.tl._moments import ALIGNMENTS

SUM = 1e4


def _edges(adata):
    return adata.obsp["spatial_connectivities"]


def _alike(one, other, atol=2e-4) -> bool:
    """Return whether components agree up to the signs of columns, which a tie of two weights may turn."""
    signs = np.sign((one * other).sum(axis=0))
    return np.allclose(one, other * np.where(signs == 0, 1, signs), rtol=1e-7, atol=atol)


@pytest.fixture(scope="module")
def tissue(make_layers):
    return make_layers()


@pytest.fixture(scope="module")
def fitted(tissue):
    return PredictiveComponents(5, n_pcs=10, target_sum=SUM).fit(tissue.X, _edges(tissue))


# -- what they are ---------------------------------------------------------------------------------------------------


def test_they_are_the_canonical_correlations_of_cells_and_their_surroundings(tissue, fitted):
    counts = tissue.X.toarray().astype(float)
    x = np.log1p(counts / counts.sum(axis=1, keepdims=True) * SUM)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    axes = np.linalg.eigh(x.T @ x)[1][:, ::-1][:, :10]
    x = x @ axes
    rings = aggregate(x, connectivities=_edges(tissue), n_hops=2).reshape(len(x), 3, 10)
    y = rings[:, 1:].mean(axis=1)
    xx, yy, xy = x.T @ x, (y - y.mean(axis=0)).T @ (y - y.mean(axis=0)), x.T @ (y - y.mean(axis=0))

    def root(c):
        c = c + 1e-2 * np.trace(c) / 10 * np.eye(10)
        values, vectors = np.linalg.eigh(c)
        return vectors / np.sqrt(values) @ vectors.T

    left, expected, _ = np.linalg.svd(root(xx) @ xy @ root(yy))
    np.testing.assert_allclose(fitted.correlations_, expected[:5], atol=1e-5)
    components = x @ root(xx / len(x)) @ left[:, :5] * expected[:5]
    assert _alike(fitted.transform(tissue.X), components)


def test_components_are_weights_of_standardized_genes_and_their_size_is_the_correlation(tissue, fitted):
    components = fitted.transform(tissue.X)
    x = log_normalized(tissue.X, SUM).toarray()
    standardized = (x - fitted.means_[0]) / fitted.scales_[0]
    np.testing.assert_allclose(components, standardized @ fitted.loadings_, atol=1e-3)
    assert components.dtype == np.float32
    assert (np.diff(fitted.correlations_) <= 0).all()
    # All but for the ridge of a hundredth.
    np.testing.assert_allclose(components.std(axis=0), fitted.correlations_, rtol=0.1)


def test_a_planted_signal_is_found_and_noise_is_not(tissue, fitted):
    assert fitted.correlations_[0] > 0.8 > fitted.chance_
    assert fitted.correlations_[1] > fitted.chance_ > fitted.correlations_[2]
    planted = [f"gene{number}" for number in range(12)]
    top = np.argsort(-np.abs(fitted.loadings_[:, :2]).max(axis=1))[:12]
    assert sorted(tissue.var_names[top]) == sorted(planted)
    for seed in range(6):
        dealt = tissue.X[np.random.default_rng(seed).permutation(tissue.n_obs)]
        noise = PredictiveComponents(target_sum=SUM).fit(dealt, _edges(tissue))
        assert noise.correlations_[0] < 1.05 * noise.chance_


@pytest.mark.parametrize(("n_cells", "n_pcs"), [(10, 2), (60, 3), (400, 20), (2000, 30)])
def test_few_cells_have_few_principal_components(make_graph, n_cells, n_pcs):
    rng = np.random.default_rng(0)
    graph = make_graph(n_cells // 10, 10)
    found = PredictiveComponents().fit(rng.normal(size=(n_cells, 30)), graph)
    assert found.axes_.shape == (30, n_pcs)
    assert found.correlations_.shape == (min(20, n_pcs),)


def test_cells_without_neighbors_take_no_part_and_do_not_count(make_graph):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(500, 30))
    graph = sparse.block_diag([make_graph(8, 10), sparse.csr_matrix((420, 420))], format="csr")
    found = PredictiveComponents().fit(values, graph)
    assert (found.n_cells_, found.n_isolated_) == (500, 420)
    assert found.axes_.shape[1] == 80 // 20
    assert found.correlations_[0] < found.chance_


# -- what changes nothing --------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    cells=st.integers(1, 700),
    values=st.integers(1, 30_000),
    align=st.sampled_from(ALIGNMENTS),
)
def test_order_of_cells_and_genes_and_chunks_change_nothing(make_layers, seed, cells, values, align):
    rng = np.random.default_rng(seed)
    tissue = make_layers(14, 24, seed=seed)
    groups = np.where(np.arange(tissue.n_obs) < tissue.n_obs // 2, "a", "b")
    one = PredictiveComponents(3, n_pcs=6, align=align, target_sum=SUM)
    expected = one.fit_transform(tissue.X, _edges(tissue), groups)
    cell, gene = rng.permutation(tissue.n_obs), rng.permutation(tissue.n_vars)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "_CELLS", cells)
        patch.setattr(moments, "_VALUES", values)
        other = PredictiveComponents(3, n_pcs=6, align=align, target_sum=SUM)
        found = other.fit_transform(tissue.X[cell][:, gene], _edges(tissue)[cell][:, cell], groups[cell])
    np.testing.assert_allclose(other.correlations_, one.correlations_, atol=1e-4)
    assert other.chance_ == pytest.approx(one.chance_, abs=0.02)  # two cells alike may change places
    assert _alike(found[:, :2], expected[cell][:, :2], atol=2e-3)
    assert _alike(other.loadings_[:, :2], one.loadings_[gene][:, :2], atol=1e-3)


def test_the_same_holds_where_axes_are_iterated_for(make_layers, monkeypatch):
    tissue = make_layers(20, 30, 2_600, depth=0.2)
    one = PredictiveComponents(3, target_sum=SUM)
    expected = one.fit_transform(tissue.X, _edges(tissue))
    rng = np.random.default_rng(1)
    cell, gene = rng.permutation(tissue.n_obs), rng.permutation(tissue.n_vars)
    monkeypatch.setattr(moments, "_VALUES", 100_000)
    other = PredictiveComponents(3, target_sum=SUM)
    found = other.fit_transform(tissue.X[cell][:, gene], _edges(tissue)[cell][:, cell])
    assert _alike(found[:, :2], expected[cell][:, :2], atol=2e-3)
    monkeypatch.undo()
    monkeypatch.setattr(moments, "EXACT_FEATURES", 3_000)
    exact = PredictiveComponents(3, target_sum=SUM).fit(tissue.X, _edges(tissue))
    np.testing.assert_allclose(one.correlations_[:2], exact.correlations_[:2], atol=0.01)


@pytest.mark.parametrize("align", ALIGNMENTS)
def test_fit_transform_is_fit_then_transform(tissue, align):
    groups = np.repeat(["a", "b/c", "ü"], 200)
    one = PredictiveComponents(4, align=align, target_sum=SUM)
    at_once = one.fit_transform(tissue.X, _edges(tissue), groups)
    two = clone(one).fit(tissue.X, _edges(tissue), groups)
    np.testing.assert_allclose(two.transform(tissue.X, groups), at_once, atol=1e-5)
    order = np.random.default_rng(0).permutation(600)
    np.testing.assert_allclose(two.transform(tissue.X[order], groups[order]), at_once[order], atol=1e-5)


@pytest.mark.parametrize("align", ALIGNMENTS)
def test_a_second_section_lies_where_a_fit_on_both_would_put_it(make_layers, align):
    first, second = make_layers(), make_layers()  # where nothing differs
    graph = sparse.block_diag([_edges(first), _edges(second)], format="csr")
    groups = np.repeat(["a", "b"], first.n_obs)
    joint = PredictiveComponents(2, n_pcs=10, align=align, target_sum=SUM)
    expected = joint.fit_transform(sparse.vstack([first.X, second.X]), graph, groups)[first.n_obs :]
    alone = PredictiveComponents(2, n_pcs=10, align=align, target_sum=SUM).fit(first.X, _edges(first), groups[:600])
    assert _alike(alone.transform(second.X, groups[600:]), expected)
    assert _alike(alone.transform(second.X), expected)


@pytest.mark.parametrize(("align", "gone"), [("scale", True), ("covariance", True), ("center", False), ("none", False)])
def test_shift_and_scale_of_a_new_section_are_taken_out(make_layers, align, gone):
    first, second = (log_normalized(make_layers(seed=seed).X, SUM).toarray() for seed in (0, 1))
    rng = np.random.default_rng(0)
    moved = second * rng.uniform(1, 4, 40) + rng.normal(size=40)
    graph = make_layers().obsp["spatial_connectivities"]
    found = PredictiveComponents(2, align=align).fit(first, graph, ["a"] * 600)
    difference = np.abs(found.transform(second, ["b"] * 600) - found.transform(moved, ["b"] * 600))
    assert (difference.max() < 1e-3) == gone
    shifted = np.abs(found.transform(second, ["b"] * 600) - found.transform(second + 5, ["b"] * 600))
    assert (shifted.max() < 1e-3) == (align != "none")


def test_covariances_are_one_after_aligning(make_layers):
    first, second = make_layers(seed=0), make_layers(seed=1, mixed=0.9)
    groups = np.repeat(["a", "b"], 600)
    graph = sparse.block_diag([_edges(first), _edges(second)], format="csr")
    values = log_normalized(sparse.vstack([first.X, second.X], format="csr"), SUM).toarray()
    found = PredictiveComponents(3, n_pcs=5, align="covariance").fit(values, graph, groups)
    features = moments.Features(values)
    codes = (groups == "b").astype(int)
    scores = found._scores(features, moments.Standardizer(found.means_, found.scales_), found.maps_, codes)
    one, other = (np.cov(scores[codes == code].T, bias=True) for code in (0, 1))
    plain = found._scores(
        features, moments.Standardizer(found.means_, found.scales_), np.tile(np.eye(5), (3, 1, 1)), codes
    )
    before = [np.cov(plain[codes == code].T, bias=True) for code in (0, 1)]
    assert np.linalg.norm(one - other) < 0.2 * np.linalg.norm(before[0] - before[1])  # shrunk by a tenth


def test_an_earlier_fit_leaves_nothing_behind(make_layers, tissue):
    groups = np.repeat(["a", "b"], 300)
    used = PredictiveComponents(2, align="covariance", target_sum=SUM).fit(tissue.X, _edges(tissue), groups)
    used.align = "scale"
    small = make_layers(8, 10)
    used.fit(small.X, _edges(small))
    new = PredictiveComponents(2, target_sum=SUM).fit(small.X, _edges(small))
    assert sorted(used.to_dict()) == sorted(new.to_dict())
    other = ["b"] * small.n_obs
    np.testing.assert_array_equal(used.transform(small.X, other), new.transform(small.X, other))


def test_a_section_named_all_is_not_all_of_several(tissue):
    groups = np.repeat(["all", "b"], 300)
    found = PredictiveComponents(2, target_sum=SUM).fit(tissue.X, _edges(tissue), groups)
    np.testing.assert_array_equal(found.transform(tissue.X), found.transform(tissue.X, ["new"] * 600))


# -- containers ------------------------------------------------------------------------------------------------------


def test_counts_may_be_dense_of_any_sparse_form_lazy_or_on_disk(tissue, fitted, tmp_path):
    expected = fitted.transform(tissue.X)
    tissue.write_h5ad(tmp_path / "tissue.h5ad")
    backed = ad.read_h5ad(tmp_path / "tissue.h5ad", backed="r")
    lazy = da.from_array(tissue.X.toarray(), chunks=(100, 40))
    for counts in (tissue.X.toarray(), tissue.X.tocsc(), tissue.X.tocoo(), tissue.X.astype(float), lazy, backed.X):
        one = PredictiveComponents(5, n_pcs=10, target_sum=SUM)
        np.testing.assert_allclose(one.fit_transform(counts, _edges(tissue)), expected, atol=1e-5)
        np.testing.assert_allclose(one.transform(counts), expected, atol=1e-5)
    predictive_components(backed, n_comps=5, n_pcs=10)
    np.testing.assert_allclose(backed.obsm["X_predictive"], expected, atol=1e-5)


def test_nothing_of_all_cells_and_genes_is_made_dense(tissue, monkeypatch):
    monkeypatch.setattr(moments, "_CELLS", 64)
    made = []
    for kind in (sparse.csr_array, sparse.csr_matrix):
        plain = kind.toarray

        def toarray(self, *args, plain=plain, **options):
            made.append(self.shape)
            return plain(self, *args, **options)

        monkeypatch.setattr(kind, "toarray", toarray)
    adata = tissue.copy()
    predictive_components(adata)
    scjepa.tl.niche_readout(adata)
    assert made
    assert max(rows for rows, _ in made) <= 64


def test_the_user_data_is_left_alone(tissue):
    values = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    counts, given = tissue.X.copy(), values.copy()
    PredictiveComponents(3).fit(values, _edges(tissue), np.repeat(["a", "b"], 300)).transform(values, ["c"] * 600)
    PredictiveComponents(3, target_sum=SUM).fit(counts, _edges(tissue)).transform(counts)
    np.testing.assert_array_equal(values, given)
    assert (counts != tissue.X).nnz == 0


def test_an_embedding_far_from_zero_keeps_its_digits(make_graph):
    rng = np.random.default_rng(0)
    signal = np.tile(np.arange(30) > 14, 20)[:, None] * rng.normal(size=(1, 6)) + rng.normal(size=(600, 6))
    near = PredictiveComponents(2).fit(signal, make_graph(20, 30))
    far = PredictiveComponents(2).fit(signal + 1e4, make_graph(20, 30))
    np.testing.assert_allclose(near.correlations_, far.correlations_, atol=1e-4)


# -- bad input -------------------------------------------------------------------------------------------------------


def test_constant_genes_are_nothing_and_of_others_nothing_changes(tissue, fitted):
    more = sparse.hstack([tissue.X, sparse.csr_matrix((600, 3), dtype=np.int32)], format="csr")
    one = PredictiveComponents(5, n_pcs=10, target_sum=SUM)
    assert _alike(one.fit_transform(more, _edges(tissue)), fitted.transform(tissue.X))
    assert not one.loadings_[40:].any()
    values = np.c_[np.random.default_rng(0).normal(size=(600, 4)), np.full(600, 0.1)]
    assert not PredictiveComponents(2).fit(values.astype(np.float32), _edges(tissue)).loadings_[4].any()


def test_rank_deficient_panels_have_as_many_components_as_there_is_to_tell(make_graph):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(600, 3)) @ rng.normal(size=(3, 12))
    found = PredictiveComponents().fit(values, make_graph(20, 30))
    assert found.correlations_.size == 3
    twice = np.repeat(rng.normal(size=(600, 1)), 7, axis=1)
    assert PredictiveComponents().fit(twice, make_graph(20, 30)).correlations_.size == 1


def test_duplicate_cells_are_cells(make_graph):
    values = np.repeat(np.random.default_rng(0).normal(size=(300, 5)), 2, axis=0)
    found = PredictiveComponents(2).fit_transform(values, make_graph(20, 30))
    np.testing.assert_array_equal(found[::2], found[1::2])
    with pytest.raises(ValueError, match="None of the 5 features varies"):
        PredictiveComponents(2).fit(np.ones((600, 5)), make_graph(20, 30))


def test_cells_without_counts_and_a_panel_of_one_gene(tissue):
    counts = tissue.X.toarray()
    counts[:50] = 0
    found = PredictiveComponents(3, target_sum=SUM).fit_transform(counts, _edges(tissue))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:50], found[[0] * 50], atol=1e-5)
    one = tissue.X[:, [0]].toarray()
    one[:20] = 0
    assert PredictiveComponents(target_sum=SUM).fit_transform(one, _edges(tissue)).shape == (600, 1)
    only = sparse.hstack([tissue.X[:, [0]] + sparse.csr_matrix(np.ones((600, 1))), sparse.csr_matrix((600, 4))])
    with pytest.raises(ValueError, match="None of the 5 features varies between cells"):
        PredictiveComponents(target_sum=SUM).fit(only, _edges(tissue))


def test_parts_of_a_graph_that_nothing_joins_and_a_section_of_one_cell(tissue, make_graph):
    graph = sparse.block_diag([make_graph(20, 15), make_graph(20, 14), sparse.csr_matrix((20, 20))], format="csr")
    assert np.isfinite(PredictiveComponents(3, target_sum=SUM).fit_transform(tissue.X, graph)).all()
    groups = np.array(["a"] * 599 + ["b"])
    for align in ALIGNMENTS:
        one = PredictiveComponents(3, align=align, target_sum=SUM)
        found = one.fit_transform(tissue.X, _edges(tissue), groups)
        assert np.isfinite(found).all()
        # Alone it is placed by the mean and the variance of all.
        np.testing.assert_allclose(one.transform(tissue.X[599:], ["new"]), found[599:], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"align": "scales"}, ValueError, "align 'scales'. Did you mean 'scale'"),
        ({"n_components": 0}, ValueError, "n_components must be positive"),
        ({"n_components": 2.5}, TypeError, "n_components must be a whole number"),
        ({"n_pcs": True}, TypeError, "n_pcs must be a whole number"),
        ({"n_rings": -1}, ValueError, "n_rings must be positive"),
        ({"ridge": 0}, ValueError, "ridge must lie"),
        ({"ridge": float("nan")}, ValueError, "ridge must lie"),
        ({"target_sum": -1.0}, ValueError, "target_sum must be positive"),
    ],
)
def test_options_are_checked(tissue, change, error, match):
    with pytest.raises(error, match=match):
        PredictiveComponents(**{"target_sum": SUM, **change}).fit(tissue.X, _edges(tissue))


def test_numpy_integers_are_options(tissue):
    found = PredictiveComponents(np.int32(3), n_pcs=np.int64(5), n_rings=np.uint8(1), target_sum=SUM)
    assert found.fit(tissue.X, _edges(tissue)).correlations_.shape == (3,)


def test_wrong_data_is_told(tissue, fitted):
    with pytest.raises(NotFittedError):
        PredictiveComponents().transform(tissue.X)
    with pytest.raises(ValueError, match=r"fit was on 40 features.* have 39"):
        fitted.transform(tissue.X[:, 1:])
    with pytest.raises(ValueError, match="The graph has 600 cells, the features 599"):
        PredictiveComponents(target_sum=SUM).fit(tissue.X[1:], _edges(tissue))
    with pytest.raises(ValueError, match="No cell has a neighbor"):
        PredictiveComponents(target_sum=SUM).fit(tissue.X, sparse.identity(600))
    with pytest.raises(ValueError, match="No cell has a neighbor"):
        PredictiveComponents(target_sum=SUM).fit(tissue.X[:0], sparse.csr_matrix((0, 0)))
    with pytest.raises(ValueError, match="599 entries for 600 cells"):
        PredictiveComponents(target_sum=SUM).fit(tissue.X, _edges(tissue), ["a"] * 599)
    with pytest.raises(ValueError, match="1 cells have no value in groups; the first is row 3"):
        PredictiveComponents(target_sum=SUM).fit(tissue.X, _edges(tissue), ["a", "a", "a", None] + ["a"] * 596)
    values = np.ones((600, 4))
    values[7, 1] = np.nan
    with pytest.raises(ValueError, match=r"NaN.*row 7"):
        PredictiveComponents().fit(values, _edges(tissue))
    for wrong, match in ((np.nan, "has the value nan"), (-1, "not negative"), (np.inf, "has the value inf")):
        counts = tissue.X.toarray().astype(float)
        counts[5, 2] = wrong
        with pytest.raises(ValueError, match=f"Cell 5 {match}" if wrong != -1 else "Cell 5 has the value -1"):
            PredictiveComponents(target_sum=SUM).fit(counts, _edges(tissue))


# -- of AnnData ------------------------------------------------------------------------------------------------------


def test_what_is_written_and_read_again(tissue, tmp_path, snapshot):
    adata = tissue.copy()
    before = snapshot(adata)
    predictive_components(adata, n_comps=4)
    after = snapshot(adata)
    assert {name for name in after if after[name] != before.get(name)} == {
        ("obsm", "X_predictive"),
        ("varm", "X_predictive"),
        ("uns", "scjepa"),
    }
    fitted = scjepa.tl.predictive_components_of(adata)
    np.testing.assert_array_equal(fitted.transform(adata.X), adata.obsm["X_predictive"])
    np.testing.assert_array_equal(adata.varm["X_predictive"], fitted.loadings_)
    np.testing.assert_array_equal(adata.uns["scjepa"]["X_predictive"]["correlations"], fitted.correlations_)
    predictive_components(adata, n_comps=3)  # its own is replaced
    assert adata.obsm["X_predictive"].shape == (600, 3)


def test_of_an_embedding_there_are_no_genes_and_none_are_left_of_before(tissue):
    adata = tissue.copy()
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(size=(600, 8))
    predictive_components(adata)
    predictive_components(adata, "X_pca", n_comps=3)
    assert adata.obsm["X_predictive"].shape == (600, 3)
    with pytest.raises(KeyError, match=r"of an embedding.*predictive_components\(adata\)"):
        predictive_genes(adata)


def test_keys_of_the_user_are_left_alone(tissue):
    for slot, rows in (("obsm", 600), ("varm", 40)):
        adata = tissue.copy()
        getattr(adata, slot)["X_predictive"] = np.zeros((rows, 2))
        with pytest.raises(ValueError, match=f"adata.{slot} already has 'X_predictive'"):
            predictive_components(adata)
    with pytest.raises(KeyError, match=r"PredictiveComponents.*predictive_components\(adata\)"):
        scjepa.tl.predictive_components_of(tissue)
    with pytest.raises(KeyError, match="PredictiveComponents"):
        predictive_genes(tissue)


def test_genes_are_named_also_after_some_were_left_out(tissue):
    adata = tissue.copy()
    predictive_components(adata)
    table = predictive_genes(adata, 3, n_comps=2)
    assert table.columns.tolist() == ["component", "correlation", "gene", "weight"]
    assert len(table) == 12
    for _, rows in table.groupby("component"):
        assert rows["weight"].is_monotonic_decreasing
    weights = dict(zip(adata.var_names, adata.varm["X_predictive"][:, 0], strict=True))
    part = predictive_genes(adata[:, ::-2].copy(), 30, n_comps=1)
    assert len(part) == 20
    assert all(weights[gene] == weight for gene, weight in zip(part["gene"], part["weight"], strict=True))
    for wrong in ({"n_genes": 0}, {"n_comps": 0}):
        with pytest.raises(ValueError, match="must be a whole number"):
            predictive_genes(adata, **wrong)


def _told(call) -> list:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [one for one in caught if issubclass(one.category, UserWarning) and "whole numbers" in str(one.message)]


def test_log_normalized_values_are_told_once_at_the_line_of_the_user(tissue):
    logged = tissue.copy()
    logged.layers["counts"] = tissue.X.copy()
    logged.X = log_normalized(tissue.X, SUM)
    logged.obs["section"] = np.repeat(["a", "b"], 300)
    logged.obsp["spatial_connectivities"] = sparse.block_diag([_edges(tissue)[:300, :300]] * 2, format="csr")
    fit = PredictiveComponents(2, target_sum=SUM)
    for call in (
        lambda: predictive_components(logged),
        lambda: scjepa.tl.niche_readout(logged, "X"),
        lambda: scjepa.tl.find_niches(logged, n_niches=2),
    ):
        (one,) = _told(call)
        assert one.filename == __file__
        assert "look log-transformed" in str(one.message)
        assert "adata.layers['counts']: pass layer='counts'" in str(one.message)
    for call in (
        lambda: fit.fit(logged.X, _edges(logged), logged.obs["section"]),
        lambda: fit.transform(logged.X),
        lambda: fit.fit_transform(logged.X, _edges(logged)),
        lambda: scjepa.tl.NicheReadout().fit_transform({"X": logged.X}, _edges(logged), logged.obs["section"]),
    ):
        (one,) = _told(call)
        assert one.filename == __file__
    logged.raw = ad.AnnData(logged.layers.pop("counts"), var=logged.var)
    (one,) = _told(lambda: predictive_components(logged))
    assert "adata.raw.to_adata()" in str(one.message)
    assert not _told(lambda: predictive_components(tissue.copy()))


def _named(tissue):
    adata = ad.AnnData(sparse.csr_matrix(tissue.X), obs=tissue.obs[[]].copy(), obsp=dict(tissue.obsp))
    adata.var_names = [f"g{i}" for i in range(adata.n_vars)]
    return adata


def test_features_are_found_by_their_names(tissue):
    named = _named(tissue)
    one = PredictiveComponents(3, target_sum=SUM).fit(named, _edges(tissue))
    expected = one.transform(named)
    turned = named[:, ::-1].copy()
    np.testing.assert_allclose(one.transform(turned), expected, atol=1e-5)
    np.testing.assert_allclose(one.transform(turned.X, feature_names=turned.var_names), expected, atol=1e-5)
    table = pd.DataFrame(turned.X.toarray(), columns=turned.var_names)
    np.testing.assert_allclose(one.transform(table), expected, atol=1e-5)
    more = ad.concat(
        [turned, ad.AnnData(np.full((600, 1), 5.0), obs=turned.obs, var=pd.DataFrame(index=["new"]))], axis=1
    )
    np.testing.assert_allclose(one.transform(more), expected, atol=1e-5)
    with pytest.raises(KeyError, match=r"2 of the 40 features of the fit are not there: 'g0', 'g39'"):
        one.transform(named[:, 1:-1])
    again = PredictiveComponents.from_dict(one.to_dict())
    np.testing.assert_array_equal(again.transform(turned), one.transform(turned))
    readout = scjepa.tl.NicheReadout(3).fit({"X": named}, _edges(tissue))
    places = (readout.transform({"X": each}, _edges(tissue)) for each in (named, turned))
    np.testing.assert_allclose(*places, atol=1e-5)
    with pytest.raises(KeyError, match="'g3'"):
        readout.transform({"X": named[:, named.var_names != "g3"]}, _edges(tissue))


def test_control_probes_and_antibodies_take_no_part(tissue):
    named = _named(tissue)
    rng = np.random.default_rng(0)
    names = ["BLANK_0001", "NegControlProbe_00042", "adt_CD3"]
    probes = ad.AnnData(rng.poisson(50.0, (600, 3)).astype(float), obs=named.obs, var=pd.DataFrame(index=names))
    both = ad.concat([probes, named], axis=1)
    both.obsp.update(named.obsp)
    predictive_components(both, n_comps=3)
    predictive_components(named, n_comps=3)
    np.testing.assert_array_equal(both.obsm["X_predictive"], named.obsm["X_predictive"])
    assert (both.varm["X_predictive"][:3] == 0).all()
    np.testing.assert_array_equal(both.varm["X_predictive"][3:], named.varm["X_predictive"])
    assert not set(predictive_genes(both)["gene"]) & set(names)
