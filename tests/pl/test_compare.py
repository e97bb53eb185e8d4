from __future__ import annotations

import joblib
import numpy as np
import pytest
from matplotlib.colors import to_hex

from scjepa._core.palette import palette


def test_partners_stand_on_the_diagonal_in_one_color(strip, pl):
    figure = pl.compare(strip, "niche", "region")
    (ax,) = figure.axes
    np.testing.assert_array_equal(ax.images[0].get_array(), np.eye(3))
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["0", "1", "2"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["z", "y", "x"]
    for marks in ax.collections:
        assert [to_hex(color).upper() for color in marks.get_facecolors()] == palette(3)
    assert figure.axes[0].get_title(loc="left") == "100% of 90 cells\nin matched niches\nNMI 1.00, ARI 1.00"
    assert [text.get_text() for text in ax.texts] == ["1.00"] * 3


def test_niches_without_a_partner_come_last(strip, pl):
    strip.obs["merged"] = np.where(strip.obs["niche"] == "0", "rest", "main")
    (ax,) = pl.compare(strip, "niche", "merged").axes
    assert [tick.get_text() for tick in ax.get_yticklabels()] in (["0", "1", "2"], ["0", "2", "1"])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["rest", "main"]
    (ax,) = pl.compare(strip, "merged", "niche").axes
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()).sum(axis=1), 1)
    assert len(ax.get_xticklabels()) == 3


def test_colors_alone_are_written_and_what_is_missing_is_told(strip, tmp_path, pl):
    before = joblib.hash(strip.obs)
    pl.compare(strip, "niche", "cell_type", save=tmp_path / "compare.png")
    assert (tmp_path / "compare.png").stat().st_size > 5_000
    assert joblib.hash(strip.obs) == before
    assert set(strip.uns) == {"niche_colors", "cell_type_colors"}
    with pytest.raises(KeyError, match="Did you mean 'region'"):
        pl.compare(strip, "niche", "regio")
