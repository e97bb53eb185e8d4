from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scjepa.perturbation import PERTURBATION_BASELINES, predict_baselines
from scjepa.perturbation.baselines import additive, linear

GENES = [f"G{i}" for i in range(15)]


@pytest.fixture
def control():
    return pd.Series(np.random.default_rng(0).uniform(1, 3, 15), index=GENES)


@pytest.fixture
def means(control):
    """Return means of singles of panel genes and of genes beside it, and of one combo."""
    rng = np.random.default_rng(1)
    names = ["G0+ctrl", "G1+ctrl", "G2+ctrl", "X+ctrl", "G0+G1"]
    return pd.DataFrame(control.to_numpy() + rng.normal(0, 0.5, (5, 15)), names, GENES)


def test_all_are_there_and_have_a_row_for_each_condition(means, control):
    wanted = ["G0+G2", "G9+ctrl", "G0+G9", "G0+X"]
    found = predict_baselines(means, control, wanted)
    assert list(found) == list(PERTURBATION_BASELINES)
    for table in found.values():
        assert list(table.index) == wanted
        assert list(table.columns) == GENES
        assert np.isfinite(table.to_numpy()).all()
    assert (found["no_change"] == control).all(axis=None)
    np.testing.assert_allclose(found["train_mean"], np.tile(means.mean(), (4, 1)))


def test_additive_adds_what_singles_change(means, control):
    found = additive(means, control, ["G2+X", "G0+ctrl", "G1+G9"])
    change = means - control
    np.testing.assert_allclose(found.loc["G2+X"], control + change.loc["G2+ctrl"] + change.loc["X+ctrl"])
    np.testing.assert_allclose(found.loc["G0+ctrl"], means.loc["G0+ctrl"])
    usual = change.iloc[:4].mean()  # of the singles: the combo is none
    np.testing.assert_allclose(found.loc["G1+G9"], means.loc["G1+ctrl"] + usual)
    zero = additive(means, control, ["G1+G9", "G8+G9"], unseen="zero")
    np.testing.assert_allclose(zero.loc["G1+G9"], means.loc["G1+ctrl"])
    np.testing.assert_allclose(zero.loc["G8+G9"], control)
    with pytest.raises(ValueError, match="'mean' or 'zero'"):
        additive(means, control, ["G0"], unseen="none")


def test_additive_without_singles_takes_the_mean_of_all(means, control):
    found = additive(means.loc[["G0+G1"]], control, ["G3"])
    np.testing.assert_allclose(found.loc["G3"], means.loc["G0+G1"])


def test_linear_is_the_ridge_solution(means, control):
    """The same minimum by gradient-free algebra on the whole problem, weights as one long vector."""
    k, ridge = 2, 0.3
    found = linear(means, control, ["G5+ctrl", "G0+G2"], n_components=k, ridge=ridge)
    y = means.to_numpy().T
    b = y.mean(1)
    left, size, _ = np.linalg.svd(y - y.mean(0), full_matrices=False)
    g = left[:, :k] * size[:k]
    p = np.stack([g[0], g[1], g[2], g[0] + g[1]])
    target = y[:, [0, 1, 2, 4]] - b[:, None]
    # (G'G + r) W (P'P + r) = G' Y P
    system = np.kron(g.T @ g + ridge * np.eye(k), p.T @ p + ridge * np.eye(k))
    w = np.linalg.solve(system, (g.T @ target @ p).ravel()).reshape(k, k)
    np.testing.assert_allclose(found.loc["G5+ctrl"], b + g @ w @ g[5], rtol=1e-8)
    np.testing.assert_allclose(found.loc["G0+G2"], b + g @ w @ (g[0] + g[2]), rtol=1e-8)


def test_linear_finds_a_structure_that_is_there():
    """Where changes are bilinear in the genes' vectors, an unseen single is predicted better than by the mean."""
    rng = np.random.default_rng(3)
    genes = [f"G{i}" for i in range(60)]
    factors, mixing = rng.normal(size=(60, 3)), rng.normal(size=(3, 3))
    names = [f"{gene}+ctrl" for gene in genes[:40]]
    truth = pd.DataFrame(factors @ mixing @ factors[:40].T, genes, names).T
    found = linear(truth.iloc[:30], pd.Series(0.0, genes), names[30:], n_components=3)
    error = ((found - truth.iloc[30:]) ** 2).to_numpy().mean()
    usual = ((truth.iloc[:30].mean() - truth.iloc[30:]) ** 2).to_numpy().mean()
    assert error < 0.1 * usual


def test_linear_of_genes_outside_the_panel_is_the_train_mean(means, control):
    outside = means.loc[["X+ctrl"]].rename({"X+ctrl": "Y+ctrl"})
    found = linear(pd.concat([means.loc[["X+ctrl"]], outside]), control, ["Z", "X+ctrl"])
    np.testing.assert_allclose(found, np.tile(means.loc["X+ctrl"], (2, 1)))


def test_control_is_no_training_condition(means, control):
    with pytest.raises(ValueError, match="Control is among"):
        predict_baselines(means.rename({"X+ctrl": "ctrl"}), control, ["G0"])
    with pytest.raises(ValueError, match="no training condition"):
        predict_baselines(means.iloc[:0], control, ["G0"])


def test_genes_that_the_panel_has_by_another_name_are_told():
    means = pd.DataFrame([[1.0, 2.0], [2.0, 1.0]], index=["GENE1+ctrl", "GENE2+ctrl"], columns=["Gene1", "Gene2"])
    with pytest.warns(UserWarning, match=r"'GENE1' by 'Gene1'.*convert_conditions"):
        predict_baselines(means, means.mean(), ["GENE1+GENE2"])
