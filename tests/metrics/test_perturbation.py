from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from scjepa.metrics import (
    PerturbationReference,
    perturbation_discrimination,
    perturbation_reference,
    perturbation_scores,
)

GENES = [f"G{i}" for i in range(40)]


def _screen(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return expression of three conditions, with genes that are silent in one, in control, or everywhere."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(["ctrl", "A+ctrl", "A+B"], [40, 25, 30])
    rate = np.full((95, 40), 1.5)
    rate[labels == "A+ctrl", :12] = 4.0
    rate[labels == "A+B", 8:20] = 0.2
    counts = rng.poisson(rate)
    counts[labels == "A+B", 8:11] = 0  # dropouts: silent here, not in control
    counts[labels == "ctrl", 11] = 0
    counts[:, 39] = 0
    return np.log1p(counts), labels


def _brute_force(x, labels, predicted, name, nan, n_top=20):
    """Follow the definitions gene by gene."""
    cells, base = x[labels == name], x[labels == "ctrl"]
    t, c = cells.mean(0), base.mean(0)
    score = [
        stats.ttest_ind(cells[:, g], base[:, g], equal_var=False).statistic
        if cells[:, g].std() + base[:, g].std() > 0
        else 0.0
        for g in range(x.shape[1])
    ]
    order = sorted(range(x.shape[1]), key=lambda g: -abs(score[g]))
    kept = [g for g in order if t[g] != 0 or c[g] == 0]
    found = {}
    for suffix, genes in {"": range(len(t)), "_de": order[:n_top], "_top20_de_non_dropout": kept[:n_top]}.items():
        genes = list(genes)
        for kind, shift in (("pearson", 0 * c), ("pearson_delta", c)):
            one, other = (predicted - shift)[genes], (t - shift)[genes]
            constant = min(one.max() - one.min(), other.max() - other.min()) < 1e-6
            value = (0.0 if nan == "zero" else np.nan) if constant else stats.pearsonr(one, other).statistic
            found[f"{kind}{suffix}"] = value
        found[f"mse{suffix}"] = sum((predicted[g] - t[g]) ** 2 for g in genes) / len(genes)
        found[f"mae{suffix}"] = sum(abs(predicted[g] - t[g]) for g in genes) / len(genes)
    found["delta_size"] = np.sqrt(((predicted - c) ** 2).sum() / ((t - c) ** 2).sum())
    largest = (
        sorted(range(len(t)), key=lambda g: -abs(predicted[g] - c[g]))[:n_top]
        if np.abs(predicted - c).max() > 1e-6
        else []
    )
    found["de_recovery"] = len({*largest} & {*order[:n_top]}) / n_top if largest else np.nan
    return found


@pytest.mark.parametrize("nan", ["zero", "omit"])
@pytest.mark.parametrize("kind", ["noise", "no change", "truth"])
def test_scores_are_those_of_the_definitions(nan, kind):
    x, labels = _screen()
    reference = perturbation_reference(sparse.csr_matrix(x), labels, GENES)
    rng = np.random.default_rng(1)
    for name in ("A+ctrl", "A+B"):
        profile = {
            "noise": x.mean(0) + rng.normal(0, 0.2, 40),
            "no change": reference.control.to_numpy(),
            "truth": reference.means.loc[name].to_numpy(),
        }[kind]
        scores = perturbation_scores(pd.DataFrame([profile], [name], GENES), reference, nan=nan).loc[name]
        expected = _brute_force(x, labels, profile, name, nan)
        assert list(scores.index) == list(expected)
        np.testing.assert_allclose(scores.to_numpy(), list(expected.values()), rtol=1e-5, atol=1e-9)


def test_dropouts_are_left_out_of_their_list_alone():
    x, labels = _screen()
    reference = perturbation_reference(x, labels, GENES)
    silent = {"G8", "G9", "G10"}
    assert silent <= set(reference.de["A+B"])
    assert not silent & set(reference.de_non_dropout["A+B"])
    assert len(reference.de_non_dropout["A+B"]) == 20
    assert "G11" in reference.de["A+ctrl"]  # control is silent, the condition is not: no dropout
    assert "G11" in reference.de_non_dropout["A+ctrl"]


def test_the_two_rules_differ_only_where_a_correlation_is_not_defined():
    x, labels = _screen()
    reference = perturbation_reference(x, labels, GENES)
    same = pd.DataFrame([reference.control.to_numpy()] * 2, ["A+B", "A+ctrl"], GENES)
    zero, omit = (perturbation_scores(same, reference, nan=rule) for rule in ("zero", "omit"))
    changes = [name for name in zero if name.startswith("pearson_delta")]
    assert (zero[changes] == 0).all(axis=None)
    assert omit[changes].isna().all(axis=None)
    pd.testing.assert_frame_equal(zero.drop(columns=changes), omit.drop(columns=changes))
    assert (zero["delta_size"] == 0).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 5.0))
def test_the_correlation_of_changes_knows_direction_and_not_size(seed, size):
    x, labels = _screen()
    reference = perturbation_reference(x, labels, GENES)
    change = reference.means - reference.control
    scores = perturbation_scores(reference.control + size * change, reference)
    np.testing.assert_allclose(scores["pearson_delta"], 1.0)
    np.testing.assert_allclose(scores["delta_size"], size)
    order = np.random.default_rng(seed).permutation(40)
    shuffled = perturbation_scores((reference.control + change).iloc[::-1, order], reference)
    np.testing.assert_allclose(shuffled["mse"], 0.0, atol=1e-12)


def test_what_cannot_be_scored_is_named():
    x, labels = _screen()
    reference = perturbation_reference(x, labels, GENES)
    good = reference.means
    with pytest.raises(ValueError, match="nan must be one of zero, omit"):
        perturbation_scores(good, reference, nan="drop")
    with pytest.raises(ValueError, match="'C' was not measured"):
        perturbation_scores(good.rename({"A+B": "C"}), reference)
    with pytest.raises(ValueError, match="1 genes are not predicted, first 'G3'"):
        perturbation_scores(good.drop(columns="G3"), reference)
    with pytest.raises(ValueError, match="No cell has the condition 'control'"):
        perturbation_reference(x, labels, GENES, control="control")
    with pytest.raises(ValueError, match=r"The gene 'G1' is there 2 times.*var_names_make_unique"):
        perturbation_reference(x, labels, ["G1", "G1", *GENES[2:]])
    for value in (np.nan, np.inf):
        broken = x.copy()
        broken[3, 2] = value
        for matrix in (broken, sparse.csr_matrix(broken)):
            with pytest.raises(ValueError, match=r"1 values of expression are NaN or infinite.* cell 3, gene 'G2'"):
                perturbation_reference(matrix, labels, GENES)
    with pytest.raises(ValueError, match=r"'A\+ctrl' has one cell"):
        perturbation_reference(x[39:41], labels[[0, 40]], GENES)
    with pytest.raises(ValueError, match="39 genes"):
        perturbation_reference(x, labels, GENES[1:])


def test_discrimination_is_the_share_of_others_farther_away():
    genes = ["A", "B", "C", "D"]
    means = pd.DataFrame([[9.0, 0, 1, 1], [0, 9.0, 2, 2], [0, 0, 4, 4]], ["A+ctrl", "B+ctrl", "C+ctrl"], genes)
    reference = PerturbationReference(means, pd.Series(0.0, genes), {}, {})
    np.testing.assert_allclose(perturbation_discrimination(means, reference), 1.0)
    same = pd.DataFrame(np.tile(means.loc["C+ctrl"], (3, 1)), means.index, genes)
    assert perturbation_discrimination(same, reference)["C+ctrl"] == 1.0
    assert perturbation_discrimination(same, reference)["A+ctrl"] < 0.6
    with pytest.raises(ValueError, match="two conditions or more"):
        perturbation_discrimination(means.iloc[:1], reference)
