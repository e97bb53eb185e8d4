from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex
from scipy.sparse import csr_matrix

import scjepa
from scjepa._core.palette import palette


@pytest.fixture
def ranked(strip) -> ad.AnnData:
    scjepa.tl.niche_markers(strip)
    return strip


def _names(labels) -> list[str]:
    return [text.get_text() for text in labels]


def _titles(figure) -> list[str]:
    return [title for ax in figure.axes if (title := ax.get_title().replace("\n", " "))]


def _darkness(dots) -> np.ndarray:
    """Return how dark each dot is; a map from white to blue has less red the higher the number."""
    return 1 - dots.get_facecolors()[:, 0]


def _many(n_niches: int = 9, per_niche: int = 5) -> ad.AnnData:
    """Return niches with genes of their own, more than stand side by side; the names of niches are words."""
    niche = np.arange(30 * n_niches) % n_niches
    rate = np.ones((len(niche), n_niches * per_niche))
    for number in range(n_niches):
        rate[niche == number, per_niche * number : per_niche * (number + 1)] = 12.0
    adata = ad.AnnData(csr_matrix(np.random.default_rng(0).poisson(rate).astype(np.int32)))
    adata.obs_names = [f"c{i}" for i in range(adata.n_obs)]
    adata.var_names = [f"gene{i}" for i in range(adata.n_vars)]
    adata.obs["niche"] = pd.Categorical([f"layer {i}" for i in niche])
    return adata


def test_each_niche_has_a_row_and_the_genes_that_tell_it(ranked, pl):
    main, groups = pl.markers(ranked).axes[:2]
    assert _names(main.get_yticklabels()) == ["0", "1", "2"]
    assert _names(groups.texts) == ["0", "1", "2"]
    genes = _names(main.get_xticklabels())
    assert len(genes) == 9
    for number in range(3):  # genes 4 n to 4 n + 3 were made high in niche n
        assert {int(gene[4:]) // 4 for gene in genes[3 * number : 3 * number + 3]} == {number}


def test_dots_tell_shares_and_means_and_the_legends_say_so(ranked, pl):
    figure = pl.markers(ranked)
    dots = figure.axes[0].collections[0]
    assert len(dots.get_offsets()) == 3 * 9
    assert _titles(figure) == ["cells with a count (%)", "mean log count, scaled by gene"]
    assert [to_hex(color) for color in dots.get_facecolors()].count(to_hex(colormaps["Blues"](1.0))) >= 9
    # A gene is darkest in the niche it stands under.
    np.testing.assert_array_equal(_darkness(dots).reshape(3, 9).argmax(axis=0), np.repeat(range(3), 3))


def test_a_matrix_has_means_alone(ranked, pl):
    figure = pl.markers(ranked, style="matrix", n_genes=2)
    assert _titles(figure) == ["mean log count, scaled by gene"]
    assert len(_names(figure.axes[0].get_xticklabels())) == 6


def test_a_gene_stands_once_where_its_score_is_highest(ranked, pl):
    ranking = ranked.uns["rank_genes_niche"]
    for niche in ("1", "2"):  # gene0 scores in all three niches, highest in niche 0
        ranking["names"][niche][0], ranking["scores"][niche][0] = "gene0", 1.0
    genes = _names(pl.markers(ranked, n_genes=12).axes[0].get_xticklabels())
    assert genes.count("gene0") == 1
    assert genes.index("gene0") < 4
    assert len(genes) == len(set(genes))


def test_marks_have_the_colors_of_the_niches(ranked, pl):
    ranked.uns["niche_colors"] = ["#111111", "#222222", "#333333"]
    marks = pl.markers(ranked).axes[0].collections[-1]
    assert [to_hex(color) for color in marks.get_facecolors()] == ["#111111", "#222222", "#333333"]


def test_marks_follow_the_names_of_a_niche_that_is_left_out(ranked, pl):
    ranked.obs["niche"] = ranked.obs["niche"].cat.rename_categories({"0": "lonely", "1": "b", "2": "c"})
    ranked.obs.loc[ranked.obs["niche"] == "lonely", "niche"] = np.nan
    scjepa.tl.niche_markers(ranked)
    figure = pl.markers(ranked)
    assert _names(figure.axes[0].get_yticklabels()) == ["b", "c"]
    marks = [to_hex(color).upper() for color in figure.axes[0].collections[-1].get_facecolors()]
    assert marks == palette(3)[1:]


def test_many_genes_stand_in_rows_with_whole_names_of_niches(pl):
    adata = _many()
    scjepa.tl.niche_markers(adata)
    figure = pl.markers(adata, n_genes=5)
    figure.draw_without_rendering()
    main, groups = figure.axes[:2]
    assert len(_names(main.get_yticklabels())) == 45
    assert _names(main.get_xticklabels()) == [f"layer {i}" for i in range(9)]
    assert _names(groups.texts) == [f"layer {i}" for i in range(9)]
    assert {text.get_rotation() for text in groups.texts} == {0}
    across = pl.markers(adata, n_genes=3).axes[0]
    assert len(_names(across.get_xticklabels())) == 27


def test_the_counts_ranked_are_the_counts_drawn(ranked, pl):
    ranked.layers["raw"] = ranked.X.copy()
    shown = _darkness(pl.markers(ranked).axes[0].collections[0])
    ranked.X = csr_matrix(ranked.X.shape, dtype=np.int32)
    scjepa.tl.niche_markers(ranked, layer="raw")
    np.testing.assert_allclose(_darkness(pl.markers(ranked).axes[0].collections[0]), shown, atol=1e-6)
    assert np.ptp(shown) > 0.5


def test_the_figure_is_saved_and_nothing_is_written(ranked, tmp_path, pl):
    before, keys = ranked.X.copy(), set(ranked.uns)
    pl.markers(ranked, save=tmp_path / "markers.png")
    assert (tmp_path / "markers.png").stat().st_size > 5_000
    assert set(ranked.uns) == keys
    assert (ranked.X != before).nnz == 0


def test_what_cannot_be_drawn_is_told(strip, pl):
    with pytest.raises(KeyError, match=r"Rank the genes first: scjepa.tl.niche_markers\(adata\)"):
        pl.markers(strip)
    strip.uns["mine"] = {"names": {}, "scores": {}}
    with pytest.raises(KeyError, match="no 'mine' of scjepa's"):
        pl.markers(strip, key="mine")
    scjepa.tl.niche_markers(strip)
    with pytest.raises(ValueError, match="Did you mean 'matrix'"):
        pl.markers(strip, style="matrx")
    with pytest.raises(ValueError, match="n_genes must be"):
        pl.markers(strip, n_genes=0)
    for scores in strip.uns["rank_genes_niche"]["scores"].dtype.names:
        strip.uns["rank_genes_niche"]["scores"][scores] = -1.0
    with pytest.raises(ValueError, match=r"No gene in adata.uns\['rank_genes_niche'\] has a positive score"):
        pl.markers(strip)
    scjepa.tl.niche_markers(strip)
    del strip.obs["niche"]
    with pytest.raises(KeyError, match="niche"):
        pl.markers(strip)
