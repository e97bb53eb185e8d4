"""The neighbor table against brute force, on every kind of graph that squidpy builds."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from scipy.spatial.distance import cdist

from scjepa._core.squidpy import spatial_graph
from scjepa.tokens import NeighborTable, build_neighbor_table

KINDS = {
    "knn": {"n_neighs": 8},
    "knn, few": {"n_neighs": 3},
    "knn, spectral": {"n_neighs": 6, "transform": "spectral"},
    "radius": {"kind": "radius", "radius": 0.12},
    "ring of radii": {"kind": "radius", "radius": (0.05, 0.15)},
    "delaunay": {"kind": "delaunay"},
    "percentile": {"n_neighs": 8, "percentile": 80.0},
    "diagonal": {"n_neighs": 5, "set_diag": True},
}
GRIDS = {"grid": {"kind": "grid", "n_neighs": 4}, "rings": {"kind": "grid", "n_neighs": 6, "n_rings": 2}}


@pytest.fixture(autouse=True)
def _quiet():
    """Let only what a test catches count: short rows are common here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def graph(coordinates, sections=None, **options):
    """Return connectivities and distances as squidpy writes them."""

    adata = ad.AnnData(np.zeros((len(coordinates), 1), dtype=np.float32), obsm={"spatial": np.asarray(coordinates)})
    if sections is not None:
        adata.obs["section"] = pd.Categorical(sections)
        options["library_key"] = "section"
    spatial_graph(adata, **options)
    return adata.obsp["spatial_connectivities"], adata.obsp["spatial_distances"]


def brute(edges, coordinates, k):
    """Order each cell's neighbors one cell after the other; ``edges`` is a dense boolean matrix."""
    distances = cdist(coordinates, coordinates)
    index = np.full((len(coordinates), k), -1)
    for i, row in enumerate(edges):
        near = sorted((distances[i, j], *coordinates[j], j) for j in np.flatnonzero(row) if j != i)
        for column, (*_, j) in enumerate(near[:k]):
            index[i, column] = j
    return index


def union(connectivities, distances):
    return (connectivities.toarray() != 0) | (distances.toarray() != 0)


def points(n=150, seed=0, dimensions=2):
    return np.random.default_rng(seed).random((n, dimensions))


def lattice(side=12):
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2).astype(float)


def hexagons(side=12):
    grid = lattice(side)
    return np.column_stack([grid[:, 0] + 0.5 * (grid[:, 1] % 2), grid[:, 1] * np.sqrt(3) / 2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 5, 40])
def test_every_kind_of_graph_agrees_with_brute_force(kind, k):
    coordinates = points()
    connectivities, distances = graph(coordinates, **KINDS[kind])
    table = build_neighbor_table(connectivities, distances, coordinates, k)
    np.testing.assert_array_equal(table.index, brute(union(connectivities, distances), coordinates, k))
    assert table.index.dtype == np.int32
    assert (table.n_cells, table.n_neighbors) == (150, k)
    assert table.short == np.count_nonzero((table.index >= 0).sum(axis=1) < k)


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("coordinates", [lattice(), hexagons()], ids=["square", "hexagonal"])
def test_grids_with_all_their_ties_agree_with_brute_force(kind, coordinates):
    connectivities, distances = graph(coordinates, **GRIDS[kind])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = build_neighbor_table(connectivities, distances, coordinates, 10)
    np.testing.assert_array_equal(table.index, brute(union(connectivities, distances), coordinates, 10))
    assert not [w for w in caught if "stale" in str(w.message)]  # ring numbers are no distances


def test_nearest_neighbors_are_the_nearest_of_all_cells():
    coordinates = points()
    table = build_neighbor_table(*graph(coordinates, **KINDS["knn"]), coordinates, 8)
    np.testing.assert_array_equal(table.index, brute(np.ones((150, 150), bool), coordinates, 8))
    assert table.short == 0


def test_three_dimensions():
    coordinates = points(dimensions=3)
    connectivities, distances = graph(coordinates, **KINDS["knn"])
    table = build_neighbor_table(connectivities, distances, coordinates, 6)
    np.testing.assert_array_equal(table.index, brute(union(connectivities, distances), coordinates, 6))


@pytest.mark.parametrize("kind", ["knn", "radius"])
def test_two_cells_in_one_place_are_neighbors(kind):
    coordinates = points()
    coordinates[[10, 20, 30]] = coordinates[[11, 21, 31]]
    connectivities, distances = graph(coordinates, **KINDS[kind])
    table = build_neighbor_table(connectivities, distances, coordinates, 8)
    np.testing.assert_array_equal(table.index, brute(union(connectivities, distances), coordinates, 8))
    assert table.index[[10, 11, 20, 21], 0].tolist() == [11, 10, 21, 20]


@pytest.mark.parametrize("missing", [0, 1])
def test_either_matrix_will_do(missing):
    coordinates = points()
    matrices = list(graph(coordinates, **KINDS["knn"]))
    full = build_neighbor_table(*matrices, coordinates, 8)
    matrices[missing] = None
    np.testing.assert_array_equal(build_neighbor_table(*matrices, coordinates, 8).index, full.index)


def test_stored_zeros_are_an_edge_in_distances_and_none_in_connectivities():
    coordinates = np.array([[0.0, 0], [0, 0], [1, 0]])
    zeros = sparse.csr_array((np.zeros(2), np.array([1, 0]), np.array([0, 1, 2, 2])), shape=(3, 3))
    one = sparse.csr_array((np.ones(1), np.array([0]), np.array([0, 0, 0, 1])), shape=(3, 3))
    assert build_neighbor_table(one, zeros, coordinates, 1).index.tolist() == [[1], [0], [0]]
    assert build_neighbor_table(one + zeros * 0, None, coordinates, 1).index.tolist() == [[-1], [-1], [0]]
    with pytest.raises(ValueError, match="no edge"):
        build_neighbor_table(zeros, None, coordinates, 1)
    assert zeros.nnz == 2


def test_two_hop_connectivities_are_not_edges():
    coordinates = points()
    connectivities, distances = graph(coordinates, **KINDS["knn"] | {"transform": "cosine"})
    assert connectivities.nnz > distances.nnz
    table = build_neighbor_table(connectivities, distances, coordinates, 8, two_hop=True)
    np.testing.assert_array_equal(table.index, brute(distances.toarray() > 0, coordinates, 8))


@settings(max_examples=60, deadline=None)
@given(
    coordinates=hnp.arrays(np.int64, st.tuples(st.integers(2, 12), st.just(2)), elements=st.integers(0, 3)),
    data=st.data(),
)
def test_any_graph_on_points_full_of_ties(coordinates, data):
    n = len(coordinates)
    edges = data.draw(hnp.arrays(bool, (n, n)))
    edges[0, 1] = True
    k = data.draw(st.integers(1, 13))
    table = build_neighbor_table(sparse.coo_array(edges), None, coordinates, k)
    np.testing.assert_array_equal(table.index, brute(edges, coordinates.astype(float), k))


@pytest.mark.parametrize("kind", ["knn", "radius", "delaunay"])
@pytest.mark.parametrize("coordinates", [points(), lattice() * 0.1], ids=["points", "lattice"])
def test_shuffled_cells_have_the_same_neighbors(kind, coordinates):
    connectivities, distances = graph(coordinates, **KINDS[kind])
    table = build_neighbor_table(connectivities, distances, coordinates, 6)
    order = np.random.default_rng(1).permutation(len(coordinates))
    shuffled = build_neighbor_table(
        connectivities[order][:, order], distances[order][:, order], coordinates[order], 6
    ).index
    np.testing.assert_array_equal(np.where(shuffled >= 0, order[shuffled], -1), table.index[order])


def test_blocks_do_not_change_the_table(monkeypatch):
    coordinates = points()
    matrices = graph(coordinates, **KINDS["radius"])
    table = build_neighbor_table(*matrices, coordinates, 6)
    monkeypatch.setattr("scjepa.tokens.neighbors._BLOCK", 20)
    np.testing.assert_array_equal(build_neighbor_table(*matrices, coordinates, 6).index, table.index)


def test_inputs_are_left_alone():
    coordinates = points()
    matrices = [matrix.tocsc() for matrix in graph(coordinates, **KINDS["diagonal"])]
    before = [matrix.copy() for matrix in matrices]
    build_neighbor_table(*matrices, coordinates, 6)
    for matrix, copy in zip(matrices, before, strict=True):
        np.testing.assert_array_equal(matrix.indices, copy.indices)
        np.testing.assert_array_equal(matrix.data, copy.data)


def test_neighbors_stay_in_their_section():
    coordinates = points(160)
    sections = np.array(["b", "a"] * 80)
    connectivities, distances = graph(coordinates, sections, **KINDS["knn"])
    table = build_neighbor_table(connectivities, distances, coordinates, 8, sections=sections)
    np.testing.assert_array_equal(table.index, brute(sections[:, None] == sections, coordinates, 8))


def test_a_section_of_one_cell_and_k_beyond_the_cells():
    coordinates = points(5)
    edges = np.ones((5, 5))
    edges[4] = edges[:, 4] = 0
    table = build_neighbor_table(sparse.csr_matrix(edges), None, coordinates, 7, sections=np.array([0, 0, 0, 0, 1]))
    np.testing.assert_array_equal(table.index, brute(edges, coordinates, 7))
    assert table.index[4].tolist() == [-1] * 7
    assert table.short == 5


def test_edges_across_sections_are_an_error_that_names_the_cells():
    coordinates = points()
    sections = np.array(["left"] * 149 + ["right"])
    matrices = graph(coordinates, **KINDS["knn"])
    first = int(np.flatnonzero(matrices[0][:, [149]].toarray().ravel())[0])
    match = rf"cell 'c{first}' \(section 'left'\) and cell 'c149' \(section 'right'\).*library_key="
    with pytest.raises(ValueError, match=match):
        build_neighbor_table(*matrices, coordinates, 8, sections=sections, cell_names=[f"c{i}" for i in range(150)])
    with pytest.raises(ValueError, match="one section for each of 150"):
        build_neighbor_table(*matrices, coordinates, 8, sections=sections[1:])


def test_missing_stale_and_empty_graphs():
    coordinates = points()
    matrices = graph(coordinates, **KINDS["knn"])
    with pytest.raises(ValueError, match=r"There is no spatial graph.*spatial_neighbors"):
        build_neighbor_table(None, None, coordinates, 8)
    with pytest.raises(ValueError, match=r"shape \(150, 150\), but there are 149 cells: it is stale"):
        build_neighbor_table(*matrices, coordinates[1:], 8)
    with pytest.raises(ValueError, match="is stale"):
        build_neighbor_table(matrices[0][1:], None, coordinates, 8)
    with pytest.raises(ValueError, match="150 cells has no edge"):
        build_neighbor_table(sparse.csr_matrix((150, 150)), sparse.eye_array(150), coordinates, 8)
    with pytest.raises(ValueError, match="n_neighbors must be positive"):
        build_neighbor_table(*matrices, coordinates, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_coordinates_must_be_finite_and_flat(value):
    coordinates = points()
    matrices = graph(coordinates, **KINDS["knn"])
    coordinates[[7, 9], 1] = value
    with pytest.raises(ValueError, match=r"Cell 'c7' has the coordinates.*2 cells in all"):
        build_neighbor_table(*matrices, coordinates, 8, cell_names=[f"c{i}" for i in range(150)])
    with pytest.raises(ValueError, match=r"found \(150, 1\)"):
        build_neighbor_table(*matrices, coordinates[:, :1], 8)


def test_short_rows_warn_with_share_and_reason():
    coordinates = points()
    matrices = graph(coordinates, **KINDS["knn, few"])
    with pytest.warns(UserWarning, match=r"100\.0% of the cells \(150 of 150\).*more than 3: the graph was built"):
        table = build_neighbor_table(*matrices, coordinates, 10)
    assert (table.index[:, 3:] == -1).all()
    kept = np.arange(0, 150, 2)  # subsetting loses neighbors
    with pytest.warns(UserWarning, match="removed after the graph was built") as caught:
        build_neighbor_table(*(m[kept][:, kept] for m in graph(coordinates, **KINDS["radius"])), coordinates[kept], 3)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("kind", ["knn", "delaunay", "radius"])
def test_moved_cells_look_stale_and_changed_units_do_not(kind):
    coordinates = points()
    matrices = graph(coordinates, **KINDS[kind])
    with pytest.warns(UserWarning, match="looks stale"):
        build_neighbor_table(*matrices, coordinates[::-1], 2)
    section = np.arange(150) < 75
    units = coordinates * 0.065 + 3
    own = matrices[1].multiply(section[:, None] == section).tocsr()
    for (connectivities, distances), scaled in [
        (matrices, coordinates),
        (matrices, units.astype(np.float32)),
        ((None, own), coordinates * np.where(section, 1, 7)[:, None]),
    ]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            build_neighbor_table(connectivities, distances, scaled, 2)
        assert not [w for w in caught if "stale" in str(w.message)]


def test_short_counts_cells():
    assert NeighborTable(np.array([[1, -1], [0, 2], [-1, -1]], dtype=np.int32)).short == 2


@pytest.mark.data
@pytest.mark.parametrize("name", ["starmap_visual_cortex", "starmap_mpfc_3sections"])
def test_real_sections(data_dir, name):
    adata = ad.read_h5ad(data_dir / "spatial" / f"{name}.h5ad")
    sections, coordinates = adata.obs["section"].to_numpy(), np.asarray(adata.obsm["spatial"], dtype=float)
    matrices = graph(coordinates, adata.obs["section"], **KINDS["knn"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = build_neighbor_table(*matrices, coordinates, 8, sections=sections)
    distances = cdist(coordinates, coordinates)
    distances[sections[:, None] != sections] = np.inf
    np.fill_diagonal(distances, np.inf)
    nearest = np.sort(distances, axis=1)[:, :8]
    np.testing.assert_allclose(np.take_along_axis(distances, table.index.astype(int), axis=1), nearest)
