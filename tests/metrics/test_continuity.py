from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scjepa.metrics import niche_continuity


def _by_hand(clusters, places, sections, n_neighbors):
    abnormal, like, nearest = [], [], []
    for section in np.unique(sections):
        cells = np.flatnonzero(sections == section)
        if len(cells) < 2:
            continue
        here = places[cells]
        scaled = (here - here.mean(0)) / here.std(0)
        for i, cell in enumerate(cells):
            others = [j for j in range(len(cells)) if j != i]
            others.sort(key=lambda j: ((here[i] - here[j]) ** 2).sum())
            near = [clusters[cells[j]] for j in others[:n_neighbors]]
            same = sum(label == clusters[cell] for label in near)
            like.append(same / len(near))
            abnormal.append(len(near) - same > len(near) / 2)
            apart = [
                np.sqrt(((scaled[i] - scaled[j]) ** 2).sum()) for j in others if clusters[cells[j]] == clusters[cell]
            ]
            nearest += [min(apart)] if apart else []
    return np.mean(abnormal), np.mean(nearest), np.mean(like), len(like)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(6, 60),
    n_sections=st.integers(1, 3),
    n_neighbors=st.sampled_from([3, 10]),
)
def test_it_is_the_definition(seed, n, n_sections, n_neighbors):
    rng = np.random.default_rng(seed)
    clusters, places, sections = rng.integers(3, size=n), rng.random((n, 2)) * [1, 50], rng.integers(n_sections, size=n)
    sections[:2], clusters[:2] = 0, 0
    found = niche_continuity(clusters, places, sections, n_neighbors=n_neighbors)
    expected = _by_hand(clusters, places, sections, n_neighbors)
    np.testing.assert_allclose([found.pas, found.chaos, found.like_neighbors, found.n_cells], expected, rtol=1e-9)


def test_six_unlike_of_ten_are_abnormal_and_five_are_not():
    angles = np.linspace(0, 2 * np.pi, 11)[:10]
    places = np.vstack([[0, 0], np.c_[np.cos(angles), np.sin(angles)]])
    for n_unlike, share in ((5, 0.0), (6, 1.0)):
        clusters = np.array([0, *([1] * n_unlike), *([0] * (10 - n_unlike))])
        like = niche_continuity(clusters, places)
        # The middle cell's ten neighbors are the ring; those on the ring see each other and the middle.
        ring = [
            (clusters[others] == clusters[i]).mean() for i in range(1, 11) for others in [np.delete(np.arange(11), i)]
        ]
        expected = (share + sum(value < 0.5 for value in ring)) / 11
        assert like.pas == pytest.approx(expected)


def test_stripes_hang_together_and_salt_and_pepper_does_not():
    rng = np.random.default_rng(0)
    places = rng.random((600, 2))
    stripes = niche_continuity(np.floor(places[:, 0] * 4), places)
    pepper = niche_continuity(rng.integers(4, size=600), places)
    assert stripes.pas < 0.1 < 0.8 < pepper.pas
    assert stripes.like_neighbors > 0.85
    assert pepper.like_neighbors == pytest.approx(0.25, abs=0.05)
    assert stripes.chaos < pepper.chaos


def test_one_niche_is_perfectly_smooth_and_niches_of_one_cell_have_no_distance():
    places = np.random.default_rng(1).random((20, 2))
    one = niche_continuity(["a"] * 20, places)
    assert (one.pas, one.like_neighbors) == (0, 1)
    each = niche_continuity(np.arange(20), places)
    assert (each.pas, each.like_neighbors) == (1, 0)
    assert np.isnan(each.chaos)


def test_units_order_and_other_sections_do_not_matter():
    rng = np.random.default_rng(2)
    clusters, places, sections = rng.integers(3, size=90), rng.random((90, 2)), np.repeat([0, 1], 45)
    one = niche_continuity(clusters, places, sections)
    order = rng.permutation(90)
    moved = places * 0.065 + 1e4 * sections[:, None]
    other = niche_continuity(clusters[order].astype(str), moved[order], sections[order])
    np.testing.assert_allclose([one.pas, one.chaos, one.like_neighbors], [other.pas, other.chaos, other.like_neighbors])
    alone = [niche_continuity(clusters[sections == s], places[sections == s]) for s in (0, 1)]
    assert one.like_neighbors == pytest.approx(np.mean([part.like_neighbors for part in alone]))


def test_bad_input_is_told():
    places = np.random.default_rng(3).random((5, 2))
    with pytest.raises(ValueError, match=r"1 cells have no value in clusters; the first is row 4"):
        niche_continuity([0, 0, 1, 1, None], places)
    with pytest.raises(ValueError, match="coordinates has 5 rows for 4 cells"):
        niche_continuity([0, 0, 1, 1], places)
    with pytest.raises(ValueError, match="1 of 5 cells have NaN or infinite values in coordinates"):
        niche_continuity([0] * 5, np.where(np.arange(5)[:, None] == 1, np.nan, places))
    with pytest.raises(ValueError, match="Every section has a single cell"):
        niche_continuity([0] * 5, places, list("abcde"))
    with pytest.raises(ValueError, match="n_neighbors must be"):
        niche_continuity([0] * 5, places, n_neighbors=0)


def test_anndata_is_refused_with_what_to_pass():
    adata = ad.AnnData(np.ones((4, 2), np.float32), obsm={"spatial": np.eye(4, 2)})
    adata.obs["niche"] = list("aabb")
    with pytest.raises(TypeError, match=r"clusters is an AnnData object.*adata\.obs\['niche'\]"):
        niche_continuity(adata, "niche")
    with pytest.raises(TypeError, match="coordinates is an AnnData object"):
        niche_continuity(adata.obs["niche"], adata)
    assert niche_continuity(adata.obs["niche"], adata.obsm["spatial"], n_neighbors=1).n_cells == 4
