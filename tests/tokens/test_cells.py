"""The token table against a plain reference, and what it does with bad counts."""

from __future__ import annotations

import subprocess
import sys
import warnings

import anndata as ad
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from scjepa.tokens import NORMALIZATIONS, TokenConfig, TokenTable, Vocabulary, build_token_table

FORMS = {
    "dense": np.array,
    "csr_matrix": sparse.csr_matrix,
    "csr_array": sparse.csr_array,
    "csc": sparse.csc_matrix,
    "coo": sparse.coo_array,
}
DTYPES = [np.int32, np.int64, np.uint8, np.float32, np.float64]


def reference(counts, ids, n_vocabulary, config, groups=None, n_groups=1):
    """One cell after the other: lists of (genes, values, ranks), and the number of expressed genes."""
    groups = np.zeros(len(counts), int) if groups is None else groups
    aligned = np.zeros((len(counts), n_vocabulary))
    aligned[:, ids[ids >= 0]] = counts[:, ids >= 0]
    matrix = sparse.csr_array(aligned)

    def normalized(name):
        normalization = NORMALIZATIONS[name]()
        normalization.start(n_vocabulary, n_groups)
        normalization.observe(matrix, groups)
        normalization.finish()
        data = normalization.transform(matrix, groups)
        return sparse.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape).toarray()

    by, values, cells = normalized(config.ranks), normalized(config.values), []
    for i, cell in enumerate(aligned):
        genes = sorted(np.flatnonzero(cell).tolist(), key=lambda g, i=i: (-by[i, g], g))
        kept = genes[: config.n_tokens]
        ranks = list(range(len(kept)))
        if config.ties == "shared":
            ranks = [next(r for r, other in enumerate(kept) if by[i, other] == by[i, g]) for g in kept]
        cells.append((kept, [values[i, g] for g in kept], ranks, len(genes)))
    return cells


def unpack(table):
    """The same lists from a token table."""
    cells = []
    for i in range(table.n_cells):
        own = slice(table.offsets[i], table.offsets[i + 1])
        genes = table.genes[own].tolist()
        ranks = list(range(len(genes))) if table.ranks is None else table.ranks[own].tolist()
        cells.append((genes, table.values[own].tolist(), ranks, int(table.n_expressed[i])))
    return cells


def assert_same(one, other):
    for name in ("offsets", "genes", "values", "ranks", "n_expressed"):
        a, b = getattr(one, name), getattr(other, name)
        if a is None or b is None:
            assert a is b is None
        else:
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)


@st.composite
def cases(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 12)))
    counts = draw(hnp.arrays(np.int64, shape, elements=st.sampled_from([0, 0, 0, 1, 1, 2, 3, 200])))
    counts[0, 0] = 1
    n_vocabulary = shape[1] + draw(st.integers(0, 5))
    ids = np.array(draw(st.permutations(range(n_vocabulary))))[: shape[1]]
    ids[1:][draw(hnp.arrays(bool, shape[1] - 1))] = -1
    return counts, ids, n_vocabulary


@settings(max_examples=150, deadline=None)
@given(
    case=cases(),
    n_tokens=st.integers(1, 13),
    ranks=st.sampled_from(["counts", "shifted_log", "nonzero_mean"]),
    values=st.sampled_from(["counts", "shifted_log", "nonzero_mean"]),
    ties=st.sampled_from(["order", "shared"]),
    form=st.sampled_from(sorted(FORMS)),
    dtype=st.sampled_from(DTYPES),
    chunk_size=st.sampled_from([1, 2, 5, 100]),
    two_groups=st.booleans(),
)
def test_agrees_with_the_reference(case, n_tokens, ranks, values, ties, form, dtype, chunk_size, two_groups):
    counts, ids, n_vocabulary = case
    config = TokenConfig(n_tokens=n_tokens, ranks=ranks, values=values, ties=ties)
    groups = np.arange(len(counts)) % 2 if two_groups else None
    grouping = {"groups": groups, "n_groups": 2 if two_groups else 1}
    matrix = FORMS[form](counts.astype(dtype))
    before = matrix.copy()
    table = build_token_table(matrix, ids, n_vocabulary, config, chunk_size=chunk_size, **grouping)
    assert unpack(table) == reference(counts, ids, n_vocabulary, config, **grouping)
    assert (matrix != before).sum() == 0
    assert table.genes.dtype == np.int16
    assert table.offsets.dtype == np.int64
    assert (table.ranks is None) == (ties == "order")


@settings(max_examples=50, deadline=None)
@given(case=cases(), random=st.randoms(use_true_random=False), ties=st.sampled_from(["order", "shared"]))
def test_column_order_does_not_matter_and_cell_order_only_moves_cells(case, random, ties):
    counts, ids, n_vocabulary = case
    config = TokenConfig(n_tokens=4, ranks="nonzero_mean", ties=ties)
    table = build_token_table(counts, ids, n_vocabulary, config)
    columns = random.sample(range(counts.shape[1]), counts.shape[1])
    assert_same(build_token_table(counts[:, columns], ids[columns], n_vocabulary, config), table)
    cells = random.sample(range(len(counts)), len(counts))
    assert_same(build_token_table(counts[cells], ids, n_vocabulary, config), table.subset(cells))


def random_counts(seed=0, n_cells=40, n_genes=25):
    return np.random.default_rng(seed).poisson(0.8, (n_cells, n_genes))


def test_shared_rank_codes_of_equal_counts():
    table = build_token_table(
        np.array([[5, 2, 2, 1, 1, 1], [0, 0, 3, 0, 3, 0]]), np.arange(6), 6, TokenConfig(n_tokens=5, ties="shared")
    )
    assert table.ranks.tolist() == [0, 1, 1, 3, 3, 0, 0]
    assert table.ranks.dtype == np.int16
    assert table.n_expressed.tolist() == [6, 2]


def test_explicit_zeros_duplicates_and_disorder_are_read_and_left():
    # one row: gene 3 twice (1 + 4), a stored zero at gene 0, columns out of order; and an empty row
    data, indices, indptr = np.array([1, 2, 4, 0]), np.array([3, 1, 3, 0]), np.array([0, 4, 4])
    given = sparse.csr_matrix((data.copy(), indices.copy(), indptr.copy()), shape=(2, 4))
    table = build_token_table(given, np.arange(4), 4, TokenConfig())
    assert unpack(table) == [([3, 1], [5, 2], [0, 1], 2), ([], [], [], 0)]
    np.testing.assert_array_equal(given.data, data)
    np.testing.assert_array_equal(given.indices, indices)
    np.testing.assert_array_equal(given.indptr, indptr)


def test_boolean_counts():
    counts = random_counts() > 0
    config = TokenConfig(n_tokens=5)
    assert_same(
        build_token_table(sparse.csr_matrix(counts), np.arange(25), 25, config),
        build_token_table(counts.astype(int), np.arange(25), 25, config),
    )


def test_backed_and_lazy_data(tmp_path):
    counts = random_counts()
    config = TokenConfig(n_tokens=6, ranks="nonzero_mean")
    table = build_token_table(counts, np.arange(25), 25, config)
    for name, x in {"csr": sparse.csr_matrix(counts), "csc": sparse.csc_matrix(counts), "dense": counts}.items():
        ad.AnnData(x.astype(np.float32)).write_h5ad(tmp_path / f"{name}.h5ad")
        backed = ad.read_h5ad(tmp_path / f"{name}.h5ad", backed="r")
        assert_same(build_token_table(backed.X, np.arange(25), 25, config, chunk_size=7), table)
        backed.file.close()
    dask = pytest.importorskip("dask.array")
    lazy = dask.from_array(counts, chunks=(11, -1))
    assert_same(build_token_table(lazy, np.arange(25), 25, config, chunk_size=7), table)


def test_views_of_anndata():
    counts = random_counts()
    adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    view = adata[::2, 5:20]
    assert_same(
        build_token_table(view.X, np.arange(15), 15, TokenConfig()),
        build_token_table(counts[::2, 5:20], np.arange(15), 15, TokenConfig()),
    )
    assert view.is_view


def test_large_vocabulary_and_large_counts():
    counts = np.array([[70_000, 3, 3], [1, 0, 2]])
    ids = np.array([39_999, 32_768, 7])
    table = build_token_table(counts, ids, 40_000, TokenConfig())
    assert table.genes.dtype == np.int32
    assert table.genes.tolist() == [39_999, 7, 32_768, 7, 39_999]
    assert table.values.dtype == np.float32
    assert table.values.tolist() == [70_000, 3, 3, 2, 1]


@pytest.mark.parametrize("largest", [65_535, 65_536])
def test_values_are_small_where_nothing_is_lost(largest):
    table = build_token_table(np.array([[1], [largest]]), np.array([0]), 1, TokenConfig(), chunk_size=1)
    assert table.values.dtype == (np.uint16 if largest < 65_536 else np.float32)
    assert table.values.tolist() == [1, largest]


def test_negative_rank_values_order_after_positive_ones(monkeypatch):
    class Centered:
        needs_fit = False

        def transform(self, counts, groups):
            return counts.data.astype(np.float32) - 3

    monkeypatch.setitem(NORMALIZATIONS, "centered", Centered)
    config = TokenConfig(ranks="centered", values="centered")
    table = build_token_table(np.array([[1, 4, 3, 2, 9, 2]]), np.arange(6), 6, config)
    assert table.genes.tolist() == [4, 1, 2, 3, 5, 0]
    assert table.values.tolist() == [6, 1, 0, -1, -1, -2]


@pytest.mark.parametrize("cells", [[3, 0, 3], slice(5, 2, -1), np.arange(40) % 3 == 0, []])
def test_subset(cells):
    table = build_token_table(random_counts(), np.arange(25), 25, TokenConfig(n_tokens=4, ties="shared"))
    every = unpack(table)
    assert unpack(table.subset(cells)) == [every[i] for i in np.arange(40)[cells]]
    assert table.subset(cells).lengths.dtype == np.int64


def test_table_knows_its_size_and_refuses_what_does_not_fit():
    table = build_token_table(random_counts(), np.arange(25), 25, TokenConfig(n_tokens=4))
    assert table.n_cells == 40
    assert table.n_tokens == table.lengths.sum()
    assert table.nbytes == 41 * 8 + table.n_tokens * 4 + 40 * 4
    with pytest.raises(IndexError):
        table.subset([40])
    with pytest.raises(ValueError, match="offsets must run from 0"):
        TokenTable(table.offsets[:-1], table.genes, table.values, None, 25, table.n_expressed[:-1])
    with pytest.raises(ValueError, match="one entry per token"):
        TokenTable(table.offsets, table.genes, table.values[1:], None, 25, table.n_expressed)
    with pytest.raises(ValueError, match="one entry per cell"):
        TokenTable(table.offsets, table.genes, table.values, None, 25, table.n_expressed[1:])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0])
@pytest.mark.parametrize("form", ["dense", "csr_matrix", "csc"])
def test_impossible_counts_name_cell_and_gene(value, form):
    counts = random_counts().astype(float)
    counts[7, 3] = counts[9, 1] = value
    names = {"cell_names": [f"c{i}" for i in range(40)], "gene_names": [f"g{i}" for i in range(25)]}
    then = "scjepa.concat" if np.isnan(value) else "layer='counts'"
    match = rf"Cell 'c7' has the value {value:.6g} in gene 'g3'.*{then}"
    with pytest.raises(ValueError, match=match):
        build_token_table(FORMS[form](counts), np.arange(25), 25, TokenConfig(), chunk_size=4, **names)
    with pytest.raises(ValueError, match=r"Cell 7 has .* gene 3"):
        build_token_table(FORMS[form](counts), np.arange(25), 25, TokenConfig(ranks="nonzero_mean"))


def test_ignored_columns_may_hold_anything():
    counts = random_counts().astype(float)
    counts[3, 2] = np.nan
    counts[4, 2] = 0.5
    ids = np.where(np.arange(25) == 2, -1, np.arange(25))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = build_token_table(counts, ids, 25, TokenConfig())
    assert 2 not in table.genes


def test_log_transformed_data_warn_once_and_are_kept():
    counts = np.log1p(random_counts())
    config = TokenConfig(ranks="nonzero_mean")  # read twice, told once
    with pytest.warns(UserWarning, match=r"Cell 0 has the value 0\.693147 in gene .*log-transformed") as caught:
        table = build_token_table(counts, np.arange(25), 25, config, chunk_size=3)
    assert len(caught) == 1
    assert "layer='counts'" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert table.values.dtype == np.float32
    assert table.values.max() == np.float32(counts.max())


def test_fractions_of_large_counts_do_not_look_logged():
    with pytest.warns(UserWarning, match="not whole numbers") as caught:
        build_token_table(random_counts() * 30.5, np.arange(25), 25, TokenConfig())
    assert "log-transformed" not in str(caught[0].message)


def test_whole_numbers_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = build_token_table(random_counts().astype(np.float64), np.arange(25), 25, TokenConfig())
    assert table.values.dtype == np.uint16


def test_nothing_to_tokenize_is_an_error():
    counts, ids = random_counts(), np.arange(25)
    with pytest.raises(ValueError, match=r"No cell has a token: 40 cells, 0 of 25 genes.*Vocabulary\.align"):
        build_token_table(counts, np.full(25, -1), 25, TokenConfig())
    with pytest.raises(ValueError, match="No cell has a token"):
        build_token_table(np.zeros_like(counts), ids, 25, TokenConfig(ranks="shifted_log"))
    with pytest.raises(ValueError, match="no cells to tokenize"):
        build_token_table(counts[:0], ids, 25, TokenConfig(ranks="shifted_log"))


def test_arguments_that_do_not_fit():
    counts, ids, config = random_counts(), np.arange(25), TokenConfig()
    with pytest.raises(ValueError, match="each of 25 genes"):
        build_token_table(counts, ids[:-1], 25, config)
    with pytest.raises(ValueError, match="outside the vocabulary of 20"):
        build_token_table(counts, ids, 20, config)
    with pytest.raises(ValueError, match="Two columns"):
        build_token_table(counts, np.maximum(ids, 1), 25, config)
    with pytest.raises(ValueError, match="Unknown normalization"):
        build_token_table(counts, ids, 25, TokenConfig(ranks="count"))
    with pytest.raises(ValueError, match="Cell 5 has the technology code 2"):
        build_token_table(counts, ids, 25, config, groups=np.eye(40, dtype=int)[5] * 2, n_groups=2)


def test_tables_need_neither_anndata_nor_torch():
    heavy = {"anndata", "pandas", "scanpy", "scvi", "squidpy", "torch"}
    code = f"import sys, scjepa.tokens; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_batches_are_exported_when_asked_for():
    import scjepa.tokens

    assert scjepa.tokens.TableSource.__module__ == "scjepa.tokens.source"
    assert {"TableSource", "TokenTable"} <= set(dir(scjepa.tokens))
    with pytest.raises(AttributeError, match="no attribute 'Batches'"):
        _ = scjepa.tokens.Batches


@pytest.mark.data
def test_visual_cortex(data_dir):
    adata = ad.read_h5ad(data_dir / "spatial" / "starmap_visual_cortex.h5ad")
    vocabulary = Vocabulary.from_panels([adata.var_names])
    config = TokenConfig(n_tokens=16, ties="shared")
    table = build_token_table(adata.X, vocabulary.ids(adata.var_names), len(vocabulary), config)
    assert unpack(table) == reference(adata.X.toarray(), vocabulary.ids(adata.var_names), len(vocabulary), config)
    tied = np.mean([row[2].count(rank) > 1 for row in unpack(table) for rank in row[2]])
    assert 0.6 < tied < 0.8  # most kept tokens are tied in counts


@pytest.mark.data
def test_xenium_has_cells_without_counts(data_dir):
    adata = ad.read_h5ad(data_dir / "spatial" / "xenium_breast_51k_unlabelled.h5ad")
    table = build_token_table(adata.X, np.arange(adata.n_vars), adata.n_vars, TokenConfig(n_tokens=32))
    expressed = adata.X.getnnz(axis=1)
    assert np.count_nonzero(table.lengths == 0) == 369
    np.testing.assert_array_equal(table.n_expressed, expressed)
    np.testing.assert_array_equal(table.lengths, np.minimum(expressed, 32))
    assert table.values.dtype == np.uint16
