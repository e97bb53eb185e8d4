from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import scjepa
from scjepa._core.squidpy import spatial_graph


def section(n=30, genes=("A", "B", "C"), seed=0, graph=True, **obs) -> ad.AnnData:
    """Return one small object; every count is positive."""
    rng = np.random.default_rng(seed)
    counts = sparse.csr_matrix(rng.integers(1, 9, (n, len(genes))))
    adata = ad.AnnData(counts, obs=pd.DataFrame(obs, index=[f"c{i}" for i in range(n)]))
    adata.var_names = list(genes)
    adata.obsm["spatial"] = rng.random((n, 2))
    return with_graph(adata) if graph else adata


def with_graph(adata, **options):
    spatial_graph(adata, n_neighs=4, **options)
    return adata


def test_names_become_sections_and_technologies():
    both = scjepa.concat({"V1": section(20), "osmFISH": section(25, "BD", seed=1)})
    assert both.shape == (45, 4)
    assert list(both.var_names) == list("ABCD")
    assert both.obs["section"].tolist() == ["V1"] * 20 + ["osmFISH"] * 25
    assert both.obs["technology"].tolist() == both.obs["section"].tolist()
    assert isinstance(both.obs["section"].dtype, pd.CategoricalDtype)
    assert both.obs_names.is_unique
    assert both.obs_names[0] == "c0-V1"
    panel = both.varm["panel"]
    assert panel["V1"].tolist() == [True, True, True, False]
    assert panel["osmFISH"].tolist() == [False, True, False, True]


@settings(deadline=None, max_examples=15)
@given(sizes=st.lists(st.integers(6, 12), min_size=1, max_size=4), data=st.data())
def test_graph_and_counts_are_those_of_the_objects_block_by_block(sizes, data):
    others = st.lists(st.sampled_from("ABCDEF"), max_size=6, unique=True)
    genes = [["S", *data.draw(others)] for _ in sizes]  # one that they share
    parts = [section(n, g, seed=i) for i, (n, g) in enumerate(zip(sizes, genes, strict=True))]
    both = scjepa.concat(parts)
    starts = np.cumsum([0, *sizes])
    dense = {key: both.obsp[key].toarray() for key in ("spatial_connectivities", "spatial_distances")}
    for i, part in enumerate(parts):
        own = slice(starts[i], starts[i + 1])
        for key, matrix in dense.items():
            np.testing.assert_array_equal(matrix[own, own], part.obsp[key].toarray())
            matrix[own, own] = 0
        np.testing.assert_array_equal(both[own, part.var_names].X.toarray(), part.X.toarray())
        absent = ~both.var_names.isin(part.var_names)
        assert both[own, absent].X.sum() == 0
        np.testing.assert_array_equal(both.varm["panel"][str(i)], ~absent)
        np.testing.assert_array_equal(both.obsm["spatial"][own], part.obsm["spatial"])
    assert not any(matrix.any() for matrix in dense.values())  # no edge between objects


def test_columns_that_are_there_are_kept_and_clashing_sections_renamed():
    one = section(10, technology="STARmap", section=["1"] * 5 + ["2"] * 5, region="L1")
    two = section(8, technology="STARmap", section="1")
    three = section(6, technology="MERFISH", section="x")
    both = scjepa.concat({"a": one, "b": two, "c": three})
    assert both.obs["section"].tolist() == ["a-1"] * 5 + ["2"] * 5 + ["b-1"] * 8 + ["x"] * 6
    assert both.obs["technology"].tolist() == ["STARmap"] * 18 + ["MERFISH"] * 6
    assert both.obs["region"].isna().sum() == 14
    assert one.obs["section"].tolist() == ["1"] * 5 + ["2"] * 5  # the user's own stays


def test_a_technology_measured_what_all_its_objects_measured():
    both = scjepa.concat({"a": section(technology="S"), "b": section(genes="BCD", technology="S")})
    assert both.varm["panel"]["S"].tolist() == [False, True, True, False]


def test_panels_of_an_object_with_several_technologies_are_its_own_or_read_off_the_counts():
    mixed = section(20, technology=["S"] * 10 + ["T"] * 10)
    counts = mixed.X.toarray()
    counts[10:, 0] = 0
    mixed.X = sparse.csr_matrix(counts)
    assert scjepa.concat([mixed]).varm["panel"]["T"].tolist() == [False, True, True]
    mixed.varm["panel"] = pd.DataFrame({"S": [True, False, True], "T": True}, index=mixed.var_names)
    panel = scjepa.concat([mixed]).varm["panel"]
    assert panel["S"].tolist() == [True, False, True]
    assert panel["T"].all()


def test_layer_becomes_x_and_objects_are_not_changed():
    one, two = section(), section(seed=1)
    for part in (one, two):
        part.layers["counts"] = part.X.copy()
        part.X = part.X * 0.5
    before = one.copy()
    both = scjepa.concat({"a": one, "b": two}, layer="counts")
    np.testing.assert_array_equal(both.X.toarray()[:30], one.layers["counts"].toarray())
    assert one.obs.equals(before.obs)
    assert (one.X != before.X).nnz == 0
    assert set(one.uns) == set(before.uns)


def test_without_graphs_there_is_none_and_one_can_be_made():
    both = scjepa.concat({"a": section(graph=False), "b": section(graph=False, seed=1)})
    assert not list(both.obsp)
    with_graph(both, library_key="section")
    separately = scjepa.concat({"a": section(), "b": section(seed=1)})
    assert (both.obsp["spatial_connectivities"] != separately.obsp["spatial_connectivities"]).nnz == 0


def test_a_model_sees_the_same_in_one_object_as_in_each(recwarn):
    one, two = section(40, "ABCDE", seed=0), section(40, "DEF", seed=1)
    both = scjepa.concat({"a": one, "b": two})
    keys = {"technology_key": "technology", "library_key": "section"}
    scjepa.STJEPA.setup_anndata(both, **keys, panel_key="panel")
    small = {"tokens": {"n_tokens": 4, "n_neighbors": 3}, "encoder": {"width": 16, "n_layers": 1, "n_heads": 1}}
    model = scjepa.STJEPA(both, "demo", **small)
    assert [model.vocabulary.names[i] for i in model.panels.shared()] == ["D", "E"]
    embedded = model.get_latent_representation()
    for part, rows in ((one, slice(0, 40)), (two, slice(40, 80))):
        np.testing.assert_allclose(model.get_latent_representation(part), embedded[rows], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: scjepa.concat([]), ValueError, "nothing to concatenate"),
        (lambda: scjepa.concat({"a": "file.h5ad"}), TypeError, "for 'a', found str.*read_h5ad"),
        (lambda: scjepa.concat([section()], layer="raw"), KeyError, r"layers\['raw'\] does not exist"),
        (lambda: scjepa.concat([section()], spatial_key="xy"), KeyError, "'spatial'"),
        (lambda: scjepa.concat([section(), section(genes="AA")]), ValueError, "'A' twice"),
        (lambda: scjepa.concat([section(), section(graph=False)]), ValueError, "Compute it for each"),
        (lambda: scjepa.concat([section(2, section=["s", None], graph=False)]), ValueError, "the first is 'c1'"),
        (
            lambda: scjepa.concat([section(), with_graph(section(), transform="cosine")]),
            ValueError,
            "cosine-transformed",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(make, error, words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error, match=words):
            make()


def test_backed_objects_are_refused(tmp_path):
    section().write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match="to_memory"):
        scjepa.concat([ad.read_h5ad(tmp_path / "a.h5ad", backed="r")])


def test_an_object_that_shares_no_gene_with_any_other_is_an_error():
    symbols, ids = [f"Gene{i}" for i in range(5)], [f"ENSMUSG{i:011d}" for i in range(5)]
    words = r"'b' \('ENSMUSG00000000000', .*\) shares no gene with 'a' \('Gene0', .*Ensembl ids in 'b', gene symbols in"
    with pytest.raises(ValueError, match=words):
        scjepa.concat({"a": section(genes=symbols), "c": section(genes=symbols[:3]), "b": section(genes=ids)})
    with pytest.raises(ValueError, match=r"They differ in case: .*str\.upper\(\) makes those of 'a' match"):
        scjepa.concat({"a": section(genes=symbols), "b": section(genes=[name.upper() for name in symbols])})
    chain = scjepa.concat({"a": section(genes="AB"), "b": section(genes="BC"), "c": section(genes="CD")})
    assert chain.n_vars == 4  # each shares one with another


def test_genes_that_differ_in_case_only_are_warned_of():
    symbols = [f"Gene{i}" for i in range(5)]
    upper = [*symbols[:2], *(name.upper() for name in symbols[2:])]
    with pytest.warns(UserWarning, match=r"3 genes of 'b' differ .* in case only, such as 'GENE2' from 'Gene2' of 'a'"):
        scjepa.concat({"a": section(genes=symbols), "b": section(genes=upper)})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        scjepa.concat({"a": section(genes="aAb"), "b": section(genes="aAb")})


def test_niches_of_each_section_may_be_found_anew_on_all():
    parts = {name: section(30, seed=i) for i, name in enumerate("ab")}
    for i, part in enumerate(parts.values()):
        part.obsm["X_stjepa"] = np.random.default_rng(i).normal(size=(30, 4))
        scjepa.tl.niches(part, n_niches=2 + i, n_neighbors=5)
    both = scjepa.concat(parts)
    assert both.uns["scjepa"]["niche"]["n_niches"] == 3
    both.obsm["X_stjepa"] = np.random.default_rng(2).normal(size=(60, 4))
    scjepa.tl.niches(both, n_niches=2, n_neighbors=5)
    assert both.obs["niche"].nunique() == 2


def test_a_column_of_the_users_stays_the_users():
    one, two = section(), section(seed=1)
    one.obsm["X_stjepa"] = np.random.default_rng(0).normal(size=(30, 4))
    scjepa.tl.niches(one, n_niches=2, n_neighbors=5)
    two.obs["niche"] = "mine"
    both = scjepa.concat({"a": one, "b": two})
    assert "scjepa" not in both.uns
    both.obsm["X_stjepa"] = np.zeros((60, 4))
    with pytest.raises(ValueError, match=r"its note in adata\.uns\['scjepa'\] was lost"):
        scjepa.tl.niches(both)
