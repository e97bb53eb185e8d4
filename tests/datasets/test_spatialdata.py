from __future__ import annotations

import subprocess
import sys

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from scipy import sparse
from shapely import Point, Polygon
from spatialdata.models import Labels2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale, set_transformation

import scjepa


def square(x: float, y: float, half: float = 0.5) -> Polygon:
    return Polygon([(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)])


def table(regions, instances, seed: int = 0) -> ad.AnnData:
    """Return counts of cells that annotate elements."""
    n = len(instances)
    obs = pd.DataFrame({"region": pd.Categorical(regions), "cell_id": instances}, index=[f"cell{i}" for i in range(n)])
    X = sparse.csr_matrix(np.random.default_rng(seed).poisson(1.0, (n, 5)).astype(np.int32))
    adata = ad.AnnData(X, obs=obs, var=pd.DataFrame(index=list("abcde")))
    return TableModel.parse(adata, region=sorted(set(regions)), region_key="region", instance_key="cell_id")


def shapes(xy: np.ndarray, ids, polygons: bool = False, system: str = "global") -> gpd.GeoDataFrame:
    geometry = [square(*p) if polygons else Point(*p) for p in xy]
    frame = gpd.GeoDataFrame({"geometry": geometry}, index=ids)
    if not polygons:
        frame["radius"] = 1.0
    return ShapesModel.parse(frame, transformations={system: Identity()})


@pytest.fixture
def two_slides() -> tuple[sd.SpatialData, np.ndarray]:
    """Return polygons of one slide and circles of another, and centroids in the order of the table, which is mixed."""
    rng = np.random.default_rng(1)
    one, other = rng.random((4, 2)) * 10, 50 + rng.random((3, 2)) * 10
    cells = [("b", "y"), ("a", "p"), ("a", "s"), ("b", "x"), ("a", "q"), ("b", "z"), ("a", "r")]
    place = {("a", i): p for i, p in zip("pqrs", one, strict=True)} | {
        ("b", i): p for i, p in zip("xyz", other, strict=True)
    }
    sdata = sd.SpatialData(
        shapes={"a": shapes(one, list("pqrs"), polygons=True), "b": shapes(other, list("xyz"))},
        tables={"table": table([r for r, _ in cells], [i for _, i in cells])},
    )
    return sdata, np.array([place[cell] for cell in cells])


def test_centroids_are_matched_by_instance_and_the_table_is_no_copy(two_slides):
    sdata, expected = two_slides
    adata = scjepa.table_of(sdata)
    assert adata is sdata.tables["table"]
    np.testing.assert_allclose(adata.obsm["spatial"], expected)
    assert adata.obsm["spatial"].dtype == np.float64
    assert set(adata.obsm) == {"spatial"}


def test_coordinates_that_are_there_stay(two_slides):
    sdata, _ = two_slides
    mine = np.arange(14.0).reshape(7, 2)
    sdata["table"].obsm["spatial"] = mine.copy()
    np.testing.assert_array_equal(scjepa.table_of(sdata).obsm["spatial"], mine)


def test_coordinates_of_another_key_and_system(two_slides):
    sdata, expected = two_slides
    for name in ("a", "b"):
        set_transformation(sdata[name], Scale([0.5, 2.0], axes=("x", "y")), "um")
    adata = scjepa.table_of(sdata, coordinate_system={"a": "um", "b": "um"}, spatial_key="place")
    np.testing.assert_allclose(adata.obsm["place"], expected * [0.5, 2.0])
    assert "spatial" not in adata.obsm
    with pytest.raises(ValueError, match="coordinate system of 'a' 'mm'"):
        scjepa.table_of(sdata, coordinate_system="mm")


def test_the_only_coordinate_system_is_taken():
    sdata = sd.SpatialData(
        shapes={"a": shapes(np.eye(2), [7, 8], system="slide")}, tables={"t": table(["a", "a"], [8, 7])}
    )
    np.testing.assert_allclose(scjepa.table_of(sdata).obsm["spatial"], np.eye(2)[::-1])
    set_transformation(sdata["a"], Identity(), "other")
    with pytest.raises(ValueError, match="slide, other"):
        scjepa.table_of(sdata, spatial_key="again")


def test_labels_give_centroids_too():
    image = np.zeros((6, 8), dtype=int)
    image[0:2, 0:2], image[3:6, 4:7] = 5, 2
    sdata = sd.SpatialData(
        labels={"cells": Labels2DModel.parse(image, dims=("y", "x"))}, tables={"t": table(["cells"] * 2, [2, 5])}
    )
    np.testing.assert_allclose(scjepa.table_of(sdata).obsm["spatial"], [[5.5, 4.5], [1.0, 1.0]])


def test_anndata_passes_and_other_things_do_not(two_slides):
    adata = ad.AnnData(np.zeros((2, 2)))
    assert scjepa.table_of(adata) is adata
    with pytest.raises(TypeError, match="found dict"):
        scjepa.table_of({})


def test_a_table_must_be_named_where_there_are_several(two_slides):
    sdata, _ = two_slides
    sdata["bins"] = ad.AnnData(np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"2 tables, .*bins"):
        scjepa.table_of(sdata)
    with pytest.raises(KeyError, match="Did you mean 'table'"):
        scjepa.table_of(sdata, "tables")
    assert scjepa.table_of(sdata, "table").n_obs == 7
    with pytest.raises(ValueError, match="annotates no element"):
        scjepa.table_of(sdata, "bins")
    with pytest.raises(ValueError, match="no table"):
        scjepa.table_of(sd.SpatialData())


def test_cells_that_the_element_lacks_are_named():
    sdata = sd.SpatialData(shapes={"a": shapes(np.eye(2), [1, 2])}, tables={"t": table(["a"] * 2, [2, 9])})
    with pytest.raises(ValueError, match=r"1 cells of the table are not in 'a', first the cell_id .*9"):
        scjepa.table_of(sdata)


def test_an_element_that_is_not_there_is_named():
    with pytest.warns(UserWarning, match="not present"):
        sdata = sd.SpatialData(tables={"t": table(["gone"] * 2, [1, 2])})
    with pytest.raises(KeyError, match="'gone'"):
        scjepa.table_of(sdata)


def test_spatialdata_is_not_imported_by_datasets():
    code = "import scjepa.datasets, sys; print('spatialdata' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_a_coordinate_system_is_looked_at_where_coordinates_are_there(two_slides):
    sdata, expected = two_slides
    for name in ("a", "b"):
        set_transformation(sdata[name], Scale([0.5, 2.0], axes=("x", "y")), "um")
    pixels = scjepa.table_of(sdata).obsm["spatial"].copy()
    assert scjepa.table_of(sdata, coordinate_system="global") is sdata["table"]  # they are those of this system
    with pytest.raises(ValueError, match=r"not those of coordinate_system='um': its first cell lies at") as error:
        scjepa.table_of(sdata, coordinate_system="um")
    np.testing.assert_array_equal(sdata["table"].obsm["spatial"], pixels)
    assert "spatial_key='spatial_computed'" in str(error.value)
    adata = scjepa.table_of(sdata, coordinate_system="um", spatial_key="spatial_computed")
    np.testing.assert_allclose(adata.obsm["spatial_computed"], expected * [0.5, 2.0])
    scjepa.table_of(sdata, coordinate_system="um", spatial_key="spatial_computed")  # once more
    with pytest.raises(ValueError, match=r"coordinate system of 'a' 'umm'.*Did you mean 'um'"):
        scjepa.table_of(sdata, coordinate_system="umm")
    with pytest.raises(KeyError, match="region in coordinate_system 'c'"):
        scjepa.table_of(sdata, coordinate_system={"a": "um", "c": "um"})
    del sdata.tables["table"].obsm["spatial"]
    np.testing.assert_allclose(scjepa.table_of(sdata, coordinate_system="um").obsm["spatial"], expected * [0.5, 2.0])


def test_options_of_spatialdata_are_refused_with_anndata(two_slides):
    adata = scjepa.table_of(two_slides[0])
    for options in ({"table_name": "table"}, {"coordinate_system": "um"}):
        with pytest.raises(ValueError, match="is of SpatialData, and this is AnnData"):
            scjepa.table_of(adata, **options)
