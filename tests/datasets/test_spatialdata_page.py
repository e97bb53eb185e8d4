"""The examples of the page on SpatialData, run as they stand on small objects."""

from __future__ import annotations

import re
import warnings
from functools import partialmethod
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
import squidpy as sq
from shapely import Point
from spatialdata.models import Image2DModel, ShapesModel, TableModel

import scjepa

PAGE = Path(__file__).parents[2] / "docs" / "user_guide" / "spatialdata.md"


def xenium(n_sections: int = 1) -> sd.SpatialData:
    """Return cells as a reader of Xenium gives them: circles, an image, and a table that annotates the circles."""
    adata = scjepa.datasets.simulated_tissue(
        60 * n_sections, n_sections=n_sections, n_niches=2, n_cell_types=3, n_genes=20, seed=0
    )
    del adata.uns["scjepa_simulation"]
    names = ["cell_circles"] if n_sections == 1 else [f"circles_{i}" for i in range(n_sections)]
    regions = np.repeat(names, 60)
    shapes = {}
    for name in names:
        place = adata.obsm["spatial"][regions == name]
        circles = gpd.GeoDataFrame({"geometry": [Point(*p) for p in place], "radius": 5.0}, index=range(60))
        shapes[name] = ShapesModel.parse(circles)
    adata.obs = pd.DataFrame(
        {"region": pd.Categorical(regions), "cell_id": np.tile(np.arange(60), n_sections)}, index=adata.obs_names
    )
    table = TableModel.parse(adata, region=names, region_key="region", instance_key="cell_id")
    image = Image2DModel.parse(np.zeros((1, 8, 8)), dims=("c", "y", "x"))
    return sd.SpatialData(images={"morphology": image}, shapes=shapes, tables={"table": table})


def _of_the_installed_squidpy(block: str) -> str:
    """Return an example as squidpy before 1.8.2 takes it, where one is installed; the page is for later ones."""
    if hasattr(sq.gr, "spatial_neighbors_knn"):
        return block
    return re.sub(r"spatial_neighbors_knn\((\s*\w+,)", r"spatial_neighbors(\1 coord_type='generic',", block)


@pytest.mark.skipif(not PAGE.is_file(), reason="the documentation is not part of this copy")
def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = scjepa.STJEPA.train
    monkeypatch.setattr(
        scjepa.STJEPA, "train", partialmethod(train, max_steps=3, accelerator="cpu", progress_bar=False)
    )
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    names = {"sdata": xenium(), "sdata_of_two": xenium(2)}
    place = names["sdata"]["table"].obsm["spatial"].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in blocks:
            exec(compile(_of_the_installed_squidpy(block), str(PAGE), "exec"), names)
        again = sd.read_zarr(tmp_path / "tissue.zarr")
    assert again["table"].obs["niche"].nunique() > 1
    np.testing.assert_allclose(names["sdata"]["table"].obsm["spatial"], place)
    two = names["adata"]
    edges = two.obsp["spatial_connectivities"].tocoo()
    regions = two.obs["region"].to_numpy()
    assert (regions[edges.row] == regions[edges.col]).all()
    assert edges.nnz == 120 * 10
