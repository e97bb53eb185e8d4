from __future__ import annotations

import io
from contextlib import redirect_stdout

import pandas as pd
import pytest

from scjepa._core.squidpy import spatial_graph
from scjepa.cli import build_parser, main


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Run the demonstration once, short, on a file of two simulated sections; return code, folder and what was told."""
    import scjepa

    folder = tmp_path_factory.mktemp("demo")
    scjepa.datasets.simulated_tissue(400, n_niches=3, n_cell_types=4, n_genes=40, difficulty="easy").write_h5ad(
        folder / "tissue.h5ad"
    )
    out = folder / "out"
    printed = io.StringIO()
    with redirect_stdout(printed):
        code = main(["demo", "--data", str(folder / "tissue.h5ad"), "--out", str(out), "--steps", "10"])
    return code, out, printed.getvalue()


def test_demo_writes_figures_tables_and_a_model_that_loads(demo):
    import anndata as ad

    import scjepa

    code, out, printed = demo
    assert code == 0
    assert printed.rstrip().endswith(f"look at first: {(out / 'niches.png').resolve()}")
    for name in ("niches.png", "training.png", "embedding.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
        assert (out / name).stat().st_size > 10_000
    table = pd.read_csv(out / "scores.csv", index_col="method")
    assert list(table.index) == [
        *("ST-JEPA", "ST-JEPA, embedding alone", "linear method"),
        *("untrained encoder", "untrained encoder, embedding alone"),
        *("neighborhood PCA", "neighborhood PCA, z-scored in sections", "ST-JEPA, former read-out"),
    ]
    assert table["nmi"].between(0, 1).all()
    niches = pd.read_csv(out / "niches.csv", index_col=0)
    assert len(niches) == 400

    adata = ad.read_h5ad(out.parent / "tissue.h5ad")
    spatial_graph(adata, n_neighs=10, library_key="section")
    assert scjepa.STJEPA.load(out / "model", adata, accelerator="cpu").n_steps_ == 10


def test_what_the_read_out_chose_is_told_and_saved_for_each_row_that_it_reads(demo):
    _, out, printed = demo
    chosen = pd.read_csv(out / "scores.csv", index_col="method")["chosen"]
    assert list(chosen.index[chosen.isna()]) == [name for name in chosen.index if "PCA" in name or "former" in name]
    assert f"read-out: {chosen['ST-JEPA']}\n" in printed
    assert (out / "readout.txt").read_text() == chosen["ST-JEPA"] + "\n"
    assert chosen["linear method"].startswith("20 components of expression, ")
    assert chosen["untrained encoder, embedding alone"].startswith("20 components of untrained embedding, ")
    for name in ("ST-JEPA", "untrained encoder"):
        assert "components of expression" in chosen[name] or "left out, too little signal: X" in chosen[name]
        assert "components of expression" not in chosen[f"{name}, embedding alone"]
    table = printed[printed.index("Agreement of Leiden niches") :]
    assert "linear method" in table
    assert "own weight" not in table


def test_the_linear_row_is_the_linear_method_of_python(demo):
    import anndata as ad

    import scjepa
    from scjepa.benchmark import score_table

    _, out, _ = demo
    adata = ad.read_h5ad(out.parent / "tissue.h5ad")
    spatial_graph(adata, n_neighs=10, library_key="section")
    scjepa.tl.niche_readout(adata, "X")
    expected = score_table({"linear": adata.obsm["X_stjepa_niche"]}, adata.obs["region"])
    table = pd.read_csv(out / "scores.csv", index_col="method").drop(columns="chosen")
    assert table.loc["linear method"].to_numpy() == pytest.approx(expected.loc["linear"].to_numpy(), abs=1e-3)


def test_what_the_user_can_mend_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["demo", "--data", str(tmp_path / "none.h5ad"), "--out", str(tmp_path / "o")]) == 1
    assert "There is no file" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_wrong_columns_are_named(demo, capsys, tmp_path):
    _, out, _ = demo
    data = str(out.parent / "tissue.h5ad")
    assert main(["demo", "--data", data, "--label", "layer", "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "'layer'" in err
    assert "region" in err


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args(["demo", "--help"])
    assert stop.value.code == 0
    assert "scjepa demo --data my_section.h5ad" in capsys.readouterr().out


def test_sections_and_labels_that_are_numbers_are_taken(tmp_path):
    import numpy as np

    import scjepa

    adata = scjepa.datasets.simulated_tissue(300, n_genes=40, difficulty="easy")
    adata.obs["slice"] = np.arange(adata.n_obs) % 2
    adata.obs["area"] = adata.obs["region"].cat.codes.astype(int)
    adata.write_h5ad(tmp_path / "a.h5ad")
    words = ["--library-key", "slice", "--label", "area", "--steps", "2", "--out", str(tmp_path / "out")]
    assert main(["demo", "--data", str(tmp_path / "a.h5ad"), *words]) == 0
    assert (tmp_path / "out" / "scores.csv").is_file()
