"""What all figures have in common: axes of the user's, and nothing cut off."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

import scjepa


@pytest.fixture
def described(strip):
    scjepa.tl.niche_markers(strip)
    scjepa.tl.niche_interactions(strip, n_permutations=5)
    strip.obsm["X_stjepa"] = np.random.default_rng(0).normal(size=(90, 4))
    return strip[strip.obs["section"] == "s0"].copy()


SINGLE = {
    "niches": lambda adata, **how: scjepa.pl.niches(adata, **how),
    "confidence": lambda adata, **how: scjepa.pl.confidence(adata, **how),
    "embedding": lambda adata, **how: scjepa.pl.embedding(adata, method="pca", **how),
    "composition": lambda adata, **how: scjepa.pl.composition(adata, **how),
    "interactions": lambda adata, **how: scjepa.pl.interactions(adata, **how),
    "compare": lambda adata, **how: scjepa.pl.compare(adata, "niche", "region", **how),
    "markers": lambda adata, **how: scjepa.pl.markers(adata, **how),
    "training": lambda adata, **how: scjepa.pl.training({"loss": pd.Series([2.0, 1.0])}, **how),
}


@pytest.mark.filterwarnings("ignore:.*does not run along")
@pytest.mark.parametrize("name", SINGLE)
def test_one_panel_can_be_drawn_in_axes_of_the_users(described, name):
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4))
    found = SINGLE[name](described, ax=right)
    axes = found.values() if isinstance(found, dict) else [found]
    assert all(isinstance(ax, Axes) and ax.figure is figure for ax in axes)
    assert not left.has_data()
    figure.draw_without_rendering()
    plt.close("all")


@pytest.mark.parametrize("name", SINGLE)
def test_nothing_is_cut_off_where_the_user_saves_the_figure(described, name):
    described.obs["niche"] = described.obs["niche"].cat.rename_categories([f"a long name {i}" for i in range(3)])
    scjepa.tl.niche_markers(described)
    scjepa.tl.niche_interactions(described, n_permutations=5)
    SINGLE[name](described, show=False)
    figure = plt.gcf()
    figure.draw_without_rendering()
    drawn, page = figure.get_tightbbox(), figure.bbox_inches
    assert drawn.x0 >= page.x0 - 0.02
    assert drawn.y0 >= page.y0 - 0.02
    assert drawn.x1 <= page.x1 + 0.02
    assert drawn.y1 <= page.y1 + 0.02
    plt.close("all")
