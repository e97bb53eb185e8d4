from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.cli import main


def info(*words) -> int:
    return main(["info", *map(str, words)])


def line(report: str, name: str) -> str:
    """Return what a report says of ``name``."""
    (found,) = [text for text in report.splitlines() if text.startswith(f"  {name} ")]
    return found.removeprefix(f"  {name} ").strip()


def test_a_file(data, capsys):
    assert info(data / "a.h5ad") == 0
    report = capsys.readouterr().out
    assert report.startswith(f"{data / 'a.h5ad'}: h5ad, ")
    assert line(report, "cells") == "80"
    assert line(report, "genes").startswith("25, such as gene_001")
    assert "integers up to" in line(report, "counts")
    assert line(report, "coordinates").startswith("obsm['spatial'], 2 dimensions")
    assert line(report, "graph") == "none: scjepa fit builds one"
    assert line(report, "sections") == "one"
    assert "\n  mind " not in report


def test_a_store_of_zarr_is_told_like_the_same_cells_in_h5ad(data, tmp_path, capsys):
    cells = ad.read_h5ad(data / "a.h5ad")
    cells.layers["counts"], cells.raw = cells.X.copy(), cells.copy()
    cells.X = np.log1p(cells.X.toarray())
    cells.write_h5ad(tmp_path / "a.h5ad")
    cells.write_zarr(tmp_path / "a.zarr")
    assert info(tmp_path / "a.h5ad", tmp_path / "a.zarr") == 0
    one, other = (report.partition("\n")[2] for report in capsys.readouterr().out.split("\n\n"))
    assert one.strip() == other.strip()
    assert "Raw counts are in the layer 'counts'" in one


def test_several_files_of_every_kind(data, embedded, capsys):
    assert info(data / "b.zarr", data / "s.zarr", embedded / "a.h5ad") == 0
    zarr, store, result = capsys.readouterr().out.split("\n\n")
    assert "b.zarr: zarr, " in zarr
    assert "s.zarr: SpatialData, table 'table', " in store
    assert line(store, "coordinates").startswith("obsm['spatial'], 2 dimensions")
    assert line(result, "obsm") == "X_stjepa (32), X_stjepa_cell (32), spatial (2)"


def test_a_whole_transcriptome_says_what_it_means_for_tokens(tmp_path, capsys):
    rng = np.random.default_rng(0)
    rates = np.r_[np.full(30, 60.0), np.full(14_970, 0.02)]
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(rates, (60, 15_000)).astype(np.float32)))
    adata.var_names = [f"g{i}" for i in range(15_000)]
    adata.obsm["spatial"] = rng.uniform(size=(60, 2))
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert info(tmp_path / "a.h5ad") == 0
    report = " ".join(capsys.readouterr().out.split())
    assert "a whole transcriptome: by count a few genes would be the tokens of all cells" in report
    assert "--set tokens.ranks=auto" in report


def test_what_to_mind(make_tissue, tmp_path, capsys):
    adata = make_tissue(1)
    adata.X = adata.X.astype(np.float32)
    adata.X.data = np.log1p(adata.X.data)
    adata.X[0] = 0
    adata.X.eliminate_zeros()
    adata.obsm["spatial"][1] = adata.obsm["spatial"][2]
    adata.obsm["spatial"][79] = adata.obsm["spatial"][3]  # of another section: no matter
    adata.obs["section"] = ["s1"] * 30 + ["s2"] * 50
    adata.obs["technology"] = ["A"] * 30 + ["B"] * 50
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert info(tmp_path / "a.h5ad") == 0
    report = capsys.readouterr().out
    assert "1 cells have no counts" in report
    assert "not integers and look log-transformed. No layer holds raw counts, nor does 'raw'" in report
    assert "2 cells lie exactly on another" in report
    assert line(report, "sections") == "obs['section'], 2: s2 (50), s1 (30)"
    assert "in all" in report


def test_features_that_are_no_genes_are_minded(make_tissue, tmp_path, capsys):
    adata = make_tissue(1)
    adata.var_names = ["NegPrb0", "BLANK_0001", *adata.var_names[2:]]
    adata.var["feature_types"] = ["Gene Expression"] * (adata.n_vars - 1) + ["Antibody Capture"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert main(["info", str(tmp_path / "a.h5ad")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "and 1 antibodies (" in told
    assert "2 control probes ('NegPrb0', 'BLANK_0001')" in told
    assert "scjepa.datasets.only_genes(adata)" in told


def test_a_table_of_no_spatialdata_store_is_told(data, capsys):
    assert main(["info", str(data / "a.h5ad"), "--table", "cells"]) == 1
    assert "--table cells names a table of SpatialData stores" in capsys.readouterr().err


def test_a_file_without_coordinates_is_still_told_of(make_tissue, tmp_path, capsys):
    adata = make_tissue(1)
    del adata.obsm["spatial"]
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert info(tmp_path / "a.h5ad") == 0
    report = capsys.readouterr().out
    assert line(report, "cells") == "80"
    assert "no coordinates obsm['spatial']" in line(report, "mind")


def test_coverage_against_a_model(model, make_tissue, tmp_path, capsys):
    adata = make_tissue(1)
    adata.var_names = [*adata.var_names[:20], *(f"other{i}" for i in range(10))]
    share = adata.X[:, :20].sum() / adata.X.sum()
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert info(tmp_path / "a.h5ad", "--model", model) == 0
    report = capsys.readouterr().out
    assert line(report, "coverage").startswith("20 ")
    assert f"{share:.0%}" in report
    adata.var_names = [f"OTHER{i}" for i in range(30)]
    adata.write_h5ad(tmp_path / "b.h5ad")
    assert info(tmp_path / "b.h5ad", "--model", model) == 0
    assert "No gene of" in line(capsys.readouterr().out, "coverage")


def test_an_estimate(data, capsys):
    assert info(data / "a.h5ad", "--preset", "demo", "--accelerator", "cpu") == 0
    report = capsys.readouterr().out
    assert line(report, "estimate") == "preset 'demo': Estimate for 80 cells on cpu"
    steps = scjepa.config.PRESETS["demo"].training.max_steps
    assert f"training    {steps} steps, about" in report


def test_a_model(model, capsys):
    assert info(model) == 0
    report = capsys.readouterr().out
    assert line(report, "trained") == "6 steps"
    assert line(report, "genes").startswith("30, such as gene_001")
    assert line(report, "tokens") == "top 8 genes of a cell and its 5 nearest neighbors, ranked by count"
    assert "a: 25 of 30 genes" in report
    assert "b: 25 of 30 genes" in report
    assert line(report, "diagnosis").startswith(("Training looks ", "Nothing was learned"))
    assert info(model, "--preset", "demo") == 2
    assert "are for files of cells" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["missing.h5ad", "missing"])
def test_what_is_not_there(tmp_path, capsys, name):
    assert info(tmp_path / name) == 1
    streams = capsys.readouterr()
    assert "There is no" in streams.err
    assert streams.out == ""


def test_a_graph_that_training_refuses_or_warns_of_is_told(make_tissue, tmp_path, capsys):
    adata = make_tissue(1)
    adata.obs["section"] = np.where(np.arange(80) < 40, "s1", "s2")
    spatial_graph(adata, n_neighs=4)
    adata.write_h5ad(tmp_path / "joined.h5ad")
    assert info(tmp_path / "joined.h5ad") == 0
    told = capsys.readouterr().out
    assert "edges of the spatial graph join different sections" in line(told, "mind")
    assert "scjepa fit --rebuild-graph" in told
    del adata.obs["section"]
    adata.write_h5ad(tmp_path / "few.h5ad")
    assert info(tmp_path / "few.h5ad") == 0
    assert "have fewer than 10 neighbors in the spatial graph" in line(capsys.readouterr().out, "mind")


def test_a_section_too_small_for_a_graph_is_told(make_tissue, tmp_path, capsys):
    make_tissue(1, n=8).write_h5ad(tmp_path / "a.h5ad")
    assert info(tmp_path / "a.h5ad") == 0
    report = capsys.readouterr().out
    assert "has 8 cells, too few for 10 neighbors each" in line(report, "mind")
    assert line(report, "graph") == "none: scjepa fit builds one"


def test_nan_of_an_outer_join_is_no_logarithm(make_tissue, tmp_path, capsys):
    adata = make_tissue(1)
    adata.X = adata.X.toarray().astype(np.float32)
    adata.X[:40, :3] = np.nan
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert info(tmp_path / "a.h5ad") == 0
    report = capsys.readouterr().out
    assert "3 of 30 genes have NaN" in line(report, "mind")
    assert "scjepa.concat" in line(report, "mind")
    assert "log-transformed" not in report
    assert line(report, "counts").startswith("integers up to")


def test_counts_in_raw_or_in_a_layer_are_found_and_the_call_takes_them(make_tissue, tmp_path, capsys, monkeypatch):
    adata = make_tissue(1)
    adata.raw = adata.copy()
    counts = adata.X.toarray()
    adata.X = np.log1p(counts).astype(np.float32)
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert info(tmp_path / "a.h5ad") == 0
    told = line(capsys.readouterr().out, "mind")
    monkeypatch.chdir(tmp_path)
    exec(told.partition("in Python: ")[2].rstrip("."), {"anndata": ad})
    np.testing.assert_array_equal(np.asarray(ad.read_h5ad("a_raw.h5ad").X.todense()), counts)
    assert info(tmp_path / "a_raw.h5ad") == 0
    assert "\n  mind " not in capsys.readouterr().out
    adata.layers["umis"] = counts
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert info(tmp_path / "a.h5ad") == 0
    assert "--layer umis" in line(capsys.readouterr().out, "mind")
    assert info(tmp_path / "a.h5ad", "--layer", "umis") == 0
    assert "\n  mind " not in capsys.readouterr().out
