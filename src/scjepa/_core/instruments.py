"""Files and folders that are no AnnData: what wrote them, and the call that makes AnnData or SpatialData of them.

Goes by the names of files and of the groups inside HDF5 files; nothing else is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_SPATIALDATA_IO = "pip install spatialdata-io"

_NO_COORDINATES = "It holds counts alone: coordinates, where there are any, are in other files."

Detect = Callable[["Path", Sequence[str]], "RawOutput | None"]
"""From a folder and the names of what is in it to what wrote it."""


@dataclass(frozen=True)
class RawOutput:
    """What an instrument or another program wrote, and how it is read.

    Attributes
    ----------
    what
        What it is, such as ``"the output of a 10x Xenium"``.
    reader
        A Python expression that reads it; empty where only another program can.
    gives
        ``"AnnData"`` or ``"SpatialData"``.
    name
        What a file of its cells may be called, without suffix.
    needs
        What has to be installed.
    note
        A sentence to mind.
    """

    what: str
    reader: str
    gives: str = "AnnData"
    name: str = "cells"
    needs: str = ""
    note: str = ""

    @property
    def as_object(self) -> str:
        """The sentence that leads to an AnnData object."""
        if not self.reader:
            return self.note
        call = self.reader if self.gives == "AnnData" else f"scjepa.table_of({self.reader})"
        return self._whole(f"Read it: adata = {call}.")

    @property
    def as_file(self) -> str:
        """The sentence that leads to a file of cells, h5ad or SpatialData."""
        if not self.reader:
            return self.note
        if self.gives == "SpatialData":
            return self._whole(f"In Python: {self.reader}.write('{self.name}.zarr'). That is a file of cells.")
        return self._whole(
            f"In Python: adata = {self.reader}; adata.var_names_make_unique(); adata.write_h5ad('{self.name}.h5ad'). "
            "That is a file of cells."
        )

    def _whole(self, call: str) -> str:
        needs = f"({self.needs})" if self.needs else ""
        return " ".join(part for part in (call, needs, self.note) if part)


def how_to_read(path: str | os.PathLike[str]) -> str:
    """Return the sentence that leads from a path to an AnnData object."""
    place = Path(path)
    if place.suffix == ".zarr" or (place / ".zgroup").is_file() or (place / "zarr.json").is_file():
        if (place / "tables").is_dir():
            return f"Read it: adata = scjepa.table_of(spatialdata.read_zarr({str(path)!r}))."
        return f"Read it: adata = anndata.read_zarr({str(path)!r})."
    found = raw_output(place) if place.exists() and place.suffix != ".h5ad" else None
    if found is not None:
        return f"It is {found.what}. {found.as_object}"
    return f"Read it: adata = anndata.read_h5ad({str(path)!r})."


def raw_output(path: str | os.PathLike[str]) -> RawOutput | None:
    """Return what wrote a file or folder that is no AnnData or SpatialData, ``None`` where that cannot be told."""
    place = Path(path)
    if place.is_dir():
        folders = [place, place / "outs"]
        return _first(_in_folder(folder) for folder in folders if folder.is_dir()) or _of_files_inside(place)
    if not place.is_file() or place.suffix in (".h5ad", ".zarr"):
        return None
    return _in_folder(place.parent, _INSTRUMENTS) or _first(detect(place) for detect in (_hdf5, _text, _archive, _of_r))


# -- folders -------------------------------------------------------------------------------------------------------


def _in_folder(folder: Path, writers: Sequence[Detect] | None = None) -> RawOutput | None:
    """Return what wrote a folder, by default anything that is known."""
    names = sorted(child.name for child in folder.iterdir())
    return _first(detect(folder, names) for detect in writers or (*_INSTRUMENTS, _matrix_market))


def _first(found: Iterable[RawOutput | None]) -> RawOutput | None:
    return next((one for one in found if one is not None), None)


def _by_spatialdata_io(of: str, reader: str, folder: Path, note: str = "") -> RawOutput:
    call = f"spatialdata_io.{reader}({str(folder)!r})"
    return RawOutput(f"the output folder of {of}", call, "SpatialData", reader, _SPATIALDATA_IO, note)


def _by_squidpy(
    of: str, reader: str, folder: Path, counts: str | None, cells: str | None, name: str, note: str = ""
) -> RawOutput | None:
    if counts is None or cells is None:
        return None
    call = f"squidpy.read.{reader}({str(folder)!r}, counts_file={counts!r}, meta_file={cells!r})"
    return RawOutput(f"the output folder of {of}", call, name=name, note=note)


def _xenium(folder: Path, names: Sequence[str]) -> RawOutput | None:
    if "experiment.xenium" not in names:
        return None
    return _by_spatialdata_io("a 10x Xenium", "xenium", folder)


def _visium_hd(folder: Path, names: Sequence[str]) -> RawOutput | None:
    root = folder.parent.parent if folder.parent.name == "binned_outputs" else folder
    if "binned_outputs" not in names and root is folder:
        return None
    note = "It has a table for each size of bins: name one, such as 'square_008um'."
    return _by_spatialdata_io("a 10x Visium HD", "visium_hd", root, note)


def _visium(folder: Path, names: Sequence[str]) -> RawOutput | None:
    counts = _ending(names, "filtered_feature_bc_matrix.h5") or _ending(names, "raw_feature_bc_matrix.h5")
    if counts is None or not (folder / "spatial").is_dir():
        return None
    usual = "filtered_feature_bc_matrix.h5"
    more = "" if counts == usual else f", counts_file={counts!r}"
    return RawOutput("the output folder of a 10x Visium", f"squidpy.read.visium({str(folder)!r}{more})", name="visium")


def _merscope(folder: Path, names: Sequence[str]) -> RawOutput | None:
    counts, cells = _containing(names, "cell_by_gene"), _containing(names, "cell_metadata")
    return _by_squidpy("a Vizgen MERSCOPE", "vizgen", folder, counts, cells, "merscope")


def _cosmx(folder: Path, names: Sequence[str]) -> RawOutput | None:
    counts, cells = _containing(names, "exprMat_file"), _containing(names, "metadata_file")
    note = "Coordinates over all fields of view are in obsm['spatial_fov'], those within each in obsm['spatial']."
    return _by_squidpy("a NanoString CosMx", "nanostring", folder, counts, cells, "cosmx", note)


def _stereoseq(folder: Path, names: Sequence[str]) -> RawOutput | None:
    steps = ("02.count", "04.tissuecut", "041.cellcut")
    root = folder if any(step in names for step in steps) else folder.parent if folder.name in steps else None
    if root is None:
        return None
    note = "It has a table for cells and one for each size of bins: name one."
    return _by_spatialdata_io("Stereo-seq", "stereoseq", root, note)


def _seqfish(folder: Path, names: Sequence[str]) -> RawOutput | None:
    if _containing(names, "CellxGene") is None or _containing(names, "CellCoordinates") is None:
        return None
    return _by_spatialdata_io("seqFISH", "seqfish", folder)


def _curio(folder: Path, names: Sequence[str]) -> RawOutput | None:
    if _ending(names, "anndata.h5ad") is None or _ending(names, "variable_features_clusters.txt") is None:
        return None
    return _by_spatialdata_io("Curio Seeker", "curio", folder)


def _matrix_market(folder: Path, names: Sequence[str]) -> RawOutput | None:
    inner = next((name for name in ("filtered_feature_bc_matrix", "cell_feature_matrix") if name in names), None)
    if inner is not None and (folder / inner).is_dir():
        return _in_folder(folder / inner)
    matrix = _ending(names, "matrix.mtx.gz") or _ending(names, "matrix.mtx")
    if matrix is None or not any("barcodes.tsv" in name for name in names):
        return None
    prefix = matrix.removesuffix(".gz").removesuffix("matrix.mtx")
    more = f", prefix={prefix!r}" if prefix else ""
    return RawOutput(
        "a matrix as Cell Ranger writes it", f"scanpy.read_10x_mtx({str(folder)!r}{more})", note=_NO_COORDINATES
    )


_INSTRUMENTS: tuple[Detect, ...] = (_xenium, _visium_hd, _visium, _merscope, _cosmx, _stereoseq, _seqfish, _curio)
"""Instruments that may have written a folder, the surest first."""


def _of_files_inside(folder: Path) -> RawOutput | None:
    """Return advice on a folder of files of cells, or of folders of instruments."""
    files = [child.name for child in sorted(folder.iterdir()) if child.suffix in (".h5ad", ".zarr")]
    if files:
        return RawOutput(
            f"a folder with {len(files)} files of cells", "", note=f"Name the files, such as {folder / files[0]}."
        )
    for child in sorted(folder.iterdir()):
        found = _in_folder(child) if child.is_dir() else None
        if found is not None:
            return RawOutput(f"a folder that has {found.what} in it", "", note=f"Name that: {child}. {found.as_file}")
    return None


def _ending(names: Sequence[str], end: str) -> str | None:
    """Return the shortest name with an end."""
    return min((name for name in names if name.endswith(end)), key=len, default=None)


def _containing(names: Sequence[str], part: str) -> str | None:
    """Return the shortest name of a table of text with a part."""
    texts = (name for name in names if part in name and name.endswith((".csv", ".csv.gz", ".txt", ".tsv")))
    return min(texts, key=len, default=None)


# -- files ---------------------------------------------------------------------------------------------------------


def _hdf5(file: Path) -> RawOutput | None:
    import h5py

    if not h5py.is_hdf5(file):
        return None
    with h5py.File(file) as group:
        top = set(group)
        inside = set(group["matrix"]) if isinstance(group.get("matrix"), h5py.Group) else set()
        modalities = sorted(group["mod"]) if "mod" in group else []
    path, name = repr(str(file)), file.stem
    if {"barcodes", "indptr"} <= inside:
        reader = f"scanpy.read_10x_h5({path})"
        return RawOutput("a matrix of counts as 10x Genomics writes it", reader, name=name, note=_NO_COORDINATES)
    if {"row_attrs", "col_attrs"} <= top:
        return RawOutput("a loom file", f"anndata.io.read_loom({path})", name=name, needs="pip install loompy")
    if modalities:
        one = "rna" if "rna" in modalities else modalities[0]
        what = f"a MuData file with the modalities {', '.join(modalities)}"
        return RawOutput(what, f"mudata.read_h5mu({path}).mod[{one!r}]", name=name, needs="pip install mudata")
    if file.suffix == ".gef" or {"geneExp", "cellBin"} & top:
        return RawOutput(
            "a gene expression file of Stereo-seq",
            "",
            note="Read the folder of the run that it is from, the one that holds 02.count and 041.cellcut: "
            f"sdata = spatialdata_io.stereoseq(folder) ({_SPATIALDATA_IO}); sdata.write('stereoseq.zarr').",
        )
    if file.suffix == ".h5seurat" or {"assays", "cell.names"} <= top:
        return RawOutput("a file of Seurat", "", note=f"Convert it in R: SeuratDisk::Convert({path}, dest = 'h5ad').")
    return None


def _text(file: Path) -> RawOutput | None:
    name = file.name.removesuffix(".gz")
    part_of_matrix = name.endswith((".mtx", "barcodes.tsv", "features.tsv", "genes.tsv"))
    whole = _in_folder(file.parent, (_matrix_market,)) if part_of_matrix else None
    if whole is not None:
        return whole
    if name.endswith((".csv", ".tsv", ".txt")):
        call = f"scanpy.read_csv({str(file)!r})" if name.endswith(".csv") else f"scanpy.read_text({str(file)!r})"
        note = f"If genes are in rows, take adata.T. {_NO_COORDINATES}"
        return RawOutput("a table of text", call, name=Path(name).stem, note=note)
    if name.endswith(".mtx"):
        call = f"scanpy.read_mtx({str(file)!r})"
        return RawOutput("a matrix without names", call, name=Path(name).stem, note="Genes in rows: take adata.T.")
    return None


def _archive(file: Path) -> RawOutput | None:
    if not file.name.endswith((".tar", ".tar.gz", ".tgz", ".zip", ".h5ad.gz")):
        return None
    return RawOutput("an archive", "", note="Unpack it, and name what is in it.")


def _of_r(file: Path) -> RawOutput | None:
    if file.suffix.lower() not in (".rds", ".rda", ".rdata"):
        return None
    call = "zellkonverter::writeH5AD(Seurat::as.SingleCellExperiment(object), 'cells.h5ad')"
    return RawOutput("a file of R", "", note=f"Convert it in R, such as a Seurat object: {call}.")
