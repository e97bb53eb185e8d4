"""Weights of genes in predictive components, as bars, and the components on the tissue."""

from __future__ import annotations

import numpy as np
import pytest

import scjepa


@pytest.fixture
def with_components(strip):
    scjepa.tl.predictive_components(strip)
    return strip


def _bars(figure):
    return [ax for ax in figure.axes if ax.get_title()]


def test_each_component_has_its_genes_and_its_correlation(with_components, pl):
    figure = pl.predictive_genes(with_components, n_genes=3, n_comps=2)
    table = scjepa.tl.predictive_genes(with_components, 3, n_comps=2)
    bars = _bars(figure)
    assert len(bars) == len(figure.axes) == 2
    for number, ax in enumerate(bars):
        own = table[table["component"] == number]
        assert ax.get_title() == f"component {number}, r = {own['correlation'].iloc[0]:.2f}"
        assert [text.get_text() for text in ax.get_yticklabels()] == own["gene"].tolist()
        np.testing.assert_allclose([bar.get_width() for bar in ax.patches], own["weight"])
        colors = {bar.get_facecolor() for bar in ax.patches if bar.get_width() > 0}
        assert len(colors) == 1
        assert colors != {bar.get_facecolor() for bar in ax.patches if bar.get_width() < 0}


def test_components_on_the_tissue_are_of_one_section(with_components, tmp_path, pl):
    path = tmp_path / "genes.png"
    for section, n_cells in ((None, 45), ("s1", 45)):
        figure = pl.predictive_genes(with_components, n_comps=2, tissue=True, section=section, save=path)
        maps = [ax for ax in figure.axes if not ax.get_title()]
        assert len(maps) == 2
        for number, ax in enumerate(maps):
            (points,) = ax.collections
            rows = slice(45, 90) if section == "s1" else slice(45)
            values = with_components.obsm["X_predictive"][rows, number]
            np.testing.assert_allclose(sorted(points.get_array()), sorted(values))
            assert len(points.get_offsets()) == n_cells
    assert path.read_bytes().startswith(b"\x89PNG")


def test_panels_fill_rows_and_the_rest_is_empty(with_components, pl):
    n_comps = with_components.obsm["X_predictive"].shape[1]
    figure = pl.predictive_genes(with_components, n_comps=50, ncols=3, tissue=True)
    assert len(figure.axes) == 2 * n_comps
    assert len(_bars(figure)) == n_comps


def test_what_is_missing_is_told(with_components, strip, pl):
    with pytest.raises(ValueError, match="Unknown section 's3'"):
        pl.predictive_genes(with_components, tissue=True, section="s3")
    for wrong in ({"n_genes": 0}, {"n_comps": 0}, {"ncols": 0}):
        with pytest.raises(ValueError, match="must be a whole number"):
            pl.predictive_genes(with_components, **wrong)
    with pytest.raises(KeyError, match=r"'X_other'.*PredictiveComponents"):
        pl.predictive_genes(with_components, key="X_other")
    del with_components.obsm["spatial"]
    with pytest.raises(KeyError, match="spatial_key"):
        pl.predictive_genes(with_components, tissue=True)
