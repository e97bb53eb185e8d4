from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import anndata as ad
import numpy as np
import pytest

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.cli import main

SMALL = {"tokens": {"n_tokens": 8, "n_neighbors": 5}, "encoder": {"width": 32, "n_layers": 1, "n_heads": 2}}
"""What the fixture ``tiny`` says, in Python."""


def weights(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "weights.safetensors")


def test_fit_saves_a_model_of_all_files(model):
    facts = json.loads((model / "model.json").read_text())
    assert facts["n_steps"] == 6
    assert facts["config"]["tokens"]["n_neighbors"] == 5
    assert facts["config"]["encoder"]["width"] == 32
    assert len(facts["vocabulary"]) == 30
    assert facts["panels"]["technologies"] == ["a", "b"]
    assert [len(genes) for genes in facts["panels"]["measured"]] == [25, 25]
    assert facts["setup"]["library_key"] == "section"


def test_fit_does_what_python_does(data, tiny, tmp_path, capsys):
    assert main(["fit", str(data / "a.h5ad"), "--out", str(tmp_path / "m"), *tiny, "--seed", "3"]) == 0
    streams = capsys.readouterr()
    assert streams.out == f"{tmp_path / 'm'}\n"
    assert "80 cells, 25 genes, graph of 5 neighbors" in streams.err
    assert "Training" in streams.err
    assert "encoder   " in streams.err
    assert "call model.train()" not in streams.err

    adata = ad.read_h5ad(data / "a.h5ad")
    spatial_graph(adata, n_neighs=5)
    scjepa.STJEPA.setup_anndata(adata)
    model = scjepa.STJEPA(adata, "demo", **SMALL, seed=3)
    model.train(max_steps=6, batch_size=16, accelerator="cpu", progress_bar=False)
    expected = {name: tensor.numpy() for name, tensor in model.module.state_dict().items()}
    found = {name: array for name, array in weights(tmp_path / "m").items() if not name.startswith("statistics.")}
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    again = scjepa.STJEPA.load(tmp_path / "m", ad.AnnData.copy(adata), accelerator="cpu")
    np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())


def test_quiet_tells_nothing(data, tiny, tmp_path, capfd):
    assert main(["fit", str(data / "a.h5ad"), "--out", str(tmp_path / "m"), *tiny, "--quiet"]) == 0
    streams = capfd.readouterr()
    assert (streams.out, streams.err) == (f"{tmp_path / 'm'}\n", "")


def test_an_existing_folder_is_refused_before_anything_is_read(model, tmp_path, capsys):
    missing = str(tmp_path / "missing.h5ad")
    assert main(["fit", missing, "--out", str(model)]) == 1
    assert "exists. Pass --overwrite" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert main(["fit", missing, "--out", str(tmp_path / "mine"), "--overwrite"]) == 1
    assert "is not a saved model" in capsys.readouterr().err
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "large"], "Unknown value of --preset 'large'"),
        (["--set", "encoder.n_layer=3"], "Did you mean encoder.n_layers"),
        (["--steps", "5", "--epochs", "2"], "not both"),
        (["--resume"], "--resume needs --checkpoint-dir"),
        (["--freeze", "encoder"], "--freeze goes with --from"),
        (["--from", "m", "--preset", "demo"], "for new models"),
        (["--from", "m", "--set", "encoder.width=8"], "options of training only"),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(tmp_path, capsys, words, message):
    assert main(["fit", str(tmp_path / "missing.h5ad"), "--out", str(tmp_path / "m"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_what_is_wrong_with_a_file_is_one_line(data, make_tissue, tmp_path, capsys):
    def fit(path, *words):
        code = main(["fit", str(path), "--out", str(tmp_path / "m"), "--preset", "demo", *words])
        return code, capsys.readouterr().err.splitlines()[-1]

    assert fit(tmp_path / "missing.h5ad") == (1, f"scjepa: There is no file {tmp_path / 'missing.h5ad'}.")
    code, line = fit(data / "a.h5ad", "--technology-key", "assay")
    assert (code, "obs['assay'] does not exist" in line) == (1, True)
    code, line = fit(data / "a.h5ad", "--spatial-key", "X_spatial")
    assert (code, "no coordinates obsm['X_spatial']; obsm holds spatial" in line) == (1, True)
    code, line = fit(data / "a.h5ad", "--n-neighbors", "100")
    assert (code, "has 80 cells, too few for 100 neighbors" in line) == (1, True)
    adata = make_tissue(1)
    adata.X = -adata.X
    adata.write_h5ad(tmp_path / "negative.h5ad")
    code, line = fit(tmp_path / "negative.h5ad")
    assert (code, "counts are finite and not negative" in line) == (1, True)
    assert not (tmp_path / "m").exists()


def test_a_model_is_fine_tuned_on_other_genes(data, model, tmp_path):
    words = ["--from", str(model), "--steps", "4", "--set", "training.batch_size=16", "--accelerator", "cpu", "--quiet"]
    assert main(["fit", str(data / "s.zarr"), "--out", str(tmp_path / "m"), *words]) == 0
    facts = json.loads((tmp_path / "m" / "model.json").read_text())
    assert facts["n_steps"] == 10
    assert facts["config"]["encoder"]["width"] == 32
    assert len(facts["vocabulary"]) == 30


def test_the_state_of_another_run_is_not_resumed(data, tiny, tmp_path, capsys):
    words = ["fit", str(data / "a.h5ad"), "--out", str(tmp_path / "m"), *tiny, "--quiet"]
    state = ["--checkpoint-dir", str(tmp_path / "state"), "--checkpoint-every", "3"]
    assert main([*words, *state, "--resume"]) == 0  # nothing to resume: a fresh start
    assert main([*words, *state, "--overwrite"]) == 1
    assert "Pass --resume" in capsys.readouterr().err
    assert main([*words, *state, "--overwrite", "--resume", "--seed", "9"]) == 1
    assert "another run: training differ" in capsys.readouterr().err
    assert main([*words, *state, "--overwrite", "--resume"]) == 0


def test_the_state_of_other_cells_in_a_file_of_that_name_is_not_resumed(make_tissue, tiny, tmp_path, capsys):
    file = tmp_path / "a.h5ad"
    make_tissue(1).write_h5ad(file)
    words = ["fit", str(file), "--out", str(tmp_path / "m"), *tiny, "--quiet", "--checkpoint-dir", str(tmp_path / "s")]
    assert main([*words, "--resume"]) == 0
    make_tissue(2).write_h5ad(file)  # as many cells and genes
    assert main([*words, "--resume"]) == 1
    assert "another run: data differ" in capsys.readouterr().err
    assert main([*words, "--resume", "--overwrite"]) == 1
    assert "another run: data differ" in capsys.readouterr().err


def test_a_run_that_has_ended_is_resumed_by_doing_nothing(data, tiny, tmp_path, capsys):
    out, words = tmp_path / "m", ["fit", str(data / "a.h5ad"), *tiny]
    again = [*words, "--out", str(out), "--checkpoint-dir", str(tmp_path / "state"), "--resume"]
    assert main(again) == 0
    saved = (out / "model.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main(again) == 0
    streams = capsys.readouterr()
    assert "this run has ended" in streams.err
    assert streams.out == f"{out}\n"
    assert (out / "model.json").stat().st_mtime_ns == saved
    # Other options are another run, another place is another model, and what is gone is made again.
    assert main([*again, "--seed", "9"]) == 1
    assert "another run: training differ" in capsys.readouterr().err
    assert main([*words, "--out", str(out), "--checkpoint-dir", str(tmp_path / "new"), "--resume"]) == 1
    assert "exists. Pass --overwrite" in capsys.readouterr().err
    shutil.rmtree(out)
    assert main(again) == 0
    assert (out / "model.json").is_file()


def _heed_interrupts() -> None:
    """Undo what a shell does to what it starts in the background: such processes ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_fit_that_is_stopped_resumes_to_the_same_model(data, tiny, tmp_path, signal_number):
    words = ["fit", str(data / "a.h5ad"), *tiny, "--steps", "400"]
    state = tmp_path / "state"
    stopped = [*words, "--out", str(tmp_path / "m"), "--checkpoint-dir", str(state), "--checkpoint-every", "5"]
    run = subprocess.Popen(
        [sys.executable, "-m", "scjepa.cli", *stopped],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_interrupts,
    )
    try:
        while not (state / "last.ckpt").exists() and run.poll() is None:
            time.sleep(0.02)
        run.send_signal(signal_number)
        err = run.communicate(timeout=300)[1]
    finally:
        run.kill()
    assert run.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[signal_number], err
    assert not (tmp_path / "m").exists()
    if signal_number == signal.SIGINT:
        assert "the same command with --resume goes on" in err
        return
    if signal_number == signal.SIGTERM:
        return
    assert main([*stopped, "--resume", "--quiet"]) == 0
    assert main([*words, "--out", str(tmp_path / "whole"), "--quiet"]) == 0
    one, other = weights(tmp_path / "m"), weights(tmp_path / "whole")
    for name, array in other.items():
        np.testing.assert_array_equal(one[name], array)


def test_genes_of_files_that_differ_in_case_only_are_warned_of(data, make_tissue, tiny, tmp_path, capsys):
    upper = make_tissue(2)
    upper.var_names = [name.upper() if i > 3 else name for i, name in enumerate(upper.var_names)]
    upper.write_h5ad(tmp_path / "upper.h5ad")
    files = [str(data / "a.h5ad"), str(tmp_path / "upper.h5ad")]
    assert main(["fit", *files, "--out", str(tmp_path / "m"), *tiny, "--quiet"]) == 0
    told = capsys.readouterr().err
    assert told.count("warning: 21 genes of 'upper' differ from those of the objects before it in case only") == 1
    assert "'GENE_005' from 'gene_005' of 'a'" in told
    assert "rename adata.var_names" in told


def test_features_that_are_no_genes_are_warned_of(make_tissue, tiny, tmp_path, capsys):
    adata = make_tissue(1)
    adata.var["feature_types"] = ["Antibody Capture"] * 3 + ["Gene Expression"] * (adata.n_vars - 3)
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert main(["fit", str(tmp_path / "a.h5ad"), "--out", str(tmp_path / "m"), *tiny, "--quiet"]) == 0
    assert "3 antibodies (" in capsys.readouterr().err


def test_genes_in_both_cases_in_every_file_are_no_mistake(make_tissue, tiny, tmp_path, capsys):
    files = []
    for seed in (1, 2):
        adata = make_tissue(seed)
        adata.var_names = ["t", "T", *adata.var_names[2:]]
        files.append(str(tmp_path / f"{seed}.h5ad"))
        adata.write_h5ad(files[-1])
    assert main(["fit", *files, "--out", str(tmp_path / "m"), *tiny, "--quiet"]) == 0
    assert capsys.readouterr().err == ""
