from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scjepa._core.squidpy import spatial_graph
from scjepa.tl import niche_shapes


def _square(side: int = 30, niche: object = None, seed: int = 0) -> AnnData:
    """Return jittered cells on a square of ``side`` x ``side``, one for each unit of area."""
    rng = np.random.default_rng(seed)
    xy = np.stack(np.divmod(np.arange(side * side), side), axis=1) + rng.uniform(-0.2, 0.2, (side * side, 2))
    found = AnnData(obs=pd.DataFrame(index=[f"c{i}" for i in range(len(xy))]), obsm={"spatial": xy}, shape=(len(xy), 0))
    found.obs["niche"] = np.where(xy[:, 0] < side / 2 - 0.5, "left", "right") if niche is None else niche(xy)
    spatial_graph(found, n_neighs=6)
    return found


def test_areas_add_up_and_a_straight_border_has_its_length(snapshot):
    adata = _square()
    before = snapshot(adata)
    found = niche_shapes(adata)
    assert snapshot(adata) == before
    assert found["niche"].tolist() == ["left", "right"]
    assert found["n_cells"].tolist() == [450, 450]
    assert found["area"].sum() == pytest.approx(29 * 29, rel=0.03)
    assert found["border_length"].to_numpy() == pytest.approx(30, rel=0.3)
    assert found["border_length"][0] == pytest.approx(found["border_length"][1])
    assert (found["outline"] > found["border_length"] + 50).all()


def test_the_unit_of_the_coordinates_is_that_of_lengths():
    adata = _square()
    first = niche_shapes(adata)
    adata.obsm["spatial"] = 10 * adata.obsm["spatial"]
    second = niche_shapes(adata)
    np.testing.assert_allclose(second["area"], 100 * first["area"])
    np.testing.assert_allclose(second["outline"], 10 * first["outline"])
    np.testing.assert_allclose(second[["linearity", "compactness"]], first[["linearity", "compactness"]])


def test_a_disc_is_round_and_compact_and_a_band_is_neither():
    disc = _square(40, lambda xy: np.where(np.hypot(*(xy - 20).T) < 12, "in", "out"))
    band = _square(40, lambda xy: np.where(np.abs(xy[:, 0] - 20) < 3, "in", "out"))
    one, other = (niche_shapes(each).set_index("niche").loc["in"] for each in (disc, band))
    assert one["area"] == pytest.approx(np.pi * 144, rel=0.05)
    assert one["linearity"] < 0.15
    assert one["compactness"] > 0.45
    assert other["linearity"] > 0.95
    assert other["compactness"] < 0.4


def test_pieces_apart_are_counted_by_themselves_and_small_ones_left_out():
    def corners(xy):
        first = (xy < 8).all(axis=1)
        second, small = (xy > 22).all(axis=1), (xy[:, 0] > 27) & (xy[:, 1] < 2)
        return np.where(first | second | small, "corner", "rest")

    adata = _square(30, corners)
    found = niche_shapes(adata)
    of = found[found["niche"] == "corner"]
    assert of["piece"].tolist() == [0, 1]
    assert of["n_cells"].is_monotonic_decreasing
    assert (niche_shapes(adata, min_cells=3)["niche"] == "corner").sum() == 3
    with pytest.warns(UserWarning, match="left out: corner"):
        assert set(niche_shapes(adata, min_cells=200)["niche"]) == {"rest"}


def test_sections_are_measured_apart_and_gaps_are_no_tissue():
    adata = _square()
    adata.obs["section"] = np.where(adata.obsm["spatial"][:, 1] < 14.5, "one", "two")
    spatial_graph(adata, n_neighs=6)
    cut = adata.obsp["spatial_connectivities"].tolil()
    one = (adata.obs["section"] == "one").to_numpy()
    cut[np.ix_(one, ~one)] = 0
    cut[np.ix_(~one, one)] = 0
    adata.obsp["spatial_connectivities"] = cut.tocsr()
    found = niche_shapes(adata)
    assert len(found) == 4
    assert found["section"].value_counts().to_dict() == {"one": 2, "two": 2}
    # Moved far apart within one section: the gap between them has no area.
    whole = adata.copy()
    del whole.obs["section"]
    whole.obsm["spatial"] = whole.obsm["spatial"] + np.where(one[:, None], 0.0, 500.0)
    assert niche_shapes(whole)["area"].sum() == pytest.approx(found["area"].sum(), rel=0.02)


def test_cells_without_a_niche_keep_their_area():
    adata = _square(30, lambda xy: np.where(xy[:, 0] < 10, "a", np.where(xy[:, 0] < 20, "unlabelled", "b")))
    found = niche_shapes(adata)
    assert set(found["niche"]) == {"a", "b"}
    assert found["area"].sum() == pytest.approx(2 / 3 * 29 * 29, rel=0.08)
    assert (found["border_length"] > 25).all()


def test_one_niche_has_no_border():
    found = niche_shapes(_square(20, lambda xy: "all"))
    assert found["border_length"].tolist() == [0.0]
    assert found["outline"][0] > 70


def test_bad_input_is_named():
    adata = _square(20)
    with pytest.raises(KeyError, match="'regions'"):
        niche_shapes(adata, "regions")
    with pytest.raises(KeyError, match="'batch'"):
        niche_shapes(adata, library_key="batch")
    with pytest.raises(ValueError, match="min_cells"):
        niche_shapes(adata, min_cells=1)
    line = adata.copy()
    line.obsm["spatial"] = np.stack([np.arange(400.0), np.zeros(400)], axis=1)
    with pytest.raises(ValueError, match="one line"):
        niche_shapes(line)
    del adata.obsm["spatial"]
    with pytest.raises(KeyError, match="spatial"):
        niche_shapes(adata)
