from __future__ import annotations

import shutil
from typing import Literal, get_type_hints

import anndata as ad
import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.cli import main


def niches(*words) -> int:
    return main(["niches", *map(str, words), "--quiet"])


def told(capsys, *words) -> str:
    """Return what the command says on stderr, which must find niches."""
    assert main(["niches", *map(str, words)]) == 0
    return capsys.readouterr().err


def with_graph(adata: ad.AnnData, n_neighs: int = 10, **how) -> ad.AnnData:
    spatial_graph(adata, n_neighs=n_neighs, **how)
    return adata


def chosen_in(adata: ad.AnnData) -> str:
    return adata.uns["scjepa"]["X_stjepa_niche"]["chosen"]


def test_niches_of_one_file_are_those_of_python(embedded, tmp_path, capsys):
    out = tmp_path / "a.h5ad"
    assert niches(embedded / "a.h5ad", "--n-niches", 3, "--out", out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    adata, expected = ad.read_h5ad(out), ad.read_h5ad(embedded / "a.h5ad")  # with the graph that it was embedded by
    scjepa.tl.niche_readout(expected)
    scjepa.tl.niches(expected, "X_stjepa_niche", n_niches=3)
    np.testing.assert_allclose(adata.obsm["X_stjepa_niche"], expected.obsm["X_stjepa_niche"], atol=1e-5)
    assert adata.obs["niche"].tolist() == expected.obs["niche"].tolist()
    assert adata.obs["niche"].cat.categories.tolist() == ["0", "1", "2"]
    assert list(adata.uns["niche_colors"]) == list(expected.uns["niche_colors"])
    assert adata.uns["scjepa"]["niche"]["n_niches"] == 3
    assert list(adata.uns["scjepa"]["X_stjepa_niche"]["use_rep"]) == ["X", "X_stjepa_cell"]
    assert chosen_in(adata) == chosen_in(expected)
    read = scjepa.tl.niche_readout_of(adata)
    sources = {"X": expected.X, "X_stjepa_cell": expected.obsm["X_stjepa_cell"]}
    again = read.transform(sources, expected.obsp["spatial_connectivities"])
    np.testing.assert_allclose(again, adata.obsm["X_stjepa_niche"], atol=1e-5)
    assert "niche" not in ad.read_h5ad(embedded / "a.h5ad").obs


def test_niches_of_several_files_are_found_together(embedded, tmp_path):
    files = embedded / "a.h5ad", embedded / "b.zarr"
    out, picture = tmp_path / "out", tmp_path / "map.png"
    words = ["--readout", "plain", "--resolution", 0.5, "--align", "scale", "--key-added", "domain"]
    assert niches(*files, *words, "--out", out, "--map", picture, "--reference", "region", "--unit", "µm") == 0
    one, other = ad.read_h5ad(out / "a.h5ad"), ad.read_zarr(out / "b.zarr")
    both = ad.concat([one, other], index_unique="-", keys=["a", "b"], label="section")
    expected = both.copy()
    del expected.obs["domain"]
    scjepa.tl.standardize(expected, library_key="section")
    scjepa.tl.niches(expected, "X_stjepa_standardized", resolution=0.5, key_added="domain")
    assert both.obs["domain"].astype(str).tolist() == expected.obs["domain"].astype(str).tolist()
    assert list(one.obs["domain"].cat.categories) == list(other.obs["domain"].cat.categories)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 5_000
    assert "X_stjepa_niche" not in one.obsm


def test_rings_of_several_files_never_mix(embedded, tmp_path):
    files = embedded / "a.h5ad", embedded / "b.zarr"
    how = ["--use-rep", "X_stjepa_cell", "--rings", 2, "--own-weight", 0.5, "--rebuild-graph", "--spatial-neighbors", 4]
    assert niches(*files, *how, "--out", tmp_path / "both") == 0
    both = [ad.read_h5ad(tmp_path / "both" / "a.h5ad"), ad.read_zarr(tmp_path / "both" / "b.zarr")]
    expected = ad.concat([ad.read_h5ad(files[0]), ad.read_zarr(files[1])], label="section", index_unique="-")
    with_graph(expected, 4, library_key="section")
    scjepa.tl.niche_readout(expected, "X_stjepa_cell", library_key="section", n_rings=2, own_weight=0.5)
    found = np.concatenate([part.obsm["X_stjepa_niche"] for part in both])
    np.testing.assert_allclose(found, expected.obsm["X_stjepa_niche"], atol=1e-4)
    assert [chosen_in(part) for part in both] == [chosen_in(expected)] * 2
    assert "2 rings, own weight 0.50" in chosen_in(expected)


# -- without embeddings, and beside them ----------------------------------------------------------------------------


def test_files_without_embeddings_are_read_by_the_linear_method(data, tmp_path, capsys):
    out = tmp_path / "a.h5ad"
    text = told(capsys, data / "a.h5ad", "--n-niches", 3, "--out", out)
    assert "no obsm['X_stjepa_cell']: niches are found by the linear method, from expression alone" in text
    adata, expected = ad.read_h5ad(out), with_graph(ad.read_h5ad(data / "a.h5ad"))
    scjepa.tl.find_niches(expected, n_niches=3)
    assert adata.obs["niche"].tolist() == expected.obs["niche"].tolist()
    assert f"linear method: {chosen_in(expected)}" in text
    assert chosen_in(adata) == chosen_in(expected)
    assert list(adata.obsm) == ["X_stjepa_niche", "spatial"]


def test_the_linear_method_reads_every_kind_of_file_and_the_genes_that_all_hold(data, tmp_path, capsys):
    files = [data / "a.h5ad", data / "b.zarr", data / "s.zarr"]
    text = told(capsys, *files, "--n-niches", 2, "--out", tmp_path)
    assert "The files have no obsm['X_stjepa_cell']" in text
    assert "Expression is read from the 20 genes that all files hold." in text
    parts = [ad.read_h5ad(tmp_path / "a.h5ad"), ad.read_zarr(tmp_path / "b.zarr")]
    parts.append(ad.read_zarr(tmp_path / "s.zarr" / "tables" / "table"))
    read = scjepa.tl.niche_readout_of(parts[0])
    assert list(read.components_[0].groups_) == ["a", "b", "s"]
    shared = [gene for gene in parts[0].var_names if gene in set(parts[1].var_names)]
    assert read.components_[0].n_features_in_ == len(shared) == 20
    counts = {"X": parts[1][:, shared].X}
    graph = with_graph(parts[1]).obsp["spatial_connectivities"]
    again = read.transform(counts, graph, np.repeat("b", parts[1].n_obs))
    np.testing.assert_allclose(again, parts[1].obsm["X_stjepa_niche"], atol=1e-4)


def test_the_order_of_genes_in_a_file_changes_nothing(make_tissue, tmp_path):
    one, other = make_tissue(1), make_tissue(2)
    for adata, seed in ((one, 0), (other, 1)):
        adata.obsm["X_stjepa_cell"] = np.random.default_rng(seed).normal(size=(80, 4)) + adata.obsm["spatial"][:, :1]
    one.write_h5ad(tmp_path / "one.h5ad")
    for name, order in (("other", slice(None)), ("turned", slice(None, None, -1))):
        other[:, order].write_h5ad(tmp_path / f"{name}.h5ad")
        files = tmp_path / "one.h5ad", tmp_path / f"{name}.h5ad"
        assert niches(*files, "--n-niches", 2, "--out", tmp_path / f"with_{name}") == 0
    plain, turned = (ad.read_h5ad(tmp_path / f"with_{name}" / "one.h5ad") for name in ("other", "turned"))
    assert list(plain.uns["scjepa"]["X_stjepa_niche"]["use_rep"]) == ["X", "X_stjepa_cell"]
    np.testing.assert_allclose(plain.obsm["X_stjepa_niche"], turned.obsm["X_stjepa_niche"], atol=1e-5)


def test_of_files_with_other_genes_the_embedding_is_read_alone_and_the_note_says_how_to_read_both(
    embedded, tmp_path, capsys
):
    files = embedded / "a.h5ad", embedded / "b.zarr"
    text = told(capsys, *files, "--n-niches", 2, "--out", tmp_path / "alone")
    assert "read without expression. The files hold different genes, 20 of them in all files" in text
    assert "components of expression" not in text
    how = ["--use-rep", "X", "--use-rep", "X_stjepa_cell", "--n-niches", 2]
    text = told(capsys, *files, *how, "--out", tmp_path / "both")
    assert "from the 20 genes that all files hold" in text
    noted = ad.read_h5ad(tmp_path / "both" / "a.h5ad").uns["scjepa"]["X_stjepa_niche"]
    assert list(noted["use_rep"]) == ["X", "X_stjepa_cell"]


@pytest.fixture
def logged(embedded, tmp_path):
    """Return a file with an embedding whose counts are in a layer, beside logarithms in X."""
    adata = ad.read_h5ad(embedded / "a.h5ad")
    adata.layers["counts"], adata.X = adata.X, adata.X.astype(np.float32).log1p()
    adata.write_h5ad(tmp_path / "logged.h5ad")
    return tmp_path / "logged.h5ad"


def test_values_that_are_no_counts_do_not_stand_beside_an_embedding(logged, tmp_path, capsys):
    text = told(capsys, logged, "--n-niches", 2, "--out", tmp_path / "o.h5ad")
    assert "the values of X are no raw counts. Raw counts are in the layer 'counts': --layer counts." in text
    assert list(ad.read_h5ad(tmp_path / "o.h5ad").uns["scjepa"]["X_stjepa_niche"]["use_rep"]) == ["X_stjepa_cell"]
    told(capsys, logged, "--layer", "counts", "--n-niches", 2, "--out", tmp_path / "c.h5ad")
    adata = ad.read_h5ad(tmp_path / "c.h5ad")
    expected = adata.copy()
    scjepa.tl.niche_readout(expected, layer="counts")
    np.testing.assert_allclose(adata.obsm["X_stjepa_niche"], expected.obsm["X_stjepa_niche"], atol=1e-5)


def test_the_linear_method_takes_no_counts_that_are_elsewhere_for_those_in_x(logged, tmp_path, capsys):
    out = tmp_path / "o.h5ad"
    assert niches(logged, "--use-rep", "X", "--out", out) == 1
    said = capsys.readouterr().err
    assert "Raw counts are in the layer 'counts': --layer counts. To take these values for counts: --layer X." in said
    assert not out.exists()
    assert "They are taken for counts." in told(capsys, logged, "--use-rep", "X", "--layer", "X", "--out", out)
    assert niches(logged, "--use-rep", "X", "--layer", "counts", "--out", out, "--overwrite") == 0


def test_an_embedding_in_some_files_alone_is_told(data, embedded, tmp_path, capsys):
    files = embedded / "a.h5ad", data / "b.zarr"
    assert niches(*files, "--out", tmp_path / "o") == 1
    said = capsys.readouterr().err
    assert "b.zarr has no obsm['X_stjepa_cell'], and" in said
    assert "--use-rep X" in said
    assert niches(*files, "--use-rep", "X", "--n-niches", 2, "--out", tmp_path / "o") == 0


def test_genes_that_cannot_be_matched_are_told(make_tissue, tmp_path, capsys):
    one, other = make_tissue(1, slice(0, 10)), make_tissue(2, slice(10, 20))
    one.write_h5ad(tmp_path / "one.h5ad")
    other.write_h5ad(tmp_path / "other.h5ad")
    files = tmp_path / "one.h5ad", tmp_path / "other.h5ad"
    assert niches(*files, "--out", tmp_path / "o") == 1
    assert "No gene is in all files" in capsys.readouterr().err
    other.var_names = [*one.var_names[:9], one.var_names[0]]
    other.write_h5ad(files[1])
    assert niches(*files, "--out", tmp_path / "o") == 1
    assert f"has the gene {one.var_names[0]!r} twice" in capsys.readouterr().err


def test_sections_are_aligned_as_is_said(embedded, tmp_path):
    adata = ad.read_h5ad(embedded / "a.h5ad")
    adata.obs["section"] = np.repeat(["s", "t"], 40)
    adata.write_h5ad(tmp_path / "two.h5ad")
    found = {}
    for name, words in {
        "default": [],
        "none": ["--align", "none"],
        "covariance": ["--align", "covariance"],
    }.items():
        out = tmp_path / f"{name}.h5ad"
        assert niches(tmp_path / "two.h5ad", *words, "--rebuild-graph", "--n-niches", 2, "--out", out) == 0
        found[name] = scjepa.tl.niche_readout_of(ad.read_h5ad(out))
    assert [read.align_ for read in found.values()] == ["scale", "none", "covariance"]


def test_options_of_niches_are_those_of_python():
    from scjepa._core.options import AUTO
    from scjepa.cli.niches import Readout
    from scjepa.tl._moments import ALIGNMENTS
    from scjepa.tl._niche_estimator import MAX_RINGS

    hints = get_type_hints(Readout)
    assert hints["align"] == Literal[(AUTO, *ALIGNMENTS)] | None
    assert hints["rings"] == Literal[tuple(range(MAX_RINGS + 1))] | None


def test_niches_are_written_anew_but_never_over_a_column_of_the_user(embedded, tmp_path, capsys):
    path = tmp_path / "a.h5ad"
    shutil.copy(embedded / "a.h5ad", path)
    assert niches(path, "--n-niches", 2) == 2
    assert niches(path, "--n-niches", 2, "--overwrite") == 0
    assert niches(path, "--n-niches", 4, "--overwrite") == 0
    assert ad.read_h5ad(path).obs["niche"].nunique() == 4
    capsys.readouterr()
    before = path.read_bytes()
    assert niches(path, "--n-niches", 2, "--overwrite", "--key-added", "region") == 1
    assert "already has" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--n-niches", "2", "--resolution", "1"], 2, "not both"),
        (["--n-niches", "0"], 2, "whole number of at least 1"),
        (["--map", "map.txt"], 2, "pictures end in .png"),
        (["--unit", "µm"], 2, "name it with --map"),
        (["--rings", "4"], 2, "Unknown value of --rings '4'. Known: 0, 1, 2, 3"),
        (["--own-weight", "-1"], 1, "own_weight must be 0 or more"),
        (["--readout", "rings"], 2, "Unknown value of --readout 'rings'"),
        (["--readout", "plain", "--own-weight", "1"], 2, "--own-weight is for --readout niche"),
        (["--readout", "plain", "--layer", "X"], 2, "--layer is for --readout niche"),
        (["--readout", "plain", "--use-rep", "A", "--use-rep", "B"], 2, "takes one --use-rep, found A, B"),
        (["--standardize-by", "mouse"], 2, "there is no '--standardize-by'. Did you mean --library-key?"),
        (["--readout", "plain", "--align", "auto"], 2, "--align auto is for --readout niche"),
        (["--layer", "raw"], 1, "has no layer 'raw'"),
        (["--use-rep", "X_pca"], 1, "has no obsm['X_pca']; obsm holds X_stjepa, X_stjepa_cell, spatial. Embed its"),
        (
            ["--rebuild-graph", "--spatial-neighbors", "90"],
            1,
            "too few for 90 neighbors each. Leave it out, or take fewer: --spatial-",
        ),
        (["--library-key", "mouse"], 1, "obs['mouse'] does not exist"),
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


def test_technologies_of_different_panels_are_read_by_what_they_have_in_common(tmp_path, capsys):
    whole = scjepa.datasets.simulated_tissue(
        n_cells=1200, n_sections=2, n_niches=3, n_genes=100, technologies=("A", "B"), panel_overlap=0.2
    )
    files = []
    for name in ("A", "B"):
        part = whole[whole.obs["technology"] == name]
        part = part[:, np.asarray(part.X.sum(axis=0)).ravel() > 0].copy()
        del part.obs["technology"]
        part.write_h5ad(tmp_path / f"{name}.h5ad")
        files.append(tmp_path / f"{name}.h5ad")
    out = tmp_path / "out"
    assert niches(*files, "--readout", "shared", "--n-niches", 3, "--out", out) == 0
    for name in ("A", "B"):
        found = ad.read_h5ad(out / f"{name}.h5ad")
        assert found.obsm["X_stjepa_niche"].shape[0] == found.n_obs
        assert normalized_mutual_info_score(found.obs["region"], found.obs["niche"]) > 0.5
        assert "X_shared" not in found.uns["scjepa"]
    assert main(["niches", *map(str, files), "--readout", "shared", "--align", "none", "--out", str(out)]) == 2
    assert "--align" in capsys.readouterr().err
    assert main(["niches", *map(str, files), "--technology-key", "x", "--out", str(out)]) == 2
    assert "--readout shared" in capsys.readouterr().err
