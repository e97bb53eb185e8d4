from __future__ import annotations

import shutil

import anndata as ad
import numpy as np
import pytest

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.cli import main


def niches(*words) -> int:
    return main(["niches", *map(str, words), "--quiet"])


def test_niches_of_one_file_are_those_of_python(embedded, tmp_path, capsys):
    out = tmp_path / "a.h5ad"
    assert niches(embedded / "a.h5ad", "--n-niches", 3, "--out", out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    adata, expected = ad.read_h5ad(out), ad.read_h5ad(embedded / "a.h5ad")
    spatial_graph(expected, n_neighs=10)
    scjepa.tl.niche_readout(expected)
    scjepa.tl.niches(expected, "X_stjepa_niche", n_niches=3)
    np.testing.assert_allclose(adata.obsm["X_stjepa_niche"], expected.obsm["X_stjepa_niche"], atol=1e-5)
    assert adata.obs["niche"].tolist() == expected.obs["niche"].tolist()
    assert adata.obs["niche"].cat.categories.tolist() == ["0", "1", "2"]
    assert list(adata.uns["niche_colors"]) == list(expected.uns["niche_colors"])
    assert adata.uns["scjepa"]["niche"]["n_niches"] == 3
    assert adata.uns["scjepa"]["X_stjepa_niche"]["n_hops"] == 3
    assert "niche" not in ad.read_h5ad(embedded / "a.h5ad").obs


def test_niches_of_several_files_are_found_together(embedded, tmp_path):
    files = embedded / "a.h5ad", embedded / "b.zarr"
    out, picture = tmp_path / "out", tmp_path / "map.png"
    words = ["--readout", "plain", "--resolution", 0.5, "--standardize-by", "section", "--key", "domain"]
    assert niches(*files, *words, "--out", out, "--map", picture, "--reference", "region", "--unit", "µm") == 0
    one, other = ad.read_h5ad(out / "a.h5ad"), ad.read_zarr(out / "b.zarr")
    both = ad.concat([one, other], index_unique="-", keys=["a", "b"], label="section")
    expected = both.copy()
    del expected.obs["domain"]
    scjepa.tl.niches(expected, resolution=0.5, standardize_by="section", key_added="domain")
    assert both.obs["domain"].astype(str).tolist() == expected.obs["domain"].astype(str).tolist()
    assert list(one.obs["domain"].cat.categories) == list(other.obs["domain"].cat.categories)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 5_000
    assert "X_stjepa_niche" not in one.obsm


def test_rings_of_several_files_never_mix(embedded, tmp_path):
    files = embedded / "a.h5ad", embedded / "b.zarr"
    assert niches(*files, "--hops", 2, "--spatial-neighbors", 4, "--out", tmp_path / "both") == 0
    assert niches(files[0], "--hops", 2, "--spatial-neighbors", 4, "--out", tmp_path / "alone.h5ad") == 0
    alone = ad.read_h5ad(tmp_path / "alone.h5ad").obsm["X_stjepa_niche"]
    both = [ad.read_h5ad(tmp_path / "both" / "a.h5ad"), ad.read_zarr(tmp_path / "both" / "b.zarr")]
    widths = {part.obsm["X_stjepa_niche"].shape for part in both}
    assert widths == {alone.shape} == {(80, 20 * 3)}
    expected = ad.concat([ad.read_h5ad(files[0]), ad.read_zarr(files[1])], label="section", index_unique="-")
    spatial_graph(expected, n_neighs=4, library_key="section")
    scjepa.tl.niche_readout(expected, by="section", n_hops=2)
    found = np.concatenate([part.obsm["X_stjepa_niche"] for part in both])
    np.testing.assert_allclose(found, expected.obsm["X_stjepa_niche"], atol=1e-4)


def test_niches_are_written_anew_but_never_over_a_column_of_the_user(embedded, tmp_path, capsys):
    path = tmp_path / "a.h5ad"
    shutil.copy(embedded / "a.h5ad", path)
    assert niches(path, "--n-niches", 2) == 2
    assert niches(path, "--n-niches", 2, "--overwrite") == 0
    assert niches(path, "--n-niches", 4, "--overwrite") == 0
    assert ad.read_h5ad(path).obs["niche"].nunique() == 4
    capsys.readouterr()
    before = path.read_bytes()
    assert niches(path, "--n-niches", 2, "--overwrite", "--key", "region") == 1
    assert "already has" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--n-niches", "2", "--resolution", "1"], 2, "not allowed with"),
        (["--n-niches", "0"], 2, "whole number of at least 1"),
        (["--map", "map.txt"], 2, "pictures end in .png"),
        (["--unit", "µm"], 2, "name it with --map"),
        (["--use-rep", "X_pca"], 1, "has no obsm['X_pca']; obsm holds X_stjepa, X_stjepa_cell, spatial. Embed its"),
        (["--spatial-neighbors", "90"], 1, "too few for 90 neighbors each. Leave it out, or take fewer: --spatial-"),
        (["--standardize-by", "mouse"], 1, "no column obs['mouse']"),
        (["--n-niches", "81"], 1, "between 1 and the number of cells"),
        (["--spatial-key", "X", "--map", "map.png"], 1, "--spatial-key"),
    ],
)
def test_what_cannot_be_done_is_told_and_nothing_written(embedded, tmp_path, monkeypatch, capsys, words, code, message):
    monkeypatch.chdir(tmp_path)
    assert niches(embedded / "a.h5ad", "--out", tmp_path / "out.h5ad", *words) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_picture_is_not_replaced_unasked(embedded, tmp_path, capsys):
    (tmp_path / "map.png").write_text("mine")
    assert niches(embedded / "a.h5ad", "--out", tmp_path / "o.h5ad", "--map", tmp_path / "map.png") == 1
    assert "map.png exists" in capsys.readouterr().err
    assert not (tmp_path / "o.h5ad").exists()


def test_embeddings_of_two_models_do_not_mix(embedded, tmp_path, capsys):
    adata = ad.read_h5ad(embedded / "a.h5ad")
    adata.obsm["X_stjepa_cell"] = np.ones((80, 7), dtype=np.float32)
    adata.write_h5ad(tmp_path / "seven.h5ad")
    assert niches(embedded / "a.h5ad", tmp_path / "seven.h5ad", "--out", tmp_path / "o") == 1
    assert "7 and 32 dimensions" in capsys.readouterr().err
