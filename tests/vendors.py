"""Small folders in the layout of an instrument's output, from cells at hand: for tests and for executing tutorials.

    python tests/vendors.py xenium xenium_breast_51k_unlabelled gdv24_pikachu outs --cells 4000    # needs SCJEPA_DATA

Only what holds cells is written, no images and no transcripts. Layouts follow the pages of 10x Genomics (Xenium
Onboard Analysis 1.0, Space Ranger 1; Visium HD: Space Ranger 3), Vizgen (MERSCOPE) and NanoString (CosMx, flat files).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from scipy.sparse import csr_matrix

PIXEL = 0.2125
"""Micrometers a pixel of a Xenium."""

FOV = 2_000.0
"""Side of a field of view of a CosMx, in pixels."""

SPOT = 250.0
"""Pixels from one spot of a Visium to the next."""

BIN = 16
"""Micrometers of a bin of a Visium HD."""


def write_xenium(adata: AnnData, folder: Path, *, controls: int = 3) -> Path:
    """Write the cells as a 10x Xenium does, with some control probes of no counts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.xenium").write_text(
        json.dumps({"analysis_sw_version": "xenium-1.0.1", "pixel_size": PIXEL, "panel_name": "small"})
    )
    xy = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    counts = csr_matrix(adata.X)
    ids = np.arange(1, adata.n_obs + 1)
    pd.DataFrame(
        {
            "cell_id": ids,
            "x_centroid": xy[:, 0],
            "y_centroid": xy[:, 1],
            "transcript_counts": np.asarray(counts.sum(axis=1)).ravel().astype(np.int64),
            "cell_area": np.full(adata.n_obs, 80.0),
            "nucleus_area": np.full(adata.n_obs, 30.0),
        }
    ).to_parquet(folder / "cells.parquet")
    with zarr.storage.ZipStore(folder / "cells.zarr.zip", mode="w") as store:
        zarr.group(store=store, zarr_format=2).create_array("cell_id", data=ids.astype(np.uint32))
    _write_10x_matrix(folder / "cell_feature_matrix.h5", adata, [str(one) for one in ids], controls)
    return folder


def write_merscope(adata: AnnData, folder: Path) -> Path:
    """Write the cells as a Vizgen MERSCOPE does, with blank barcodes."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = pd.Index(2_600_000_000 + np.arange(adata.n_obs), name="cell")
    counts = pd.DataFrame(csr_matrix(adata.X).toarray().astype(np.int64), index=ids, columns=list(adata.var_names))
    counts["Blank-1"], counts["Blank-2"] = 0, 1
    counts.to_csv(folder / "cell_by_gene.csv")
    xy = np.asarray(adata.obsm["spatial"])
    cells = pd.DataFrame({"fov": 0, "volume": 900.0, "center_x": xy[:, 0], "center_y": xy[:, 1]}, index=ids)
    cells.index.name = "EntityID"
    cells.to_csv(folder / "cell_metadata.csv")
    return folder


def write_cosmx(adata: AnnData, folder: Path) -> Path:
    """Write the cells as a NanoString CosMx does: fields of view, pixels within each and over all."""
    folder.mkdir(parents=True, exist_ok=True)
    xy = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    xy = xy - xy.min(axis=0)
    tile = (xy // FOV).astype(int)
    fov = pd.factorize(pd.MultiIndex.from_arrays(tile.T), sort=True)[0] + 1
    cell = pd.Series(fov).groupby(fov).cumcount().to_numpy() + 1
    counts = pd.DataFrame(csr_matrix(adata.X).toarray().astype(np.int64), columns=list(adata.var_names))
    counts.insert(0, "cell_ID", cell)
    counts.insert(0, "fov", fov)
    counts.to_csv(folder / "small_exprMat_file.csv", index=False)
    local = xy - tile * FOV
    pd.DataFrame(
        {
            "fov": fov,
            "cell_ID": cell,
            "Area": 4_000,
            "CenterX_local_px": local[:, 0],
            "CenterY_local_px": local[:, 1],
            "CenterX_global_px": xy[:, 0],
            "CenterY_global_px": xy[:, 1],
        }
    ).to_csv(folder / "small_metadata_file.csv", index=False)
    return folder


def write_visium(adata: AnnData, folder: Path) -> Path:
    """Write the cells as the spots of a 10x Visium, on a grey picture."""
    from matplotlib.image import imsave

    spatial = folder / "spatial"
    spatial.mkdir(parents=True, exist_ok=True)
    _write_10x_matrix(folder / "filtered_feature_bc_matrix.h5", adata, list(map(str, adata.obs_names)), controls=0)
    xy = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    xy = (xy - xy.min(axis=0)) * SPOT / _pitch(xy) + SPOT  # pixels, never below zero
    rows, columns = np.round(xy[:, 1] / SPOT / 0.866), np.round(xy[:, 0] / SPOT * 2)
    pd.DataFrame(
        {
            "barcode": adata.obs_names,
            "in_tissue": 1,
            "array_row": rows.astype(int),
            "array_col": columns.astype(int),
            "pxl_row_in_fullres": xy[:, 1].round().astype(int),
            "pxl_col_in_fullres": xy[:, 0].round().astype(int),
        }
    ).to_csv(spatial / "tissue_positions_list.csv", index=False, header=False)
    factors = {"spot_diameter_fullres": SPOT * 0.55, "tissue_hires_scalef": 0.2, "tissue_lowres_scalef": 0.06}
    (spatial / "scalefactors_json.json").write_text(json.dumps({**factors, "fiducial_diameter_fullres": SPOT}))
    for name in ("hires", "lowres"):
        size = np.ceil((xy.max(axis=0) + SPOT) * factors[f"tissue_{name}_scalef"]).astype(int)
        imsave(spatial / f"tissue_{name}_image.png", np.full((size[1], size[0], 3), 0.9))
    return folder


def write_visium_hd(adata: AnnData, folder: Path, *, um: float = 1.0) -> Path:
    """Write the cells as bins of 16 µm of a 10x Visium HD, one pixel a micrometer, on a grey picture.

    Cells of one bin are added up; bins without a cell are left out. ``um`` is the length of a step of the coordinates.
    """
    from PIL import Image

    spatial = folder / "binned_outputs" / f"square_{BIN:03}um" / "spatial"
    spatial.mkdir(parents=True, exist_ok=True)
    xy = np.asarray(adata.obsm["spatial"], dtype=np.float64) * um
    place = ((xy - xy.min(axis=0)) // BIN).astype(int)
    bins, of_cell = np.unique(place, axis=0, return_inverse=True)
    into_bins = csr_matrix((np.ones(adata.n_obs), (of_cell.ravel(), np.arange(adata.n_obs))))
    names = [f"s_{BIN:03}um_{row:05}_{column:05}-1" for column, row in bins]
    binned = AnnData(into_bins @ csr_matrix(adata.X), obs=pd.DataFrame(index=names), var=adata.var[[]])
    _write_10x_matrix(spatial.parent / "filtered_feature_bc_matrix.h5", binned, names, controls=0)
    center = (bins + 0.5) * BIN
    columns = ("in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
    positions = dict(zip(columns, (1, bins[:, 1], bins[:, 0], center[:, 1], center[:, 0]), strict=True))
    pd.DataFrame({"barcode": names, **positions}).to_parquet(spatial / "tissue_positions.parquet", index=False)
    factors = {"tissue_hires_scalef": 0.2, "tissue_lowres_scalef": 0.06, "microns_per_pixel": 1.0}
    factors |= {"spot_diameter_fullres": float(BIN), "bin_size_um": float(BIN)}
    (spatial / "scalefactors_json.json").write_text(json.dumps(factors))
    size = np.ceil(center.max(axis=0) + BIN)
    (folder / "microscope_image").mkdir(exist_ok=True)
    pictures = {folder / "microscope_image" / "tissue.tiff": 1.0}
    pictures |= {spatial / f"tissue_{name}_image.png": factors[f"tissue_{name}_scalef"] for name in ("hires", "lowres")}
    for path, scale in pictures.items():
        Image.new("RGB", tuple(np.ceil(size * scale).astype(int)), "lightgrey").save(path)
    with h5py.File(folder / "small_feature_slice.h5", "w") as file:
        file.attrs["metadata_json"] = json.dumps({"hd_layout_json": json.dumps({"file_format": "1.0"})})
    return folder


def _pitch(xy: np.ndarray) -> float:
    from sklearn.neighbors import NearestNeighbors

    distances, _ = NearestNeighbors(n_neighbors=2).fit(xy).kneighbors(xy)
    return float(np.median(distances[:, 1]))


def _write_10x_matrix(path: Path, adata: AnnData, barcodes: list[str], controls: int) -> None:
    """Write counts as Cell Ranger does, with control probes of no counts."""
    names = [*map(str, adata.var_names), *(f"NegControlProbe_{number:05d}" for number in range(controls))]
    kinds = ["Gene Expression"] * adata.n_vars + ["Negative Control Probe"] * controls
    counts = csr_matrix(adata.X)
    with h5py.File(path, "w") as file:
        file.attrs["library_ids"] = np.array(["small"], dtype="S")
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(barcodes, dtype="S")
        matrix["data"], matrix["indices"], matrix["indptr"] = (
            counts.data.astype(np.int32),
            counts.indices,
            counts.indptr,
        )
        matrix["shape"] = np.array([len(names), adata.n_obs])
        features = matrix.create_group("features")
        features["id"] = features["name"] = np.array(names, dtype="S")
        features["feature_type"] = np.array(kinds, dtype="S")
        features["genome"] = np.array([""] * len(names), dtype="S")


WRITERS: dict[str, Callable[[AnnData, Path], Path]] = {
    "xenium": write_xenium,
    "merscope": write_merscope,
    "cosmx": write_cosmx,
    "visium": write_visium,
    "visium_hd": write_visium_hd,
}


def main() -> None:
    """Write a compact part of a section of a data set."""
    import scjepa

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("instrument", choices=WRITERS)
    parser.add_argument("data")
    parser.add_argument("section")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cells", type=int, default=4_000)
    options = parser.parse_args()
    adata = scjepa.datasets.load(options.data)
    adata = adata[adata.obs["section"].astype(str) == options.section]
    xy = np.asarray(adata.obsm["spatial"])
    nearest = np.argsort(np.abs(xy - np.median(xy, axis=0)).max(axis=1), kind="stable")[: options.cells]
    print(WRITERS[options.instrument](adata[np.sort(nearest)].copy(), options.folder))


if __name__ == "__main__":
    main()
