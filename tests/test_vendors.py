"""Folders as instruments write them lead to niches by the call that `scjepa info` names, and by the tutorial's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scanpy as sc
import squidpy
from anndata import AnnData
from tests.vendors import WRITERS

import scjepa
from scjepa._core.instruments import raw_output


@pytest.fixture(scope="module")
def tissue() -> AnnData:
    adata = scjepa.datasets.simulated_tissue(400, n_sections=1, difficulty="easy", seed=0)
    adata.obsm["spatial"] = np.asarray(adata.obsm["spatial"]) * 20
    return adata


def _read(folder: Path) -> AnnData:
    """Return the cells by the very call that the package names for the folder."""
    found = raw_output(folder)
    assert found is not None
    if found.gives == "SpatialData":
        spatialdata_io = pytest.importorskip("spatialdata_io")
        sdata = eval(found.reader, {"spatialdata_io": spatialdata_io})
        return scjepa.table_of(sdata)
    return eval(found.reader, {"squidpy": squidpy, "scanpy": sc})


@pytest.mark.parametrize("instrument", ["merscope", "cosmx", "visium"])
def test_a_folder_of_an_instrument_leads_to_niches(tissue: AnnData, tmp_path: Path, instrument: str) -> None:
    folder = WRITERS[instrument](tissue, tmp_path / "run" / "region_0")
    adata = _read(folder)
    adata.var_names_make_unique()
    assert adata.n_obs == tissue.n_obs
    assert set(tissue.var_names) <= set(map(str, adata.var_names))
    key = "spatial_fov" if instrument == "cosmx" else "spatial"
    extent, original = (np.ptp(np.asarray(xy, dtype=float), axis=0) for xy in (adata.obsm[key], tissue.obsm["spatial"]))
    np.testing.assert_allclose(extent[0] / extent[1], original[0] / original[1], rtol=1e-2)
    adata.obsm["spatial"] = np.asarray(adata.obsm[key], dtype=float)
    squidpy.gr.spatial_neighbors_knn(adata, n_neighs=10)
    scjepa.tl.find_niches(adata, n_niches=4)
    assert adata.obs["niche"].nunique() == 4


def test_the_cells_of_a_xenium_folder_lead_to_niches(tissue: AnnData, tmp_path: Path) -> None:
    """The call of the tutorial: cells alone, without images; `scjepa info` names that of a whole folder."""
    spatialdata_io = pytest.importorskip("spatialdata_io")
    folder = WRITERS["xenium"](tissue, tmp_path / "outs")
    found = raw_output(folder)
    assert found is not None
    assert found.reader.startswith("spatialdata_io.xenium(")
    elements = ("cells_boundaries", "nucleus_boundaries", "cells_labels", "nucleus_labels", "transcripts")
    images = ("morphology_mip", "morphology_focus", "aligned_images")
    sdata = spatialdata_io.xenium(folder, cells_as_circles=True, **dict.fromkeys((*elements, *images), False))
    adata = scjepa.table_of(sdata)
    assert list(adata.var_names) == list(tissue.var_names), "control probes are left out by the reader"
    np.testing.assert_allclose(adata.obsm["spatial"], tissue.obsm["spatial"])
    squidpy.gr.spatial_neighbors_knn(adata, n_neighs=10)
    scjepa.tl.find_niches(adata, n_niches=4)
    assert adata.obs["niche"].nunique() == 4


def test_the_bins_of_a_visium_hd_folder_lead_to_niches(tissue: AnnData, tmp_path: Path) -> None:
    """The call of the tutorial: bins of one size; `scjepa info` names that of a whole folder."""
    spatialdata_io = pytest.importorskip("spatialdata_io")
    folder = WRITERS["visium_hd"](tissue, tmp_path / "outs")
    found = raw_output(folder)
    assert found is not None
    assert found.reader.startswith("spatialdata_io.visium_hd(")
    sdata = spatialdata_io.visium_hd(folder, bin_size=16, load_segmentations_only=False)
    adata = scjepa.table_of(sdata, "square_016um")
    assert adata.X.sum() == tissue.X.sum()
    assert adata.n_obs <= tissue.n_obs
    squidpy.gr.spatial_neighbors_knn(adata, n_neighs=10)
    scjepa.tl.find_niches(adata, n_niches=4)
    assert adata.obs["niche"].nunique() == 4
