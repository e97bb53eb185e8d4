from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def adata() -> ad.AnnData:
    rng = np.random.default_rng(0)
    niche = np.arange(80) % 4
    return ad.AnnData(
        obs={
            "niche": pd.Categorical(niche.astype(str)),
            "kept": niche > 1,
            "n_counts": np.where(niche == 0, np.nan, rng.poisson(9, size=80)),
        },
        obsm={
            "X_stjepa": (10 * np.eye(4)[niche] + rng.normal(size=(80, 4))).astype(np.float32),
            "X_umap": rng.normal(size=(80, 2)),
        },
        uns={"neighbors": {"mine": 1}},
        shape=(80, 0),
    )


def test_every_column_has_a_panel(adata, pl):
    figure = pl.embedding(adata, color=["niche", "kept", "n_counts"])
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == ["niche", "kept", "n_counts"]
    assert [len(ax.collections[0].get_offsets()) for ax in panels] == [80, 80, 80]
    assert [text.get_text() for text in panels[0].get_legend().get_texts()] == ["0", "1", "2", "3"]
    assert [text.get_text() for text in panels[1].get_legend().get_texts()] == ["False", "True"]
    assert panels[2].get_legend() is None
    assert len(panels[2].child_axes) == 1  # the color bar of the numbers


def test_umap_is_kept_until_the_embedding_changes_and_the_users_is_left_alone(adata, pl):
    mine, neighbors = adata.obsm["X_umap"].copy(), dict(adata.uns["neighbors"])
    pl.embedding(adata)
    first = adata.obsm["X_stjepa_umap"]
    assert first.shape == (80, 2)
    pl.embedding(adata)
    assert adata.obsm["X_stjepa_umap"] is first
    adata.obsm["X_stjepa"][:20] += 3  # also in place
    pl.embedding(adata)
    assert not np.array_equal(adata.obsm["X_stjepa_umap"], first)
    np.testing.assert_array_equal(adata.obsm["X_umap"], mine)
    assert adata.uns["neighbors"] == neighbors
    assert not list(adata.obsp)


def test_umap_repeats_and_parts_the_planted_niches(adata, pl):
    again = adata.copy()
    for each in (adata, again):
        pl.embedding(each)
    np.testing.assert_array_equal(adata.obsm["X_stjepa_umap"], again.obsm["X_stjepa_umap"])
    means = np.array([adata.obsm["X_stjepa_umap"][adata.obs["niche"] == str(i)].mean(0) for i in range(4)])
    nearest = np.linalg.norm(adata.obsm["X_stjepa_umap"][:, None] - means, axis=-1).argmin(1)
    assert (nearest == adata.obs["niche"].astype(int)).mean() == 1


def test_pca_writes_nothing(adata, pl):
    figure = pl.embedding(adata, method="pca")
    drawn = np.asarray(figure.axes[0].collections[0].get_offsets())
    np.testing.assert_allclose(drawn.mean(axis=0), 0, atol=1e-4)
    assert drawn[:, 0].var() >= drawn[:, 1].var()
    assert set(adata.obsm) == {"X_stjepa", "X_umap"}
    assert "scjepa" not in adata.uns


@pytest.mark.parametrize("n_cells", [1, 3, 5])
@pytest.mark.parametrize("method", ["umap", "pca"])
def test_few_cells(adata, method, n_cells, pl):
    figure = pl.embedding(adata[:n_cells].copy(), method=method)
    assert len(figure.axes[0].collections[0].get_offsets()) == n_cells


def test_embeddings_of_one_dimension(adata, pl):
    adata.obsm["X_one"] = adata.obsm["X_stjepa"][:, :1]
    figure = pl.embedding(adata, "X_one", method="pca")
    assert (figure.axes[0].collections[0].get_offsets()[:, 1] == 0).all()


def test_bad_options_are_told(adata, pl):
    with pytest.raises(KeyError, match="get_latent_representation"):
        pl.embedding(adata, "X_other")
    with pytest.raises(KeyError, match=r"'nich' is no column of adata.obs and no gene\. Did you mean 'niche'"):
        pl.embedding(adata, color=["nich"])
    with pytest.raises(ValueError, match="color names no column"):
        pl.embedding(adata, color=[])
    with pytest.raises(ValueError, match="Unknown method 'tsne'"):
        pl.embedding(adata, method="tsne")
    adata.obsm["X_stjepa_umap"] = adata.obsm["X_umap"]
    with pytest.raises(ValueError, match="scjepa did not write"):
        pl.embedding(adata)
