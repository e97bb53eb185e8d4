from __future__ import annotations

import warnings

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

import scjepa
from scjepa._core.counts import NAN, OTHER, advice_on, genes_with_nan, holds_counts, usual_advice

COUNTS = np.random.default_rng(0).poisson(1.0, (60, 20)).astype(np.float32)
LOGGED = np.log1p(COUNTS)


def cells(matrix) -> ad.AnnData:
    adata = ad.AnnData(np.asarray(matrix).copy())
    adata.var_names = [f"Gene{i}" for i in range(adata.n_vars)]
    return adata


def outer_join() -> ad.AnnData:
    one, two = cells(COUNTS), cells(COUNTS)
    two.var_names = [f"Gene{i + 5}" for i in range(20)]
    return ad.concat({"A": one, "B": two}, label="section", join="outer", index_unique="-")


def test_whole_numbers_are_told_in_any_container(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = COUNTS
        assert holds_counts(file["x"])
    assert holds_counts(sp.csc_matrix(COUNTS))
    assert holds_counts(COUNTS.astype(np.int16))
    for other in (LOGGED, -COUNTS, np.zeros((3, 3)), np.full((3, 3), np.nan), None, COUNTS.astype(bool), COUNTS[:0]):
        assert not holds_counts(other)


@pytest.mark.parametrize(
    ("where", "advice"),
    [
        ("layer", r"adata\.layers\['raw_counts'\]: pass layer='raw_counts'"),
        ("raw", r"adata\.raw: adata = adata\.raw\.to_adata\(\)"),
        ("nowhere", "No raw counts are in adata.X"),
    ],
)
def test_advice_names_where_the_counts_are_and_can_be_followed(where, advice):
    adata = cells(COUNTS)
    adata.obsm["spatial"] = np.zeros((60, 2))
    if where == "raw":
        adata.raw = adata.copy()
    if where == "layer":
        adata.layers["raw_counts"] = COUNTS
    adata.X = LOGGED
    scjepa.CellJEPA.setup_anndata(adata)
    with pytest.warns(UserWarning, match=f"not whole numbers.*{advice}"):
        scjepa.CellJEPA(adata, preset="demo").get_latent_representation()
    if where == "raw":
        adata = adata.raw.to_adata()
        assert "spatial" in adata.obsm
    if where != "nowhere":
        scjepa.CellJEPA.setup_anndata(adata, layer="raw_counts" if where == "layer" else None)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*whole numbers")
            scjepa.CellJEPA(adata, preset="demo").estimate()


def test_counts_in_x_beside_a_layer_that_has_none():
    adata = cells(COUNTS)
    adata.layers["logged"] = LOGGED
    assert "leave the layer out" in advice_on(adata, "logged")(OTHER)


def test_nan_of_an_outer_join_comes_with_the_calls_that_join():
    both = outer_join()
    scjepa.CellJEPA.setup_anndata(both)
    with pytest.raises(
        ValueError, match=r"value nan.*10 of 25 genes have NaN.*scjepa\.concat.*numpy\.nan_to_num"
    ) as error:
        scjepa.CellJEPA(both, preset="demo").get_latent_representation()
    assert "layer=" not in str(error.value)
    both.X = np.nan_to_num(both.X)
    scjepa.CellJEPA(both, preset="demo").estimate()


def test_genes_with_nan_are_counted_in_any_container():
    both = outer_join()
    assert genes_with_nan(both.X) == (10, 25)
    assert genes_with_nan(sp.csr_matrix(both.X)) == (10, 25)
    both.layers["c"] = both.X
    assert "adata.layers['c'] = numpy.nan_to_num" in advice_on(both, "c")(NAN)
    assert "All 20 genes have NaN" in advice_on(cells(np.full((3, 20), np.nan)), None)(NAN)
    assert "scjepa.concat" in usual_advice(NAN)


@pytest.mark.parametrize("tool", ["niche_markers", "gene_modules", "thin_counts", "log_normalized", "benchmark"])
def test_every_reader_of_counts_says_what_nan_is(tool):
    both = outer_join()
    both.obs["niche"] = np.array(["0", "1"])[np.arange(both.n_obs) % 2]
    both.obsm["spatial"] = np.random.default_rng(0).uniform(size=(both.n_obs, 2))
    calls = {
        "niche_markers": lambda: scjepa.tl.niche_markers(both),
        "gene_modules": lambda: scjepa.tl.gene_modules(both, 3),
        "thin_counts": lambda: scjepa.datasets.thin_counts(both, 0.5),
        "log_normalized": lambda: scjepa.perturbation.log_normalized(both),
        "benchmark": lambda: scjepa.benchmark.run(both, methods=["neighborhood_pca"]),
    }
    with pytest.raises(ValueError, match=r"10 of 25 genes have NaN.*scjepa\.concat"):
        calls[tool]()
