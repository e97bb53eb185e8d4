from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import scjepa
from scjepa.perturbation import PerturbationSplit, log_normalized

KINDS = ["ctrl", "GENE1+ctrl", "GENE2+ctrl", "GENE1+GENE2", "OUT+ctrl"]


def screen(n: int = 200, n_genes: int = 30, seed: int = 0, kinds: list[str] | None = None) -> ad.AnnData:
    """Return cells in which GENE1 lifts the first third of the genes, GENE2 the second, and OUT stills the last."""
    rng = np.random.default_rng(seed)
    condition = np.array(kinds or KINDS)[np.arange(n) % len(kinds or KINDS)]
    rate = np.full((n, n_genes), 2.0)
    for gene, third, factor in (("GENE1", 0, 3.0), ("GENE2", 1, 3.0), ("OUT", 2, 0.2)):
        touched = [gene in name.split("+") for name in condition]
        rate[np.ix_(touched, np.arange(n_genes) // (n_genes // 3) == third)] *= factor
    counts = rng.poisson(rate).astype(np.int32)
    counts[:, 0] += 1
    obs = pd.DataFrame({"condition": condition, "size": 60.0}, index=[f"c{i}" for i in range(n)])
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)]))


SMALL = {
    "tokens": {"n_tokens": 40},
    "encoder": {"width": 32, "n_layers": 1, "n_heads": 2},
    "perturbation": {"training": {"max_steps": 10, "batch_size": 16, "learning_rate": 3e-3}},
}
QUIET = {"accelerator": "cpu", "progress_bar": False}


def model_of(adata: ad.AnnData, **changes) -> scjepa.CellJEPA:
    scjepa.CellJEPA.setup_anndata(adata)
    return scjepa.CellJEPA(adata, "demo", **{**SMALL, **changes})


@pytest.fixture(scope="module")
def trained() -> scjepa.CellJEPA:
    """Return a model that has learned what GENE1, GENE2 and OUT do alone; not to be changed."""
    model = model_of(
        screen(400), perturbation={"training": {"max_steps": 250, "batch_size": 32, "learning_rate": 3e-3}}
    )
    split = PerturbationSplit(train=["GENE1", "GENE2", "OUT"], test={"combo": ["GENE1+GENE2"]})
    model.train_perturbation(split=split, outside="token", delta_aware=True, size_key="size", **QUIET)
    return model


def test_training_leaves_data_and_embeddings_as_they_are():
    adata = screen()
    before = adata.copy()
    model = model_of(adata)
    model.train(max_steps=3, **QUIET)
    embedding, history = model.get_latent_representation(), dict(model.history)
    model.train_perturbation(outside="token", **QUIET)
    assert np.array_equal(model.get_latent_representation(), embedding)
    assert list(model.history) == list(history)
    assert model.n_steps_ == 3
    assert (adata.X != before.X).nnz == 0
    assert list(adata.obs) == list(before.obs)
    run = model.perturbation_
    assert run.n_steps == 10
    assert run.outside == ("OUT",)
    assert {"reconstruction_loss", "jepa_loss", "contrast_loss", "validation_loss"} <= set(run.history)
    assert "delta_loss" not in run.history
    assert len(run.history["loss"]) == 10


def test_changes_are_learned_and_told_in_the_right_direction(trained):
    adata = trained.adata
    predicted = trained.predict_perturbation(["GENE1", "GENE2", "OUT"], method="network")
    expression = log_normalized(adata, size_key="size", target_sum=60.0).toarray()
    assert trained.perturbation_.target_sum == 60.0
    labels = adata.obs["condition"].to_numpy()
    for row, name in enumerate(["GENE1+ctrl", "GENE2+ctrl", "OUT+ctrl"]):
        change = expression[labels == name].mean(0) - expression[labels == "ctrl"].mean(0)
        found = predicted.X[row] - predicted.layers["control"][row]
        assert np.corrcoef(change, found)[0, 1] > 0.8
    assert predicted.shape == (3, 30)
    assert predicted.X.dtype == np.float32
    assert list(predicted.obs["condition"]) == ["GENE1", "GENE2", "OUT"]


def test_orders_and_names_of_a_condition_are_one(trained):
    one, two, three = (
        trained.predict_perturbation([name], method="network").X for name in ("GENE1+GENE2", "GENE2+GENE1", "GENE1")
    )
    assert np.array_equal(one, two)
    assert not np.allclose(one, three)
    assert np.array_equal(three, trained.predict_perturbation(["ctrl+GENE1"], method="network").X)
    assert np.array_equal(three[0], trained.predict_perturbation(["GENE2", "GENE1"], method="network").X[1])
    np.testing.assert_allclose(
        trained.predict_perturbation(["GENE1"], batch_size=7, method="network").X, three, rtol=1e-4, atol=1e-5
    )


def test_cells_are_predicted_from_control_cells_of_their_own(trained):
    found = trained.predict_perturbation(["GENE1", "ctrl"], n_cells=12, method="network")
    assert found.shape == (24, 30)
    cells = found.obs["control_cell"].to_numpy()
    assert (trained.adata.obs.loc[cells, "condition"] == "ctrl").all()
    assert list(cells[:12]) == list(cells[12:])
    assert len(set(cells)) == 12
    expression = log_normalized(trained.adata, size_key="size", target_sum=60.0).toarray()
    where = trained.adata.obs_names.get_indexer(cells)
    np.testing.assert_allclose(found.layers["control"], expression[where], rtol=1e-5)
    assert found.obs_names.is_unique
    with pytest.raises(ValueError, match="n_cells=1000 control cells were asked for, and there are 80"):
        trained.predict_perturbation(["GENE1"], n_cells=1000, method="network")


def test_other_control_cells_whatever_the_order_of_their_genes(trained):
    own = trained.predict_perturbation(["GENE2"], method="network")
    controls = trained.adata[trained.adata.obs["condition"] == "ctrl"].copy()
    shuffled = controls[:, ::-1].copy()
    np.testing.assert_allclose(
        trained.predict_perturbation(["GENE2"], controls=shuffled, method="network").X, own.X, rtol=1e-4, atol=1e-5
    )
    del controls.obs["condition"]  # all of them are control
    np.testing.assert_allclose(
        trained.predict_perturbation(["GENE2"], controls=controls, method="network").X, own.X, rtol=1e-4, atol=1e-5
    )


def test_a_loaded_model_predicts_the_same_and_knows_its_split(trained, tmp_path):
    trained.save(tmp_path / "model")
    loaded = scjepa.CellJEPA.load(tmp_path / "model", trained.adata.copy(), accelerator="cpu")
    wanted = ["GENE1+GENE2", "OUT"]
    assert np.array_equal(
        loaded.predict_perturbation(wanted, method="network").X,
        trained.predict_perturbation(wanted, method="network").X,
    )
    run, other = loaded.perturbation_, trained.perturbation_
    assert run.split == other.split
    assert run.split.test == {"combo": ("GENE1+GENE2",)}
    assert all(run.history[name].equals(other.history[name]) for name in other.history)
    loaded.train_perturbation(outside="token", max_epochs=1, **QUIET)
    assert loaded.perturbation_.split.kind == "all"


def test_runs_repeat():
    def run():
        model = model_of(screen())
        model.train_perturbation(outside="token", **QUIET)
        return model._further["perturbation."].state_dict()

    one, two = run(), run()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_test_conditions_take_no_part():
    def run(change):
        adata = screen()
        if change:
            rows = np.flatnonzero(adata.obs["condition"] == "GENE1+GENE2")
            adata.X[rows] = adata.X[rows][:, ::-1]
        model = model_of(adata)
        split = PerturbationSplit(train=["GENE1", "OUT"], validation=["GENE2"], test={"mine": ["GENE1+GENE2"]})
        model.train_perturbation(split=split, outside="token", delta_aware=True, size_key="size", **QUIET)
        assert set(adata.obs["condition"].iloc[model.trainer.lightning_module.train_cells]) == {
            "ctrl",
            "GENE1+ctrl",
            "OUT+ctrl",
        }
        assert set(adata.obs["condition"].iloc[model.trainer.lightning_module.monitor_cells]) == {"GENE2+ctrl"}
        return model._further["perturbation."].state_dict()

    one, two = run(False), run(True)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_simulation_split_is_made_and_kept():
    kinds = ["ctrl", *(f"GENE{i}+ctrl" for i in range(8)), "GENE1+GENE2"]
    model = model_of(screen(kinds=kinds))
    model.train_perturbation(split="simulation", **QUIET)
    split = model.perturbation_.split
    assert split == scjepa.perturbation.simulation_split(kinds)
    assert set(model.perturbation_.conditions) == {"ctrl", *split.train}


def test_a_panel_larger_than_a_batch_s_cells_is_predicted_whole():
    model = model_of(screen(), tokens={"n_tokens": 12})
    model.train_perturbation(outside="token", **QUIET)
    found = model.predict_perturbation(["GENE1", "GENE1+OUT"], method="network")
    assert found.shape == (2, 30)
    assert np.isfinite(found.X).all()
    assert (found.X != 0).all()
    one = model.predict_perturbation(["GENE1+OUT"], batch_size=5, method="network")
    np.testing.assert_allclose(one.X[0], found.X[1], rtol=1e-4, atol=1e-5)


def test_genes_outside_the_panel_are_named(trained):
    model = model_of(screen())
    with pytest.raises(ValueError, match=r"'OUT' are not among the 30 genes of the panel.*outside='token'"):
        model.train_perturbation(**QUIET)
    with pytest.raises(ValueError, match="'error' or 'token'"):
        model.train_perturbation(outside="drop", **QUIET)
    with pytest.raises(ValueError, match="'NOVEL'"):
        trained.predict_perturbation(["NOVEL+GENE1"], method="network")
    split = PerturbationSplit(train=["GENE1", "GENE2", "GENE1+GENE2"], test={"single": ["OUT"]})
    model.train_perturbation(split=split, outside="token", **QUIET)
    with pytest.warns(UserWarning, match="'OUT'.*their vectors are random"):
        model.predict_perturbation(["OUT"], method="network")


def _relabelled(old, new):
    adata = screen()
    adata.obs["condition"] = adata.obs["condition"].str.replace(old, new, regex=False)
    return adata


def _without_control_counts():
    adata = screen()
    adata.X = sparse.csr_matrix(adata.X.toarray() * (adata.obs["condition"] != "ctrl").to_numpy()[:, None])
    return adata


@pytest.mark.parametrize(
    ("adata", "options", "message"),
    [
        (_relabelled("+GENE2", "_GENE2"), {}, r"'GENE1_GENE2'.*convert_conditions\(adata.obs\['condition'\], separa"),
        (_relabelled("ctrl", "NT"), {}, r"'GENE1\+NT'|'NT'.*control='NT'"),
        (screen(kinds=["GENE1+ctrl", "GENE2"]), {}, "No cell has the condition 'ctrl'"),
        (screen(), {"split": "random"}, "'simulation', a PerturbationSplit or None"),
        (screen(), {"split": PerturbationSplit(train=["GENE1"])}, "no place for 3 conditions"),
        (screen(), {"validation": "cell", "outside": "token"}, "Name validation conditions"),
        (screen(), {"target_sum": 0, "outside": "token"}, "target_sum must be a positive number"),
        (_without_control_counts(), {"outside": "token"}, "Of 40 control cells none is left to train on"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_with_the_next_call(adata, options, message):
    with pytest.raises(ValueError, match=message):
        model_of(adata).train_perturbation(**{**QUIET, **options})


def test_predicting_wants_training_a_list_and_control_cells(trained, tmp_path):
    model = model_of(screen())
    with pytest.raises(ValueError, match="train_perturbation"):
        model.predict_perturbation(["GENE1"], method="network")
    with pytest.raises(KeyError, match="guide"):
        model.train_perturbation("guide", **QUIET)
    with pytest.raises(ValueError, match="must be a list"):
        trained.predict_perturbation("GENE1", method="network")
    with pytest.raises(ValueError, match="must be positive"):
        trained.predict_perturbation(["GENE1"], n_cells=0, method="network")
    with pytest.raises(ValueError, match="not in the grammar of GEARS"):
        trained.predict_perturbation(["GENE1_GENE2"], method="network")
    trained.save(tmp_path / "model")
    bare = trained.adata.copy()
    del bare.obs["condition"]
    loaded = scjepa.CellJEPA.load(tmp_path / "model", bare, accelerator="cpu")
    with pytest.raises(ValueError, match="Pass them: predict_perturbation"):
        loaded.predict_perturbation(["GENE1"], method="network")


def test_control_cells_are_found_wherever_they_are(trained, tmp_path):
    expected = trained.predict_perturbation(["GENE1"], method="network")
    trained.save(tmp_path / "model")
    controls = trained.adata[trained.adata.obs["condition"] == "ctrl"].copy()
    alone = scjepa.CellJEPA.load(tmp_path / "model", controls, accelerator="cpu")
    np.testing.assert_array_equal(alone.predict_perturbation(["GENE1"], method="network").X, expected.X)
    trained.adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    np.testing.assert_array_equal(
        trained.predict_perturbation(["GENE1"], controls=backed, method="network").X, expected.X
    )
    loaded = scjepa.CellJEPA.load(tmp_path / "model", backed, accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict_perturbation(["GENE1"], method="network").X, expected.X)


def test_what_control_cells_lack_is_told(trained):
    without = trained.adata.copy()
    del without.obs["size"]
    with pytest.warns(UserWarning, match=r"no obs\['size'\], by which expression was normalized"):
        found = trained.predict_perturbation(["GENE1"], n_cells=4, controls=without, method="network")
    np.testing.assert_array_equal(found.X, trained.predict_perturbation(["GENE1"], n_cells=4, method="network").X)
    adata = screen()
    adata.layers["counts"] = adata.X.copy()
    scjepa.CellJEPA.setup_anndata(adata, layer="counts")
    model = scjepa.CellJEPA(adata, "demo", **SMALL)
    model.train_perturbation(outside="token", max_steps=1, **QUIET)
    with pytest.raises(KeyError, match=r"setup_anndata\(adata, layer=\.\.\.\), or without a layer"):
        model.predict_perturbation(["GENE1"], controls=screen(), method="network")
    with pytest.raises(TypeError, match="read_h5ad"):
        model.predict_perturbation(["GENE1"], controls="cells.h5ad", method="network")


def test_the_share_that_is_held_out_is_the_one_asked_for():
    for options in ({"validation_size": 0.4}, {"plan_kwargs": {"validation_size": 0.4}}):
        model = model_of(screen())
        model.train_perturbation(outside="token", max_steps=1, **options, **QUIET)
        assert len(model.trainer.lightning_module.monitor_cells) == 80
    with pytest.raises(ValueError, match=r"validation_size must lie in \[0.0, 0.5\]"):
        model.train_perturbation(outside="token", validation_size=1.5, **QUIET)


def test_a_share_is_not_held_out_beside_validation_conditions():
    model = model_of(screen())
    split = PerturbationSplit(train=["GENE1", "OUT"], validation=["GENE2"], test={"combo": ["GENE1+GENE2"]})
    with pytest.raises(ValueError, match="leave validation_size out"):
        model.train_perturbation(split=split, outside="token", validation_size=0.2, **QUIET)


def test_resuming_is_exact(tmp_path):
    def run(**options):
        model = model_of(screen())
        model.train_perturbation(outside="token", **options, **QUIET)
        return model._further["perturbation."].state_dict()

    whole = run()
    run(max_steps=10, checkpoint_dir=tmp_path, checkpoint_every=5)
    resumed = run(ckpt_path=tmp_path / "last.ckpt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


NAMED = {
    "symbols": ([f"ENSG{i:011d}" for i in range(30)], r"adata\.var\['gene_name'\] has 3 of them"),
    "another case": (
        [f"Gene{i}" for i in range(30)],
        r"differs in case or Ensembl version, such as 'GENE1' by 'Gene1'",
    ),
}


@pytest.mark.parametrize("how", NAMED)
def test_genes_that_the_data_call_otherwise_are_told_with_the_call_that_renames_them(how):
    names, told = NAMED[how]
    adata = screen(kinds=["ctrl", "GENE1+ctrl", "GENE2+ctrl", "GENE1+GENE3"])
    if how == "symbols":
        adata.var["gene_name"] = adata.var_names
    adata.var_names = names
    model = model_of(adata)
    with pytest.raises(ValueError, match=f"{told}.*convert_conditions") as error:
        model.train_perturbation(max_steps=1, **QUIET)
    with pytest.warns(UserWarning, match="trained as genes that were not measured.*convert_conditions"):
        model.train_perturbation(max_steps=1, outside="token", **QUIET)
    call = str(error.value).partition("Take the data's names: ")[2].partition(". Or leave")[0]
    exec(call, {"adata": adata, "scjepa": scjepa})
    model.train_perturbation(max_steps=1, **QUIET)
    assert model.perturbation_.outside == ()
    assert f"{names[1]}+ctrl" in model.perturbation_.conditions


def test_names_to_predict_are_told_by_the_model(trained):
    with pytest.raises(ValueError, match=r"'gene1' by 'GENE1'.*genes=model\.perturbation_\.genes") as error:
        trained.predict_perturbation(["gene1"], method="network")
    call = str(error.value).partition("Take the data's names: ")[2].partition(". Or leave")[0]
    space = {"conditions": ["gene1"], "model": trained, "scjepa": scjepa}
    exec(call, space)
    expected = trained.predict_perturbation(["GENE1"], method="network")
    np.testing.assert_array_equal(trained.predict_perturbation(space["conditions"], method="network").X, expected.X)
