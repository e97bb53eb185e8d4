"""Gene names to ids, and what each technology measured."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scjepa.tokens import Panels, Vocabulary

names = st.lists(st.text("abcXYZ019-.", min_size=1, max_size=6), min_size=1, max_size=20, unique=True)


@settings(deadline=None)
@given(st.lists(names, min_size=1, max_size=4), st.randoms())
def test_union_does_not_depend_on_order(panels, random):
    vocabulary = Vocabulary.from_panels(panels)
    shuffled = [random.sample(panel, len(panel)) for panel in random.sample(panels, len(panels))]
    assert Vocabulary.from_panels(shuffled) == vocabulary
    assert set(vocabulary.names) == set().union(*panels)
    assert list(vocabulary.names) == sorted(vocabulary.names)


@settings(deadline=None)
@given(names, names)
def test_extension_keeps_ids_and_appends_sorted(old, new):
    vocabulary = Vocabulary(old)
    extended = vocabulary.extended(new)
    assert extended.names[: len(old)] == tuple(old)
    assert list(extended.names[len(old) :]) == sorted(set(new) - set(old))
    np.testing.assert_array_equal(extended.ids(old), np.arange(len(old)))
    assert vocabulary.names == tuple(old)


@settings(deadline=None)
@given(names, names)
def test_ids_are_places_or_minus_one(known, asked):
    vocabulary = Vocabulary(known)
    expected = [known.index(name) if name in known else -1 for name in asked]
    ids = vocabulary.ids(asked)
    assert ids.dtype == np.int64
    assert ids.tolist() == expected
    assert [name in vocabulary for name in asked] == [i >= 0 for i in expected]


def test_behaves_like_a_value():
    vocabulary = Vocabulary(["B", "A"])
    assert vocabulary == Vocabulary(["B", "A"]) != Vocabulary(["A", "B"])
    assert vocabulary != ["B", "A"]
    assert hash(vocabulary) == hash(Vocabulary(["B", "A"]))
    assert len(vocabulary) == 2
    assert "'B'" in repr(vocabulary)
    assert pickle.loads(pickle.dumps(vocabulary)) == copy.deepcopy(vocabulary) == vocabulary
    with pytest.raises(AttributeError):
        vocabulary.names = ("C",)


@pytest.mark.parametrize(
    "make",
    [
        lambda names: Vocabulary(names),
        lambda names: Vocabulary.from_panels([["X"], names]),
        lambda names: Vocabulary(["X"]).extended(names),
        lambda names: Vocabulary(["X", "A"]).align(names),
    ],
)
def test_duplicates_are_named_with_what_to_do(make):
    with pytest.raises(ValueError, match=r"'A'.*adata\.var_names_make_unique\(\)"):
        make(["A", "B", "A"])
    with pytest.raises(ValueError, match="no gene names"):
        make([])
    with pytest.raises(TypeError, match="found one string"):
        make("ABC")


def test_alignment_reports_coverage_and_case():
    alignment = Vocabulary(["Gad1", "Sst", "Pvalb", "Vip"]).align(["Vip", "GAD1", "Sst", "novel"], "the query")
    assert alignment.ids.tolist() == [3, -1, 1, -1]
    assert (alignment.n_matched, alignment.n_names, alignment.n_vocabulary) == (2, 4, 4)
    assert alignment.coverage == 0.5
    assert alignment.case_only == (("GAD1", "Gad1"),)
    report = str(alignment)
    assert "2 of 4 genes of the query (50.0%)" in report
    assert "2 are ignored" in report
    assert "'GAD1' (vocabulary: 'Gad1')" in report


def test_alignment_of_all_genes_has_nothing_to_add():
    alignment = Vocabulary(["Gad1", "GAD1"]).align(["GAD1", "Gad1"])
    assert alignment.case_only == ()
    assert str(alignment) == "2 of 2 genes of the data (100.0%) are among the 2 genes of the vocabulary."


@pytest.mark.parametrize(
    ("vocabulary", "data", "cause"),
    [
        (["Gad1", "Sst"], ["GAD1", "SST"], r"case.*str\.capitalize\(\).*orthologs"),
        (["GAD1", "SST"], ["Gad1", "Sst"], r"case.*str\.upper\(\)"),
        (["ENSG00000128683.5"], ["ENSG00000128683"], "version suffixes"),
        (["ENSG00000128683"], ["ENSMUSG00000070880"], "two species"),
        (["Gad1", "Sst"], ["ENSMUSG00000070880", "ENSMUSG00000004366.4"], "Ensembl ids in the data.*'gene_symbols'"),
        (["ENSMUSG00000070880", "ENSMUSG00000004366"], ["Gad1", "Sst"], "Ensembl ids in the vocabulary.*'gene_ids'"),
        (["Gad1", "Sst"], ["0", "1"], r"adata\.var_names holds gene names"),
    ],
)
def test_no_overlap_names_the_likely_cause(vocabulary, data, cause):
    with pytest.raises(ValueError, match=cause) as error:
        Vocabulary(vocabulary).align(data)
    assert repr(vocabulary[0]) in str(error.value)
    assert repr(data[0]) in str(error.value)


def test_no_overlap_shows_five_examples_of_each_side():
    with pytest.raises(ValueError, match=r"'b4', \.\.\.") as error:
        Vocabulary([f"a{i}" for i in range(9)]).align([f"b{i}" for i in range(9)])
    assert "'a4'" in str(error.value)
    assert "'a5'" not in str(error.value)
    assert "'b5'" not in str(error.value)


def two_technologies():
    counts = np.array([[1, 0, 0, 5], [0, 0, 2, 1], [0, 7, 0, 3], [0, 0, 0, 0]])
    return counts, np.array([2, 0, 1, -1]), np.array([0, 0, 1, 1])


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_array])
def test_panels_are_what_some_cell_has(form, chunk_size):
    counts, ids, codes = two_technologies()
    panels = Panels.infer(form(counts), ids, codes, ["a", "b"], 4, chunk_size=chunk_size)
    assert panels.inferred
    assert panels.measured.tolist() == [[False, True, True, False], [True, False, False, False]]
    assert panels.shared().tolist() == []


def test_panels_describe_and_travel():
    measured = np.array([[True, True, True, False], [False, True, True, True]])
    panels = Panels(("starmap", "merfish"), measured, inferred=False)
    text = panels.describe(Vocabulary(["A", "B", "C", "D"]))
    assert "starmap: 3 of 4 genes, 1 in no other technology" in text
    assert "in all: 2 genes: 'B', 'C'" in text
    assert "given" in text
    back = Panels.from_dict(json.loads(json.dumps(panels.to_dict())))
    np.testing.assert_array_equal(back.measured, measured)
    assert (back.technologies, back.inferred) == (panels.technologies, False)
    assert panels.shared().dtype == np.int64


def test_panels_need_a_technology_for_each_cell():
    counts, ids, codes = two_technologies()
    with pytest.raises(ValueError, match="Cell 2 has the technology code -1"):
        Panels.infer(counts, ids, np.array([0, 0, -1, 1]), ["a", "b"], 4)
    with pytest.raises(ValueError, match="each of 4 cells"):
        Panels.infer(counts, ids, codes[:3], ["a", "b"], 4)
    with pytest.raises(ValueError, match="one row for each of 1 technologies"):
        Panels(("a",), np.ones((2, 3), dtype=bool), inferred=False)


def test_a_technology_without_cells_has_no_panel_to_infer():
    counts, ids, codes = two_technologies()
    with pytest.raises(ValueError, match=r"'seqfish' has no cell.*remove_unused_categories\(\)"):
        Panels.infer(counts, ids, codes, ["a", "b", "seqfish"], 4)
    with pytest.raises(ValueError, match="'a' has no cell"):
        Panels.infer(counts[:0], ids, codes[:0], ["a"], 4)


def test_extended_panels_keep_codes_and_never_take_absence_for_zero():
    known = Panels(("S", "T"), np.array([[True, True, False], [True, False, True]]), inferred=False)
    further = Panels(("A", "T"), np.array([[True, False, False, True], [True, False, False, True]]), inferred=True)
    both = known.extended(further)
    assert both.technologies == ("S", "T", "A")
    np.testing.assert_array_equal(both.measured[0], [True, True, False, False])
    np.testing.assert_array_equal(both.measured[1], [True, False, False, False])  # measured by T in both
    np.testing.assert_array_equal(both.measured[2], [True, False, False, True])
    assert both.inferred
    assert both.shared().tolist() == [0]
    assert Panels.from_dict(both.to_dict()).measured.tolist() == both.measured.tolist()
    with pytest.raises(ValueError, match="over 3 genes, fewer"):
        both.extended(known)


IDS = ("ENSG00000000001.2", "ENSG00000000002.7", "GAD1")


def test_names_that_differ_in_case_or_version_take_the_vocabularys():
    vocabulary = Vocabulary(IDS)
    names = ["ENSG00000000001.5", "ENSG00000000002", "Gad1", "SST"]
    assert vocabulary.renamed(names) == [*IDS, "SST"]
    assert vocabulary.renamed([*IDS, "gad1"]) == [*IDS, "gad1"]  # which is there already
    assert vocabulary.renamed(["gad1", "Gad1"]) == ["gad1", "Gad1"]  # either could be meant


def test_other_versions_are_reported_with_the_call_that_takes_them_for_the_same():
    alignment = Vocabulary(IDS).align(["GAD1", "ENSG00000000002.8"])
    assert alignment.version_only == (("ENSG00000000002.8", IDS[1]),)
    assert "renamed(adata.var_names)" in str(alignment)
    with pytest.raises(ValueError, match=r"version suffixes.*model\.vocabulary\.renamed\(adata\.var_names\)"):
        Vocabulary(IDS).align(["ENSG00000000001", "ENSG00000000002"])


def test_a_column_that_has_the_names_is_named():
    columns = {"id": ["x", "y"], "symbol": ["GAD1", "SST"]}
    with pytest.raises(ValueError, match=r"adata\.var\['symbol'\] has 1 names that are: adata\.var_names = "):
        Vocabulary(IDS).align(["1", "2"], columns=columns)
