"""Drivers, edits, surprise and spillover without a model: what was planted is found, and what cannot be is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import scjepa
from scjepa.tl._aggregate import near_means, spacings
from scjepa.tl.evidence import NicheEvidence, compared_with, log_odds


@pytest.fixture(scope="module")
def tissue(make_layers):
    """Three layers with their own type in most cells; types "a" and "b" are dealt at random over the rest."""
    adata = make_layers(mixed=0.2)
    rng = np.random.default_rng(1)
    layer = adata.obs["layer"].astype(int).to_numpy()
    expressed = np.asarray(adata.X[:, :12].toarray().reshape(adata.n_obs, 3, 4).sum(axis=2)).argmax(axis=1)
    is_other = rng.random(adata.n_obs) < 0.4
    adata.obs["cell_type"] = pd.Categorical(
        np.where(is_other, rng.choice(["a", "b"], adata.n_obs), expressed.astype(str))
    )
    adata.obs["niche"] = pd.Categorical(layer.astype(str))
    scjepa.tl.niche_readout(adata)
    return adata


@pytest.fixture(scope="module")
def drivers(tissue):
    return scjepa.tl.niche_drivers(tissue, n_cells=150, n_permutations=199)


def test_drivers_that_were_planted_come_first_and_labels_at_random_do_not(drivers):
    neighbors = drivers[drivers["kind"] == "neighbor"]
    assert list(drivers.columns[:7]) == ["niche", "kind", "driver", "ring", "effect", "shift", "n_cells"]
    for niche, own in neighbors[neighbors["ring"] == 1].groupby("niche"):
        z = own.set_index("driver")["z"]
        assert z[niche] > 0
        assert (z.reindex(sorted({"0", "1", "2"} - {niche})).dropna() < 0).all()
    own = neighbors[(neighbors["driver"] == neighbors["niche"]) & (neighbors["ring"] == 1)]
    assert own["p_value"].min() < 0.05
    genes = drivers[drivers["kind"] == "gene"]
    for niche, own in genes.groupby("niche"):
        assert set(own["driver"][:3]) <= {f"gene{int(niche) * 4 + n}" for n in range(4)}
    assert genes["ring"].isna().all()
    assert drivers["p_adjusted"].between(0, 1).all()


def test_the_plain_difference_is_beside_and_mere_places_have_no_p_value(tissue, drivers):
    genes = drivers[drivers["kind"] == "gene"]
    best = genes.sort_values("difference").groupby("niche").tail(4)
    assert set(best["niche"] + ":" + best["driver"]) == {f"{n}:gene{n * 4 + k}" for n in range(3) for k in range(4)}
    near = drivers[(drivers["kind"] == "neighbor") & (drivers["ring"] == 1)]
    assert (near.loc[near["driver"] == near["niche"], "difference"] > 0.5).all()
    places = tissue.copy()
    rng = np.random.default_rng(0)
    places.obs["niche"] = rng.permutation(places.obs["niche"].to_numpy())
    with pytest.warns(UserWarning, match="less than half as well as could be"):
        found = scjepa.tl.niche_drivers(places, n_cells=50, n_permutations=20)
    assert found[["p_value", "p_adjusted"]].isna().all(axis=None)
    assert found["effect"].notna().all()


def test_nothing_is_written_and_a_seed_repeats(tissue, drivers, snapshot):
    before = snapshot(tissue)
    again = scjepa.tl.niche_drivers(tissue, n_cells=150, n_permutations=199)
    scjepa.tl.edit_neighborhood(tissue, remove="a", n_cells=10)
    assert snapshot(tissue) == before
    pd.testing.assert_frame_equal(again, drivers)


def test_one_niche_is_told_as_among_all(tissue, drivers):
    one = scjepa.tl.niche_drivers(tissue, niches=["1"], n_cells=150, n_permutations=199)
    pd.testing.assert_frame_equal(one, drivers[drivers["niche"] == "1"].reset_index(drop=True))


def test_hiding_a_neighbor_is_leaving_it_out_of_the_ring(tissue):
    """The closed form against the read-out made anew of a graph without that edge."""
    from scjepa.tl._drivers import ReadTissue, hide_neighbors
    from scjepa.tl.evidence import Sampled

    readout = scjepa.tl.niche_readout_of(tissue)
    adata = tissue.copy()
    scjepa.tl.niche_readout(adata, n_rings=1, own_weight=1.0)
    readout = scjepa.tl.niche_readout_of(adata)
    read = ReadTissue.of(adata, "X_stjepa_niche")
    sampled = Sampled.of(adata, "niche", 1, ["1"], None, "spatial", 0)
    cell, evidence = int(sampled.cells[0]), sampled.evidence(read.values)
    hidden = hide_neighbors(read, sampled, evidence)
    edge = np.flatnonzero(hidden.ring == 1)[0]
    graph = adata.obsp["spatial_connectivities"].tolil()
    graph[cell, hidden.neighbor[edge]] = 0
    anew = readout.transform({"X": adata}, csr_matrix(graph))[[cell]].astype(np.float64)
    there = adata.obsm["X_stjepa_niche"][[cell]].astype(np.float64)
    odds = [log_odds(evidence.scores(each, sampled.halves), 1) for each in (there, anew)]
    fall = odds[0] - odds[1]
    assert hidden.effect[edge] == pytest.approx(fall[0], abs=1e-3)
    assert hidden.shift[edge] == pytest.approx(np.linalg.norm(anew - there) / evidence.spread, abs=1e-4)


def test_evidence_is_probability_and_log_odds_agree():
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], 50)
    values = rng.normal(size=(150, 4)) + 3 * np.eye(4)[codes]
    for names in (["x", "y", "z"], ["x", "y"]):
        kept = codes < len(names)
        halves = np.arange(kept.sum()) % 2
        evidence = NicheEvidence(values[kept], codes[kept], halves, names)
        scores = evidence.scores(values[kept], halves)
        share = evidence.membership(scores)
        assert share.sum(axis=1) == pytest.approx(1)
        assert evidence.agreement > 0.9
        odds = log_odds(scores, codes[kept])
        own = share[np.arange(len(share)), codes[kept]]
        assert odds == pytest.approx(np.log(own / (1 - own)), rel=1e-4)


def test_p_values_of_a_null_are_uniform():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(100, 400))
    _, _, z, p_value = compared_with(rng.normal(size=400), draws)
    assert abs(p_value.mean() - 0.5) < 0.06
    assert (p_value <= 0.05).mean() < 0.09
    assert abs(z.std() - 1) < 0.15
    assert compared_with(np.ones(1), np.ones((50, 1)))[3] == 1  # an effect that no deal can change is none


def test_cells_in_the_wrong_place_surprise_and_p_values_keep_their_level(make_layers):
    adata = make_layers(n_rows=40, n_columns=45)
    adata.obs["cell_type"] = "all"
    rng = np.random.default_rng(0)
    cells = rng.choice(adata.n_obs, 60, replace=False)
    place = np.arange(adata.n_obs)
    place[cells] = np.r_[cells[30:], cells[:30]]
    layer = adata.obs["layer"].to_numpy()
    adata.X = adata.X[place]
    adata.obs["cell_type"] = layer[place]
    scjepa.tl.surprise(adata)
    wrong = layer[place] != layer
    assert adata.obs["surprise"][wrong].mean() > adata.obs["surprise"][~wrong].mean() + 2
    assert (adata.obs["surprise_p_value"][wrong] < 0.05).mean() > 0.6
    assert (adata.obs["surprise_p_value"][~wrong] < 0.05).mean() < 0.06


def test_order_of_cells_changes_no_surprise(make_layers):
    adata = make_layers()
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    for one in (adata, shuffled):
        scjepa.tl.surprise(one, cell_type_key=None)
        scjepa.tl.spillover(one, cell_type_key=None)
    back = shuffled.obs.loc[adata.obs_names]
    for column in ("surprise", "spillover", "spillover_p_value"):
        np.testing.assert_allclose(adata.obs[column], back[column], rtol=1e-3, atol=2e-3)


def test_doublets_and_leaking_genes_are_found(make_layers):
    adata = make_layers(n_rows=40, n_columns=45, mixed=0.5)
    counts = adata.X.toarray()
    kind = counts[:, :12].reshape(-1, 3, 4).sum(axis=2).argmax(axis=1)
    adata.obs["cell_type"] = kind.astype(str)
    rng = np.random.default_rng(0)
    cells = rng.choice(adata.n_obs, 80, replace=False)
    graph = adata.obsp["spatial_connectivities"]
    mixed = counts.copy()
    for cell in cells:
        near = graph.indices[graph.indptr[cell] : graph.indptr[cell + 1]]
        others = near[kind[near] != kind[cell]]
        mixed[cell] += counts[rng.choice(others if len(others) else near)]
    leaking = adata.copy()
    adata.X = csr_matrix(mixed)
    scjepa.tl.spillover(adata)
    is_doublet = np.isin(np.arange(adata.n_obs), cells)
    score = adata.obs["spillover"].to_numpy()
    assert (score[is_doublet][:, None] > score[~is_doublet]).mean() > 0.75
    assert (adata.obs["spillover_p_value"][~is_doublet] < 0.05).mean() < 0.08
    # Genes 4 and 5 leak to neighbors.
    leaks = rng.binomial(counts[:, 4:6].astype(int), 0.5)
    spread = graph.multiply(1 / graph.sum(axis=1)).tocsr()
    counts[:, 4:6] += rng.poisson(spread.T @ leaks) - leaks
    leaking.X = csr_matrix(counts)
    assert set(scjepa.tl.spillover(leaking)["gene"][:4]) >= {"gene4", "gene5"}


def test_edits_move_cells_toward_what_comes_in(tissue):
    found = scjepa.tl.edit_neighborhood(tissue, replace={"0": "2"}, niches=["0"], n_cells=60)
    assert (found.cells["n_edited"] > 0).all()
    assert found.cells["effect"].mean() > found.cells["control_effect"].mean() + 0.5
    assert (found.after["2"] - found.before["2"]).mean() > 0
    np.testing.assert_allclose(found.after.sum(axis=1), 1)
    added = scjepa.tl.edit_neighborhood(tissue, add="2", n_added=4, niches=["0"], n_cells=20)
    assert (added.cells["n_edited"] == 4).all()
    assert added.cells["shift"].mean() > 0
    removed = scjepa.tl.edit_neighborhood(tissue, remove="0", niches=["0"], n_cells=60)
    assert removed.cells["effect"].mean() > removed.cells["control_effect"].mean()


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_named_with_the_next_call(tissue, make_layers):
    bare = make_layers()
    with pytest.raises(KeyError, match="no 'niche'"):
        scjepa.tl.niche_drivers(bare)
    bare.obs["niche"] = bare.obs["layer"]
    with pytest.raises(KeyError, match=r"niche_readout\(adata\)"):
        scjepa.tl.niche_drivers(bare)
    with pytest.raises(KeyError, match=r"no 'cell_type'.*cell_type_key=None"):
        scjepa.tl.surprise(bare)
    with pytest.raises(KeyError, match=r"no 'cell_type'.*cell_type_key=None"):
        scjepa.tl.spillover(bare)
    without = tissue.copy()
    del without.obs["cell_type"]
    with pytest.raises(KeyError, match="'cell_type'"):
        scjepa.tl.niche_drivers(without)
    without.obs["cell_type"] = np.nan
    with pytest.raises(ValueError, match=r"No cell has a label.*by="):
        scjepa.tl.niche_drivers(without)
    del without.obsm["spatial"]
    with pytest.raises(KeyError, match="spatial_key="):
        scjepa.tl.niche_drivers(without, by="niche")


@pytest.mark.parametrize(
    "call",
    [
        scjepa.tl.find_niches,
        scjepa.tl.niches,
        scjepa.tl.niche_readout,
        scjepa.tl.niche_number,
        scjepa.tl.niche_drivers,
        scjepa.tl.surprise,
        scjepa.tl.spillover,
        scjepa.tl.niche_shapes,
        scjepa.tl.niche_markers,
        lambda adata: scjepa.tl.differential_niches(adata, "layer", "layer"),
        lambda adata: scjepa.tl.annotate(adata, adata, "layer"),
    ],
)
@pytest.mark.parametrize("copied", [True, False])
def test_a_selection_of_no_cells_is_refused_in_one_sentence(tissue, call, copied):
    none = tissue[tissue.obs["layer"] == "9"]
    with pytest.raises(ValueError, match=r"adata has no cells \(0 cells × 40 genes\)"):
        call(none.copy() if copied else none)


def test_a_cell_without_a_place_is_named_with_what_to_do(tissue):
    adata = tissue.copy()
    adata.obsm["spatial"][5, 0] = np.nan
    with pytest.raises(ValueError, match=r"in coordinates; the first is row 5. Leave these cells out before"):
        scjepa.tl.surprise(adata)


def test_empty_and_unknown_niches_and_edits_are_refused(tissue):
    adata = tissue.copy()
    adata.obs["niche"] = adata.obs["niche"].cat.add_categories("empty")
    with pytest.raises(ValueError, match="'empty' has no cell"):
        scjepa.tl.niche_drivers(adata, niches=["empty"])
    with pytest.raises(ValueError, match="'9' does not exist"):
        scjepa.tl.niche_drivers(adata, niches=["9"])
    with pytest.raises(ValueError, match="n_permutations"):
        scjepa.tl.niche_drivers(adata, n_permutations=3)
    adata.obs["niche"] = "one"
    with pytest.raises(ValueError, match="Two niches"):
        scjepa.tl.niche_drivers(adata)
    with pytest.raises(ValueError, match="Name one edit"):
        scjepa.tl.edit_neighborhood(tissue)
    with pytest.raises(ValueError, match="Name one edit"):
        scjepa.tl.edit_neighborhood(tissue, remove="a", add="b")
    with pytest.raises(ValueError, match="No cell is 'c'"):
        scjepa.tl.edit_neighborhood(tissue, remove="c")
    with pytest.raises(ValueError, match="one label"):
        scjepa.tl.edit_neighborhood(tissue, replace={"a": "b", "b": "a"})


def test_niches_of_something_else_are_told(tissue):
    adata = tissue.copy()
    adata.obs["niche"] = pd.Categorical(np.random.default_rng(0).integers(0, 8, adata.n_obs).astype(str))
    with pytest.warns(UserWarning, match="found in something else"):
        scjepa.tl.niche_drivers(adata, n_cells=10, n_permutations=20, genes=False)


def test_a_cell_without_neighbors_gets_no_surprise_and_is_named(make_layers):
    adata = make_layers()
    graph = adata.obsp["spatial_connectivities"].tolil()
    graph[7], graph[:, 7] = 0, 0
    adata.obsp["spatial_connectivities"] = csr_matrix(graph)
    adata.obs["niche"] = adata.obs["cell_type"] = adata.obs["layer"]
    scjepa.tl.niche_readout(adata)
    for call, column in ((scjepa.tl.surprise, "surprise"), (scjepa.tl.spillover, "spillover")):
        with pytest.warns(UserWarning, match="1 cells have no neighbors, first 'cell7'"):
            call(adata)
        assert np.flatnonzero(adata.obs[column].isna()).tolist() == [7]
        assert np.isnan(adata.obs[f"{column}_p_value"].iloc[7])
    found = scjepa.tl.niche_drivers(adata, n_cells=300, n_permutations=20)
    assert np.isfinite(found["effect"]).all()
    few = adata[:20].copy()
    with pytest.raises(ValueError, match="100 are needed"):
        scjepa.tl.surprise(few)


def test_columns_of_the_user_are_left_alone(make_layers):
    adata = make_layers()
    adata.obs["surprise_p_value"] = 1.0
    with pytest.raises(ValueError, match="surprise_p_value"):
        scjepa.tl.surprise(adata, cell_type_key=None)
    scjepa.tl.surprise(adata, cell_type_key=None, key_added="odd")
    scjepa.tl.surprise(adata, cell_type_key=None, key_added="odd")
    assert adata.uns["scjepa"]["odd"]["slot"] == "obs"


class TestNearMeans:
    def test_a_grid_weighs_all_alike_and_unit_does_not_matter(self) -> None:
        edges = csr_matrix(np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=np.float32))
        places = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
        values = np.array([[0.0], [2.0], [6.0]], dtype=np.float32)
        expected = np.array([[4.0], [3.0], [1.0]])
        for unit in (1.0, 1e-6, 1e6):
            np.testing.assert_allclose(near_means(values, edges, places * unit), expected, rtol=1e-5)

    def test_the_nearest_weighs_the_inverse_square(self) -> None:
        edges = csr_matrix(np.array([[0, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=np.float32))
        places = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [9.0, 9.0]])
        values = np.array([[7.0], [1.0], [6.0], [5.0]], dtype=np.float32)
        found = near_means(values, edges, places)
        np.testing.assert_allclose(found[0], (4 * 1.0 + 6.0) / 5)  # distances 1 and 2: weights 4 to 1
        np.testing.assert_allclose(found[3], 5.0)  # no neighbors

    def test_two_cells_at_one_place(self) -> None:
        edges = csr_matrix(np.array([[0, 1], [1, 0]], dtype=np.float32))
        found = near_means(np.array([[1.0], [3.0]], dtype=np.float32), edges, np.zeros((2, 2)))
        np.testing.assert_allclose(found, [[3.0], [1.0]])

    def test_spacings_do_not_know_the_unit_of_a_section(self) -> None:
        edges = csr_matrix(np.kron(np.eye(2), np.ones((4, 4)) - np.eye(4)).astype(np.float32))
        square = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
        found = spacings(edges, np.vstack([square, square * 1000]), np.repeat([0, 1], 4))
        np.testing.assert_allclose(found[:4], found[4:], rtol=1e-5)
        assert found[3].min() > found[0].max()
