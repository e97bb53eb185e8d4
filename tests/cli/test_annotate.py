"""Cell-JEPA on the command line: fit, embed, info and niches of dissociated cells, and their labels."""

from __future__ import annotations

import json
import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scjepa
from scjepa.cli import main

TINY_CELLS = [
    *("--model", "celljepa", "--preset", "demo", "--steps", "4", "--batch-size", "16", "--accelerator", "cpu"),
    *("--encoder.width", "16", "--encoder.n-layers", "1", "--set", "tokens.n_bins=8"),
    *("--finetuning.training.max-epochs", "1", "--quiet"),
]
SMALL = {
    "encoder": {"width": 16, "n_layers": 1},
    "tokens": {"n_bins": 8},
    "finetuning": {"training": {"max_epochs": 1}},
}
"""What the words say, in Python."""

CPU = ["--accelerator", "cpu", "--quiet"]


def dissociated(seed: int, n: int = 60) -> ad.AnnData:
    """Return cells without coordinates, of two types that express different genes; the last has no label."""
    rng = np.random.default_rng(seed)
    types = np.arange(n) % 2
    rates = np.where(np.arange(24) // 12 == types[:, None], 4.0, 0.4)
    labels = pd.Categorical(np.where(types == 1, "B", "T"), categories=["B", "T", "unlabelled"])
    adata = ad.AnnData(
        rng.poisson(rates).astype(np.float32),
        obs=pd.DataFrame({"cell_type": labels}, index=[f"{seed}-{i}" for i in range(n)]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(24)]),
    )
    adata.obs.loc[adata.obs_names[-1], "cell_type"] = "unlabelled"
    return adata


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Return a folder of two files of dissociated cells, and a model of both that is fine-tuned on their labels."""
    folder = tmp_path_factory.mktemp("cells")
    for name, seed in (("a", 1), ("b", 2)):
        dissociated(seed).write_h5ad(folder / f"{name}.h5ad")
    words = ["--labels-key", "cell_type", "--finetune", "--out", str(folder / "model"), *TINY_CELLS]
    assert main(["fit", str(folder / "a.h5ad"), *words]) == 0
    assert main(["fit", str(folder / "a.h5ad"), "--out", str(folder / "plain"), *TINY_CELLS]) == 0
    return folder


def python_model(folder, tuned: bool):
    adata = ad.read_h5ad(folder / "a.h5ad")
    scjepa.CellJEPA.setup_anndata(adata, labels_key="cell_type" if tuned else None)
    model = scjepa.CellJEPA(adata, "demo", **SMALL)
    model.train(max_steps=4, batch_size=16, accelerator="cpu", progress_bar=False)
    if tuned:
        model.finetune(accelerator="cpu", progress_bar=False)
    return model


# -- fit, embed, info, niches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tuned", [False, True])
def test_fit_does_what_python_does(cells, tuned):
    from safetensors.numpy import load_file

    model = python_model(cells, tuned)
    found = load_file(cells / ("model" if tuned else "plain") / "weights.safetensors")
    for name, tensor in model.module.state_dict().items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


def test_files_are_joined_and_batches_are_theirs(cells, tmp_path):
    other = dissociated(3)
    other.var_names = [*other.var_names[:20], "x1", "x2", "x3", "x4"]
    other.write_h5ad(tmp_path / "other.h5ad")
    words = ["--out", str(tmp_path / "m"), "--labels-key", "cell_type", *TINY_CELLS]
    assert main(["fit", str(cells / "a.h5ad"), str(tmp_path / "other.h5ad"), *words]) == 0
    facts = json.loads((tmp_path / "m" / "model.json").read_text())
    assert len(facts["vocabulary"]) == 28
    assert facts["setup"] == {"layer": None, "batch_key": "batch", "labels_key": "cell_type"}


def test_cells_without_coordinates_are_told_of_the_other_model(cells, tmp_path, capsys):
    assert main(["fit", str(cells / "a.h5ad"), "--out", str(tmp_path / "m"), "--quiet"]) == 1
    assert "--model celljepa" in capsys.readouterr().err
    assert main(["niches", str(cells / "a.h5ad"), "--out", str(tmp_path / "n.h5ad"), "--quiet"]) == 1
    assert "--readout plain" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--finetune"], "--labels-key"),
        (["--labels-key", "cell_type"], "--model celljepa"),
        (["--model", "celljepa", "--n-neighbors", "5"], "tokens.n_neighbors"),
        (["--model", "celljepa", "--preset", "technologies"], "'technologies'"),
        (["--model", "celljepa", "--encoder.segment", "none"], "encoder.segment"),
        (["--finetuning.training.batch-size", "4"], "finetuning.training"),
    ],
)
def test_options_of_the_other_model_are_wrong_usage(cells, tmp_path, capsys, words, message):
    assert main(["fit", str(cells / "a.h5ad"), "--out", str(tmp_path / "m"), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_model_of_the_other_kind_is_found_out(cells, tmp_path, capsys):
    words = ["fit", str(cells / "a.h5ad"), "--out", str(tmp_path / "m"), "--from", str(cells / "plain")]
    assert main([*words, "--model", "stjepa"]) == 2
    assert "CellJEPA" in capsys.readouterr().err
    assert main([*words, "--labels-key", "cell_type", "--finetune", "--epochs", "1", *CPU]) == 0
    assert json.loads((tmp_path / "m" / "model.json").read_text())["is_finetuned"]


def test_embeddings_are_those_of_python(cells, tmp_path, capsys):
    assert main(["embed", str(cells / "plain"), str(cells / "b.h5ad"), "--out", str(tmp_path / "e.h5ad"), *CPU]) == 0
    found, expected = ad.read_h5ad(tmp_path / "e.h5ad"), ad.read_h5ad(cells / "b.h5ad")
    model = scjepa.CellJEPA.load(cells / "plain", expected, accelerator="cpu")
    np.testing.assert_array_equal(found.obsm["X_celljepa"], model.get_latent_representation())
    assert list(found.obsm) == ["X_celljepa"]
    words = ["embed", str(cells / "plain"), str(cells / "b.h5ad"), "--out", str(tmp_path / "two.h5ad"), *CPU]
    assert main([*words, "--scale", "neighborhood"]) == 2
    assert "cls and genes" in capsys.readouterr().err
    assert main([*words, "--scale", "both"]) == 0
    assert sorted(ad.read_h5ad(tmp_path / "two.h5ad").obsm) == ["X_celljepa", "X_celljepa_genes"]
    assert main(["niches", str(tmp_path / "e.h5ad"), "--readout", "plain", "--overwrite", "--quiet"]) == 0
    assert "niche" in ad.read_h5ad(tmp_path / "e.h5ad").obs


def test_info_tells_of_models_and_files_of_cells(cells, capsys):
    assert main(["info", str(cells / "model"), str(cells / "a.h5ad")]) == 0
    model, file = capsys.readouterr().out.split("\n\n")
    assert "CellJEPA model" in model
    assert "fine-tuned" in model
    assert "2: B, T" in model
    assert "scjepa fit --model celljepa" in file
    assert "integers up to" in file
    assert main(["info", str(cells / "a.h5ad"), "--model", "celljepa", "--preset", "demo", "--accelerator", "cpu"]) == 0
    assert "Estimate for 60 cells" in capsys.readouterr().out
    assert main(["info", str(cells / "b.h5ad"), "--model", str(cells / "model"), "--accelerator", "cpu"]) == 0
    assert "24 genes matched" in capsys.readouterr().out


def test_a_run_that_was_fine_tuned_is_resumed_by_doing_nothing_and_claims_all_options(cells, tmp_path, capsys):
    words = ["fit", str(cells / "a.h5ad"), "--out", str(tmp_path / "m"), "--checkpoint-dir", str(tmp_path / "state")]
    words += ["--labels-key", "cell_type", "--finetune", *TINY_CELLS, "--resume", "--checkpoint-every", "1"]
    assert main(words) == 0
    before = (tmp_path / "m" / "weights.safetensors").read_bytes()
    assert (tmp_path / "state" / "finetune" / "last.ckpt").is_file()
    assert main(words) == 0
    shutil.rmtree(tmp_path / "m")
    assert main(words) == 0
    assert (tmp_path / "m" / "weights.safetensors").read_bytes() == before
    capsys.readouterr()
    for more in (["--encoder.dropout", "0.1"], ["--batch-size", "8"], ["--seed", "5"]):
        assert main([*words, *more]) == 1
        assert "another run" in capsys.readouterr().err


# -- annotate ------------------------------------------------------------------------------------------------------


def annotate(*words) -> int:
    return main(["annotate", *map(str, words), *CPU])


def test_labels_are_those_of_python(cells, tmp_path, capsys):
    out = tmp_path / "b.h5ad"
    assert annotate(cells / "model", cells / "b.h5ad", "--out", out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    found, adata = ad.read_h5ad(out), ad.read_h5ad(cells / "b.h5ad")
    expected = scjepa.CellJEPA.load(cells / "model", adata, accelerator="cpu").predict_labels()
    assert found.obs["predicted_label"].tolist() == expected["label"].tolist()
    np.testing.assert_array_equal(found.obs["predicted_label_confidence"], expected["confidence"])
    assert found.obs["cell_type"].tolist() == adata.obs["cell_type"].tolist()
    assert found.uns["scjepa"]["predicted_label"]["n_neighbors"] == 15
    assert annotate(cells / "model", cells / "b.h5ad", "--out", tmp_path / "b.csv", "--n-neighbors", 5) == 0
    table = pd.read_csv(tmp_path / "b.csv", index_col="cell")
    expected = scjepa.CellJEPA.load(cells / "model", adata, accelerator="cpu").predict_labels(n_neighbors=5)
    assert table["predicted_label"].tolist() == expected["label"].tolist()


def test_labelled_cells_of_a_file_vote_where_the_model_has_none(cells, tmp_path):
    reference = ["--reference", cells / "a.h5ad", "--labels-key", "cell_type"]
    out = tmp_path / "b.h5ad"
    assert annotate(cells / "plain", cells / "b.h5ad", "--out", out, *reference) == 0
    found = ad.read_h5ad(out).obs["predicted_label"]
    adata, query = ad.read_h5ad(cells / "a.h5ad"), ad.read_h5ad(cells / "b.h5ad")
    scjepa.CellJEPA.setup_anndata(adata, labels_key="cell_type")
    model = scjepa.CellJEPA.from_pretrained(cells / "plain", adata, accelerator="cpu")
    assert found.tolist() == model.predict_labels(query)["label"].tolist()
    truth = query.obs["cell_type"]
    assert (found.astype(str) == truth.astype(str))[truth != "unlabelled"].mean() > 0.9


def test_cells_without_counts_and_doubtful_ones_get_no_label(cells, tmp_path):
    adata = dissociated(4)
    adata.X[0] = 0
    adata.write_h5ad(tmp_path / "q.h5ad")
    assert annotate(cells / "model", tmp_path / "q.h5ad", "--out", tmp_path / "o.h5ad") == 0
    found = ad.read_h5ad(tmp_path / "o.h5ad").obs
    assert found["predicted_label"].isna().sum() == 1
    assert found["predicted_label_confidence"].iloc[0] == 0
    words = ["--min-confidence", 1, "--n-neighbors", 25]
    assert annotate(cells / "model", tmp_path / "q.h5ad", "--out", tmp_path / "s.h5ad", *words) == 0
    sure = ad.read_h5ad(tmp_path / "s.h5ad").obs
    assert (sure["predicted_label"].isna() == (sure["predicted_label_confidence"] < 1)).all()


def test_files_that_are_there_are_left_out_when_resumed(cells, tmp_path, capsys):
    files = [cells / "a.h5ad", cells / "b.h5ad"]
    words = [cells / "model", *files, "--out", tmp_path / "o", "--format", "csv"]
    assert annotate(cells / "model", files[0], "--out", tmp_path / "o", "--format", "csv") == 0
    assert annotate(*words) == 1
    assert "exists" in capsys.readouterr().err
    before = (tmp_path / "o" / "a.csv").stat().st_mtime_ns
    assert annotate(*words, "--resume") == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "o" / name) for name in ("a.csv", "b.csv")]
    assert (tmp_path / "o" / "a.csv").stat().st_mtime_ns == before


def test_columns_of_the_user_are_never_replaced(cells, tmp_path, capsys):
    path = tmp_path / "b.h5ad"
    shutil.copy(cells / "b.h5ad", path)
    assert annotate(cells / "model", path, "--overwrite", "--key-added", "cell_type") == 1
    assert "has obs['cell_type'] already" in capsys.readouterr().err
    assert annotate(cells / "model", path, "--overwrite") == 0
    assert annotate(cells / "model", path, "--out", tmp_path / "again.h5ad") == 1
    assert "--overwrite" in capsys.readouterr().err
    assert annotate(cells / "model", path, "--overwrite", "--n-neighbors", 3) == 0


def test_labels_in_closed_form_need_no_model(cells, tmp_path):
    reference = ["--reference", cells / "a.h5ad", "--labels-key", "cell_type"]
    (tmp_path / "terms.csv").write_text("term,parent\nB,cell\nT,cell\n")
    out = tmp_path / "b.h5ad"
    words = ["--unknown", 0.2, "--hierarchy", tmp_path / "terms.csv"]
    assert annotate("linear", cells / "b.h5ad", "--out", out, *reference, *words) == 0
    found, query = ad.read_h5ad(out), ad.read_h5ad(cells / "b.h5ad")
    with pytest.warns(UserWarning, match="24 genes are in common"):
        scjepa.tl.annotate(query, ad.read_h5ad(cells / "a.h5ad"), "cell_type", error=0.2)
    assert found.obs["predicted_label"].tolist() == query.obs["predicted_label"].tolist()
    assert set(found.obs["predicted_label_term"].dropna()) <= {"B", "T", "cell", "unknown"}
    assert found.uns["scjepa"]["predicted_label"]["model"] == "linear"
    assert annotate("linear", cells / "b.h5ad", "--out", tmp_path / "b.csv", *reference) == 0
    table = pd.read_csv(tmp_path / "b.csv", index_col="cell")
    assert {"predicted_label", "predicted_label_confidence", "predicted_label_evidence"} <= set(table)


@pytest.mark.parametrize(
    ("name", "words", "code", "message"),
    [
        ("plain", ["--doublets"], 2, "go with linear"),
        ("plain", [], 1, "keeps no labelled cells"),
        ("model", ["--reference", "a.h5ad", "--labels-key", "cell_type"], 1, "of its own"),
        ("plain", ["--reference", "a.h5ad"], 2, "go together"),
        ("plain", ["--reference", "a.h5ad", "--labels-key", "type"], 1, "obs['type'] does not exist"),
        ("model", ["--min-confidence", "2"], 2, "from 0 to 1"),
        ("model", ["--format", "npy"], 2, "Unknown value of --format 'npy'"),
    ],
)
def test_what_cannot_be_done_is_told_and_nothing_written(
    cells, tmp_path, monkeypatch, capsys, name, words, code, message
):
    monkeypatch.chdir(cells)
    assert annotate(cells / name, cells / "b.h5ad", "--out", tmp_path / "o.h5ad", *words) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_models_of_tissue_carry_no_labels(data, model, tmp_path, capsys):
    assert annotate(model, data / "a.h5ad", "--out", tmp_path / "o.h5ad") == 1
    assert "STJEPA model" in capsys.readouterr().err
