"""The read-out for niches: what is side by side in it, and what is chosen from the data."""

from __future__ import annotations

import logging

import anndata as ad
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.image import grid_to_graph

import scjepa
from scjepa.tl import NicheReadout, PredictiveComponents, aggregate, niche_readout, niche_readout_of
from scjepa.tl import _moments as moments
from scjepa.tl import _niche_estimator as estimator

SUM = 1e4
KEY = "X_stjepa_niche"


def _edges(adata):
    return adata.obsp["spatial_connectivities"]


def _with_embedding(adata: ad.AnnData, error: float = 1.0, seed: int = 0) -> ad.AnnData:
    """Add an embedding of cells that tells of the layers, with an error."""
    rng = np.random.default_rng(seed)
    layers = np.eye(3)[adata.obs["layer"].astype(int)] @ rng.normal(size=(3, 6))
    adata.obsm["X_stjepa_cell"] = (layers + error * rng.normal(size=layers.shape)).astype(np.float32)
    return adata


def _sections(make_layers, n: int = 2, **how) -> ad.AnnData:
    parts = [make_layers(seed=seed, **how) for seed in range(n)]
    adata = ad.concat(parts, label="section", keys=list("abcdef"[:n]), index_unique="-")
    adata.obsp["spatial_connectivities"] = sparse.block_diag([_edges(one) for one in parts], format="csr")
    return adata


@pytest.fixture(scope="module")
def tissue(make_layers):
    return _with_embedding(make_layers())


# -- what it is ------------------------------------------------------------------------------------------------------


def test_it_is_weighed_components_beside_those_of_the_rings(tissue):
    adata = tissue.copy()
    niche_readout(adata, "X", n_comps=4, n_rings=2, own_weight=0.5)
    components = PredictiveComponents(4, target_sum=SUM).fit_transform(adata.X, _edges(adata))
    rings = aggregate(components, connectivities=_edges(adata), n_hops=2)
    found = adata.obsm[KEY]
    assert found.dtype == np.float32
    assert found.shape == (600, 12)
    fitted = niche_readout_of(adata)
    weights = np.repeat(fitted.weights_[0][:3], 4)
    assert fitted.weights_[0, 0] == 0.5
    assert fitted.weights_[0, 3] == 0
    expected = rings * weights
    np.testing.assert_allclose(found, expected / np.sqrt(expected.var(axis=0).sum()), atol=1e-5)
    assert found.var(axis=0).sum() == pytest.approx(1, rel=1e-3)


def test_sources_stand_side_by_side_with_one_variance_and_a_poor_one_is_left_out(tissue):
    adata = _with_embedding(tissue.copy(), error=0.3)  # predicts ring 2 as well as the counts do
    niche_readout(adata, n_comps=3, n_rings=1)
    fitted = niche_readout_of(adata)
    assert fitted.sources_ == ["X", "X_stjepa_cell"]
    assert fitted.left_out_ == []
    assert adata.obsm[KEY].shape == (600, 12)
    for columns in (slice(6), slice(6, 12)):
        assert adata.obsm[KEY][:, columns].var(axis=0).sum() == pytest.approx(1, rel=1e-3)
    adata.obsm["X_stjepa_cell"] = np.random.default_rng(0).normal(size=(600, 6))
    niche_readout(adata, n_comps=3, n_rings=1)
    fitted = niche_readout_of(adata)
    assert (fitted.sources_, fitted.left_out_) == (["X"], ["X_stjepa_cell"])
    why = "left out, predicts its surroundings less well than expression: X_stjepa_cell (0.0"
    assert why in adata.uns["scjepa"][KEY]["chosen"]
    # What was left out need not be there later.
    fitted.transform({"X": adata.X}, _edges(adata))


@pytest.mark.parametrize(("steps", "noise"), [(1, 1.0), (2, 0.3), (3, 2.0)])
def test_an_embedding_that_only_repeats_its_neighbors_is_left_out(steps, noise):
    """It predicts ring 2 better than the cells do, for it holds ring 2, and tells less of ring 3 than the rings do."""
    graph = sparse.csr_matrix(grid_to_graph(40, 40), dtype=np.float32)
    graph.setdiag(0)
    graph.eliminate_zeros()
    rng = np.random.default_rng(0)
    place = rng.normal(size=(1600, 3))
    for _ in range(steps):
        place = aggregate(place, connectivities=graph, n_hops=1).reshape(-1, 2, 3).mean(axis=1)
    cells = place / place.std(axis=0) + noise * rng.normal(size=place.shape)
    rings = np.stack(np.split(aggregate(cells, connectivities=graph, n_hops=3), 4, axis=1))
    joined = np.ones(1600, dtype=bool)
    around = np.split(aggregate(rings[0] + 4 * rings[1], connectivities=graph, n_hops=3), 4, axis=1)
    share, passed = estimator._against(rings, np.stack(around), joined)
    assert share < 0.9
    assert not passed
    assert estimator.predicted_share(np.stack(around[:2]), rings[2], joined) > estimator.predicted_share(
        rings[:2], rings[2], joined
    )
    assert estimator._against(rings, 2 * rings + 1, joined) == (pytest.approx(1, abs=1e-3), True)


def test_an_own_weight_of_zero_leaves_the_cell_out(tissue):
    found = NicheReadout(3, n_rings=1, own_weight=0).fit_transform({"X": tissue.X}, _edges(tissue))
    assert found.shape == (600, 3)
    alone = NicheReadout(3, n_rings=0).fit_transform({"X": tissue.X}, _edges(tissue))
    components = PredictiveComponents(3, target_sum=SUM).fit_transform(tissue.X, _edges(tissue))
    np.testing.assert_allclose(alone, components / np.sqrt(components.var(axis=0).sum()), atol=1e-5)


def test_what_was_chosen_is_told_logged_and_noted(tissue, caplog):
    adata = tissue.copy()
    with caplog.at_level(logging.INFO, logger="scjepa"):
        niche_readout(adata, "X", n_comps=1, n_rings=1, own_weight=0.25)
    note = adata.uns["scjepa"][KEY]
    assert note["chosen"] == "1 component of expression, 1 ring, own weight 0.25; align 'scale'"
    assert note["chosen"] in caplog.text
    assert list(note["use_rep"]) == ["X"]
    assert note["neighbors_key"] == "spatial"


def test_planted_layers_are_found(make_layers):
    adata = make_layers(mixed=0.3)
    scjepa.tl.find_niches(adata, n_niches=3)
    assert scjepa.metrics.nmi(adata.obs["layer"], adata.obs["niche"]) > 0.8


# -- what changes nothing --------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), values=st.integers(100, 30_000), align=st.sampled_from(["auto", "covariance"]))
def test_order_of_cells_and_genes_and_chunks_change_nothing(make_layers, seed, values, align):
    rng = np.random.default_rng(seed)
    adata = _with_embedding(_sections(make_layers))
    order = rng.permutation(adata.n_obs)
    shuffled = adata[order, rng.permutation(adata.n_vars)].copy()
    niche_readout(adata, n_comps=2, align=align)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "_VALUES", values)
        niche_readout(shuffled, n_comps=2, align=align)
    one, other = niche_readout_of(adata), niche_readout_of(shuffled)
    assert one.describe() == other.describe()
    np.testing.assert_allclose(other.weights_, one.weights_, atol=1e-3)
    found, expected = shuffled.obsm[KEY], adata.obsm[KEY][order]
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=2e-3)


def test_fit_transform_is_fit_then_transform_also_of_a_part(make_layers):
    adata = _with_embedding(_sections(make_layers))
    sources = {"X": adata.X, "e": adata.obsm["X_stjepa_cell"]}
    groups = adata.obs["section"]
    for align in ("auto", "covariance", "center", "none"):
        one = NicheReadout(4, align=align)
        expected = one.fit_transform(sources, _edges(adata), groups)
        two = NicheReadout(4, align=align).fit(sources, _edges(adata), groups)
        np.testing.assert_allclose(two.transform(sources, _edges(adata), groups), expected, atol=1e-5)
        part = slice(600, 1200)
        part_sources = {name: values[part] for name, values in sources.items()}
        found = two.transform(part_sources, _edges(adata)[part, part], groups[part])
        np.testing.assert_allclose(found, expected[part], atol=1e-5)


def test_a_second_section_lies_where_a_fit_on_both_would_put_it(make_layers):
    first = make_layers()
    graph = sparse.block_diag([_edges(first)] * 2, format="csr")
    both = sparse.vstack([first.X] * 2, format="csr")
    joint = NicheReadout(2, n_rings=2).fit_transform({"X": both}, graph, ["a"] * 600 + ["b"] * 600)
    alone = NicheReadout(2, n_rings=2).fit({"X": first.X}, _edges(first), ["a"] * 600)
    # More cells have more principal components, which adds a little.
    found = alone.transform({"X": first.X}, _edges(first), ["b"] * 600)
    signs = np.sign((found * joint[600:]).sum(axis=0))
    assert np.abs(found - joint[600:] * signs).mean() < 0.02


def test_backed_and_lazy_counts_give_the_same(tissue, tmp_path):
    adata = tissue.copy()
    niche_readout(adata, "X")
    del adata.uns["scjepa"]
    expected = adata.obsm.pop(KEY)
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    lazy = adata.copy()
    lazy.X = da.from_array(adata.X.toarray(), chunks=(64, 40))
    for other in (backed, lazy):
        niche_readout(other, "X")
        np.testing.assert_allclose(other.obsm[KEY], expected, atol=1e-5)


# -- alignment -------------------------------------------------------------------------------------------------------


def test_sections_of_one_tissue_are_scaled(make_layers):
    adata = _sections(make_layers, 3)
    niche_readout(adata, "X")
    fitted = niche_readout_of(adata)
    assert fitted.align_ == "scale"
    assert fitted.similarity_ > 0.9
    assert list(fitted.components_[0].groups_) == ["a", "b", "c"]


def test_sections_that_differ_in_what_they_are_are_centered_and_the_user_is_told(make_layers):
    adata = _sections(make_layers)
    moved = adata.X.toarray()
    moved[600:] = np.roll(moved[600:], 20, axis=1)  # other genes tell the layers there
    adata.X = sparse.csr_matrix(moved)
    with pytest.warns(
        UserWarning, match=r"adata.obs\['section'\] differ in what they consist of.*align='none'"
    ) as told:
        niche_readout(adata, "X")
    assert [one.filename for one in told] == [__file__]
    fitted = niche_readout_of(adata)
    assert fitted.align_ == "center"
    assert fitted.similarity_ < 0.9
    for align in ("scale", "covariance", "none"):
        niche_readout(adata, "X", align=align)
        assert niche_readout_of(adata).align_ == align


def test_the_section_column_tells_sections_apart_by_default(make_layers):
    adata = _sections(make_layers)
    niche_readout(adata, "X")
    default = adata.obsm[KEY].copy()
    niche_readout(adata, "X", library_key="section")
    np.testing.assert_array_equal(adata.obsm[KEY], default)
    assert adata.uns["scjepa"][KEY]["library_key"] == "section"
    adata.obs["batch"] = "one"
    niche_readout(adata, "X", library_key="batch")
    assert list(niche_readout_of(adata).components_[0].groups_) == ["one"]


def test_similarity_is_of_large_sections_alone(make_layers):
    adata = _sections(make_layers)
    moved = adata.X.toarray()
    moved[600:] = np.roll(moved[600:], 20, axis=1)
    sections = np.repeat(["a", "b"], 600)
    fitted = NicheReadout().fit({"X": moved}, _edges(adata), sections)
    assert fitted.similarity_ < 0.9
    kept = np.r_[0:600, 600:650]
    fitted = NicheReadout().fit({"X": moved[kept]}, _edges(adata)[kept][:, kept], sections[kept])
    assert fitted.similarity_ == 1.0


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_sections_of_one_tissue_are_scaled_where_panels_differ(make_layers, share):
    adata = _sections(make_layers, 3)
    rng = np.random.default_rng(0)
    counts = adata.X.toarray()
    for start in (0, 600, 1200):
        counts[start : start + 600, rng.choice(40, round(40 * (1 - share)), replace=False)] = 0
    fitted = NicheReadout().fit({"X": counts}, _edges(adata), adata.obs["section"])
    assert fitted.align_ == "scale"
    assert fitted.similarity_ > 0.9


def test_sections_without_a_feature_in_common_cannot_be_compared(make_layers):
    adata = _sections(make_layers)
    counts = adata.X.toarray()
    counts[:600, :20] = counts[600:, 20:] = 0
    fitted = NicheReadout().fit({"X": counts}, _edges(adata), adata.obs["section"])
    assert fitted.similarity_ == 1.0


# -- what is wrong ---------------------------------------------------------------------------------------------------


def test_noise_is_told(tissue, make_graph):
    adata = tissue.copy()
    adata.X = adata.X[np.random.default_rng(0).permutation(600)]
    with pytest.warns(UserWarning, match="Nothing around a cell predicts it, by X, better than chance") as told:
        niche_readout(adata, "X")
    assert [one.filename for one in told] == [__file__]


def test_a_tiny_section_has_few_components(make_layers):
    adata = make_layers(6, 10)
    niche_readout(adata, "X")
    assert niche_readout_of(adata).components_[0].correlations_.size == 3


def test_sections_of_one_cell_isolated_cells_and_cells_without_counts_are_defined(make_layers):
    adata = make_layers()
    adata.obs["section"] = ["b"] + ["a"] * 599
    graph = _edges(adata).tolil()
    graph[0], graph[:, 0] = 0, 0
    adata.obsp["spatial_connectivities"] = graph.tocsr()
    counts = adata.X.toarray()
    counts[30:40] = 0
    adata.X = counts
    niche_readout(adata, "X")
    assert np.isfinite(adata.obsm[KEY]).all()


def test_options_are_checked(tissue):
    sources = {"X": tissue.X}
    for options, error, match in (
        ({"n_rings": 4}, ValueError, "n_rings must lie between 0 and 3"),
        ({"n_rings": 1.0}, TypeError, "n_rings must be a whole number or None"),
        ({"n_rings": True}, TypeError, "n_rings must be a whole number or None"),
        ({"own_weight": -1}, ValueError, "own_weight must be 0 or more"),
        ({"own_weight": float("inf")}, ValueError, "own_weight must be 0 or more, and finite"),
        ({"own_weight": float("nan")}, ValueError, "own_weight must be 0 or more"),
        ({"n_rings": 0, "own_weight": 0}, ValueError, "leave nothing"),
        ({"align": "centre"}, ValueError, "align 'centre'. Did you mean 'center'"),
        ({"n_components": 0}, ValueError, "n_components must be positive"),
    ):
        with pytest.raises(error, match=match):
            NicheReadout(**options).fit(sources, _edges(tissue))
    found = NicheReadout(np.int64(2), n_rings=np.int32(1), own_weight=np.float32(0.5)).fit(sources, _edges(tissue))
    assert found.n_rings_.tolist() == [1]


def test_wrong_sources_are_told(tissue):
    with pytest.raises(TypeError, match="sources must be named"):
        NicheReadout().fit(tissue.X, _edges(tissue))
    with pytest.raises(ValueError, match="Name a source or more"):
        NicheReadout().fit({}, _edges(tissue))
    with pytest.raises(ValueError, match="No cell has a neighbor"):
        NicheReadout().fit({"X": tissue.X}, sparse.csr_matrix((600, 600)))
    with pytest.raises(NotFittedError):
        NicheReadout().transform({"X": tissue.X}, _edges(tissue))
    fitted = NicheReadout(2).fit({"X": tissue.X}, _edges(tissue))
    with pytest.raises(KeyError, match="fitted on X, and 'X' is not there"):
        fitted.transform({"Y": tissue.X}, _edges(tissue))
    with pytest.raises(ValueError, match="The graph has 600 cells, the source 'X' 599"):
        fitted.transform({"X": tissue.X[1:]}, _edges(tissue))
    with pytest.raises(ValueError, match="fit was on 40 features"):
        fitted.transform({"X": tissue.X[:, 1:]}, _edges(tissue))


def test_what_is_missing_wrong_or_the_users_own_is_named(tissue):
    adata = tissue.copy()
    with pytest.raises(KeyError, match="tissue"):
        niche_readout(adata, library_key="tissue")
    with pytest.raises(KeyError, match="X_other"):
        niche_readout(adata, "X_other")
    with pytest.raises(KeyError, match="counts"):
        niche_readout(adata, layer="counts")
    with pytest.raises(ValueError, match="use_rep names nothing"):
        niche_readout(adata, [])
    with pytest.raises(KeyError, match=r"NicheReadout.*niche_readout\(adata\)"):
        niche_readout_of(adata)
    adata.X = adata.X.astype(np.float32) - 1 * (adata.X > 0).astype(np.float32) * 2
    with pytest.raises(ValueError, match=r"Cell 'cell\d+' has the value -1 in gene 'gene\d+'"):
        niche_readout(adata)
    adata = tissue.copy()
    adata.obsm["X_stjepa_cell"][3] = np.nan
    with pytest.raises(ValueError, match=r"NaN.*cell3"):
        niche_readout(adata)
    adata.obsm[KEY] = np.zeros((600, 2))
    with pytest.raises(ValueError, match=KEY):
        niche_readout(adata)
    with pytest.raises(KeyError, match="Compute the spatial graph first"):
        niche_readout(ad.AnnData(tissue.X))


def test_without_counts_the_embedding_alone_is_read(tissue):
    adata = ad.AnnData(obs=tissue.obs, obsm=dict(tissue.obsm), obsp=dict(tissue.obsp))
    niche_readout(adata)
    assert niche_readout_of(adata).sources_ == ["X_stjepa_cell"]
    del adata.obsm["X_stjepa_cell"]
    with pytest.raises(ValueError, match=r"adata.X is empty"):
        niche_readout(adata, "X")


def test_many_panels_are_compared_by_what_all_have(make_layers, monkeypatch):
    monkeypatch.setattr(estimator, "_MOST_PANELS", 2)
    adata = _sections(make_layers, 3)
    counts = adata.X.toarray()
    for number in range(3):
        counts[number * 600 : (number + 1) * 600, number * 8 : (number + 1) * 8] = 0
    fitted = NicheReadout().fit({"X": counts}, _edges(adata), adata.obs["section"])
    assert fitted.align_ == "scale"
    assert fitted.similarity_ > 0.9
