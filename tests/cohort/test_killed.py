"""Each stage of a cohort, killed where nothing can be cleaned up, and called again: the same result, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
import torch

import scjepa

STAGE = """
import os, signal, sys
from scjepa._core import files
import scjepa

stage, folder, out, kill_at = *sys.argv[1:4], int(sys.argv[4])
rename, seen = files._rename, []

def renamed(draft, path):
    seen.append(path)
    if len(seen) == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(draft, path)

files._rename = renamed
found = scjepa.Collection.open(folder)
if stage == "read-out":
    found.readout()
elif stage == "niches":
    found.niches(n_niches=4, method="kmeans")
else:
    found.write_back(out, overwrite=True)
"""
"""A stage that dies before the file of this number takes its name."""


def killed(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return done.returncode == -signal.SIGKILL


def left_over(folder):
    return [path.name for path in folder.rglob("*") if ".part-" in path.name]


@pytest.fixture
def whole(collection):
    """Return the read-out, the niches and the files of a run that nothing stopped, and forget them."""
    collection.niches(n_niches=4, method="kmeans", key_added="never_stopped")
    return np.array(collection.readout()), np.array(collection.labels("never_stopped"))


def test_a_readout_that_was_killed_goes_on(collection, whole, tmp_path):
    (made,) = (collection.folder / "readout").iterdir()
    made.rename(tmp_path / "made")
    kill_at = int(np.random.default_rng().integers(1, 24))  # any of its files will do
    assert killed(STAGE, "read-out", collection.folder, "-", kill_at)
    assert not (made / "fitted.safetensors").exists()
    assert np.array_equal(collection.readout(), whole[0]), f"killed at file {kill_at}"
    assert sorted(path.name for path in made.iterdir()) == sorted(path.name for path in (tmp_path / "made").iterdir())


@pytest.mark.parametrize("kill_at", [1, 2, 3])
def test_niches_that_were_killed_are_no_others(collection, whole, kill_at):
    collection.niches(n_niches=3, method="kmeans")  # earlier ones of the same name
    assert killed(STAGE, "niches", collection.folder, "-", kill_at)
    with pytest.raises(KeyError, match="no niches 'niche'"):
        collection.labels()
    collection.niches(n_niches=4, method="kmeans")
    assert np.array_equal(collection.labels(), whole[1])
    assert not left_over(collection.folder)


@pytest.mark.parametrize(("in_place", "kill_at"), [(False, 2), (True, 2), (True, 4)])
def test_files_that_were_being_written_are_whole_and_written_once(
    collection, whole, files, tmp_path, in_place, kill_at
):
    """Into the files themselves, each is followed by its facts and the list of sections: the second and third files."""
    collection.niches(n_niches=4, method="kmeans")
    before = (files / "s1.h5ad").read_bytes()
    out = files if in_place else tmp_path / "out"
    script = STAGE.replace("write_back(out,", "write_back(None,") if in_place else STAGE
    assert killed(script, "write back", collection.folder, out, kill_at)
    assert (files / "s1.h5ad").read_bytes() == before
    assert len(left_over(tmp_path)) == 1
    assert "niche" in ad.read_h5ad(out / "s0.h5ad").obs
    collection = scjepa.Collection.open(collection.folder)
    collection.write_back(None if in_place else out, overwrite=True)
    found = [ad.read_h5ad(out / f"s{number}.h5ad").obs for number in range(3)]
    assert np.array_equal(np.concatenate([obs["niche"].astype(int) for obs in found]), whole[1])
    assert all(list(obs.columns) == ["band", "size", "niche"] for obs in found)
    assert sorted(path.name for path in out.iterdir()) == ["s0.h5ad", "s1.h5ad", "s2.h5ad"]
    again = scjepa.Collection(files, folder=collection.folder)
    report = again.prepare()
    assert report.kept == (("s1", "s2") if kill_at == 2 and in_place else ("s0", "s1", "s2"))  # s0 had no facts yet
    assert np.array_equal(again.labels(), whole[1])
    assert not left_over(tmp_path)


CHAIN = """
import os, signal, sys
import lightning.pytorch as pl
import torch
torch.set_num_threads(1)
import scjepa
from scjepa.models import embed

folder, out, die_in = sys.argv[1:]

class Kill(pl.Callback):
    def on_train_batch_end(self, trainer, *args):
        if die_in == "train" and trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

small = {"tokens": {"n_neighbors": 4}, "encoder": {"width": 16, "n_layers": 1, "n_heads": 2}}
model = scjepa.STJEPA(scjepa.Collection.open(folder), "demo", **small, training={"batch_size": 32, "max_steps": 8})
state = {"checkpoint_dir": f"{out}/state", "checkpoint_every": 2, "monitor_every": 4, "ckpt_path": "last"}
model.train(accelerator="cpu", progress_bar=False, callbacks=[Kill()], **state)
model.save(f"{out}/model", overwrite=True)

embed.CHUNK, batches, seen = 100, embed.batches, []

def dies(source, cells, *others):
    seen.append(cells[0])
    if die_in == "embed" and len(seen) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return batches(source, cells, *others)

embed.batches = dies
model.get_latent_representation(out=f"{out}/latent.npy")
print(*seen, file=open(f"{out}/embedded", "w"))
"""
"""Training and embedding of a collection, which may die in either."""


def test_training_and_embedding_that_were_killed_go_on(collection, tmp_path):
    run, straight = tmp_path / "run", tmp_path / "straight"
    assert not killed(CHAIN, collection.folder, straight, "-")
    assert killed(CHAIN, collection.folder, run, "train")
    assert torch.load(run / "state" / "last.ckpt", weights_only=False)["global_step"] == 4
    assert killed(CHAIN, collection.folder, run, "embed")
    assert (run / "latent.npy.part").exists()
    assert not killed(CHAIN, collection.folder, run, "-")
    assert (run / "embedded").read_text().split() == ["300", "400", "500", "600", "700"]  # the others once, before
    assert np.array_equal(np.load(run / "latent.npy"), np.load(straight / "latent.npy"))
    for name in ("weights.safetensors", "model.json"):  # with the history
        assert (run / "model" / name).read_bytes() == (straight / "model" / name).read_bytes()
