from __future__ import annotations

import io

import anndata as ad
import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import scjepa
from scjepa._core.palette import MISSING, palette


def _adata(n_sections: int = 1, n_niches: int = 3, n_cells: int = 90) -> ad.AnnData:
    rng = np.random.default_rng(0)
    adata = ad.AnnData(
        obs={
            "niche": pd.Categorical((np.arange(n_cells) % n_niches).astype(str)),
            "section": pd.Categorical([f"s{i}" for i in np.arange(n_cells) % n_sections]),
        },
        obsm={"spatial": rng.uniform(size=(n_cells, 2)) * (800, 400)},
        uns={"niche_colors": palette(n_niches)},
        shape=(n_cells, 0),
    )
    # Regions are the niches under other names, in another order.
    names = np.array(["z", "y", "x", *(f"r{i}" for i in range(n_niches))])
    adata.obs["region"] = names[adata.obs["niche"].astype(int)]
    return adata


def _drawn(ax) -> list[str]:
    return [to_hex(color) for color in ax.collections[0].get_facecolors()]


def _entries(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_one_section_is_one_panel_with_a_legend():
    adata = _adata()
    figure = scjepa.pl.niches(adata)
    assert isinstance(figure, Figure)
    (ax,) = figure.axes
    assert _entries(ax) == ["0", "1", "2"]
    assert len(ax.collections[0].get_offsets()) == 90
    assert ax.get_aspect() == 1
    assert ax.get_title() == "niche"
    expected = [to_hex(palette(3)[int(niche)]) for niche in adata.obs["niche"]]
    assert _drawn(ax) == expected


def test_every_section_has_a_panel_with_its_cells_only():
    adata = _adata(n_sections=5)
    figure = scjepa.pl.niches(adata)
    assert [ax.get_title() for ax in figure.axes] == ["s0", "s1", "s2", "s3", "s4"]
    assert [len(ax.collections[0].get_offsets()) for ax in figure.axes] == [18] * 5
    assert sum(ax.get_legend() is not None for ax in figure.axes) == 1


def test_a_reference_gets_a_panel_for_each_section_and_the_colors_of_its_niches():
    adata = _adata(n_sections=2)
    figure = scjepa.pl.niches(adata, reference="region")
    assert len(figure.axes) == 4
    legends = [_entries(ax) for ax in figure.axes if ax.get_legend() is not None]
    assert legends == [["0", "1", "2"], ["x", "y", "z"]]
    # The same cells have the same colors in both rows, since regions and niches agree.
    assert _drawn(figure.axes[0]) == _drawn(figure.axes[2])


def test_a_reference_keeps_the_colors_the_user_chose():
    adata = _adata()
    adata.obs["region"] = adata.obs["region"].astype("category")
    adata.uns["region_colors"] = ["#111111", "#222222", "#333333"]
    figure = scjepa.pl.niches(adata, reference="region")
    assert set(_drawn(figure.axes[1])) == {"#111111", "#222222", "#333333"}


def test_regions_left_over_get_colors_that_no_niche_has():
    adata = _adata()
    adata.obs["region"] = (np.arange(90) % 6).astype(str)
    figure = scjepa.pl.niches(adata, reference="region")
    niche, region = (set(_drawn(ax)) for ax in figure.axes)
    assert len(region) == 6
    assert niche < region


def test_cells_without_a_label_are_gray_and_named():
    adata = _adata()
    adata.obs.loc[adata.obs_names[:10], "region"] = "unlabelled"
    adata.obs.loc[adata.obs_names[10:15], "region"] = np.nan
    figure = scjepa.pl.niches(adata, reference="region")
    assert _entries(figure.axes[1]) == ["x", "y", "z", "unlabelled"]
    assert _drawn(figure.axes[1]).count(MISSING.lower()) == 15


@pytest.mark.parametrize("n_niches", [1, 12, 30])
def test_legends_of_many_niches_do_not_cover_cells(n_niches):
    figure = scjepa.pl.niches(_adata(n_niches=n_niches), reference="region")
    figure.draw_without_rendering()
    for ax in figure.axes:
        legend = ax.get_legend()
        assert len(legend.get_texts()) == n_niches
        box = legend.get_window_extent()
        assert not any(box.overlaps(other.get_window_extent()) for other in figure.axes)
        assert figure.bbox.x1 >= box.x1
        assert box.y0 >= figure.bbox.y0 - 1


def test_a_scale_bar_is_drawn_where_the_unit_is_known():
    adata = _adata()
    assert not scjepa.pl.niches(adata).axes[0].texts
    (ax,) = scjepa.pl.niches(adata, unit="µm").axes
    assert ax.texts[0].get_text() == "100 µm"
    bar = ax.lines[0].get_xdata()
    assert bar[1] - bar[0] == pytest.approx(100)


def test_one_cell_and_cells_without_coordinates():
    adata = _adata()
    assert len(scjepa.pl.niches(adata[:1].copy(), unit="µm").axes) == 1
    adata.obsm["spatial"][:4] = np.nan
    assert len(scjepa.pl.niches(adata).axes[0].collections[0].get_offsets()) == 86
    adata.obsm["spatial"][:] = np.nan
    with pytest.raises(ValueError, match="No cell has finite coordinates"):
        scjepa.pl.niches(adata)


def test_axes_of_the_user_are_drawn_in_and_left_open():
    adata = _adata(n_sections=2)
    figure, ax = plt.subplots()
    with pytest.raises(ValueError, match="ax holds one panel; 2 section"):
        scjepa.pl.niches(adata, ax=ax)
    one = adata[adata.obs["section"] == "s0"].copy()
    assert scjepa.pl.niches(one, ax=ax) is figure
    assert plt.fignum_exists(figure.number)
    plt.close(figure)


def test_figures_are_saved_and_not_left_in_pyplot(tmp_path):
    figure = scjepa.pl.niches(_adata(), save=tmp_path / "niches.png")
    assert (tmp_path / "niches.png").stat().st_size > 5_000
    shown = io.BytesIO()
    figure.canvas.print_figure(shown, format="png")  # as a notebook shows it
    assert len(shown.getvalue()) > 5_000
    assert not plt.get_fignums()


def test_nothing_is_written_to_adata():
    adata = _adata(n_sections=2)
    before = joblib.hash((adata.obs, dict(adata.uns), dict(adata.obsm)))
    scjepa.pl.niches(adata, reference="region", unit="px")
    assert joblib.hash((adata.obs, dict(adata.uns), dict(adata.obsm))) == before


def test_missing_columns_are_told():
    adata = _adata()
    with pytest.raises(KeyError, match="Did you mean 'region'"):
        scjepa.pl.niches(adata, reference="regio")
    with pytest.raises(KeyError, match=r"obsm\['xy'\] does not exist; adata.obsm holds 'spatial'"):
        scjepa.pl.niches(adata, spatial_key="xy")
    adata.obsm["line"] = adata.obsm["spatial"][:, :1]
    with pytest.raises(ValueError, match="two columns or more"):
        scjepa.pl.niches(adata, spatial_key="line")
    with pytest.raises(ValueError, match="ncols must be positive"):
        scjepa.pl.niches(_adata(n_sections=2), ncols=0)
    del adata.obs["niche"]
    with pytest.raises(KeyError, match=r"scjepa.tl.niches\(adata\)"):
        scjepa.pl.niches(adata)


@pytest.mark.data
def test_three_sections_of_prefrontal_cortex(data_dir, tmp_path):
    adata = ad.read_h5ad(data_dir / "spatial" / "starmap_mpfc_3sections.h5ad")
    adata.obs["niche"] = adata.obs["cell_type"]
    figure = scjepa.pl.niches(adata, reference="region", unit="px", save=tmp_path / "mpfc.png")
    assert len(figure.axes) == 6
    assert {ax.get_title() for ax in figure.axes[:3]} == {"BZ5", "BZ9", "BZ14"}
    assert _entries(figure.axes[5]) == ["L1", "L2/3", "L5", "L6"]
