from __future__ import annotations

import joblib
import numpy as np
import pytest
from matplotlib.colors import to_hex

from scjepa._core.palette import MISSING
from scjepa.tl import niche_composition


def _bars(ax) -> np.ndarray:
    """Return the widths of the bars, one row for each label and one column for each niche."""
    return np.array([[bar.get_width() for bar in bars] for bars in ax.containers])


def _colors(ax) -> list[str]:
    return [to_hex(bars[0].get_facecolor()).upper() for bars in ax.containers]


def test_bars_are_the_shares_of_the_table(strip, legend_texts, pl):
    (ax,) = pl.composition(strip, by="region").axes
    np.testing.assert_allclose(_bars(ax).T, niche_composition(strip, by="region").shares)
    assert legend_texts(ax) == ["x", "y", "z"]
    assert ax.get_legend().get_title().get_text() == "region"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["0 (30)", "1 (30)", "2 (30)"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first niche on top


def test_numbers_of_cells(strip, pl):
    (ax,) = pl.composition(strip, by="section", normalize=False).axes
    np.testing.assert_array_equal(_bars(ax).sum(axis=0), [30, 30, 30])
    assert ax.get_xlabel() == "cells"


def test_labels_of_short_bars_are_lumped_so_that_colors_can_be_told_apart(strip, legend_texts, pl):
    (ax,) = pl.composition(strip, max_labels=4).axes
    n_types = strip.obs["cell_type"].nunique()
    assert legend_texts(ax)[-1] == f"{n_types - 4} others"
    np.testing.assert_allclose(_bars(ax).sum(axis=0), 1)
    shares = niche_composition(strip).shares
    kept = legend_texts(ax)[:-1]
    assert shares[kept].max().min() >= shares.drop(columns=kept).max().max()
    assert set(_colors(ax)[:-1]) <= set(strip.uns["cell_type_colors"])
    assert len(set(_colors(ax))) == 5


def test_the_users_colors_are_kept_and_cells_without_a_label_are_gray(strip, legend_texts, pl):
    strip.obs.loc[strip.obs_names[:10], "region"] = np.nan
    strip.obs["region"] = strip.obs["region"].astype("category")
    strip.uns["region_colors"] = ["#111111", "#222222", "#333333"]
    (ax,) = pl.composition(strip, by="region", max_labels=2).axes
    assert legend_texts(ax)[-2:] == ["1 others", "unlabelled"]
    assert set(_colors(ax)[:2]) <= {"#111111", "#222222", "#333333"}
    assert _colors(ax)[-1] == MISSING


def test_the_legend_stands_outside(strip, pl):
    figure = pl.composition(strip)
    figure.draw_without_rendering()
    (ax,) = figure.axes
    box = ax.get_legend().get_window_extent()
    assert not box.overlaps(ax.get_window_extent())
    assert box.x1 <= figure.bbox.x1
    assert box.y0 >= figure.bbox.y0 - 1


def test_colors_alone_are_written_and_what_is_wrong_is_told(strip, tmp_path, pl):
    before = joblib.hash(strip.obs)
    pl.composition(strip, save=tmp_path / "composition.png")
    assert (tmp_path / "composition.png").stat().st_size > 5_000
    assert joblib.hash(strip.obs) == before
    assert set(strip.uns) == {"niche_colors", "cell_type_colors"}
    with pytest.raises(ValueError, match="max_labels must be"):
        pl.composition(strip, max_labels=0)
    with pytest.raises(KeyError, match="Did you mean 'cell_type'"):
        pl.composition(strip, by="cell_typ")
