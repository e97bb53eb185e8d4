"""``scjepa benchmark --target``: files in, a table and figures out."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scjepa.cli import main


def _cells(seed: int, n: int = 60) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, n)
    rate = np.where(np.arange(24)[None, :] % 2 == kind[:, None], 6.0, 0.8)
    obs = pd.DataFrame({"type": np.array(["a", "b"])[kind]}, index=[f"{seed}-{i}" for i in range(n)])
    obs["note"] = "same"
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"GENE{i}" for i in range(24)]))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder of three files of cells."""
    folder = tmp_path_factory.mktemp("cells")
    for seed in range(3):
        _cells(seed).write_h5ad(folder / f"c{seed}.h5ad")
    return folder


@pytest.fixture(scope="module")
def done(files, tmp_path_factory):
    """Compare once."""
    out = tmp_path_factory.mktemp("out")
    command = ["benchmark", "--target", str(files / "c0.h5ad"), "--label", "type", "--out", str(out)]
    command += ["--pretrain", str(files / "c1.h5ad"), str(files / "c2.h5ad"), "--methods", "celljepa", "hvg_pca"]
    command += ["--tasks", "zero_shot", "--max-steps", "2", "--seeds", "1", "--resolutions", "0.5"]
    command += ["--set", "tokens.n_tokens=10", "--set", "encoder.width=32", "--set", "encoder.n_layers=1"]
    command += ["--option", "hvg_pca.n_comps=3", "--option", "celljepa.training.batch_size=8", "--accelerator", "cpu"]
    return main(command), out, command


def test_the_table_and_figures_are_written_and_their_paths_printed(done, capsys):
    code, out, command = done
    assert code == 0
    assert main(command) == 0
    printed = capsys.readouterr()
    names = {path.rsplit("/", 1)[1] for path in printed.out.split()}
    assert names == {
        "results.csv",
        "runs.csv",
        "table.csv",
        "differences.csv",
        "table.md",
        "umap.png",
        "avg_bio.png",
    }
    assert "2 runs, 2 of them there already" in printed.err
    assert "done; 0 of 2 runs failed" in printed.err
    table = pd.read_csv(out / "table.csv").set_index(["method", "readout"])
    assert table.loc[("hvg_pca", "plain"), "configuration"] == "n_comps=3"
    ours = table.loc[("celljepa", "cls"), "configuration"]
    for word in ("max_steps=2", "n_tokens=10", "batch_size=8", "on c1 + c2"):
        assert word in ours
    assert "CellJEPA" in (out / "table.md").read_text()


def test_what_the_user_can_mend_is_one_line(done, files, tmp_path, capsys):
    _, _, command = done
    start = ["benchmark", "--target", str(files / "c0.h5ad"), "--label", "type", "--out", str(tmp_path / "o")]
    for more, code, message in (
        (["--label", "typ"], 1, "obs['typ'] does not exist"),
        (["--methods", "cellj"], 1, "Did you mean 'celljepa'"),
        (["--tasks", "batches"], 1, "--batch-key COLUMN"),
        (["--tasks", "zeroshot"], 1, "Did you mean 'zero_shot'"),
        (["--set", "objective.jepa_weigth=3"], 2, "Did you mean objective.jepa_weight"),
        (["--set", "finetuning.objective=3"], 2, "parts are tokens"),
        (["--option", "scvi"], 2, "METHOD.OPTION=VALUE"),
        (["--option", "scvi.epochs=3"], 1, "max_epochs"),
        (["--pretrain", str(files / "none.h5ad")], 1, "There is no file"),
    ):
        assert main([*start, *more]) == code
        assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    assert main([*command, "--fractions", "0.5"]) == 1
    assert "made with other options" in capsys.readouterr().err
