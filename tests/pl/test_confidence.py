from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from scjepa._core.palette import MISSING


@pytest.fixture
def one(strip) -> ad.AnnData:
    """Return the cells of ``strip`` as one section."""
    del strip.obs["section"]
    return strip


def _bar(ax):
    """Return the axes of the color bar beside ``ax``."""
    (bar,) = ax.child_axes
    return bar


def _drawn(ax) -> np.ndarray:
    return np.asarray(ax.collections[0].get_offsets())


def _values(ax) -> np.ndarray:
    """Return the numbers drawn, from the lowest layer to the top, NaN where a cell has none."""
    return np.ma.filled(ax.collections[0].get_array(), np.nan)


def test_one_section_is_one_panel_with_all_cells_and_a_bar_from_0_to_1(one, pl):
    (ax,) = pl.confidence(one).axes
    assert len(_drawn(ax)) == one.n_obs
    assert ax.get_title() == "niche_confidence"
    assert ax.get_aspect() == 1
    assert _bar(ax).get_ylim() == (0, 1)
    assert ax.collections[0].get_clim() == (0, 1)


def test_the_range_of_colors_does_not_depend_on_the_data(one, pl):
    one.obs["niche_confidence"] = 0.4 + 0.1 * one.obs["niche_confidence"]
    (ax,) = pl.confidence(one).axes
    assert ax.collections[0].get_clim() == (0, 1)


def test_the_least_sure_cells_lie_on_top(one, pl):
    (ax,) = pl.confidence(one).axes
    assert (np.diff(_values(ax)) <= 0).all()
    order = np.argsort(-one.obs["niche_confidence"].to_numpy(), kind="stable")
    np.testing.assert_allclose(_drawn(ax), one.obsm["spatial"][order])


def test_cells_without_a_confidence_are_gray_and_below(one, pl):
    one.obs.loc[one.obs_names[7:19], "niche_confidence"] = np.nan
    figure = pl.confidence(one)
    figure.draw_without_rendering()
    (ax,) = figure.axes
    missing = np.isnan(_values(ax))
    assert missing[:12].all()
    assert missing.sum() == 12
    colors = [to_hex(color) for color in ax.collections[0].get_facecolors()]
    assert set(colors[:12]) == {MISSING.lower()}
    assert MISSING.lower() not in colors[12:]


def test_every_section_has_a_panel_with_its_cells_and_one_bar_serves_all(strip, pl):
    figure = pl.confidence(strip, unit="µm")
    assert [ax.get_title() for ax in figure.axes] == ["s0", "s1"]
    assert [len(_drawn(ax)) for ax in figure.axes] == [45, 45]
    assert [len(ax.child_axes) for ax in figure.axes] == [0, 1]
    assert _bar(figure.axes[1]).get_title(loc="left") == "niche_confidence"


def test_a_reference_stands_beside_it_in_its_own_colors(strip, legend_texts, pl):
    four = pl.confidence(strip, reference="niche").axes
    assert [ax.get_ylabel() for ax in four] == ["niche_confidence", "", "niche", ""]
    del strip.obs["section"]
    confidence, niche = pl.confidence(strip, reference="niche").axes
    assert (confidence.get_title(), niche.get_title()) == ("niche_confidence", "niche")
    assert legend_texts(niche) == ["0", "1", "2"]
    assert confidence.get_legend() is None
    expected = [to_hex(strip.uns["niche_colors"][int(name)]) for name in strip.obs["niche"]]
    assert [to_hex(color) for color in niche.collections[0].get_facecolors()] == expected


def test_a_scale_bar_is_drawn_where_the_unit_is_known(one, pl):
    (ax,) = pl.confidence(one).axes
    assert not ax.texts
    (ax,) = pl.confidence(one, unit="µm", pixel_size=0.5).axes
    assert [text.get_text() for text in ax.texts] == ["100 µm"]
    start, end = ax.lines[0].get_xdata()
    assert end - start == pytest.approx(200)  # of the coordinates, half a micrometer each


def test_the_bar_stands_outside_the_panels(one, pl):
    figure = pl.confidence(one, reference="niche")
    figure.draw_without_rendering()
    confidence, niche = figure.axes
    box = _bar(confidence).get_tightbbox()
    assert not box.overlaps(confidence.get_window_extent())
    assert not box.overlaps(niche.get_window_extent())


def test_the_figure_is_saved_and_colors_alone_are_written(strip, tmp_path, pl):
    columns, keys = list(strip.obs), set(strip.uns)
    pl.confidence(strip, reference="region", save=tmp_path / "confidence.png")
    assert (tmp_path / "confidence.png").stat().st_size > 5_000
    assert (list(strip.obs), set(strip.uns)) == (columns, keys | {"region_colors"})


def test_what_is_no_confidence_is_refused(strip, pl):
    with pytest.raises(KeyError, match="Did you mean 'niche_confidence'"):
        pl.confidence(strip, "niche_confidenc")
    with pytest.raises(ValueError, match=r"obs\['region'\] must hold numbers in \[0, 1\], found (object|str)"):
        pl.confidence(strip, "region")
    strip.obs["percent"] = 100 * np.arange(strip.n_obs) / (strip.n_obs - 1)
    with pytest.raises(ValueError, match=r"obs\['percent'\] must hold numbers in \[0, 1\], found 0 to 100"):
        pl.confidence(strip, "percent")
    with pytest.raises(ValueError, match="pixel_size needs the unit"):
        pl.confidence(strip, pixel_size=0.5)
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=r"ax holds one panel; 2 section\(s\) × 1 column\(s\) need 2"):
        pl.confidence(strip, ax=ax)
    plt.close("all")
    del strip.obs["niche_confidence"]
    with pytest.raises(KeyError, match=r"scjepa.tl.niche_confidence\(adata, model.get_masked_representations\(\)\)"):
        pl.confidence(strip)
