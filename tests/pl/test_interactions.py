from __future__ import annotations

import joblib
import numpy as np
import pytest
from matplotlib.colors import to_hex

import scjepa
from scjepa._core.palette import palette


@pytest.fixture
def touching(strip):
    """Return the strip with its interactions, and these."""
    return strip, scjepa.tl.niche_interactions(strip, n_permutations=20)


def test_shares_are_drawn_without_the_niches_own(touching, pl):
    adata, found = touching
    (ax,) = pl.interactions(adata).axes
    drawn = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert np.isnan(np.diag(drawn)).all()
    apart = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(drawn[apart], found.shares.to_numpy()[apart])
    assert len(ax.texts) == (found.shares.to_numpy() >= 0.005).sum()
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["0", "1", "2"]


def test_z_scores_have_colors_for_the_range_between_niches(touching, pl):
    adata, found = touching
    (ax,) = pl.interactions(adata, values="z_scores").axes
    np.testing.assert_allclose(np.ma.filled(ax.images[0].get_array(), np.nan), found.z_scores)
    apart = found.z_scores.to_numpy()[~np.eye(3, dtype=bool)]
    assert ax.images[0].get_clim() == pytest.approx((-np.abs(apart).max(), np.abs(apart).max()))
    assert ax.child_axes[0].get_ylabel() == "z-score of edges"


def test_niches_have_the_colors_they_have_on_the_tissue(touching, pl):
    (ax,) = pl.interactions(touching[0]).axes
    for marks in ax.collections:
        assert [to_hex(color).upper() for color in marks.get_facecolors()] == palette(3)
    assert len(ax.collections) == 2


def test_names_do_not_touch_the_color_marks_or_leave_the_figure(touching, pl):
    adata, _ = touching
    adata.obs["niche"] = adata.obs["niche"].cat.rename_categories(["a rather long name", "b", "another long name"])
    scjepa.tl.niche_interactions(adata, n_permutations=5)
    figure = pl.interactions(adata)
    figure.draw_without_rendering()
    (ax,) = figure.axes
    below, left = (marks.get_tightbbox() for marks in reversed(ax.collections))
    for tick in ax.get_yticklabels():
        assert tick.get_window_extent().x1 <= left.x0
        assert tick.get_window_extent().x0 >= figure.bbox.x0
    for tick in ax.get_xticklabels():
        assert tick.get_window_extent().y1 <= below.y0
        assert tick.get_window_extent().y0 >= figure.bbox.y0


def test_niches_that_changed_are_told(touching, strip, pl):
    adata, _ = touching
    before = joblib.hash((adata.obs, dict(adata.uns)))
    pl.interactions(adata)
    assert joblib.hash((adata.obs, dict(adata.uns))) == before
    with pytest.raises(ValueError, match="Did you mean 'z_scores'"):
        pl.interactions(adata, values="zscores")
    adata.obs["niche"] = adata.obs["niche"].cat.rename_categories(["a", "b", "c"])
    with pytest.raises(ValueError, match=r"have changed since. Compute again: scjepa.tl.niche_interactions"):
        pl.interactions(adata)
    del adata.uns["niche_nhood_enrichment"]
    with pytest.raises(KeyError, match=r"Compute it first: scjepa.tl.niche_interactions\(adata, 'niche'\)"):
        pl.interactions(adata)
