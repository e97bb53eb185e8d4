from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scjepa
from scjepa._core.anndata import labels_of, means_none, text_of, warn_of_words

VALUES = ["T", None, "unlabelled", "B"]


def arrow(values):
    pytest.importorskip("pyarrow")
    return pd.Series(values, dtype="string[pyarrow]")


COLUMNS = {
    "object": lambda: pd.Series(VALUES, dtype=object),
    "object with NaN": lambda: pd.Series([np.nan if v is None else v for v in VALUES], dtype=object),
    "categorical": lambda: pd.Series(pd.Categorical(VALUES)),
    "nullable": lambda: pd.Series(VALUES, dtype="string[python]"),
    "arrow": lambda: arrow(VALUES),
    "pandas 3": lambda: pd.Series(VALUES, dtype=pd.StringDtype(na_value=np.nan)),
    "categorical of pandas 3": lambda: pd.Series(VALUES, dtype=pd.StringDtype(na_value=np.nan)).astype("category"),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_missing_values_are_none_whatever_holds_them(kind):
    column = COLUMNS[kind]()
    assert text_of(column).tolist() == VALUES
    assert labels_of(column).tolist() == ["T", None, None, "B"]


def test_numbers_and_truth_values_are_text_too():
    assert text_of(pd.Series([1, 2])).tolist() == ["1", "2"]
    assert text_of(pd.Series([1.0, np.nan])).tolist() == ["1.0", None]
    assert text_of(pd.Series([True, None], dtype="boolean")).tolist() == ["True", None]


@pytest.mark.parametrize("word", ["nan", "NaN", "", " ", "NA", "n/a", "<NA>", "None", "null"])
def test_what_missing_values_become_as_text_surely_means_none(word):
    assert means_none(word, surely=True)


def test_words_that_may_mean_none_are_told_with_a_call_that_works():
    adata = ad.AnnData(np.ones((4, 2), np.float32))
    for column in (["T", "nan", "Unknown", "B"], pd.Categorical(["T", "nan", "Unknown", "B"])):
        adata.obs["kind"] = column
        with pytest.warns(UserWarning, match="cells have the") as told:
            warn_of_words(adata.obs["kind"], "label", "kind")
        assert [str(one.message).split(",")[0] for one in told] == [
            "1 cells have the label 'Unknown'",
            "1 cells have the label 'nan'",
        ]
        for one in told:
            exec(str(one.message).split("If it means none: ")[1].rstrip("."), {"adata": adata})
        assert labels_of(adata.obs["kind"]).tolist() == ["T", None, None, "B"]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_of_words(labels_of(adata.obs["kind"]), "label", "kind")


def test_tools_and_scores_tell_of_missing_values_that_are_text():
    adata = ad.AnnData(np.ones((6, 2), np.float32))
    adata.obs["niche"] = list("001122")
    adata.obs["cell_type"] = ["T", "T", "B", "nan", "unlabeled", "B"]
    with pytest.warns(UserWarning, match="1 cells have the label 'nan'"):
        counts, _ = scjepa.tl.niche_composition(adata)
    assert counts.columns.tolist() == ["B", "T", "nan", "unlabelled"]
    with pytest.warns(UserWarning, match=r"1 cells have the label 'nan'.*ignore=\['nan'\]"):
        scjepa.metrics.nmi(adata.obs["cell_type"], adata.obs["niche"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scjepa.metrics.nmi(adata.obs["cell_type"], adata.obs["niche"], ignore=["nan", "unlabeled"])


def test_categories_that_read_alike_are_one():
    adata = ad.AnnData(np.ones((4, 2), np.float32))
    adata.obs["niche"] = pd.Categorical([1, "1", 2, 2], categories=[1, "1", 2])
    assert scjepa.tl.niche_composition(adata, by="niche").counts.index.tolist() == ["1", "2"]


def test_a_condition_that_says_none_is_no_gene():
    values = pd.Series(["ctrl", "A+ctrl", "unassigned"], index=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"1 cells have the condition 'unassigned'.*first 'c'"):
        scjepa.perturbation.Conditions.of(values)
    assert scjepa.perturbation.Conditions.of(values, {"unassigned"}).perturbed_genes == ("A", "unassigned")
