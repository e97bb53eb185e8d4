from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path

import scjepa
from scjepa.tl import _aggregate, aggregate


def _chain(n_cells: int) -> csr_matrix:
    """Return cells in a row, each the neighbor of the one before and the one after."""
    one = np.eye(n_cells, k=1)
    return csr_matrix(one + one.T)


def _adata(n_cells: int = 12) -> ad.AnnData:
    """Return two sections of six cells in a row."""
    section = np.repeat(["a", "b"], n_cells // 2)
    graph = _chain(n_cells).toarray() * (section[:, None] == section)
    return ad.AnnData(
        obs={"section": section},
        obsm={"X_stjepa": np.random.default_rng(0).normal(size=(n_cells, 3)).astype(np.float32)},
        obsp={"spatial_connectivities": csr_matrix(graph)},
        shape=(n_cells, 0),
    )


def test_hops_of_a_chain_are_the_cells_at_that_distance():
    values = np.arange(5, dtype=np.float32)[:, None] ** 2
    result = aggregate(values, connectivities=_chain(5), n_hops=2)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[2], [4, (1 + 9) / 2, (0 + 16) / 2])
    np.testing.assert_allclose(result[0], [0, 1, 4])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n_hops=st.integers(0, 3), density=st.floats(0.02, 0.3), directed=st.booleans())
def test_it_agrees_with_shortest_paths(seed, n_hops, density, directed):
    rng = np.random.default_rng(seed)
    n_cells = 25
    graph = np.where(rng.random((n_cells, n_cells)) < density, rng.uniform(0.1, 5, (n_cells, n_cells)), 0)
    if not directed:
        graph = graph + graph.T
    values = rng.normal(size=(n_cells, 2)).astype(np.float32)
    steps = shortest_path(csr_matrix(graph > 0, dtype=float), unweighted=True)
    expected = [values]
    for hop in range(1, n_hops + 1):
        expected.append(
            np.array(
                [
                    values[steps[cell] == hop].mean(axis=0) if (steps[cell] == hop).any() else expected[-1][cell]
                    for cell in range(n_cells)
                ]
            )
        )
    side_by_side = aggregate(values, connectivities=csr_matrix(graph), n_hops=n_hops)
    np.testing.assert_allclose(side_by_side, np.hstack(expected), atol=1e-5)
    averaged = aggregate(values, connectivities=graph, n_hops=n_hops, concatenate=False)
    np.testing.assert_allclose(averaged, np.mean(expected, axis=0), atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_shuffling_cells_leaves_every_cell_the_same(seed):
    rng = np.random.default_rng(seed)
    graph = csr_matrix(rng.random((30, 30)) < 0.1, dtype=np.float32)
    values, order = rng.normal(size=(30, 3)).astype(np.float32), rng.permutation(30)
    shuffled = aggregate(values[order], connectivities=graph[order][:, order], n_hops=2)
    np.testing.assert_allclose(shuffled, aggregate(values, connectivities=graph, n_hops=2)[order], atol=1e-6)


def test_isolated_cells_repeat_themselves_and_loops_and_stored_zeros_are_no_edges():
    graph = csr_matrix(([1.0, 7.0, 0.0], ([0, 1, 2], [1, 1, 0])), shape=(3, 3))
    result = aggregate(np.array([[1.0], [2.0], [3.0]]), connectivities=graph, n_hops=2)
    # Cell 0 has cell 1 for a neighbor and none behind it; 1 has a loop alone; 2 a stored zero.
    np.testing.assert_array_equal(result, [[1, 2, 2], [2, 2, 2], [3, 3, 3]])
    assert graph.nnz == 3


def test_blocks_of_rows_do_not_show(monkeypatch):
    values = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    whole = aggregate(values, connectivities=_chain(40), n_hops=3)
    monkeypatch.setattr(_aggregate, "_ROWS", 7)
    np.testing.assert_array_equal(aggregate(values, connectivities=_chain(40), n_hops=3), whole)


@pytest.mark.parametrize(
    ("embedding", "n_hops", "message"),
    [
        (np.ones((4, 2)), 1, "connectivities has 5 cells, the embedding 4"),
        (np.ones((5, 2)), -1, "n_hops must be"),
        (np.full((5, 2), np.nan), 1, "NaN or infinite"),
    ],
)
def test_bad_input_is_told(embedding, n_hops, message):
    with pytest.raises(ValueError, match=message):
        aggregate(embedding, connectivities=_chain(5), n_hops=n_hops)


def test_a_graph_is_square():
    with pytest.raises(ValueError, match=r"must have the shape \(n_cells, n_cells\), found \(4, 5\)"):
        aggregate(np.ones((5, 2)), connectivities=np.ones((4, 5)))


def test_aggregate_writes_what_the_array_function_returns_and_nothing_else(snapshot):
    adata = _adata()
    before = snapshot(adata)
    scjepa.tl.aggregate(adata, n_hops=2)
    expected = aggregate(adata.obsm["X_stjepa"], connectivities=adata.obsp["spatial_connectivities"], n_hops=2)
    np.testing.assert_array_equal(adata.obsm["X_stjepa_hops"], expected)
    assert adata.uns["scjepa"]["X_stjepa_hops"] == {
        "slot": "obsm",
        "use_rep": "X_stjepa",
        "n_hops": 2,
        "concatenate": True,
        "neighbors_key": "spatial",
        "library_key": "section",
    }
    after = snapshot(adata)
    assert set(after) - set(before) == {("obsm", "X_stjepa_hops"), ("uns", "scjepa")}
    assert {name: after[name] for name in before} == before


def test_sections_never_mix():
    adata = _adata()
    adata.obsm["X_stjepa"][:6] = 0
    adata.obsm["X_stjepa"][6:] = 1
    scjepa.tl.aggregate(adata, n_hops=3, concatenate=False)
    assert set(np.unique(adata.obsm["X_stjepa_hops"])) == {0, 1}
    adata.obsp["spatial_connectivities"] = _chain(12)
    with pytest.raises(ValueError, match=r"join different sections: cell '5' \(section 'a'\) and cell '6'"):
        scjepa.tl.aggregate(adata)


def test_what_is_missing_or_the_users_is_told():
    adata = _adata()
    adata.obsm["mine"] = adata.obsm["X_stjepa"]
    with pytest.raises(ValueError, match="already has 'mine'"):
        scjepa.tl.aggregate(adata, key_added="mine")
    with pytest.raises(KeyError, match="Did you mean 'section'"):
        scjepa.tl.aggregate(adata, library_key="sektion")
    del adata.obsp["spatial_connectivities"]
    with pytest.raises(KeyError, match=r"sq.gr.spatial_neighbors.*\(.*library_key='section'"):
        scjepa.tl.aggregate(adata)
    assert "scjepa" not in adata.uns
