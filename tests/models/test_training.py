from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

import scjepa


def _weights(model):
    return {k: v.clone() for k, v in model.module.state_dict().items()}


def test_history_has_the_curves_from_before_training_to_its_end(trained):
    model, _ = trained
    for name in ("loss", "token_loss", "validation_loss", "effective_rank", "mean_cosine", "loss_ratio"):
        assert name in model.history
        assert model.history[name].columns.tolist() == [name]
    assert len(model.history["loss"]) == 12
    assert model.history["effective_rank"].index[0] == 0
    assert model.history["momentum"].iloc[0, 0] == pytest.approx(0.99)
    assert model.history["momentum"].iloc[-1, 0] == pytest.approx(1.0)
    assert model.diagnose().verdict != "untrained"


def test_training_lowers_the_loss(make_tissue, make_model):
    model = make_model(make_tissue(200))
    model.train(max_steps=150, accelerator="cpu", progress_bar=False)
    loss = model.history["validation_loss"]["validation_loss"]
    assert loss.iloc[-1] < 0.8 * loss.iloc[0]


def test_training_goes_on_where_it_stopped(adata, make_model):
    model = make_model(adata)
    model.train(max_steps=4, accelerator="cpu", progress_bar=False)
    model.train(max_steps=3, accelerator="cpu", progress_bar=False)
    assert model.n_steps_ == 7
    assert model.history["loss"].index.is_monotonic_increasing
    assert len(model.history["loss"]) == 7


def test_epochs_and_batches(adata, make_model):
    model = make_model(adata)
    model.train(max_epochs=2, batch_size=20, validation_size=0, accelerator="cpu", progress_bar=False)
    assert model.n_steps_ == 2 * (adata.n_obs // 20)


def test_ema_and_schedules_move_once_per_optimizer_step_under_accumulation(adata, make_model):
    model = make_model(adata)
    model.train(max_steps=4, accelerator="cpu", progress_bar=False, accumulate_grad_batches=2)
    assert model.n_steps_ == 4
    momentum = model.history["momentum"]["momentum"].drop_duplicates()
    np.testing.assert_allclose(momentum, np.linspace(0.99, 1.0, 4), atol=1e-6)


def test_early_stopping_watches_held_out_cells(adata, make_model):
    model = make_model(adata)
    model.train(
        max_steps=400, early_stopping=True, patience=1, monitor_every=1, accelerator="cpu", progress_bar=False,
        plan_kwargs={"learning_rate": 1e-12, "final_learning_rate": 0.0, "ema_start": 1.0},
    )  # fmt: skip
    assert model.n_steps_ < 400
    with pytest.raises(ValueError, match="validation_size"):
        model.train(early_stopping=True, validation_size=0, accelerator="cpu")


def test_wrong_arguments_are_named_before_anything_is_trained(adata, make_model):
    model = make_model(adata)
    before = _weights(model)
    with pytest.raises(ValueError, match="Did you mean 'learning_rate'"):
        model.train(plan_kwargs={"learning_rat": 1})
    with pytest.raises(TypeError, match="Did you mean 'checkpoint_every'"):
        model.train(checkpoint_evry=3)
    with pytest.raises(ValueError, match="must be positive"):
        model.train(batch_size=0)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        model.train(ckpt_path="nowhere.ckpt", accelerator="cpu", progress_bar=False)
    assert all(torch.equal(before[k], v) for k, v in _weights(model).items())
    assert not model.is_trained


def test_progress_bar_shows_loss_and_effective_rank(adata, make_model, capfd):
    make_model(adata).train(max_steps=4, monitor_every=2, accelerator="cpu", progress_bar=True)
    err = capfd.readouterr().err
    assert "Training" in err
    assert "loss=" in err
    assert "effective_rank=" in err


def test_an_interrupt_keeps_what_was_learned_and_the_session(adata, make_model):
    import lightning.pytorch as pl

    class Interrupt(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 3:
                raise KeyboardInterrupt

    model, handler = make_model(adata), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="after 3 steps"):
        model.train(max_steps=10, accelerator="cpu", progress_bar=False, callbacks=[Interrupt()])
    assert signal.getsignal(signal.SIGINT) is handler
    assert model.n_steps_ == 3
    assert len(model.history["loss"]) == 3
    assert model.get_latent_representation().shape[0] == adata.n_obs


_SCRIPT = textwrap.dedent("""
    import importlib.util, os, signal, sys
    import lightning.pytorch as pl
    spec = importlib.util.spec_from_file_location("tissues", sys.argv[1])
    tissues = importlib.util.module_from_spec(spec); spec.loader.exec_module(tissues)
    import torch; torch.set_num_threads(1)

    class Kill(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)

    model = tissues.small_model(tissues.tissue(), encoder={"width": 32, "n_layers": 1, "n_heads": 2, "dropout": 0.1})
    model.train(max_steps=30, checkpoint_dir=sys.argv[2], checkpoint_every=3, ckpt_path="last",
                accelerator="cpu", progress_bar=False, callbacks=[Kill()])
    model.save(sys.argv[2] + "/model")
""")


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(_SCRIPT)
    tissues = os.path.join(os.path.dirname(__file__), "conftest.py")
    kill_at = int(np.random.default_rng().integers(4, 29))  # any step will do
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(folder, step):
        return subprocess.run(
            [sys.executable, script, tissues, str(tmp_path / folder), str(step)], env=environment
        ).returncode

    assert start("whole", -1) == 0
    assert start("killed", kill_at) == -signal.SIGKILL
    assert start("killed", -1) == 0
    from safetensors.torch import load_file

    a, b = (load_file(tmp_path / name / "model" / "weights.safetensors") for name in ("whole", "killed"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a), f"killed at step {kill_at}"
    facts = [(tmp_path / name / "model" / "model.json").read_text() for name in ("whole", "killed")]
    assert facts[0] == facts[1], f"history differs, killed at step {kill_at}"


@pytest.mark.parametrize("every", [2, 3])
def test_a_reading_of_the_step_of_a_state_is_kept_and_made_once(adata, make_model, tmp_path, every):
    import lightning.pytorch as pl

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 5:
                raise RuntimeError("as if it failed")

    quiet = {"max_steps": 8, "monitor_every": every, "accelerator": "cpu", "progress_bar": False}
    whole, resumed = make_model(adata), make_model(adata)
    whole.train(**quiet)
    kept = {"checkpoint_dir": tmp_path, "checkpoint_every": 2 * every - 2}  # after a reading, or between two
    with pytest.raises(RuntimeError, match="as if it failed"):
        make_model(adata).train(**quiet, **kept, callbacks=[Stop()])
    for _ in range(2):  # and once more where it has ended
        resumed.train(**quiet, **kept, ckpt_path="last")
        for name, frame in whole.history.items():
            assert resumed.history[name].equals(frame), name
    assert all(torch.equal(v, _weights(resumed)[k]) for k, v in _weights(whole).items())


def test_last_checkpoint_needs_a_folder_and_may_be_absent(adata, make_model, tmp_path):
    model = make_model(adata)
    with pytest.raises(ValueError, match="checkpoint_dir"):
        model.train(ckpt_path="last", accelerator="cpu", progress_bar=False)
    model.train(max_steps=2, ckpt_path="last", checkpoint_dir=tmp_path, accelerator="cpu", progress_bar=False)
    assert model.n_steps_ == 2


def test_is_a_scvi_model(trained):
    from scvi.model.base import BaseModelClass

    model, _ = trained
    assert isinstance(model, BaseModelClass)
    assert model.is_trained
    assert len(model.train_indices) + len(model.validation_indices) == model.adata.n_obs
    assert scjepa.STJEPA.__name__ in repr(model)


def _short(model, n_steps=20, **changes):
    model.train(max_steps=n_steps, accelerator="cpu", progress_bar=False, plan_kwargs=changes)
    return model.diagnose(), {name: model.history[name][name].tolist() for name in model.history}


def test_all_that_is_predicted_with_weight_is_compared_with_the_mean_and_nothing_else(adata, make_model):
    tokens = {"cell_weight": 0.0, "neighborhood_weight": 0.0, "nearby_weight": 0.0}
    for objective, expected in (
        ({}, {"loss_ratio", "cell_ratio", "neighborhood_ratio", "nearby_ratio"}),
        (tokens, {"loss_ratio"}),
        ({**tokens, "token_weight": 0.0, "nearby_weight": 1.0}, {"nearby_ratio"}),
    ):
        told, history = _short(make_model(adata, objective=objective))
        assert {name for name in history if name.endswith("_ratio")} == expected
        assert sum("times that of predicting" in sentence for sentence in told.evidence) == len(expected)


def test_a_short_run_that_learns_cells_is_not_called_idle_and_one_that_stands_still_is(make_tissue, make_model):
    adata = make_tissue(300)
    told, history = _short(make_model(adata, masking={"query_fraction": 0.25}), 80)
    assert history["loss_ratio"][-1] > 0.98  # tokens take longer
    assert history["cell_ratio"][-1] < 0.98
    assert told.verdict != "not learning", told
    told, _ = _short(make_model(adata), learning_rate=1e-12, final_learning_rate=0.0)
    assert told.verdict == "not learning", told


def test_the_state_of_other_data_genes_seeds_or_options_is_not_taken_up(make_tissue, make_model, fresh, tmp_path):
    quiet = {"accelerator": "cpu", "progress_bar": False, "checkpoint_dir": tmp_path, "ckpt_path": "last"}
    first = make_model(make_tissue())
    first.train(max_steps=4, checkpoint_every=2, **quiet)

    other_genes = fresh(make_tissue())
    other_genes.var_names = [f"Other{name}" for name in other_genes.var_names]
    other_graph = fresh(make_tissue())
    other_graph.obsm["spatial"] = other_graph.obsm["spatial"][::-1]
    for adata, changes, words in (
        (other_genes, {}, "genes are not those of this data"),
        (make_tissue(seed=1), {}, "cells or counts are not those"),
        (make_tissue(), {"seed": 1}, "its seed is 0, here it is 1"),
        (make_tissue(), {"masking": {"ratio": 0.4}}, "masking.ratio is 0.6, here it is 0.4"),
        (make_tissue(), {"training": {"batch_size": 8}}, "training.batch_size is 16, here it is 8"),
        (make_tissue(), {"encoder": {"width": 64, "n_layers": 1, "n_heads": 2}}, "encoder.width is 32"),
    ):
        model = make_model(adata, **changes)
        before = _weights(model)
        with pytest.raises(ValueError, match=f"state of another training: .*{words}"):
            model.train(max_steps=4, **quiet)
        assert all(torch.equal(before[k], v) for k, v in _weights(model).items())
        assert not model.is_trained

    same = make_model(make_tissue())
    same.train(max_steps=6, **quiet)  # longer than it was to be
    assert same.n_steps_ == 6
    assert len(same.history["loss"]) == 6


def test_steps_of_a_state_that_is_taken_up_count_once(adata, make_model, tmp_path):
    quiet = {"accelerator": "cpu", "progress_bar": False, "checkpoint_dir": tmp_path}
    model = make_model(adata)
    model.train(max_steps=4, checkpoint_every=2, **quiet)
    model.train(max_steps=6, ckpt_path="last", **quiet)  # as after an interrupt, in the same session
    assert model.n_steps_ == 6
    assert model.history["loss"].index.tolist() == list(range(6))


def test_a_state_that_does_not_say_what_it_is_of_is_warned_of(adata, make_model, tmp_path):
    quiet = {"accelerator": "cpu", "progress_bar": False, "checkpoint_dir": tmp_path}
    make_model(adata).train(max_steps=2, checkpoint_every=2, **quiet)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=False)
    del kept["scjepa_marks"]
    torch.save(kept, tmp_path / "last.ckpt")
    with pytest.warns(UserWarning, match="does not say what it was trained on"):
        make_model(adata).train(max_steps=3, ckpt_path="last", **quiet)


def test_options_of_training_that_nothing_looks_at_are_refused(adata, make_model):
    model = make_model(adata)
    with pytest.raises(ValueError, match="patience is that of early_stopping"):
        model.train(patience=3)
    with pytest.raises(ValueError, match="checkpoint_every needs checkpoint_dir"):
        model.train(checkpoint_every=3)


def test_numpys_scalars_train_and_are_saved(adata, make_model, tmp_path):
    model = make_model(
        adata, seed=np.arange(3)[1], tokens={"n_tokens": np.array([8, 9])[0], "n_neighbors": np.int16(6)}
    )
    model.train(
        max_steps=np.int64(4),
        batch_size=np.int32(16),
        validation_size=np.float32(0.1),
        early_stopping=np.bool_(False),
        plan_kwargs={"learning_rate": np.float32(1e-3)},
        devices=np.int64(1),
        checkpoint_dir=tmp_path / "state",
        checkpoint_every=np.int64(2),
        monitor_every=np.int8(2),
        accumulate_grad_batches=np.int64(1),
        accelerator=np.str_("cpu"),
        progress_bar=np.bool_(False),
    )
    model.save(tmp_path / "model")
    again = scjepa.STJEPA.load(tmp_path / "model", adata)
    assert (again.seed, again.config.tokens.n_tokens, again.n_steps_) == (1, 8, 4)
    np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())
    masked = next(model.get_masked_representations(n_masks=np.int64(1), ratio=np.float32(0.5), seed=np.int8(100)))
    np.testing.assert_array_equal(masked, next(model.get_masked_representations(n_masks=1, ratio=0.5, seed=100)))
    query = scjepa.STJEPA.load_query_data(adata, model, seed=np.uint8(3))
    query.save(tmp_path / "query")


def test_one_device_is_the_default(adata, make_model, monkeypatch):
    from scjepa.training import fit as _fit

    asked = []
    run = _fit.run
    monkeypatch.setattr(_fit, "run", lambda plan, options, **more: asked.append(options) or run(plan, options, **more))
    make_model(adata).train(max_steps=1, progress_bar=False)
    assert asked[0].devices == 1


def test_what_is_held_out_is_not_named_where_nothing_is(adata, make_model):
    with pytest.raises(
        ValueError, match=r"validation='section' says what is held out, and validation_size=0 is nothing"
    ):
        make_model(adata).train(validation="section", validation_size=0)


def test_a_reference_without_a_cost_is_refused(trained):
    model, adata = trained
    with pytest.raises(ValueError, match="reference is what the cost is measured on"):
        model.coverage(adata, reference=adata)


def test_weights_of_another_precision_are_read_as_float32(adata, make_model, tmp_path):
    from safetensors.torch import load_file, save_file

    from scjepa.models import store as _store

    model = make_model(adata)
    model.save(tmp_path / "model")
    file = tmp_path / "model" / "weights.safetensors"
    save_file({name: weight.double() for name, weight in load_file(file).items()}, file)
    facts = _store._read_facts(tmp_path / "model" / "model.json", "STJEPA")
    sealed = _store.seal(facts, file)
    (tmp_path / "model" / "model.json").write_text(json.dumps(sealed))
    again = scjepa.STJEPA.load(tmp_path / "model", adata)
    assert all(weight.dtype == torch.float32 for weight in again.module.parameters())
    query = scjepa.STJEPA.load_query_data(adata, tmp_path / "model")
    assert all(weight.dtype == torch.float32 for weight in query.module.parameters())
