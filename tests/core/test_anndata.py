from __future__ import annotations

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import squidpy as sq

import scjepa
from scjepa._core.anndata import (
    array_of,
    counts_of,
    flags_of,
    joined_notes,
    layers_of,
    missing_key,
    require_anndata,
    sparse_of,
    text_of,
)
from scjepa._core.graph import graph_call


def cells(n=6, genes=3) -> ad.AnnData:
    adata = ad.AnnData(np.ones((n, genes), dtype=np.float32))
    adata.layers["counts"] = adata.X.copy()
    return adata


class SpatialData:
    """What is told by its name alone, without importing spatialdata."""


class MuData:
    mod = {"rna": 1, "protein": 2}  # noqa: RUF012 - a stand-in


@pytest.mark.parametrize(
    ("given", "call"),
    [
        (SpatialData(), r"found SpatialData\. Take its table: scjepa\.table_of\(sdata\)"),
        (MuData(), r"'rna', 'protein': adata = mdata\.mod"),
        ("cells.h5ad", r"read_h5ad\('cells\.h5ad'\)"),
        ("cells.zarr", r"read_zarr\('cells\.zarr'\)"),
        ([cells(), cells()], r"scjepa\.concat"),
        ({"a": cells()}, r"scjepa\.concat"),
        (np.ones((2, 2)), r"anndata\.AnnData\(counts\)"),
        (None, r"found NoneType"),
    ],
)
def test_what_is_no_anndata_comes_with_the_call_that_makes_one_of_it(given, call):
    with pytest.raises(TypeError, match=f"Expected an AnnData object, .*{call}"):
        require_anndata(given)
    with pytest.raises(TypeError, match="Expected an AnnData object for 'a', found"):
        require_anndata(given, "a")


TOOLS = {
    "tl.aggregate": lambda x: scjepa.tl.aggregate(x),
    "tl.compare_niches": lambda x: scjepa.tl.compare_niches(x, "a", "b"),
    "tl.find_niches": lambda x: scjepa.tl.find_niches(x),
    "tl.gene_modules": lambda x: scjepa.tl.gene_modules(x),
    "tl.niche_composition": lambda x: scjepa.tl.niche_composition(x),
    "tl.niche_confidence": lambda x: scjepa.tl.niche_confidence(x, []),
    "tl.niche_interactions": lambda x: scjepa.tl.niche_interactions(x),
    "tl.niche_markers": lambda x: scjepa.tl.niche_markers(x),
    "tl.niche_readout": lambda x: scjepa.tl.niche_readout(x),
    "tl.niches": lambda x: scjepa.tl.niches(x),
    "tl.niche_readout_of": lambda x: scjepa.tl.niche_readout_of(x),
    "tl.predictive_components": lambda x: scjepa.tl.predictive_components(x),
    "tl.predictive_components_of": lambda x: scjepa.tl.predictive_components_of(x),
    "tl.predictive_genes": lambda x: scjepa.tl.predictive_genes(x),
    "tl.standardize": lambda x: scjepa.tl.standardize(x),
    "pl.compare": lambda x: scjepa.pl.compare(x, "a", "b"),
    "pl.composition": lambda x: scjepa.pl.composition(x),
    "pl.confidence": lambda x: scjepa.pl.confidence(x),
    "pl.embedding": lambda x: scjepa.pl.embedding(x),
    "pl.interactions": lambda x: scjepa.pl.interactions(x),
    "pl.markers": lambda x: scjepa.pl.markers(x),
    "pl.niches": lambda x: scjepa.pl.niches(x),
    "datasets.thin_counts": lambda x: scjepa.datasets.thin_counts(x, 0.5),
    "concat": lambda x: scjepa.concat({"a": x}),
    "benchmark.neighborhood_pca": lambda x: scjepa.benchmark.neighborhood_pca(x),
    "benchmark.section_zscored_pca": lambda x: scjepa.benchmark.section_zscored_pca(x, library_key="a"),
    "benchmark.run_method": lambda x: scjepa.benchmark.run_method("neighborhood_pca", x),
    "benchmark.run": lambda x: scjepa.benchmark.run({"a": x}),
    "benchmark.run_cells": lambda x: scjepa.benchmark.run_cells({"a": x}, label="a"),
    "perturbation.log_normalized": lambda x: scjepa.perturbation.log_normalized(x),
    "perturbation.Conditions": lambda x: scjepa.perturbation.Conditions.of_adata(x),
    "STJEPA": lambda x: scjepa.STJEPA(x),
    "CellJEPA": lambda x: scjepa.CellJEPA(x),
    "STJEPA.load_query_data": lambda x: scjepa.STJEPA.from_pretrained("mouse-brain-small", x),
    "STJEPA.setup_anndata": lambda x: scjepa.STJEPA.setup_anndata(x),
    "CellJEPA.setup_anndata": lambda x: scjepa.CellJEPA.setup_anndata(x),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_says_what_to_do_with_spatialdata_and_with_a_list(tool):
    if not tool.startswith("pl."):  # figures take it
        with pytest.raises(TypeError, match=r"Expected an AnnData object.*scjepa\.table_of\(sdata\)"):
            TOOLS[tool](SpatialData())
    with pytest.raises(TypeError, match=r"Expected an AnnData object.*scjepa\.concat"):
        TOOLS[tool]([cells()])


@pytest.mark.parametrize("tool", [name for name in TOOLS if name not in ("benchmark.run", "benchmark.run_cells")])
def test_every_tool_says_how_a_path_is_read(tool):
    with pytest.raises(TypeError, match=r"read_h5ad\('cells\.h5ad'\)"):
        TOOLS[tool]("cells.h5ad")


@pytest.mark.parametrize("given", [cells(), SpatialData(), "cells.h5ad"])
def test_where_an_array_is_needed_a_column_or_matrix_is_asked_for(given):
    for call in (
        lambda: scjepa.metrics.nmi(given, given),
        lambda: scjepa.benchmark.occupancy(given),
        lambda: scjepa.benchmark.score_table(given, ["a"]),
        lambda: scjepa.perturbation.convert_conditions(given),
    ):
        with pytest.raises(TypeError, match="an array with an entry for each cell is needed"):
            call()


def test_lazy_obs_is_refused_with_the_call_that_reads_it(tmp_path):
    cells().write_h5ad(tmp_path / "a.h5ad")
    lazy = ad.experimental.read_lazy(tmp_path / "a.h5ad")
    with pytest.raises(TypeError, match=r"adata\.to_memory\(\)"):
        scjepa.CellJEPA.setup_anndata(lazy)
    scjepa.CellJEPA.setup_anndata(lazy.to_memory())


def test_x_is_no_layer_though_anndata_lists_it_as_one(monkeypatch):
    adata = cells()
    if None not in adata.layers:  # an older anndata: its layers as those of 0.13 are
        monkeypatch.setattr(ad.AnnData, "layers", property(lambda self: {None: self.X, **dict(self._layers)}))
    assert layers_of(adata) == ["counts"]
    with pytest.raises(KeyError, match=r"layers\['count'\].*holds 'counts'\. Did you mean 'counts'") as error:
        counts_of(adata, "count")
    assert "None" not in str(error.value)
    with pytest.raises(KeyError, match=r"'a': adata\.layers"):
        counts_of(adata, "count", "a")


def test_an_empty_x_names_the_layers():
    adata = cells()
    adata.X = None
    with pytest.raises(ValueError, match=r"adata\.X is empty.*'counts'"):
        counts_of(adata, None)


def test_a_long_list_of_keys_is_cut():
    assert "..." in str(missing_key("obs", "x", map(str, range(40)), "Then."))


NUMBERS = np.array([[1.5, 2.0], [3.0, 4.0]])
FORMS = {
    "array": NUMBERS,
    "frame": pd.DataFrame(NUMBERS),
    "nullable": pd.DataFrame(NUMBERS).astype("Float64"),
    "arrow": pd.DataFrame(NUMBERS).astype("double[pyarrow]"),
    "sparse": sp.csr_matrix(NUMBERS),
    "lazy": SimpleNamespace(compute=lambda: NUMBERS),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_matrix_is_the_same_array_whatever_holds_it(form):
    np.testing.assert_array_equal(array_of(FORMS[form]), NUMBERS)


def test_missing_numbers_are_nan_and_texts_stay():
    frame = pd.DataFrame(NUMBERS).astype("Float64")
    frame.iloc[0, 1] = pd.NA
    assert np.isnan(array_of(frame)[0, 1])
    assert array_of(pd.DataFrame({"x": ["a", "b"]}, dtype="string"))[1, 0] == "b"


def test_stored_zeros_of_a_graph_stay():
    graph = sp.csr_matrix((np.zeros(1), ([0], [1])), shape=(2, 2))
    assert sparse_of(SimpleNamespace(compute=lambda: graph)).nnz == 1


@pytest.mark.parametrize("dtype", [object, "category", "string", "string[pyarrow]", "str"])
def test_a_column_is_the_same_text_whatever_its_type(dtype):
    column = pd.Series(["b", None, "a", "b"]).astype(dtype) if dtype != "str" else pd.Series(["b", None, "a", "b"])
    assert text_of(column).tolist() == ["b", None, "a", "b"]


def test_numbers_and_categories_without_cells_become_text():
    assert text_of(pd.Series([1, None, 2], dtype="Int64")).tolist() == ["1", None, "2"]
    assert text_of(pd.Series([True, None], dtype="boolean")).tolist() == ["True", None]
    assert text_of(pd.Series(pd.Categorical([3, 1], categories=[1, 2, 3]))).tolist() == ["3", "1"]


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([True, False, None], dtype="boolean"),
        pd.Series([True, False, None]),
        pd.Series([True, False, None]).astype("bool[pyarrow]"),
        pd.Series([1, 0, np.nan]),
    ],
)
def test_flags_that_are_missing_are_no(column):
    assert flags_of(column).tolist() == [True, False, False]


def test_texts_are_no_flags():
    with pytest.raises(ValueError, match="must be boolean, found 'False'"):
        flags_of(pd.Series(["True", "False"][::-1], name="measured"))


def test_notes_of_columns_are_kept_where_every_object_with_the_column_has_one():
    one = {"niche": {"slot": "obs", "n_niches": 3, "use_rep": "X"}, "X_x": {"slot": "obsm"}}
    two = {"niche": {"slot": "obs", "n_niches": 5, "use_rep": "Y"}}
    assert joined_notes([one, two], [["niche"], ["niche"]]) == {"niche": {"slot": "obs", "n_niches": 5}}
    assert joined_notes([one, {}], [["niche"], []])["niche"]["use_rep"] == "X"
    assert joined_notes([one, {}], [["niche"], ["niche"]]) == {}
    assert joined_notes([{}], [["niche"]]) == {}


@pytest.mark.parametrize("values", ["text", "number", "unused", "category"])
@pytest.mark.parametrize(("neighbors_key", "spatial_key"), [("spatial", "spatial"), ("graph", "xy")])
def test_the_call_that_computes_a_graph_works_as_it_stands(values, neighbors_key, spatial_key):
    adata = cells(40)
    names = np.array(["1", "2"])[np.arange(40) // 20]
    adata.obs["slice"] = {
        "text": names,
        "number": names.astype(int),
        "unused": pd.Categorical(names, categories=["1", "2", "3"]),
        "category": pd.Categorical(names),
    }[values]
    adata.obsm[spatial_key] = np.random.default_rng(0).uniform(size=(40, 2))
    call = graph_call(adata, "slice", neighbors_key=neighbors_key, spatial_key=spatial_key)
    exec(call, {"sq": sq, "adata": adata})
    assert adata.obsp[f"{neighbors_key}_connectivities"].shape == (40, 40)
