from __future__ import annotations

import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scjepa.perturbation import Conditions, condition_name, convert_conditions, parse_condition

GENES = st.lists(st.sampled_from(["KLF1", "MAPK1", "HLA-A", "RP11-34.1", "SET", "CBL"]), unique=True, max_size=3)


@pytest.mark.parametrize(
    ("text", "genes"),
    [
        ("ctrl", ()),
        ("A", ("A",)),
        ("A+ctrl", ("A",)),
        ("ctrl+A", ("A",)),
        ("B+A", ("A", "B")),
        ("HLA-A+RP11-34.1", ("HLA-A", "RP11-34.1")),
    ],
)
def test_conditions_of_gears_are_read(text, genes):
    assert parse_condition(text) == genes


@given(GENES)
def test_a_condition_has_one_name_whatever_the_order(genes):
    name = condition_name(genes)
    assert parse_condition(name) == tuple(sorted(genes))
    assert condition_name(parse_condition("+".join(reversed(genes)) or "ctrl")) == name


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("A_B", "separator='_'"),
        ("A|B", "separator='|'"),
        ("A;B", "separator=';'"),
        ("A + B", "separator='+'"),
        ("A B", "separator=' '"),
        ("non-targeting", "control='non-targeting'"),
        ("NT", "control='NT'"),
        ("A+NT", "control='NT'"),
        ("control", "control='control'"),
    ],
)
def test_another_grammar_is_named_with_the_call_that_converts_it(text, call):
    with pytest.raises(ValueError, match="not in the grammar of GEARS") as error:
        parse_condition(text, key="guides")
    assert repr(text) in str(error.value)
    assert "scjepa.perturbation.convert_conditions(adata.obs['guides'], " in str(error.value)
    assert call in str(error.value)


@pytest.mark.parametrize("text", ["", "A+", "+A", "A+A", "ctrl+ctrl", "A+B+ctrl"])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(ValueError, match=r"condition '[A-Bctrl+]*' "):
        parse_condition(text)


def test_a_gene_of_the_panel_may_look_like_another_grammar():
    assert parse_condition("A_B+ctrl", known_genes={"A_B"}) == ("A_B",)
    adata = ad.AnnData(np.ones((2, 1)), obs=pd.DataFrame({"condition": ["A_B+ctrl", "ctrl"]}, index=["x", "y"]))
    adata.var_names = ["A_B"]
    assert Conditions.of_adata(adata).perturbed_genes == ("A_B",)


@given(st.lists(GENES, min_size=1, max_size=8), st.sampled_from(["_", "|", ";", " + "]), st.booleans())
def test_converted_conditions_are_those_that_were_meant(meant, separator, padded):
    words = {True: [*["NT"]], False: []}
    texts = [separator.join([*genes, *(words[padded] if len(genes) < 2 else [])]) or "NT" for genes in meant]
    values = pd.Series([*texts, "NT"], index=[f"c{i}" for i in range(len(texts) + 1)])
    converted = convert_conditions(values, control="NT", separator=separator)
    assert converted.index.equals(values.index)
    assert [parse_condition(text) for text in converted] == [tuple(sorted(genes)) for genes in [*meant, []]]


def test_converting_wants_the_word_for_control_and_no_gaps():
    with pytest.raises(ValueError, match=r"None of \['NTC', 'ctrl'\].*'A', 'B'"):
        convert_conditions(pd.Series(["A", "B"]), control="NTC")
    with pytest.raises(ValueError, match="1 cells have no condition in 'guides', first 'y'"):
        convert_conditions(pd.Series(["A", None], index=["x", "y"], name="guides"))


def test_a_word_for_control_may_hold_the_separator():
    written = pd.Series(["non_targeting", "A_non_targeting", "NT", "non_targeting_B", "A_B", "A_non"])
    found = convert_conditions(written, control=["non_targeting", "NT"], separator="_")
    assert list(found) == ["ctrl", "A+ctrl", "ctrl", "B+ctrl", "A+B", "A+non"]
    assert list(convert_conditions(written[:2], control="non_targeting", separator="_")) == ["ctrl", "A+ctrl"]


@pytest.mark.parametrize("text", ["A_", "_A", "A__B", ""])
def test_a_condition_with_an_empty_part_is_not_converted(text):
    with pytest.raises(ValueError, match="has an empty part"):
        convert_conditions(pd.Series(["ctrl", text]), separator="_")


def test_spaces_around_genes_do_not_count_in_converting():
    assert list(convert_conditions(pd.Series(["ctrl", "B + A", "A + ctrl"]))) == ["ctrl", "A+B", "A+ctrl"]


def test_cells_have_codes_by_condition_and_both_orders_are_one():
    found = Conditions.of(pd.Series(["B+A", "ctrl", "A", "A+B", "ctrl+A"]))
    assert found.names == ("A+B", "A+ctrl", "ctrl")
    assert found.codes.tolist() == [0, 2, 1, 0, 1]
    assert found.genes == (("A", "B"), ("A",), ())
    assert found.control == 2
    assert found.cells(["A", "ctrl"]).tolist() == [1, 2, 4]


def test_no_control_is_refused_and_so_is_a_missing_column():
    with pytest.raises(ValueError, match=r"No cell has the condition 'ctrl' in 'condition'; found 'A\+ctrl'.*convert"):
        Conditions.of(pd.Series(["A", "A+ctrl"]))
    with pytest.raises(ValueError, match=r"'NTC1' looks like them.*control='NTC1'"):
        Conditions.of(pd.Series(["A", "NTC1"]))
    adata = ad.AnnData(np.ones((1, 1)), obs=pd.DataFrame({"guide": ["A"]}, index=["x"]))
    with pytest.raises(KeyError, match="guide"):
        Conditions.of_adata(adata)


IDS = ["ENSG00000000001.2", "ENSG00000000002.7", "ENSG00000000003.1"]


@pytest.mark.parametrize(
    ("conditions", "genes", "expected"),
    [
        (["ctrl", "KLF1", "SET+ctrl"], ["Klf1", "Set"], ["ctrl", "Klf1+ctrl", "Set+ctrl"]),
        (["ENSG00000000001", "ENSG00000000002.9"], IDS, [f"{IDS[0]}+ctrl", f"{IDS[1]}+ctrl"]),
        (["KLF1+SET", "ctrl"], pd.Series(["SET", "KLF1", None], index=IDS), ["+".join(IDS[:2]), "ctrl"]),
        (["klf1", "NONE"], {"KLF1": IDS[0]}, [f"{IDS[0]}+ctrl", "NONE+ctrl"]),
    ],
)
def test_perturbed_genes_take_the_names_of_the_data(conditions, genes, expected):
    assert convert_conditions(pd.Series(conditions), genes=genes).tolist() == expected


def test_a_name_of_several_genes_is_refused():
    with pytest.raises(ValueError, match=r"'SET' is the name of 2 genes.*genes=\{'SET'"):
        convert_conditions(pd.Series(["SET", "ctrl"]), genes=pd.Series(["SET", "SET"], index=IDS[:2]))


def test_anndata_is_no_column():
    with pytest.raises(TypeError, match=r"adata\.obs"):
        convert_conditions(ad.AnnData(np.ones((2, 2))))


@pytest.mark.parametrize("word", ["CTRL", "Ctrl", "Control", "Non-Targeting", "NT"])
def test_control_in_another_spelling_is_named_with_the_next_call(word):
    values = pd.Series(["A", "B+C", word])
    with pytest.raises(ValueError, match=f"another word for control.*control='{word}'"):
        Conditions.of(values)
    assert "ctrl" in Conditions.of(convert_conditions(values, control=word)).names


@pytest.mark.parametrize(("text", "word"), [("A_ctrl", "ctrl"), ("NT_A", "NT"), ("NTC_1", "NTC_1"), ("A_B", "...")])
def test_the_word_for_control_is_found_in_other_grammars(text, word):
    with pytest.raises(ValueError, match=re.escape(f"separator='_', control={word!r}")):
        parse_condition(text)
