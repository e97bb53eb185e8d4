"""Coordinates, labels, ids and counts give the same results whatever pandas, Arrow, Dask or a file holds them in."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scjepa
from scjepa._core.squidpy import spatial_graph

N = 60
RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(1.0, (N, 16)).astype(np.float32)
PLACES, VALUES = RNG.uniform(0, 100, (N, 2)), RNG.normal(size=(N, 6)).astype(np.float32)
COLUMNS = {
    "section": np.array(["1", "2"])[np.arange(N) // 30],
    "niche": np.array(["0", "1"])[np.arange(N) % 2],
    "cell_type": np.array(["1", "2", "3"])[np.arange(N) % 3],
}


def tissue() -> ad.AnnData:
    adata = ad.AnnData(sp.csr_matrix(COUNTS), obs=pd.DataFrame(COLUMNS, dtype="category"))
    adata.obs_names, adata.var_names = [f"c{i}" for i in range(N)], [f"Gene{i}" for i in range(16)]
    adata.obsm["spatial"], adata.obsm["X_stjepa"] = PLACES.copy(), VALUES.copy()
    adata.obs["share"] = np.linspace(0, 1, N)
    spatial_graph(adata, n_neighs=10, library_key="section")
    return adata


def frames(dtype):
    def change(adata):
        for key in ("spatial", "X_stjepa"):
            frame = pd.DataFrame(np.asarray(adata.obsm[key], dtype=np.float64), index=adata.obs_names).astype(dtype)
            adata.obsm[key] = frame.rename(columns="d{}".format)

    return change


def columns(dtype):
    def change(adata):
        for key, names in COLUMNS.items():
            values = names.astype(int) if dtype in ("int64", "Int64") else names.tolist()
            adata.obs[key] = pd.Series(values, index=adata.obs_names).astype(dtype)

    return change


def unused(adata):
    for key in COLUMNS:
        adata.obs[key] = adata.obs[key].cat.add_categories(["none of these"])


def repeated(adata):
    adata.obs_names = ["cell"] * N


def arrow_names(adata):
    adata.var.index = pd.Index(pd.array(list(adata.var_names), dtype="string[pyarrow]"))
    adata.obs.index = pd.Index(pd.array(list(adata.obs_names), dtype="string[pyarrow]"))


def dask(adata):
    da = pytest.importorskip("dask.array")
    adata.X = da.from_array(COUNTS, chunks=(20, 16)).map_blocks(sp.csr_matrix)
    for key in ("spatial", "X_stjepa"):
        adata.obsm[key] = da.from_array(np.asarray(adata.obsm[key]), chunks=(20, -1))


def formats(adata):
    adata.X = sp.csc_array(COUNTS)
    for key in list(adata.obsp):
        adata.obsp[key] = adata.obsp[key].toarray()


CHANGES = {
    "frames": frames("float64"),
    "nullable frames": frames("Float64"),
    "Arrow frames": frames("double[pyarrow]"),
    "strings": columns("string"),
    "Arrow strings": columns("string[pyarrow]"),
    "objects": columns("object"),
    "numbers": columns("int64"),
    "nullable numbers": columns("Int64"),
    "unused categories": unused,
    "names that repeat": repeated,
    "Arrow names": arrow_names,
    "Dask": dask,
    "other formats": formats,
    "on disk": None,
}


def niches(adata):
    del adata.obs["niche"]
    scjepa.tl.standardize(adata, library_key="section")
    scjepa.tl.niches(adata, "X_stjepa_standardized", n_niches=3)
    return adata.obs["niche"].astype(str).to_numpy(dtype=object)


def rings(adata):
    scjepa.tl.niche_readout(adata, ["X", "X_stjepa"], library_key="section")
    return adata.obsm["X_stjepa_niche"]


def drawn(adata):
    scjepa.pl.niches(adata, reference="cell_type")
    scjepa.pl.embedding(adata, color=["niche", "share", "section"], method="pca")


def model(adata):
    scjepa.STJEPA.setup_anndata(adata, library_key="section", technology_key="section")
    return scjepa.STJEPA(adata, preset="demo").get_latent_representation()


def cells(adata):
    scjepa.CellJEPA.setup_anndata(adata, batch_key="section", labels_key="cell_type")
    return scjepa.CellJEPA(adata, preset="demo").get_latent_representation()


def joined(adata):
    both = scjepa.concat({"a": adata if not adata.isbacked else adata.to_memory(), "b": tissue()})
    counts = both.X.compute() if hasattr(both.X, "compute") else both.X
    return np.asarray(counts.sum(axis=1)).ravel()


def compared(adata):
    found = scjepa.benchmark.run_method("neighborhood_pca", adata if not adata.isbacked else adata.to_memory())
    return found.embedding


CALLS = {
    "niches": niches,
    "rings": rings,
    "markers": lambda adata: scjepa.tl.niche_markers(adata)["score"].to_numpy(),
    "composition": lambda adata: scjepa.tl.niche_composition(adata).counts.to_numpy(),
    "interactions": lambda adata: scjepa.tl.niche_interactions(adata, n_permutations=5).counts.to_numpy(),
    "figures": drawn,
    "thinned": lambda adata: scjepa.datasets.thin_counts(adata, 0.5).X.toarray(),
    "joined": joined,
    "neighborhood PCA": scjepa.benchmark.neighborhood_pca,
    "occupancy": lambda adata: scjepa.benchmark.occupancy(adata.X)["mean_fill"].to_numpy(),
    "run_method": compared,
    "log_normalized": lambda adata: scjepa.perturbation.log_normalized(adata).toarray(),
    "STJEPA": model,
    "CellJEPA": cells,
}


@pytest.fixture(scope="module")
def usual():
    return {name: call(tissue()) for name, call in CALLS.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", CHANGES)
def test_results_do_not_depend_on_what_holds_the_data(change, usual, tmp_path):
    for name, call in CALLS.items():
        adata = tissue()
        if CHANGES[change] is None:
            adata.write_h5ad(tmp_path / f"{name}.h5ad")
            adata = ad.read_h5ad(tmp_path / f"{name}.h5ad", backed="r")
        else:
            CHANGES[change](adata)
        found = call(adata)
        if name == "figures":
            continue
        same = np.array_equal if found.dtype == object else lambda a, b: np.allclose(a, b, atol=1e-4)
        assert same(found, usual[name]), f"{name} of {change}"


@pytest.mark.filterwarnings("ignore")
def test_missing_labels_of_nullable_columns_are_no_labels():
    adata = tissue()
    adata.obs["niche"] = pd.array(COLUMNS["niche"].astype(int), dtype="Int64")
    adata.obs["share"] = pd.array(np.linspace(0, 1, N), dtype="Float64")
    adata.obs.loc["c3", ["niche", "share"]] = pd.NA
    assert scjepa.tl.niche_composition(adata).counts.to_numpy().sum() == N - 1
    scjepa.pl.niches(adata)
    scjepa.pl.confidence(adata, "share")
    scjepa.pl.embedding(adata, color=["niche", "share"], method="pca")
    adata.obs["section"] = pd.array(COLUMNS["section"].tolist(), dtype="string")
    adata.obs.loc["c4", "section"] = pd.NA
    for call in (lambda: scjepa.tl.standardize(adata, library_key="section"), lambda: model(adata)):
        with pytest.raises(ValueError, match=r"obs\['section'\].*'c4'"):
            call()
