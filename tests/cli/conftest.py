"""Small files of every kind, and a model that the command line fitted on two of them."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scjepa
from scjepa.cli import main

TINY = [
    *("--preset", "demo", "--n-neighbors", "5", "--steps", "6", "--batch-size", "16", "--accelerator", "cpu"),
    *("--set", "tokens.n_tokens=8", "--set", "encoder.width=32"),
    *("--set", "encoder.n_layers=1", "--set", "encoder.n_heads=2"),
]
"""Options of the smallest model."""


def tissue(seed: int, genes: slice = slice(None), n: int = 80) -> ad.AnnData:
    """Return one section of some of the same 30 genes; sections, labels and niches differ by seed."""
    whole = scjepa.datasets.simulated_tissue(
        n, n_sections=1, n_niches=2, n_cell_types=3, n_genes=30, difficulty="easy", seed=seed
    )
    adata = ad.AnnData(whole.X.copy(), obs=whole.obs[["region"]].copy(), var=pd.DataFrame(index=whole.var_names))
    adata.obs_names = [f"{seed}-{i}" for i in range(n)]
    adata.obsm["spatial"] = whole.obsm["spatial"]
    return adata[:, genes].copy()


def spatial(adata: ad.AnnData):
    """Return cells as SpatialData: a table that annotates circles and has no coordinates itself."""
    import geopandas as gpd
    import spatialdata as sd
    from shapely import Point
    from spatialdata.models import Image2DModel, ShapesModel, TableModel

    place = adata.obsm["spatial"]
    frame = gpd.GeoDataFrame({"geometry": [Point(*p) for p in place], "radius": 1.0}, index=np.arange(len(place)))
    table = adata.copy()
    del table.obsm["spatial"]
    table.obs["slide"], table.obs["cell_id"] = pd.Categorical(["cells"] * len(place)), np.arange(len(place))
    return sd.SpatialData(
        images={"image": Image2DModel.parse(np.zeros((1, 8, 8)), dims=("c", "y", "x"))},
        shapes={"cells": ShapesModel.parse(frame)},
        tables={"table": TableModel.parse(table, region="cells", region_key="slide", instance_key="cell_id")},
    )


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Return a folder, to be left as it is: ``a.h5ad`` (genes 0-25), ``b.zarr`` (5-30), ``s.zarr`` (SpatialData)."""
    folder = tmp_path_factory.mktemp("data")
    tissue(1, slice(0, 25)).write_h5ad(folder / "a.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tissue(2, slice(5, 30)).write_zarr(folder / "b.zarr")
        spatial(tissue(3)).write(folder / "s.zarr")
    return folder


@pytest.fixture(scope="session")
def model(data, tmp_path_factory) -> Path:
    """Return the folder of a model fitted on ``a.h5ad`` and ``b.zarr``."""
    out = tmp_path_factory.mktemp("model") / "model"
    assert main(["fit", str(data / "a.h5ad"), str(data / "b.zarr"), "--out", str(out), *TINY, "--quiet"]) == 0
    return out


@pytest.fixture(scope="session")
def embedded(data, model, tmp_path_factory) -> Path:
    """Return a folder, not to be changed, of copies of ``a`` and ``b`` with embeddings."""
    out = tmp_path_factory.mktemp("embedded")
    assert main(["embed", str(model), str(data / "a.h5ad"), str(data / "b.zarr"), "--out", str(out), "--quiet"]) == 0
    return out


@pytest.fixture(scope="session")
def make_tissue():
    """Return :func:`tissue`."""
    return tissue


@pytest.fixture(scope="session")
def as_spatialdata():
    """Return :func:`spatial`."""
    return spatial


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Return the options of the smallest model."""
    return TINY
