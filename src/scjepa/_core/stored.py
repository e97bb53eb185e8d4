"""Files of cells: h5ad, zarr and SpatialData; how they are opened, and how results are added, whole or not at all."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from scjepa._core import keys as _keys
from scjepa._core.files import whole
from scjepa._core.instruments import raw_output
from scjepa._core.options import unknown_name
from scjepa._core.plain import Facts

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from h5py import Group  # or that of zarr, which is used alike
    from scipy.sparse import csr_matrix


class ForeignFileError(ValueError):
    """A path is no file of cells; the message says what it is, where that can be told, and how it becomes one."""


H5AD, ZARR, SPATIALDATA = "h5ad", "zarr", "SpatialData"
"""Kinds of files: AnnData in HDF5, AnnData in zarr, and a SpatialData store."""

SUFFIXES = {".h5ad": H5AD, ".zarr": ZARR}


@dataclass(frozen=True)
class DataFile:
    """A file of cells.

    Attributes
    ----------
    path
        Where it is.
    kind
        ``H5AD``, ``ZARR`` or ``SPATIALDATA``.
    name
        What it is called: its file name without suffix, and with its folder's name where two would be called alike.
    table
        Name of the table in a SpatialData store.
    """

    path: Path
    kind: str
    name: str
    table: str | None = None

    @contextmanager
    def opened(self, mode: str = "r") -> Iterator[Group]:
        """Open the HDF5 or zarr group that holds the AnnData object."""
        with opened(self.path, mode) as root:
            yield root if self.table is None else root[f"tables/{self.table}"]


@contextmanager
def opened(path: Path, mode: str = "r") -> Iterator[Group]:
    """Open an HDF5 file or a zarr store.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if path.is_dir():
        import zarr

        try:
            group = zarr.open_group(path, mode=mode, use_consolidated=False)  # type: ignore[arg-type]
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise ForeignFileError(
                f"{path} is a folder and no zarr store of AnnData or SpatialData: {error}"
            ) from error
        yield group
        return
    import h5py

    try:
        file = h5py.File(path, mode)
    except OSError as error:
        if isinstance(error, PermissionError) or h5py.is_hdf5(path):
            raise
        raise ForeignFileError(f"{path} is not an h5ad file: {error}") from error
    with file:
        yield file


def data_file(path: Path, table: str | None = None) -> DataFile:
    """Return the file of cells at ``path``.

    Parameters
    ----------
    table
        Table of a SpatialData store that has several.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is of another kind, or was written by a very old anndata.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    name = path.name
    for suffix in (*SUFFIXES, ".spatialdata", ".h5ad"):
        name = name.removesuffix(suffix)
    cause = None
    try:
        with opened(path) as group:
            if "obs" in group and "var" in group:
                _check_version(group, path)
                return DataFile(path, ZARR if path.is_dir() else H5AD, name)
            if "tables" in group and path.is_dir():
                return DataFile(path, SPATIALDATA, name, _table_name(list(group["tables"]), path, table))
            there = ", ".join(sorted(map(str, group))[:8]) or "nothing"
            told = f"{path} holds neither AnnData nor SpatialData with a table; at its top are {there}."
    except ForeignFileError as error:
        told, cause = str(error), error
    found = raw_output(path)
    if found is not None:
        told = f"{path} is {found.what}, not a file of cells. {found.as_file}"
    raise ForeignFileError(told) from cause


def _check_version(group: Group, path: Path) -> None:
    if "encoding-type" not in group["obs"].attrs:
        raise ValueError(
            f"{path} was written by an anndata older than 0.7. Write it anew: "
            f"anndata.read_h5ad({str(path)!r}).write_h5ad('new.h5ad')."
        )


def _table_name(names: list[str], path: Path, wanted: str | None) -> str:
    names = sorted(names)
    if wanted is not None and wanted not in names:
        raise ValueError(f"{path}: " + unknown_name("table", wanted, names))
    if wanted is None and len(names) != 1:
        raise ValueError(f"{path} has {len(names)} tables: {', '.join(names) or 'none'}. Name one with --table.")
    return wanted or names[0]


def read_anndata(file: DataFile) -> AnnData:
    """Read the AnnData object of a file whole."""
    import anndata as ad

    if file.kind == H5AD:
        return ad.read_h5ad(file.path)
    return ad.read_zarr(file.path if file.table is None else file.path / "tables" / file.table)


# -- results in copies of files ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Additions:
    """What is to be added to an AnnData object.

    Attributes
    ----------
    obs
        Columns, in the order of the cells.
    obsm
        Arrays, ``(n_cells, n_dims)``.
    obsp
        Matrices, ``(n_cells, n_cells)``.
    uns
        Entries of ``uns``.
    notes
        Entries of ``uns["scjepa"]``; others there stay.
    """

    obs: Mapping[str, pd.Series] = field(default_factory=dict)
    obsm: Mapping[str, np.ndarray] = field(default_factory=dict)
    obsp: Mapping[str, csr_matrix] = field(default_factory=dict)
    uns: Facts = field(default_factory=dict)
    notes: Facts = field(default_factory=dict)

    def write(self, group: Group) -> None:
        """Add to the HDF5 or zarr group of an AnnData object."""
        from anndata.io import read_elem, write_elem

        for slot, entries in {"obsm": self.obsm, "obsp": self.obsp, "uns": self.uns}.items():
            if slot not in group:
                write_elem(group, slot, {})
            for key, value in entries.items():
                write_elem(group[slot], key, value)
        if self.notes:
            before = read_elem(group["uns"][_keys.UNS]) if _keys.UNS in group["uns"] else {}
            write_elem(group["uns"], _keys.UNS, {**before, **self.notes})
        for key, column in self.obs.items():
            of_numpy = column.dtype.kind in "biuf" or column.dtype == object  # not so categories, whose kind is "O"
            write_elem(group["obs"], key, column.to_numpy() if of_numpy else column.array)
            order = [str(name) for name in group["obs"].attrs["column-order"]]
            group["obs"].attrs["column-order"] = order if key in order else [*order, key]


def add(file: DataFile, additions: Additions, target: Path) -> None:
    """Write a copy of ``file`` with ``additions`` to ``target``, which may be the file itself.

    All else stays as it is, byte for byte where the format is kept. Of a SpatialData store that is written to itself,
    the table alone is written anew.
    """
    kind = kind_at(target, file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr and anndata tell of formats to come
        if kind == SPATIALDATA and is_input(target, file):
            _add_to_table(file, additions)
            return
        with whole(target) as draft:
            if kind == file.kind:
                (shutil.copytree if file.path.is_dir() else shutil.copyfile)(file.path, draft)
                inside = file.table
            else:
                adata, inside = read_anndata(file), None
                (adata.write_h5ad if kind == H5AD else adata.write_zarr)(draft)
            with opened(draft, "r+") as root:
                additions.write(root if inside is None else root[f"tables/{inside}"])
            _consolidate(draft)


def _add_to_table(file: DataFile, additions: Additions) -> None:
    """Replace the table in a SpatialData store by a copy with the additions; images stay where they are."""
    place = file.path / "tables" / str(file.table)
    with whole(place, file.path) as draft:  # beside the store, in which is nothing but its elements
        shutil.copytree(place, draft)
        with opened(draft, "r+") as group:
            additions.write(group)
    _consolidate(file.path)


def _consolidate(path: Path) -> None:
    """Bring the summary that a zarr store keeps of its contents up to date, if it keeps one."""
    if not path.is_dir():
        return
    import zarr

    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    if root.metadata.zarr_format == 3 or (path / ".zmetadata").exists():
        zarr.consolidate_metadata(root.store, zarr_format=root.metadata.zarr_format)


def is_input(target: Path, file: DataFile) -> bool:
    """Return whether a result goes into the file it was made from."""
    return target.exists() and target.resolve() == file.path.resolve()


def kind_at(target: Path, file: DataFile) -> str:
    """Return the kind that a result has: SpatialData stays SpatialData in zarr and becomes its table in h5ad."""
    kind = SUFFIXES[target.suffix] if target.suffix in SUFFIXES else file.kind
    return SPATIALDATA if kind != H5AD and file.kind == SPATIALDATA else kind
