from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scjepa.cli.cells import Names, add_graph, join, read_cells
from scjepa.cli.io import data_files
from scjepa.cli.options import KINDS, Where


def write(folder, name: str, genes: str, n: int = 12, sections=None, technologies=None, dense=False, **more):
    """Write a file of cells at random places; counts tell the gene: 'a' is 1, 'b' 2, ..."""
    rng = np.random.default_rng(len(name))
    X = np.tile([ord(gene) - ord("a") + 1 for gene in genes], (n, 1)).astype(np.float32)
    obs = pd.DataFrame(index=[f"{i}" for i in range(n)])
    if sections is not None:
        obs["section"] = pd.Categorical(sections)
    if technologies is not None:
        obs["technology"] = pd.Categorical(technologies)
    adata = ad.AnnData(X if dense else sparse.csr_matrix(X), obs=obs, var=pd.DataFrame(index=list(genes)))
    adata.obsm["spatial"] = rng.random((n, 2))
    for key, value in more.items():
        for added, column in value.items():
            getattr(adata, key)[added] = column
    adata.write_h5ad(folder / f"{name}.h5ad")
    return folder / f"{name}.h5ad"


def joined(*paths, where: Where | None = None, k: int = 3):
    where = where or Where()
    files, names = data_files(paths), Names.of(KINDS["stjepa"], where)
    cells = [read_cells(file, where, names) for file in files]
    for file, part in zip(files, cells, strict=True):
        add_graph(part, file, names, k)
    return *join(files, cells, names), cells


def test_files_of_other_genes_are_joined_by_name(tmp_path):
    one, other = write(tmp_path, "one", "abc"), write(tmp_path, "other", "dcb", dense=True)
    adata, keys, _ = joined(one, other)
    assert sorted(adata.var_names) == list("abcd")
    expected = {"a": (1, 0), "b": (2, 2), "c": (3, 3), "d": (0, 4)}
    for gene, (first, second) in expected.items():
        column = adata[:, gene].X.toarray().ravel()
        assert (column[:12] == first).all()
        assert (column[12:] == second).all()
    assert sparse.issparse(adata.X)
    assert adata.obs["section"].tolist() == ["one"] * 12 + ["other"] * 12
    assert adata.obs["technology"].tolist() == ["one"] * 12 + ["other"] * 12
    measured = adata.varm[keys.panel_key]
    assert measured.loc[["a", "b", "c", "d"], "one"].tolist() == [True, True, True, False]
    assert measured.loc[["a", "b", "c", "d"], "other"].tolist() == [False, True, True, True]
    assert adata.obs_names.is_unique


def test_no_edge_joins_two_files(tmp_path):
    adata, _, _ = joined(write(tmp_path, "one", "ab"), write(tmp_path, "other", "ab"))
    edges = adata.obsp["spatial_connectivities"].tocoo()
    assert (np.asarray(edges.row < 12) == (edges.col < 12)).all()
    assert edges.nnz == 24 * 3


def test_one_file_is_set_up_as_python_would(tmp_path):
    adata, keys, _ = joined(write(tmp_path, "one", "abc"))
    assert (keys.library_key, keys.technology_key, keys.panel_key, keys.layer) == ("", "", "", "")
    assert list(adata.obs.columns) == []


def test_columns_of_sections_and_technologies_are_used_where_they_are(tmp_path):
    half = ["s1"] * 6 + ["s2"] * 6
    one = write(tmp_path, "one", "ab", sections=half, technologies=["T"] * 12)
    other = write(tmp_path, "other", "ab")
    adata, keys, cells = joined(one, other)
    assert adata.obs["section"].tolist() == [*half, *["other"] * 12]
    assert set(adata.obs["technology"]) == {"T", "other"}
    edges = cells[0].obsp["spatial_connectivities"].tocoo()
    assert (np.asarray(edges.row < 6) == (edges.col < 6)).all()
    _, keys, _ = joined(one)
    assert (keys.library_key, keys.technology_key) == ("section", "technology")


def test_sections_of_one_name_in_two_files_are_two_sections(tmp_path):
    one, other = (write(tmp_path, name, "ab", sections=["1"] * 6 + [name] * 6) for name in ("one", "other"))
    adata, _, _ = joined(one, other)
    assert sorted(set(adata.obs["section"])) == ["one", "one-1", "other", "other-1"]


def test_other_columns_can_be_named(tmp_path):
    path = write(tmp_path, "one", "ab", sections=["x"] * 12, obs={"mouse": ["m1"] * 6 + ["m2"] * 6})
    adata, keys, _ = joined(path, where=Where(library_key="mouse"))
    assert keys.library_key == "mouse"
    assert adata.obs["mouse"].tolist() == ["m1"] * 6 + ["m2"] * 6
    with pytest.raises(KeyError, match=r"obs\['mous'\] does not exist.*'section', 'mouse'.*--library-key"):
        joined(path, where=Where(library_key="mous"))


def test_a_table_of_panels_in_a_file_is_used(tmp_path):
    known = pd.DataFrame({"A": [True, True, False], "B": [True, False, True]}, index=list("abc"))
    technologies = ["A"] * 6 + ["B"] * 6
    told = write(tmp_path, "told", "abc", technologies=technologies, varm={"measured": known})
    alone, keys, _ = joined(told)
    assert keys.panel_key == "panel"
    pd.testing.assert_frame_equal(alone.varm["panel"], known)
    table = joined(told, write(tmp_path, "other", "ab"))[0].varm["panel"].loc[list("abc")]
    assert table["A"].tolist() == [True, True, False]
    assert table["B"].tolist() == [True, False, True]
    assert table["other"].tolist() == [True, True, False]


def test_the_layer_of_several_files_is_where_the_model_looks(tmp_path):
    layers = {"counts": np.full((12, 2), 7)}
    paths = [write(tmp_path, name, "ab", layers=layers) for name in ("one", "other")]
    adata, keys, _ = joined(*paths, where=Where(layer="counts"))
    assert (keys.layer, adata.X) == ("counts", None)
    assert (np.asarray(adata.layers["counts"]) == 7).all()


def test_layers(tmp_path):
    path = write(tmp_path, "one", "ab", layers={"counts": np.full((12, 2), 7)})
    adata, keys, _ = joined(path, where=Where(layer="counts"))
    assert (keys.layer, adata.X) == ("counts", None)
    assert (adata.layers["counts"] == 7).all()
    assert joined(path, where=Where(layer="X"))[1].layer == ""
    with pytest.raises(ValueError, match="no layer 'raw'; layers: counts"):
        joined(path, where=Where(layer="raw"))


def test_a_graph_in_the_file_is_used(tmp_path):
    ring = sparse.csr_matrix(np.roll(np.eye(12), 1, axis=1))
    graph = {"spatial_connectivities": ring, "spatial_distances": ring * 2.0}
    _, _, cells = joined(write(tmp_path, "one", "ab", obsp=graph))
    assert (cells[0].obsp["spatial_connectivities"] != ring).nnz == 0
    file = data_files([tmp_path / "one.h5ad"])[0]
    assert not read_cells(file, Where(), Names.of(KINDS["stjepa"], Where()), use_graph=False).obsp


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obsm": {}}, r"no coordinates obsm\['spatial'\]; obsm holds nothing.*--spatial-key"),
        ({"obsm": {"spatial": np.ones((12, 4))}}, "n_cells, 2"),
        ({"obsm": {"spatial": np.r_[np.ones((11, 2)), [[np.nan, 0]]]}}, "'11'.*1 cells.*finite"),
        ({"obs": {"section": pd.Categorical([None] + ["s"] * 11, ["s"])}}, "1 cells have no value.*'0'"),
        ({"X": None}, r"no matrix X\. It has no counts at all"),
    ],
    ids=["no coordinates", "four", "nan", "no section", "no counts"],
)
def test_what_a_file_lacks_is_told(tmp_path, change, message):
    path = write(tmp_path, "one", "ab")
    adata = ad.read_h5ad(path)
    for key, value in change.items():
        if key == "X":
            adata.X = None
        elif not value:
            del adata.obsm["spatial"]
        else:
            for name, column in value.items():
                getattr(adata, key)[name] = column
    adata.write_h5ad(path)
    with pytest.raises(ValueError, match=message):
        joined(path)


def test_sections_too_small_for_their_neighbors_are_told(tmp_path):
    path = write(tmp_path, "one", "ab", sections=["s1"] * 9 + ["s2"] * 3)
    with pytest.raises(ValueError, match=r"section 's2' has 3 cells, too few for 3 neighbors.*--n-neighbors 2"):
        joined(path)


def test_files_that_do_not_go_together_are_told(tmp_path):
    one = write(tmp_path, "one", "abc")
    with pytest.raises(ValueError, match="shares no gene"):
        joined(one, write(tmp_path, "other", "xyz"))
    flat = write(tmp_path, "cube", "abc", obsm={"spatial": np.random.default_rng(0).random((12, 3))})
    with pytest.raises(ValueError, match="two columns and some of three"):
        joined(one, flat)
    with pytest.raises(ValueError, match="gene 'a' twice"):
        joined(write(tmp_path, "twice", "aab"), one)


def test_spatialdata_gives_centroids_and_regions(data):
    adata, keys, cells = joined(data / "s.zarr")
    assert cells[0].obsm["spatial"].shape == (80, 2)
    assert np.isfinite(cells[0].obsm["spatial"]).all()
    assert keys.library_key == ""
    assert adata.shape == (80, 30)
