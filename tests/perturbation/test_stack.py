from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scjepa.perturbation import (
    PERTURBATION_COLUMNS,
    PerturbationStack,
    condition_profiles,
    gene_set_vectors,
    log_normalized,
)

GENES = [f"G{i}" for i in range(40)]


def screen(seed: int = 0, n_singles: int = 12, loss: float = 0.0) -> tuple[pd.DataFrame, pd.Series, pd.DataFrame]:
    """Return means in which genes' effects add up about a usual change, with noise; a gene may lose its expression."""
    rng = np.random.default_rng(seed)
    control = pd.Series(rng.uniform(1, 3, 40), GENES)
    usual, effects = rng.normal(0, 0.2, 40), rng.normal(0, 0.3, (n_singles, 40))
    rows = {}
    for i in range(n_singles):
        rows[f"G{i}+ctrl"] = usual + effects[i]
    for i in range(0, n_singles - 1, 2):
        rows[f"G{i}+G{i + 1}"] = 1.5 * usual + effects[i] + effects[i + 1]
    changes = pd.DataFrame.from_dict(rows, orient="index", columns=GENES) + rng.normal(0, 0.05, (len(rows), 40))
    for name in changes.index:
        for gene in set(name.split("+")) - {"ctrl"}:
            changes.loc[name, gene] -= loss * control[gene]
    return changes + control, control, pd.DataFrame(0.0025, changes.index, GENES)


def error(predicted: pd.DataFrame, truth: pd.DataFrame) -> float:
    return float(((predicted - truth.loc[predicted.index]) ** 2).to_numpy().mean())


def test_combos_of_seen_genes_are_predicted_from_what_is_known_of_them():
    means, control, noise = screen()
    wanted = ["G0+G1", "G4+G5"]
    train = [name for name in means.index if name not in wanted]
    stack = PerturbationStack().fit(means.loc[train], control, noise)
    found = stack.predict(wanted)
    assert list(found.index) == wanted
    assert list(found.columns) == GENES
    assert [stack.kind_of(name) for name in wanted] == ["combo_seen2"] * 2
    for column in ("mean", "usual"):
        assert error(found, means) < 0.3 * error(stack.predict(wanted, method=column), means)


def test_what_is_known_of_no_gene_is_the_usual_change_not_more():
    means, control, noise = screen()
    stack = PerturbationStack().fit(means, control, noise)
    found, usual = stack.predict(["X"]), stack.predict(["X"], method="usual")
    assert np.linalg.norm(found - control) <= np.linalg.norm(usual - control) * 1.01
    assert np.corrcoef(found.loc["X"] - control, usual.loc["X"] - control)[0, 1] > 0.95


def test_one_strong_condition_is_not_the_usual_change():
    means, control, noise = screen()
    means.loc["G0+ctrl"] += 5.0
    stack = PerturbationStack().fit(means, control, noise)
    away = {name: np.abs(stack.predict(["X"], method=name) - control).to_numpy().mean() for name in ("usual", "mean")}
    assert away["usual"] < 0.7 * away["mean"]


def test_a_knocked_out_gene_loses_its_own_expression():
    means, control, noise = screen(loss=0.8)
    stack = PerturbationStack().fit(means.drop(index=["G3+ctrl", "G2+G3"]), control, noise)
    found = stack.predict(["G3", "OUT"])
    assert found.loc["G3", "G3"] < 0.5 * found.loc["OUT", "G3"]
    others = [gene for gene in GENES if gene != "G3"]
    np.testing.assert_allclose(found.loc["G3", others], found.loc["OUT", others])


def test_weights_are_shrunk_and_scores_name_all_columns():
    means, control, noise = screen()
    stack = PerturbationStack().fit(means, control, noise)
    columns = [name for name in PERTURBATION_COLUMNS if name != "vectors"]
    assert list(stack.weights_) == [*columns, "own"]
    assert (stack.weights_ >= 0).all(axis=None)
    assert (stack.weights_[columns].sum(axis=1) <= 1 + 1e-9).all()
    assert set(stack.scores_.index.get_level_values("column")) == {*columns, "stack"}
    best = stack.scores_["mae"].unstack("column").drop(columns="stack").min(axis=1)
    assert (stack.scores_["mae"].unstack("column")["stack"] < 1.1 * best).all()


def test_measured_conditions_are_what_was_measured_shrunk_by_noise():
    means, control, noise = screen()
    clean = PerturbationStack().fit(means, control).predict(["G1", "G1+G0", "ctrl"])
    np.testing.assert_allclose(clean.loc[["G1"]], means.loc[["G1+ctrl"]])
    np.testing.assert_allclose(clean.loc[["G1+G0"]], means.loc[["G0+G1"]])
    np.testing.assert_allclose(clean.loc["ctrl"], control)
    usual = PerturbationStack().fit(means, control, noise * 1e4)
    np.testing.assert_allclose(usual.predict(["G1"]), usual.predict(["G1"], method="usual"))


def test_errors_are_of_the_size_of_errors():
    means, control, noise = screen(n_singles=20)
    test = [f"G{i}+ctrl" for i in range(14, 20)]
    train = [name for name in means.index if not any(f"G{i}" in name.split("+") for i in range(14, 20))]
    found, std = PerturbationStack().fit(means.loc[train], control, noise).predict(test, return_std=True)
    inside = (np.abs(found - means.loc[test]) < 1.645 * std).to_numpy().mean()
    assert 0.8 < inside < 0.99
    assert std.shape == found.shape


def test_vectors_tell_of_genes_that_were_never_perturbed():
    rng = np.random.default_rng(5)
    control = pd.Series(2.0, GENES)
    kinds, changes = np.repeat([0, 1], 8), rng.normal(0, 0.5, (2, 40))
    names = [f"P{i}+ctrl" for i in range(16)]
    means = pd.DataFrame(changes[kinds] + rng.normal(0, 0.1, (16, 40)), names, GENES) + control
    sets = {"one": [f"P{i}" for i in range(8)], "two": [f"P{i}" for i in range(8, 16)]}
    vectors = gene_set_vectors(sets, [f"P{i}" for i in range(16)])
    train = [name for name in names if name not in ("P3+ctrl", "P12+ctrl")]
    known = PerturbationStack().fit(means.loc[train], control, vectors=vectors)
    blind = PerturbationStack().fit(means.loc[train], control)
    wanted = ["P3+ctrl", "P12+ctrl"]
    assert error(known.predict(wanted), means) < 0.5 * error(blind.predict(wanted), means)


def test_order_of_conditions_and_genes_makes_no_difference():
    means, control, noise = screen()
    one = PerturbationStack().fit(means, control, noise).predict(["G0+X", "X"])
    turned = means.iloc[::-1, ::-1]
    other = PerturbationStack().fit(turned, control, noise).predict(["X+G0", "X"])
    np.testing.assert_allclose(other[GENES], one, rtol=1e-6)


def test_from_arrays_predicts_the_same():
    means, control, noise = screen()
    vectors = pd.DataFrame(np.random.default_rng(0).normal(size=(12, 3)), GENES[:12])
    stack = PerturbationStack().fit(means, control, noise, vectors=vectors)
    other = PerturbationStack.from_arrays(stack.arrays())
    wanted = ["G0+G9", "X", "G1", "G30"]
    for one, two in zip(stack.predict(wanted, return_std=True), other.predict(wanted, return_std=True), strict=True):
        pd.testing.assert_frame_equal(one, two)
    pd.testing.assert_frame_equal(stack.weights_, other.weights_)
    pd.testing.assert_frame_equal(stack.scores_, other.scores_)


def test_one_condition_is_enough():
    means, control, noise = screen()
    stack = PerturbationStack().fit(means.iloc[:1], control, noise)
    assert np.isfinite(stack.predict(["X", "G0+X", "G0"])).all(axis=None)


def test_profiles_are_means_and_their_sampling_variance():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"condition": np.repeat(["ctrl", "G1", "G1+G2"], [20, 10, 5])}, [f"c{i}" for i in range(35)])
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(3, (35, 6))), obs=obs, var=pd.DataFrame(index=GENES[:6]))
    found = condition_profiles(adata)
    x, label = log_normalized(adata).toarray(), obs["condition"].to_numpy()
    np.testing.assert_allclose(found.means.loc["G1+ctrl"], x[label == "G1"].mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.noise.loc["G1+G2"], x[label == "G1+G2"].var(0, ddof=1) / 5, rtol=1e-4)
    np.testing.assert_allclose(found.control, x[label == "ctrl"].mean(0), rtol=1e-5)
    assert found.n_cells.to_dict() == {"G1+G2": 5, "G1+ctrl": 10, "ctrl": 20}
    part = condition_profiles(adata, conditions=["G1"])
    assert list(part.means.index) == ["G1+ctrl"]
    assert part.target_sum == np.median(adata.X.toarray()[label != "G1+G2"].sum(axis=1))
    with pytest.raises(ValueError, match=r"No cell .* has the condition 'G5\+ctrl'"):
        condition_profiles(adata, conditions=["G5"])


def test_what_does_not_fit_is_refused_by_name():
    means, control, noise = screen()
    with pytest.raises(ValueError, match="must be some of 'mean'"):
        PerturbationStack(["median"])
    with pytest.raises(ValueError, match="needs vectors"):
        PerturbationStack(["vectors"]).fit(means, control)
    with pytest.raises(ValueError, match="Call fit"):
        PerturbationStack().predict(["G1"])
    with pytest.raises(ValueError, match="no training condition"):
        PerturbationStack().fit(means.iloc[:0], control)
    with pytest.raises(ValueError, match="Control is among"):
        PerturbationStack().fit(means.rename(index={"G0+ctrl": "ctrl"}), control)
    with pytest.raises(ValueError, match="is there 2 times"):
        PerturbationStack().fit(means.rename(index={"G0+ctrl": "G1"}), control)
    with pytest.raises(ValueError, match="not in control, first 'G0'"):
        PerturbationStack().fit(means, control.iloc[1:])
    with pytest.raises(ValueError, match="no row in noise"):
        PerturbationStack().fit(means, control, noise.iloc[1:])
    with pytest.raises(ValueError, match="NaN"):
        PerturbationStack().fit(means.mask(means > 3.0), control)
    stack = PerturbationStack().fit(means, control)
    with pytest.raises(ValueError, match=r"one of 'mean', .*found 'network'"):
        stack.predict(["G1"], method="network")
    with pytest.raises(ValueError, match="no error of its own"):
        stack.predict(["G1"], method="mean", return_std=True)
    with pytest.raises(ValueError, match="must be a list"):
        stack.predict("G1")
    with pytest.raises(ValueError, match="is in one of 1 sets"):
        gene_set_vectors({"one": ["g1"]}, ["G1"])


@pytest.mark.parametrize(
    ("wanted", "kind", "message"),
    [
        (None, ValueError, "must be a list"),
        (["G1", "G2", "G1"], ValueError, "'G1' is named 2 times"),
        (["G1", float("nan")], TypeError, "must be texts"),
        (["A B"], ValueError, "convert_conditions"),
    ],
)
def test_what_cannot_be_predicted_is_named(wanted, kind, message):
    means, control, _ = screen()
    with pytest.raises(kind, match=message):
        PerturbationStack().fit(means, control).predict(wanted)


def test_genes_by_other_names_are_told_of():
    means, control, _ = screen()
    stack = PerturbationStack().fit(means, control)
    with pytest.warns(UserWarning, match=r"'g30', are not known.*'g30' by 'G30'.*convert_conditions"):
        stack.predict(["g30"])
    with pytest.warns(UserWarning, match=r"None of the 12 perturbed genes, first 'G0', has a vector.*'g0', 'g1'"):
        PerturbationStack().fit(means, control, vectors=pd.DataFrame(np.eye(2), ["g0", "g1"]))


def test_cells_without_counts_and_genes_that_occur_twice_are_told_of():
    rng = np.random.default_rng(0)
    cells = ad.AnnData(
        rng.poisson(3.0, (60, 5)).astype(np.float32),
        obs=pd.DataFrame({"condition": ["ctrl", "G1", "G2"] * 20}, index=[f"c{i}" for i in range(60)]),
        var=pd.DataFrame(index=[f"G{i}" for i in range(5)]),
    )
    few = condition_profiles(cells[3:].copy())
    cells.X[:3] = 0
    with pytest.warns(UserWarning, match="3 cells have no counts, first 'c0'; they are left out"):
        found = condition_profiles(cells)
    pd.testing.assert_frame_equal(found.means, few.means)
    cells.X[::3] = 0
    with pytest.raises(ValueError, match="No control cell has counts"), pytest.warns(UserWarning, match="no counts"):
        condition_profiles(cells)
    cells.var_names = ["G0", "G0", *cells.var_names[2:]]
    with pytest.raises(ValueError, match="not unique"):
        condition_profiles(cells)
    with pytest.raises(ValueError, match="There are no cells"):
        condition_profiles(cells[:0].copy())
