from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

import scjepa
from scjepa.tl import standardize


def _adata(n_cells: int = 60, n_dims: int = 8, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    section = np.repeat(["a", "b", "c"], n_cells // 3)
    shift = {"a": 0.0, "b": 50.0, "c": -7.0}
    embedding = rng.normal(size=(n_cells, n_dims)) + np.array([shift[s] for s in section])[:, None]
    adata = ad.AnnData(
        rng.poisson(1.0, size=(n_cells, 5)).astype(np.float32),
        obs={"section": section},
        obsm={"X_stjepa": embedding.astype(np.float32), "X_umap": rng.normal(size=(n_cells, 2))},
        uns={"neighbors": {"mine": 1}},
    )
    adata.obs["section"] = adata.obs["section"].astype("category")
    return adata


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n_cells=st.integers(4, 60), n_dims=st.integers(1, 7), n_groups=st.integers(1, 3))
def test_zscores_have_mean_zero_and_unit_variance_in_every_group(seed, n_cells, n_dims, n_groups):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.arange(n_cells) % n_groups)
    result = standardize(rng.normal(3.0, 5.0, size=(n_cells, n_dims)), groups=groups, n_comps=None)
    assert result.dtype == np.float32
    for group in range(n_groups):
        member = result[groups == group]
        np.testing.assert_allclose(member.mean(axis=0), 0, atol=1e-5)
        if len(member) > 1:
            np.testing.assert_allclose(member.std(axis=0), 1, atol=1e-4)
        else:
            assert (member == 0).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n_comps=st.sampled_from([None, 1, 3, 5, 9]))
def test_shuffling_cells_leaves_every_cell_the_same(seed, n_comps):
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(40, 5)).astype(np.float32)
    embedding[:4] = 0  # cells without counts share one point
    groups = rng.choice(["x", "y"], size=40)
    order = rng.permutation(40)
    np.testing.assert_array_equal(
        standardize(embedding[order], groups=groups[order], n_comps=n_comps),
        standardize(embedding, groups=groups, n_comps=n_comps)[order],
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n_groups=st.integers(2, 4))
def test_aligned_groups_have_nearly_one_covariance(seed, n_groups):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.arange(400) % n_groups)
    mix = rng.normal(size=(n_groups, 4, 4)) + 2 * np.eye(4)
    embedding = np.einsum("ci,cij->cj", rng.normal(size=(400, 4)), mix[groups])

    def apart(values: np.ndarray) -> float:
        """Return the largest difference of an entry between two groups' covariances."""
        return np.ptp([np.cov(values[groups == group].T) for group in range(n_groups)], axis=0).max()

    scaled, aligned = (
        standardize(embedding, groups=groups, n_comps=None, align=align) for align in ("scale", "covariance")
    )
    assert apart(aligned) < 0.6 * apart(scaled)
    order = rng.permutation(400)
    np.testing.assert_array_equal(
        standardize(embedding[order], groups=groups[order], n_comps=None, align="covariance"), aligned[order]
    )


def test_one_group_has_nothing_to_be_aligned_with_and_a_single_cell_stays_at_zero():
    embedding = np.random.default_rng(0).normal(size=(41, 5))
    np.testing.assert_allclose(
        standardize(embedding, n_comps=3, align="covariance"), standardize(embedding, n_comps=3), atol=1e-5
    )
    groups = np.array(["a"] * 20 + ["b"] * 20 + ["c"])
    aligned = standardize(embedding, groups=groups, n_comps=None, align="covariance")
    assert np.isfinite(aligned).all()
    assert (aligned[-1] == 0).all()


def test_an_unknown_alignment_is_named():
    with pytest.raises(ValueError, match="Did you mean 'covariance'"):
        standardize(np.eye(3), align="covarianc")


def test_components_are_those_of_pca_of_the_zscores():
    embedding = np.random.default_rng(0).normal(size=(50, 6)) @ np.random.default_rng(1).normal(size=(6, 6))
    scores = standardize(embedding, n_comps=None)
    ours, theirs = standardize(embedding, n_comps=3), PCA(3).fit_transform(scores)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), rtol=1e-3, atol=1e-4)
    assert (np.diff(ours.var(axis=0)) <= 0).all()


def test_constant_dimensions_become_zero_also_when_rounding_blurs_them():
    embedding = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    embedding[:, 0] = 0.1
    embedding[:, 1] = 1e4 + np.float32(1e-3) * (np.arange(30) % 2)
    result = standardize(embedding, n_comps=None)
    assert (result[:, :2] == 0).all()
    assert result[:, 2].std() > 0.9


def test_groups_remove_a_shift_between_sections():
    adata = _adata()
    codes = adata.obs["section"].cat.codes.to_numpy()
    between = [
        np.ptp([values[codes == code].mean() for code in range(3)])
        for values in (adata.obsm["X_stjepa"], standardize(adata.obsm["X_stjepa"], groups=adata.obs["section"]))
    ]
    assert between[0] > 50
    assert between[1] < 1e-5


@pytest.mark.parametrize(
    ("embedding", "groups", "n_comps", "message"),
    [
        (np.zeros(5), None, 30, "shape"),
        (np.zeros((0, 3)), None, 30, "shape"),
        (np.ones((4, 2)), [1, 2, 3], 30, "3 entries for 4 cells"),
        (np.ones((4, 2)), ["a", None, "b", "a"], 30, "1 cells have no value in groups; the first is row 1"),
        (np.ones((4, 2)), None, 0, "n_comps must be positive"),
        (np.array([[1.0, 2.0], [np.nan, 1.0], [1.0, np.inf]]), None, 30, "2 of 3 cells .* the first is row 1"),
    ],
)
def test_bad_input_is_told(embedding, groups, n_comps, message):
    with pytest.raises(ValueError, match=message):
        standardize(embedding, groups=groups, n_comps=n_comps)


def test_what_is_written_is_what_an_array_gives_and_nothing_else(snapshot):
    adata = _adata()
    before = snapshot(adata)
    scjepa.tl.standardize(adata, library_key="section", n_comps=3)
    expected = standardize(adata.obsm["X_stjepa"], groups=adata.obs["section"], n_comps=3)
    np.testing.assert_array_equal(adata.obsm["X_stjepa_standardized"], expected)
    assert adata.uns["scjepa"]["X_stjepa_standardized"] == {
        "slot": "obsm",
        "use_rep": "X_stjepa",
        "library_key": "section",
        "n_comps": 3,
        "align": "scale",
    }
    after = snapshot(adata)
    assert set(after) - set(before) == {("obsm", "X_stjepa_standardized"), ("uns", "scjepa")}
    assert {name: after[name] for name in before} == before


def test_standardize_replaces_its_own_result_and_refuses_the_users():
    adata = _adata()
    scjepa.tl.standardize(adata, key_added="mine_too")
    scjepa.tl.standardize(adata, key_added="mine_too", n_comps=2)
    assert adata.obsm["mine_too"].shape == (60, 2)
    with pytest.raises(ValueError, match=r"adata.obsm already has 'X_umap'.*key_added"):
        scjepa.tl.standardize(adata, key_added="X_umap")


def test_standardize_names_what_is_missing():
    adata = _adata()
    with pytest.raises(KeyError, match=r"obsm\['X_other'\].*holds 'X_stjepa', 'X_umap'.*get_latent_representation"):
        scjepa.tl.standardize(adata, "X_other")
    with pytest.raises(KeyError, match="Did you mean 'section'"):
        scjepa.tl.standardize(adata, library_key="sektion")
    adata.obs["section"] = adata.obs["section"].where(np.arange(60) != 7)
    with pytest.raises(ValueError, match=r"1 cells have no value in adata.obs\['section'\]; the first is '7'"):
        scjepa.tl.standardize(adata, library_key="section")
    assert "scjepa" not in adata.uns
