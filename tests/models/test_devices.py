"""Training on two devices, as a user's script does it: Lightning runs the script once for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

_SCRIPT = textwrap.dedent("""
    import importlib.util, json, sys
    import lightning.pytorch as pl
    import torch

    spec = importlib.util.spec_from_file_location("tissues", sys.argv[1])
    tissues = importlib.util.module_from_spec(spec); spec.loader.exec_module(tissues)
    torch.set_num_threads(1)
    folder, n_devices = sys.argv[2], int(sys.argv[3])

    class Stop(pl.Callback):
        def __init__(self, error, step):
            self.error, self.step = error, step

        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == self.step:
                raise self.error

    def train(**options):
        model = tissues.small_model(tissues.tissue())
        quiet = {"accelerator": "cpu", "progress_bar": False, "max_steps": 8, "batch_size": 8, "monitor_every": 4}
        try:
            model.train(devices=n_devices, strategy="ddp", **quiet, **options)
        except (RuntimeError, KeyboardInterrupt) as error:
            return model, error
        return model, None

    def kept(model):
        history = {name: frame[name].tolist() for name, frame in model.history.items()}
        return {"history": history, "weights": model.module.state_dict(), "latent": model.get_latent_representation()}

    whole, _ = train()
    rank = whole.trainer.global_rank
    state = {"checkpoint_dir": f"{folder}/state", "checkpoint_every": 2}
    _, error = train(**state, callbacks=[Stop(RuntimeError("as if it failed"), 5)])
    assert "as if it failed" in str(error)
    resumed, _ = train(**state, ckpt_path="last")
    torch.save({"whole": kept(whole), "resumed": kept(resumed)}, f"{folder}/rank{rank}.pt")
    model, error = train(callbacks=[Stop(KeyboardInterrupt(), 3)])
    assert rank == 0  # the other was ended by the interrupt
    alone = tissues.small_model(tissues.tissue())
    alone.train(accelerator="cpu", progress_bar=False, max_steps=8, batch_size=8, monitor_every=4)
    torch.save(kept(alone), f"{folder}/alone.pt")
    facts = {"n_steps": model.n_steps_, "losses": len(model.history["loss"]), "error": str(error)}
    open(f"{folder}/interrupted.json", "w").write(json.dumps(facts))
""")


def _run(tmp_path, n_devices):
    script = tmp_path / "train.py"
    script.write_text(_SCRIPT)
    tissues = os.path.join(os.path.dirname(__file__), "conftest.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = [sys.executable, script, tissues, str(tmp_path), str(n_devices)]
    done = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert (tmp_path / "interrupted.json").is_file(), done.stderr[-3000:]
    return [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(n_devices)]


def _same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_two_devices_end_with_one_model_and_one_history_and_resume(tmp_path, make_tissue, make_model):
    first, second = _run(tmp_path, 2)
    assert _same(first["whole"]["weights"], second["whole"]["weights"])  # the teacher's among them
    assert first["whole"]["history"] == second["whole"]["history"]
    assert len(first["whole"]["history"]["loss"]) == 8
    assert len(first["whole"]["history"]["effective_rank"]) == 3
    assert (first["whole"]["latent"] == second["whole"]["latent"]).all()
    for each in (first, second):
        assert _same(each["resumed"]["weights"], each["whole"]["weights"])
        assert each["resumed"]["history"] == each["whole"]["history"]
    told = json.loads((tmp_path / "interrupted.json").read_text())
    assert (told["n_steps"], told["losses"]) == (3, 3)
    assert "interrupted after 3 steps" in told["error"]
    # What one process trains after the others are gone is its alone, as if they had never been.
    never = make_model(make_tissue())
    never.train(accelerator="cpu", progress_bar=False, max_steps=8, batch_size=8, monitor_every=4)
    alone = torch.load(tmp_path / "alone.pt", weights_only=False)
    assert alone["history"]["loss"] == pytest.approx(never.history["loss"]["loss"].tolist(), rel=1e-4)


def test_a_state_of_several_devices_is_not_taken_up_by_one(adata, make_model, tmp_path):
    quiet = {"accelerator": "cpu", "progress_bar": False, "checkpoint_dir": tmp_path}
    make_model(adata).train(max_steps=2, checkpoint_every=2, **quiet)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=False)
    torch.save({**kept, "scjepa_processes": 2}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="state of a training on 2 devices, and this one is on 1"):
        make_model(adata).train(max_steps=3, ckpt_path="last", **quiet)


def test_copies_of_a_process_do_not_train(adata, make_model):
    with pytest.raises(ValueError, match=r"strategy='ddp_spawn' trains in copies of this process"):
        make_model(adata).train(max_steps=2, accelerator="cpu", devices=2, strategy="ddp_spawn")
