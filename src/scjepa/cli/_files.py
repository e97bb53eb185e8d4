"""Files of cells: what they are, what they are called, and the groups inside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scjepa._core.instruments import RawOutput, raw_output
from scjepa._core.options import unknown_name


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
    def opened(self, mode: str = "r") -> Iterator[Any]:
        """Open the HDF5 or zarr group that holds the AnnData object."""
        with opened(self.path, mode) as root:
            yield root if self.table is None else root[f"tables/{self.table}"]


@contextmanager
def opened(path: Path, mode: str = "r") -> Iterator[Any]:
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


def data_files(paths: Sequence[Path], table: str | None = None) -> list[DataFile]:
    """Return the files of cells at ``paths``, each with a name of its own.

    Parameters
    ----------
    table
        Table of SpatialData stores that have several.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If one is of another kind, was written by a very old anndata, or occurs twice; or a table is named and none is a
        SpatialData store.
    """
    resolved = Counter(path.resolve() for path in paths)
    twice = [path for path in paths if resolved[path.resolve()] > 1]
    if twice:
        raise ValueError(f"{twice[0]} is given twice.")
    files = [_data_file(path, table) for path in paths]
    if table is not None and all(file.table is None for file in files):
        raise ValueError(f"--table {table} names a table of SpatialData stores, and {paths[0]} is none. Leave it out.")
    short = Counter(file.name for file in files)
    named = [
        replace(file, name=f"{file.path.resolve().parent.name}_{file.name}") if short[file.name] > 1 else file
        for file in files
    ]
    again = [file.name for file in named if Counter(f.name for f in named)[file.name] > 1]
    if again:
        raise ValueError(
            f"Several files are called {again[0]!r}, their folders too. Rename one, or take one at a time."
        )
    return named


def _data_file(path: Path, table: str | None) -> DataFile:
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    name = path.name
    for suffix in (*SUFFIXES, ".spatialdata", ".h5ad"):
        name = name.removesuffix(suffix)
    try:
        with opened(path) as group:
            if "obs" in group and "var" in group:
                _check_version(group, path)
                return DataFile(path, ZARR if path.is_dir() else H5AD, name)
            if "tables" in group and path.is_dir():
                return DataFile(path, SPATIALDATA, name, _table_name(list(group["tables"]), path, table))
            there = _listed(group)
    except ForeignFileError as error:
        found = raw_output(path)
        raise ForeignFileError(str(error) if found is None else _told(path, found)) from error
    found = raw_output(path)
    neither = f"{path} holds neither AnnData nor SpatialData with a table; at its top are {there}."
    raise ForeignFileError(neither if found is None else _told(path, found))


def _told(path: Path, found: RawOutput) -> str:
    return f"{path} is {found.what}, not a file of cells. {found.as_file}"


def _check_version(group: Any, path: Path) -> None:
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


def _listed(group: Any) -> str:
    return ", ".join(sorted(map(str, group))[:8]) or "nothing"
