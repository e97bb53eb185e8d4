from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.tl import NicheNumber, niche_number
from scjepa.tl._niche_number import recommend


def _tissue(n_groups: int, side: int = 30, seed: int = 0, spread: float = 0.5) -> AnnData:
    """Return bands of cells, each with an embedding around its own center; 0 groups: a gradient along them."""
    rng = np.random.default_rng(seed)
    xy = np.stack(np.divmod(np.arange(side * side), side), axis=1).astype(float)
    noise = rng.normal(0, spread, (len(xy), 6))
    if n_groups:
        band = (xy[:, 0] * n_groups // side).astype(int)
        values = 5 * np.eye(6)[band] + noise
    else:
        values = np.outer(xy[:, 0] / side, 4 * rng.normal(size=6)) + noise
    found = AnnData(
        obs=pd.DataFrame(index=[f"c{i}" for i in range(len(xy))]),
        obsm={"spatial": xy, "X_stjepa_niche": values.astype(np.float32)},
        shape=(len(xy), 0),
    )
    spatial_graph(found, n_neighs=6)
    return found


@pytest.fixture(scope="module")
def four() -> tuple[AnnData, NicheNumber]:
    adata = _tissue(4)
    return adata, niche_number(adata, range(2, 7), n_splits=2)


def test_cells_that_are_all_alike_have_no_niches_to_count():
    adata = _tissue(2)
    adata.obsm["X_stjepa_niche"][:] = 1
    with pytest.raises(ValueError, match="All cells are alike"):
        niche_number(adata, range(2, 4))


def test_planted_groups_are_counted(four):
    _, found = four
    assert found.recommended == 4
    assert found.table.loc[4, "stability"] > 0.95
    assert found.table.loc[4, "excess"] > 0.9
    assert found.table.loc[4, "likelihood"] > 1
    assert found.table.loc[4, "coherence"] > 0.8
    assert 4 in found.defensible
    assert "4 niches are the most stable" in found.reason


def test_without_counts_there_are_no_markers_and_nothing_is_written(four, snapshot):
    adata, found = four
    assert found.table["markers"].isna().all()
    before = snapshot(adata)
    niche_number(adata, [3], n_splits=2)
    assert snapshot(adata) == before


def test_it_repeats(four):
    adata, found = four
    pd.testing.assert_frame_equal(niche_number(adata, range(2, 7), n_splits=2).table, found.table)
    assert not niche_number(adata, [4, 5], n_splits=2, random_state=1).table.equals(found.table.loc[[4, 5]])


@pytest.mark.parametrize("groups", [0, 1])
def test_a_gradient_and_noise_have_no_clear_number(groups):
    found = niche_number(_tissue(groups), range(2, 6), n_splits=2)
    assert found.recommended is None
    assert found.defensible == ()
    assert found.reason.startswith("No clear number")


def test_markers_that_hold_are_counted(make_layers):
    adata = make_layers(30, 30)
    scjepa.tl.niche_readout(adata)
    found = niche_number(adata, [2, 3, 4], n_splits=2)
    assert found.recommended == 3
    assert found.table.loc[3, "markers"] > 0.9


def test_more_cells_than_asked_for_are_sampled_in_blocks(four):
    found = niche_number(_tissue(4, 40), [3, 4, 5], n_splits=2, max_cells=1200)
    assert found.recommended == 4


def test_the_rule_says_why():
    table = pd.DataFrame(
        {"stability": [0.9, 0.8], "stability_sd": 0.01, "stability_null": 0.2, "excess": [0.87, 0.75]}, index=[3, 4]
    )
    assert recommend(table.assign(likelihood=1.0))[0] == 3
    number, reason, defensible = recommend(table.assign(likelihood=0.0))
    assert number is None
    assert defensible == ()
    assert "do not predict" in reason
    assert recommend(table.assign(likelihood=1.0, stability_sd=0.2))[2] == (3, 4)


@pytest.mark.parametrize(
    ("numbers", "how", "error", "message"),
    [
        ([1, 2], {}, ValueError, "n_niches"),
        ([2.5], {}, ValueError, "n_niches"),
        ([], {}, ValueError, "n_niches"),
        ([400], {}, ValueError, "400 niches"),
        ([3], {"n_splits": 1}, ValueError, "n_splits"),
        ([3], {"max_cells": 0}, ValueError, "max_cells"),
        ([3], {"use_rep": "X_other"}, KeyError, "X_other"),
        ([3], {"library_key": "batch"}, KeyError, "batch"),
        ([3], {"neighbors_key": "other"}, KeyError, "other_connectivities"),
        ([3], {"layer": "counts"}, KeyError, "counts"),
    ],
)
def test_bad_input_is_named(four, numbers, how, error, message):
    with pytest.raises(error, match=message):
        niche_number(four[0], numbers, **how)


def test_too_few_cells_for_halves_are_refused():
    with pytest.raises(ValueError, match="blocks of 50"):
        niche_number(_tissue(2, 12), [2])


def test_a_notebook_shows_the_reason_and_the_table(four):
    shown = four[1]._repr_html_()
    assert f"<td>{four[1].recommended}</td>" in shown
    assert "the most stable" in shown
    assert "<summary>table (5 × " in shown


def test_the_figure_marks_the_number(four):
    axes = scjepa.pl.niche_number(four[1], show=False)
    assert axes[0].figure.get_suptitle() == "recommended: 4 niches"
    with pytest.raises(TypeError, match="niche_number"):
        scjepa.pl.niche_number(four[1].table)
