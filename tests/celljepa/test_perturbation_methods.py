from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tests.celljepa.test_perturbation import QUIET, model_of, screen

import scjepa
from scjepa.perturbation import PerturbationSplit, PerturbationStack, condition_profiles

WANTED = ["GENE1+GENE2", "GENE1"]


def trained_model(validation: list[str], **options) -> scjepa.CellJEPA:
    model = model_of(screen(300), perturbation={"training": {"max_steps": 4, "batch_size": 16}})
    test = {} if validation else {"combo": ["GENE1+GENE2"]}
    split = PerturbationSplit(train=["GENE1", "GENE2", "OUT"], validation=validation, test=test)
    held = {} if validation else {"validation_size": 0.0}
    model.train_perturbation(split=split, outside="token", size_key="size", **held, **options, **QUIET)
    return model


@pytest.fixture(scope="module")
def model() -> scjepa.CellJEPA:
    """Return a model whose network has learned nothing yet; not to be changed."""
    return trained_model([])


def test_the_default_is_the_stack_of_the_cells_trained_on(model):
    train = ["GENE1", "GENE2", "OUT"]
    known = condition_profiles(model.adata, conditions=train, size_key="size", target_sum=60.0)
    expected, std = PerturbationStack().fit(known.means, known.control, known.noise).predict(WANTED, return_std=True)
    found = model.predict_perturbation(WANTED)
    np.testing.assert_allclose(found.X, expected[list(found.var_names)], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.layers["error"], std[list(found.var_names)], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.layers["control"][0], known.control[list(found.var_names)], rtol=1e-4)
    assert list(found.obs["n_controls"]) == [known.n_cells["ctrl"]] * 2
    assert model.perturbation_.network_weight == 0.0


def test_methods_are_the_columns_and_the_network(model):
    known = model.perturbation_.stack
    for name in ("mean", "additive", "linear", "usual", "genes", "no_change"):
        found = model.predict_perturbation(WANTED, method=name)
        np.testing.assert_allclose(found.X, known.predict(WANTED, method=name), rtol=1e-4, atol=1e-5)
        assert "error" not in found.layers
    network, stack = (model.predict_perturbation(WANTED, method=name) for name in ("network", "stack"))
    assert not np.allclose(network.X, stack.X, atol=1e-3)
    with pytest.raises(ValueError, match=r"one of 'network', 'stack', .*found 'median'"):
        model.predict_perturbation(WANTED, method="median")


def test_cells_change_as_their_condition_does(model):
    one, cells = model.predict_perturbation(WANTED), model.predict_perturbation(WANTED, n_cells=5)
    change = np.repeat(one.X - one.layers["control"], 5, axis=0)
    np.testing.assert_allclose(cells.X - cells.layers["control"], change, atol=1e-5)
    assert cells.obs["control_cell"].isin(model.adata.obs_names[model.adata.obs["condition"] == "ctrl"]).all()


def test_a_saved_model_predicts_the_same(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = scjepa.CellJEPA.load(tmp_path / "model", model.adata)
    for method in ("stack", "additive", "network"):
        one, two = (each.predict_perturbation(WANTED, method=method) for each in (model, loaded))
        assert np.array_equal(one.X, two.X)
    pd.testing.assert_frame_equal(loaded.perturbation_.stack.scores_, model.perturbation_.stack.scores_)


def test_the_network_has_a_share_between_nothing_and_all():
    model = trained_model(["GENE1+GENE2"])
    share = model.perturbation_.network_weight
    assert 0.0 <= share <= 1 / 6  # one condition against five that say nothing
    stack, network = (model.predict_perturbation(WANTED, method=name) for name in ("stack", "network"))
    closed = model.perturbation_.stack.predict(WANTED).to_numpy()
    np.testing.assert_allclose(stack.X, closed + share * (network.X - closed), rtol=1e-3, atol=1e-4)


def test_vectors_of_genes_are_a_column():
    vectors = pd.DataFrame(np.eye(3), ["GENE1", "GENE2", "OUT"])
    model = trained_model([], vectors=vectors)
    assert "vectors" in model.perturbation_.stack.weights_
    assert model.predict_perturbation(WANTED, method="vectors").shape == (2, 30)
