from __future__ import annotations

import importlib.util
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix, eye

import scjepa
from scjepa.tl import _conditions, contact_enrichment, differential_niches


def _cohort(n: int = 4, *, grown: float = 1.0, seed: int = 0, n_cells: int = 300) -> ad.AnnData:
    """Return ``n`` samples of each condition: niche A is ``grown`` times as common in the treated ones."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(2 * n):
        share = np.array([0.2 * (grown if number >= n else 1.0), 0.3, 0.3, 0.2])
        niche = rng.choice(list("ABCD"), n_cells, p=share / share.sum())
        kind = np.where(rng.random(n_cells) < 0.5, "T", "B")
        parts.append(pd.DataFrame({"niche": niche, "cell_type": kind, "patient": f"p{number}"}))
    obs = pd.concat(parts, ignore_index=True)
    obs["treatment"] = np.where(obs["patient"].str[1:].astype(int) < n, "control", "treated")
    obs.index = obs.index.astype(str)
    counts = rng.poisson(3.0, (len(obs), 5))
    adata = ad.AnnData(csr_matrix(counts.astype(np.int32)), obs=obs)
    chain = eye(len(obs), k=1).tolil()
    for cell in range(n_cells - 1, len(obs) - 1, n_cells):  # no edge joins two samples
        chain[cell, cell + 1] = 0
    adata.obsp["spatial_connectivities"] = csr_matrix(chain + chain.T)
    return adata


def test_a_niche_that_grew_is_found_in_the_right_direction(snapshot):
    adata = _cohort(5, grown=3.0)
    before = snapshot(adata)
    found = differential_niches(adata, "treatment", "patient")
    assert snapshot(adata) == before
    assert list(found.columns) == [
        "niche", "n_reference", "n_other", "difference", "spread", "p_value", "p_adjusted", "power",
    ]  # fmt: skip
    first = found.iloc[0]
    assert first["niche"] == "A"
    assert first["difference"] > 0.7
    assert first["p_value"] == pytest.approx(2 / 252)
    assert found.attrs["conditions"] == ["control", "treated"]
    turned = differential_niches(adata, "treatment", "patient", conditions=("treated", "control"))
    assert turned.set_index("niche")["difference"]["A"] == pytest.approx(-first["difference"])


def test_shares_are_centered_log_ratios():
    found = differential_niches(_cohort(4), "treatment", "patient")
    assert found["difference"].sum() == pytest.approx(0, abs=1e-9)


def test_the_order_of_cells_does_not_matter():
    adata = _cohort(4, grown=2.0)
    rng = np.random.default_rng(1)
    for what in ("shares", "composition", "contacts"):
        first = differential_niches(adata, "treatment", "patient", what=what)
        second = differential_niches(adata[rng.permutation(adata.n_obs)].copy(), "treatment", "patient", what=what)
        pd.testing.assert_frame_equal(first, second)


def test_more_cells_of_a_sample_are_no_more_samples():
    """Each cell ten times over: cells as units would be sure; the same samples say the same."""
    adata = _cohort(4)
    more = ad.concat([adata] * 10, index_unique="-")
    one, ten = (differential_niches(each, "treatment", "patient") for each in (adata, more))
    np.testing.assert_allclose(one["p_value"], ten["p_value"], atol=0.06)
    assert ten["p_value"].min() >= 2 / 70 - 1e-9


def test_without_an_effect_errors_are_as_rare_as_they_should_be():
    wrong = []
    for seed in range(60):
        found = differential_niches(_cohort(5, seed=seed, n_cells=100), "treatment", "patient", method="welch")
        wrong.append(found.set_index("niche").loc["A", "p_value"] <= 0.05)
    assert sum(wrong) <= 8  # 3 expected; more than 8 of 60 has a chance of 0.3 % at 0.05


def test_composition_within_a_niche_is_found():
    adata = _cohort(5)
    more = (adata.obs["treatment"] == "treated") & (adata.obs["niche"] == "B")
    gone = (more & (adata.obs["cell_type"] == "T")).to_numpy() & (np.random.default_rng(0).random(adata.n_obs) < 0.7)
    found = differential_niches(adata[~gone].copy(), "treatment", "patient", what="composition")
    assert found.iloc[0][["niche", "feature"]].tolist() in (["B", "T"], ["B", "B"])
    largest = found.groupby("niche")["difference"].agg(lambda one: one.abs().max())
    assert largest["B"] > 2 * largest.drop("B").max()


def test_expression_within_a_niche_is_found():
    adata = _cohort(5)
    treated_b = ((adata.obs["treatment"] == "treated") & (adata.obs["niche"] == "B")).to_numpy()
    counts = adata.X.toarray()
    counts[treated_b, 2] *= 3
    adata.X = csr_matrix(counts)
    found = differential_niches(adata, "treatment", "patient", what="expression", method="welch")
    assert found.iloc[0][["niche", "feature"]].tolist() == ["B", "2"]
    assert found.iloc[0]["difference"] > 0.7
    assert set(found["feature"]) == set("01234")


@pytest.mark.skipif(not importlib.util.find_spec("pydeseq2"), reason="pydeseq2 is not installed")
def test_expression_by_pydeseq2():
    adata = _cohort(4)
    counts = adata.X.toarray()
    counts[(adata.obs["treatment"] == "treated").to_numpy(), 2] *= 3
    adata.X = csr_matrix(counts)
    found = differential_niches(adata, "treatment", "patient", what="expression")
    assert found.attrs["method"] == "pydeseq2"
    assert (found.head(4)["feature"] == "2").all()
    assert (found.head(4)["difference"] > 0.7).all()


def test_a_pydeseq2_that_breaks_on_this_anndata_is_not_taken(monkeypatch):
    monkeypatch.setattr(_conditions, "find_spec", lambda name: name == "pydeseq2")
    monkeypatch.setattr(_conditions, "version", lambda name: "0.5.0")
    adata = _cohort(4)
    assert differential_niches(adata, "treatment", "patient", what="expression").attrs["method"] == "welch"
    with pytest.raises(ImportError, match="pydeseq2>="):
        differential_niches(adata, "treatment", "patient", what="expression", method="pydeseq2")


def test_of_few_samples_a_niche_is_found_among_many():
    """By Benjamini and Hochberg the smallest p-value of four and four samples, 2 / 70, would not do for four rows."""
    found = differential_niches(_cohort(4, grown=6.0), "treatment", "patient")
    assert found.attrs["adjustment"] == "Westfall-Young"
    assert found.iloc[0]["niche"] == "A"
    assert found.iloc[0]["p_adjusted"] == pytest.approx(2 / 70)
    assert (found["p_adjusted"] >= found["p_value"]).all()
    assert differential_niches(_cohort(8), "treatment", "patient").attrs["adjustment"] == "Benjamini-Hochberg"


def _with_pertpy(monkeypatch) -> None:
    """Put a module in the place of pertpy that answers as scCODA does, by difference of log shares."""
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    class Sccoda:
        def load(self, adata, type):
            return {"coda": adata}

        def prepare(self, data, formula):
            assert formula == "C(group, Treatment('reference'))"
            return data

        def run_nuts(self, data, rng_key):
            self.seed = rng_key

        def set_fdr(self, data, est_fdr):
            assert est_fdr == 0.05

        def _index(self, data):
            names = data.var_names[::-1]  # in an order of its own
            return pd.MultiIndex.from_product([["group[T.other]"], names], names=["Covariate", "Cell Type"])

        def get_effect_df(self, data):
            shares = np.log2(data.X / data.X.sum(axis=1, keepdims=True))
            other = (data.obs["group"] == "other").to_numpy()
            change = (shares[other].mean(axis=0) - shares[~other].mean(axis=0))[::-1]
            columns = {"log2-fold change": change, "Inclusion probability": (abs(change) > 0.5) * 0.9 + 0.05}
            return pd.DataFrame(columns, index=self._index(data))

        def credible_effects(self, data):
            return pd.Series(self.get_effect_df(data)["Inclusion probability"] > 0.5, index=self._index(data))

    for name in ("pertpy", "pertpy.tools"):
        module = ModuleType(name)
        module.__spec__, module.__path__, module.Sccoda = ModuleSpec(name, None), [], Sccoda
        monkeypatch.setitem(sys.modules, name, module)


def test_shares_by_sccoda(monkeypatch):
    _with_pertpy(monkeypatch)
    found = differential_niches(_cohort(4, grown=4.0), "treatment", "patient", method="sccoda")
    assert found.iloc[0]["niche"] == "A"
    assert found.iloc[0]["difference"] > 0.7
    assert found["credible"].tolist() == sorted(found["credible"], reverse=True)
    assert found["p_value"].isna().all()


@pytest.mark.skipif(bool(importlib.util.find_spec("pertpy")), reason="pertpy is installed")
def test_sccoda_without_pertpy_names_the_package():
    with pytest.raises(ImportError, match="pip install"):
        differential_niches(_cohort(4), "treatment", "patient", method="sccoda")
    with pytest.raises(ValueError, match="method of 'contacts'"):
        differential_niches(_cohort(4), "treatment", "patient", what="contacts", method="sccoda")


def test_niches_in_too_few_samples_have_no_p_value():
    adata = _cohort(4)
    rare = (adata.obs["niche"] == "D") & ~adata.obs["patient"].isin(["p0", "p1", "p4", "p5", "p6"])
    found = differential_niches(adata[~rare.to_numpy()].copy(), "treatment", "patient", what="composition")
    rows = found[found["niche"] == "D"]
    assert rows["p_value"].isna().all()
    assert rows["p_adjusted"].isna().all()
    assert (rows["n_reference"] == 2).all()
    assert found["p_value"].notna().sum() == 6


def test_contacts_beyond_what_borders_let_expect():
    counts = np.array([[50, 10, 10], [10, 40, 10], [10, 10, 40]])
    alike = contact_enrichment(counts)
    assert np.isnan(np.diag(alike)).all()
    np.testing.assert_allclose(alike[~np.eye(3, dtype=bool)], 0, atol=1e-9)
    # B is touched by A alone, and A by all: not symmetric.
    lopsided = contact_enrichment(np.array([[0, 10, 50], [10, 0, 1], [50, 1, 0]]))
    assert lopsided[1, 2] < 0
    assert lopsided[0, 1] != pytest.approx(lopsided[1, 0])
    assert np.isnan(contact_enrichment(np.diag([3, 4]))).all()
    for strange in (np.ones(3), np.ones((3, 2)), -np.ones((2, 2))):
        with pytest.raises(ValueError, match="square table of edges"):
            contact_enrichment(strange)


def _one_side_small() -> ad.AnnData:
    adata = _cohort(4)
    return adata[~adata.obs["patient"].isin(["p5", "p6", "p7"])].copy()


def test_fewer_than_three_samples_of_a_condition_are_refused():
    with pytest.raises(
        ValueError, match=r"'treatment'.*3 samples or more.*'control' 4, 'treated' 1.*niche_composition"
    ):
        differential_niches(_one_side_small(), "treatment", "patient")


def test_three_a_side_say_what_permutation_cannot():
    with pytest.warns(UserWarning, match=r"no p-value below 0\.1"):
        found = differential_niches(_cohort(3, grown=4.0), "treatment", "patient")
    assert (found["power"] == 0).all()
    assert differential_niches(_cohort(3, grown=4.0), "treatment", "patient", method="welch")["p_value"].min() < 0.05


def test_samples_without_a_condition_are_left_out():
    adata = _cohort(5, grown=3.0)
    adata.obs.loc[adata.obs["patient"] == "p9", "treatment"] = np.nan
    with pytest.warns(UserWarning, match="Samples without a condition.*p9"):
        found = differential_niches(adata, "treatment", "patient")
    assert (found["n_other"] == 4).all()


def test_a_sample_of_two_conditions_or_partly_none_is_refused():
    adata = _cohort(4)
    adata.obs.iloc[0, adata.obs.columns.get_loc("treatment")] = "treated"
    with pytest.raises(ValueError, match=r"Sample 'p0'.*several conditions"):
        differential_niches(adata, "treatment", "patient")
    adata.obs.iloc[0, adata.obs.columns.get_loc("treatment")] = np.nan
    with pytest.raises(ValueError, match=r"Sample 'p0'.*none"):
        differential_niches(adata, "treatment", "patient")


def test_one_niche_has_no_share_or_border():
    adata = _cohort(4)
    adata.obs["niche"] = "A"
    for what in ("shares", "contacts"):
        with pytest.raises(ValueError, match="one niche, 'A'"):
            differential_niches(adata, "treatment", "patient", what=what)
    assert len(differential_niches(adata, "treatment", "patient", what="composition")) == 2


def test_an_empty_niche_and_a_sample_without_niches():
    adata = _cohort(4)
    adata.obs["niche"] = pd.Categorical(adata.obs["niche"], categories=list("ABCDE"))
    assert set(differential_niches(adata, "treatment", "patient")["niche"]) == set("ABCD")
    adata.obs.loc[adata.obs["patient"] == "p2", "niche"] = np.nan
    with pytest.raises(ValueError, match="No cell of the sample 'p2' has a niche"):
        differential_niches(adata, "treatment", "patient")


@pytest.mark.parametrize("what", ["shares", "composition", "contacts", "expression"])
def test_cells_without_a_niche_are_told_by_sample(what):
    adata = _cohort(4)
    lost = (adata.obs["patient"] == "p6").to_numpy() & (np.arange(adata.n_obs) % 2 == 0)
    adata.obs.loc[lost, "niche"] = np.nan
    told = r"150 of 2,400 cells have no niche.*0% in sample 'p0' to 50% in 'p6'"
    with pytest.warns(UserWarning, match=told):
        differential_niches(adata, "treatment", "patient", what=what, method="welch")


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"condition_key": "dose"}, KeyError, "'dose'"),
        ({"sample_key": "mouse"}, KeyError, "'mouse'"),
        ({"niche_key": "regions"}, KeyError, "'regions'"),
        ({"what": "composition", "cell_type_key": "types"}, KeyError, "'types'"),
        ({"what": "contacts", "neighbors_key": "other"}, KeyError, "other_connectivities"),
        ({"what": "sizes"}, ValueError, "'sizes'"),
        ({"method": "anova"}, ValueError, "'anova'"),
        ({"method": "pydeseq2"}, ValueError, "'pydeseq2'"),
        ({"conditions": ("control", "placebo")}, ValueError, "conditions must name two"),
        ({"conditions": "ab"}, ValueError, "conditions must name two of .*found 'ab'"),
        ({"n_permutations": 3}, ValueError, "n_permutations"),
        ({"what": "composition", "min_cells": 9999}, ValueError, "nothing to compare: no niche has 9999 cells"),
        ({"what": "contacts", "min_cells": 9999}, ValueError, "nothing to compare"),
        ({"what": "expression", "method": "welch", "min_cells": 9999}, ValueError, "and a molecule of each"),
    ],
)
def test_bad_input_is_named(how, error, message):
    with pytest.raises(error, match=message):
        differential_niches(_cohort(4), **({"condition_key": "treatment", "sample_key": "patient"} | how))


def test_more_than_two_conditions_are_named():
    adata = _cohort(4)
    adata.obs.loc[adata.obs["patient"] == "p7", "treatment"] = "third"
    with pytest.raises(ValueError, match=r"Two conditions.*'control', 'third', 'treated'"):
        differential_niches(adata, "treatment", "patient")
    found = differential_niches(adata, "treatment", "patient", conditions=("control", "treated"))
    assert (found["n_other"] == 3).all()


def test_an_edge_between_samples_is_refused():
    adata = _cohort(4)
    graph = adata.obsp["spatial_connectivities"].tolil()
    graph[0, 400] = graph[400, 0] = 1
    adata.obsp["spatial_connectivities"] = csr_matrix(graph)
    with pytest.raises(ValueError, match=r"join different sections.*library_key='patient'"):
        differential_niches(adata, "treatment", "patient", what="contacts")


def test_a_patient_of_two_sections_is_told_to_compute_the_graph_by_section():
    adata = _cohort(4)
    half = np.arange(adata.n_obs) % 300 < 150
    adata.obs["section"] = adata.obs["patient"] + np.where(half, "a", "b")  # one edge of each patient joins its two
    with pytest.raises(ValueError, match=r"16 edges.*join different sections.*library_key='section'"):
        differential_niches(adata, "treatment", "patient", what="contacts")
    adata.obs["section"] = np.where(half, "a", "b")  # names that all patients share
    with pytest.raises(ValueError, match=r"adata.obs\['sample_section'\] = .*library_key='sample_section'"):
        differential_niches(adata, "treatment", "patient", what="contacts")
    graph = adata.obsp["spatial_connectivities"].tocoo()
    same = half[graph.row] == half[graph.col]
    adata.obsp["spatial_connectivities"] = csr_matrix(
        (graph.data[same], (graph.row[same], graph.col[same])), graph.shape
    )
    assert len(differential_niches(adata, "treatment", "patient", what="contacts"))
    del adata.obsp["spatial_connectivities"]
    with pytest.raises(KeyError, match="library_key='sample_section'"):
        differential_niches(adata, "treatment", "patient", what="contacts")


def test_the_figure_has_a_row_for_each_niche():
    found = differential_niches(_cohort(5, grown=3.0), "treatment", "patient")
    ax = scjepa.pl.differential_niches(found, show=False)
    assert [text.get_text() for text in ax.get_yticklabels()] == found["niche"].tolist()
    with pytest.raises(ValueError, match="lacks"):
        scjepa.pl.differential_niches(found.drop(columns="spread"))
