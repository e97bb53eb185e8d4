from __future__ import annotations

import anndata as ad
import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.sparse import csr_matrix

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


def _with_genes(n_sections: int = 1) -> ad.AnnData:
    empty = _adata(n_sections)
    counts = csr_matrix(np.random.default_rng(1).poisson(2.0, (90, 3)).astype(np.float32))
    adata = ad.AnnData(counts, obs=empty.obs, obsm=dict(empty.obsm), uns=dict(empty.uns))
    adata.var_names = ["g0", "g1", "g2"]
    return adata


def _drawn(ax) -> list[str]:
    return [to_hex(color) for color in ax.collections[0].get_facecolors()]


def _entries(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_one_section_is_one_panel_with_a_legend(pl):
    adata = _adata()
    figure = pl.niches(adata)
    assert isinstance(figure, Figure)
    (ax,) = figure.axes
    assert _entries(ax) == ["0", "1", "2"]
    assert len(ax.collections[0].get_offsets()) == 90
    assert ax.get_aspect() == 1
    assert ax.get_title() == "niche"
    expected = [to_hex(palette(3)[int(niche)]) for niche in adata.obs["niche"]]
    assert _drawn(ax) == expected


def test_every_section_has_a_panel_with_its_cells_only(pl):
    adata = _adata(n_sections=5)
    figure = pl.niches(adata)
    assert [ax.get_title() for ax in figure.axes] == ["s0", "s1", "s2", "s3", "s4"]
    assert [len(ax.collections[0].get_offsets()) for ax in figure.axes] == [18] * 5
    assert sum(ax.get_legend() is not None for ax in figure.axes) == 1


def test_a_reference_gets_a_panel_for_each_section_and_the_colors_of_its_niches(pl):
    adata = _adata(n_sections=2)
    figure = pl.niches(adata, reference="region")
    assert len(figure.axes) == 4
    legends = [_entries(ax) for ax in figure.axes if ax.get_legend() is not None]
    assert legends == [["0", "1", "2"], ["x", "y", "z"]]
    # The same cells have the same colors in both rows, since regions and niches agree.
    assert _drawn(figure.axes[0]) == _drawn(figure.axes[2])


def test_a_reference_keeps_the_colors_the_user_chose(pl):
    adata = _adata()
    adata.obs["region"] = adata.obs["region"].astype("category")
    adata.uns["region_colors"] = ["#111111", "#222222", "#333333"]
    figure = pl.niches(adata, reference="region")
    assert set(_drawn(figure.axes[1])) == {"#111111", "#222222", "#333333"}


def test_regions_left_over_get_colors_that_no_niche_has(pl):
    adata = _adata()
    adata.obs["region"] = (np.arange(90) % 6).astype(str)
    figure = pl.niches(adata, reference="region")
    niche, region = (set(_drawn(ax)) for ax in figure.axes)
    assert len(region) == 6
    assert niche < region


def test_cells_without_a_label_are_gray_and_named(pl):
    adata = _adata()
    adata.obs.loc[adata.obs_names[:10], "region"] = "unlabelled"
    adata.obs.loc[adata.obs_names[10:15], "region"] = np.nan
    figure = pl.niches(adata, reference="region")
    assert _entries(figure.axes[1]) == ["x", "y", "z", "unlabelled"]
    assert _drawn(figure.axes[1]).count(MISSING.lower()) == 15


@pytest.mark.parametrize("n_niches", [1, 12, 30])
def test_legends_of_many_niches_do_not_cover_cells(n_niches, pl):
    figure = pl.niches(_adata(n_niches=n_niches), reference="region")
    figure.draw_without_rendering()
    for ax in figure.axes:
        legend = ax.get_legend()
        assert len(legend.get_texts()) == n_niches
        box = legend.get_window_extent()
        assert not any(box.overlaps(other.get_window_extent()) for other in figure.axes)
        assert figure.bbox.x1 >= box.x1
        assert box.y0 >= figure.bbox.y0 - 1


def test_a_scale_bar_is_drawn_where_the_unit_is_known(pl):
    adata = _adata()
    assert not pl.niches(adata).axes[0].texts
    (ax,) = pl.niches(adata, unit="µm").axes
    assert ax.texts[0].get_text() == "100 µm"
    bar = ax.lines[0].get_xdata()
    assert bar[1] - bar[0] == pytest.approx(100)


def test_one_cell_and_cells_without_coordinates(pl):
    adata = _adata()
    assert len(pl.niches(adata[:1].copy(), unit="µm").axes) == 1
    adata.obsm["spatial"][:4] = np.nan
    assert len(pl.niches(adata).axes[0].collections[0].get_offsets()) == 86
    adata.obsm["spatial"][:] = np.nan
    with pytest.raises(ValueError, match="No cell has finite coordinates"):
        pl.niches(adata)


def test_axes_of_the_user_are_drawn_in_and_left_open(pl):
    adata = _adata(n_sections=2)
    figure, ax = plt.subplots()
    with pytest.raises(ValueError, match="ax holds one panel; 2 section"):
        pl.niches(adata, ax=ax)
    one = adata[adata.obs["section"] == "s0"].copy()
    assert pl.niches(one, ax=ax) is figure
    assert plt.fignum_exists(figure.number)
    plt.close(figure)


def test_colors_alone_are_written_to_adata_and_stay(pl):
    adata = _adata(n_sections=2)
    before, kept = joblib.hash((adata.obs, dict(adata.obsm))), list(adata.uns["niche_colors"])
    pl.niches(adata, reference="region", unit="px")
    assert joblib.hash((adata.obs, dict(adata.obsm))) == before
    assert set(adata.uns) == {"niche_colors", "region_colors"}
    assert list(adata.uns["niche_colors"]) == kept
    assert adata.uns["region_colors"] == [palette(3)[i] for i in (2, 1, 0)]  # x, y, z are the niches 2, 1, 0
    adata.obs["region"] = adata.obs["region"].astype("category")
    sc.pl.embedding(adata, "spatial", color="region", show=False)
    assert adata.uns["region_colors"] == [palette(3)[i] for i in (2, 1, 0)]


def test_a_label_has_its_color_in_every_figure(pl):
    adata = _adata()
    adata.obs.loc[adata.obs_names[:5], "region"] = "unlabelled"
    first = _drawn(pl.niches(adata, reference="region").axes[1])
    assert adata.uns["region_colors"][0] == MISSING  # "unlabelled" is the first of its categories
    assert sorted(_drawn(pl.niches(adata, "region").axes[0])) == sorted(first)
    assert sorted(_drawn(pl.embedding(adata, "spatial", color="region", method="pca").axes[0])) == sorted(first)


def test_colors_are_not_written_to_views(pl):
    adata = _adata(n_sections=2)
    view = adata[adata.obs["section"] == "s0"]
    pl.niches(view, "region")
    assert view.is_view
    assert "region_colors" not in adata.uns


def test_genes_and_columns_of_numbers_have_color_bars(pl):
    adata = _with_genes()
    adata.obs["depth"] = np.linspace(0, 1, 90)
    axes = pl.niches(adata, ["g1", "niche", "depth"], title=["a gene", "niches", "depth"]).axes
    assert [ax.get_title() for ax in axes] == ["a gene", "niches", "depth"]
    assert [len(ax.child_axes) for ax in axes] == [1, 0, 1]
    np.testing.assert_array_equal(np.sort(axes[0].collections[0].get_array()), np.sort(adata.X[:, 1].toarray()[:, 0]))
    adata.layers["double"] = 2 * adata.X
    (ax,) = pl.niches(adata, "g1", layer="double").axes
    assert ax.collections[0].get_array().max() == 2 * adata.X[:, 1].max()


def test_a_gene_has_one_scale_of_colors_in_all_sections(pl):
    axes = pl.niches(_with_genes(n_sections=3), "g0").axes
    assert len({ax.collections[0].get_clim() for ax in axes}) == 1


def test_other_groups_are_gray(pl):
    adata = _adata()
    (ax,) = pl.niches(adata, groups=["0", "2"]).axes
    assert _entries(ax) == ["0", "2", "others"]
    assert _drawn(ax).count(MISSING.lower()) == (adata.obs["niche"] == "1").sum()
    with pytest.raises(ValueError, match="Unknown label in groups '7'"):
        pl.niches(adata, groups="7")


@pytest.mark.parametrize("colors", [["red", "lime", "blue"], {"0": "red", "1": "lime", "2": "blue"}, "brg_r"])
def test_colors_can_be_given(pl, colors):
    adata = _adata()
    (ax,) = pl.niches(adata, palette=colors).axes
    assert adata.uns["niche_colors"] == [to_hex(c) for c in set_of(colors)]
    assert set(_drawn(ax)) == set(adata.uns["niche_colors"])


def set_of(colors):
    if colors == "brg_r":
        return [colormaps["brg_r"](place) for place in (0.0, 0.5, 1.0)]
    return colors.values() if isinstance(colors, dict) else colors


def test_colors_that_do_not_fit_are_refused(pl):
    with pytest.raises(ValueError, match="palette has no color for '2'"):
        pl.niches(_adata(), palette=["red", "blue"])
    with pytest.raises(ValueError, match="no color of matplotlib's: 'reddish'"):
        pl.niches(_adata(), palette=["red", "blue", "reddish"])
    with pytest.raises(ValueError, match=r"Unknown color map for palette 'tab11'\. Did you mean 'tab10'"):
        pl.niches(_adata(), palette="tab11")
    with pytest.raises(ValueError, match="title has 2 texts"):
        pl.niches(_adata(), title=["a", "b"])
    with pytest.raises(TypeError, match="no argument 'key': it is called color"):
        pl.niches(_adata(), key="niche")


def test_sections_of_one_technology_are_drawn_to_one_scale(pl):
    adata = _adata(n_sections=3)
    adata.obsm["spatial"][adata.obs["section"] == "s1"] *= 0.5
    figure = pl.niches(adata, unit="µm")
    spans = np.array([[np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())] for ax in figure.axes])
    np.testing.assert_allclose(spans, spans[[0, 0, 0]])
    assert len({ax.texts[0].get_text() for ax in figure.axes}) == 1
    adata.obs["technology"] = np.where(adata.obs["section"] == "s1", "in pixels", "in µm")
    spans = np.array([np.ptp(ax.get_xlim()) for ax in pl.niches(adata).axes])
    assert spans[1] < 0.6 * spans[0]
    assert spans[0] == pytest.approx(spans[2])


def test_sections_in_another_unit_are_drawn_to_a_scale_of_their_own(pl):
    adata = _adata(n_sections=3)
    adata.obsm["spatial"][adata.obs["section"] == "s1"] *= 1e-3
    spans = np.array([np.ptp(ax.get_xlim()) for ax in pl.niches(adata).axes])
    assert spans[1] < 0.01 * spans[0]
    assert spans[0] == pytest.approx(spans[2])


def test_what_comes_back_and_what_stays_open(tmp_path, monkeypatch):
    """As in scanpy: nothing, or with ``show=False`` the axes; the figure is pyplot's current one."""
    adata = _adata(n_sections=2)
    one = adata[adata.obs["section"] == "s0"].copy()
    assert scjepa.pl.niches(one) is None
    plt.savefig(tmp_path / "after.png")
    assert (tmp_path / "after.png").stat().st_size > 5_000
    assert isinstance(scjepa.pl.niches(one, show=False), Axes)
    assert [type(ax) for ax in scjepa.pl.niches(adata, show=False)] == [Axes, Axes]
    figure, ax = plt.subplots()
    assert scjepa.pl.niches(one, ax=ax) is ax
    assert plt.gcf() is figure
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    scjepa.pl.niches(one, show=True)
    assert shown == [1]
    plt.close("all")


def test_files_have_the_resolution_of_the_settings_and_bare_names_a_folder(tmp_path, monkeypatch):
    adata, before = _adata(), sc.settings.figdir
    widths = []
    for dpi in ("figure", 100, 300):
        monkeypatch.setitem(rcParams, "savefig.dpi", dpi)
        scjepa.pl.niches(adata, save=tmp_path / f"{dpi}.png")
        widths.append(plt.imread(tmp_path / f"{dpi}.png").shape[1])
    assert widths[2] == pytest.approx(2 * widths[0], rel=0.02)
    assert widths[1] < widths[0]
    assert not plt.get_fignums()  # saved and not shown: nothing is left
    try:
        sc.settings.figdir = tmp_path / "figures"
        scjepa.pl.niches(adata, save="bare.png")
        assert (tmp_path / "figures" / "bare.png").exists()
    finally:
        sc.settings.figdir = before


def test_spatialdata_is_taken(pl):
    spatialdata = pytest.importorskip("spatialdata")
    adata = _adata()
    sdata = spatialdata.SpatialData(tables={"table": adata})
    assert len(pl.niches(sdata).axes) == 1
    assert len(pl.composition(sdata, by="section").axes) == 1


def test_missing_columns_are_told(pl):
    adata = _adata()
    with pytest.raises(KeyError, match="Did you mean 'region'"):
        pl.niches(adata, reference="regio")
    with pytest.raises(KeyError, match=r"obsm\['xy'\] does not exist; adata.obsm holds 'spatial'"):
        pl.niches(adata, spatial_key="xy")
    adata.obsm["line"] = adata.obsm["spatial"][:, :1]
    with pytest.raises(ValueError, match="two columns or more"):
        pl.niches(adata, spatial_key="line")
    with pytest.raises(ValueError, match="ncols must be"):
        pl.niches(_adata(n_sections=2), ncols=0)
    del adata.obs["niche"]
    with pytest.raises(KeyError, match=r"scjepa.tl.find_niches\(adata\)"):
        pl.niches(adata)


@pytest.mark.data
def test_three_sections_of_prefrontal_cortex(data_dir, tmp_path, pl):
    adata = ad.read_h5ad(data_dir / "spatial" / "starmap_mpfc_3sections.h5ad")
    adata.obs["niche"] = adata.obs["cell_type"]
    figure = pl.niches(adata, reference="region", unit="px", save=tmp_path / "mpfc.png")
    assert len(figure.axes) == 6
    assert {ax.get_title() for ax in figure.axes[:3]} == {"BZ5", "BZ9", "BZ14"}
    assert _entries(figure.axes[5]) == ["L1", "L2/3", "L5", "L6"]
