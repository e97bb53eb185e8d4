"""Files of cells: what they are, what they are called, and how results are added to them, whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scjepa._core import keys as _keys
from scjepa._core.files import whole
from scjepa._core.stored import H5AD, DataFile, data_file
from scjepa.cli.options import UsageError

if TYPE_CHECKING:
    import pandas as pd


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
    files = [data_file(path, table) for path in paths]
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


# -- where results go ----------------------------------------------------------------------------------------------

ANNDATA = (".h5ad", ".zarr")


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise ``FileExistsError`` where there is something that may not be replaced."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Pass --overwrite to replace it, or name another --out.")


def refuse_written(file: DataFile, slot: str, keys: Iterable[str], overwrite: bool) -> None:
    """Raise where a file has what is to be added: without ``overwrite`` in any case, and a user's column always."""
    from anndata.io import read_elem

    with file.opened() as group:
        there = [key for key in keys if f"{slot}/{key}" in group]
        notes = read_elem(group["uns"][_keys.UNS]) if there and f"uns/{_keys.UNS}" in group else {}
    if there and not (overwrite and (slot != "obs" or all(key in notes for key in there))):
        then = "--overwrite to replace it, or " if slot != "obs" or there[0] in notes else ""
        raise FileExistsError(f"{file.path} has {slot}[{there[0]!r}] already. Pass {then}--key-added for another name.")


def plan(
    files: Sequence[DataFile], out: Path | None, overwrite: bool, suffix: str | None = None, tables: Sequence[str] = ()
) -> list[Path]:
    """Return where the result of each file goes, before anything is computed.

    Parameters
    ----------
    files
        The inputs.
    out
        A file, for one input; a folder, for any number; ``None``: the inputs themselves, which takes ``overwrite``.
    overwrite
        Whether what is there may be replaced.
    suffix
        Of the files in a folder; default: each as its input.
    tables
        Suffixes of files that hold the result alone and will do too, such as ``".csv"``.

    Raises
    ------
    UsageError
        If ``out`` is missing, or is a file of a kind that is not written, or one file for several inputs.
    FileExistsError
        If a file is there, or an input would be written to, without ``overwrite``.
    """
    known = (*ANNDATA, *tables)
    if out is None:
        if not overwrite:
            raise UsageError("Name where results go with --out, or add them to the input files with --overwrite.")
        if suffix is not None:
            raise UsageError("--format goes with --out: added to the input files, results have their format.")
        return [file.path for file in files]
    if out.suffix in known and not _is_folder_of_files(out):
        if len(files) > 1:
            raise UsageError(f"--out {out} is one file, and there are {len(files)} inputs. Name a folder.")
        if suffix is not None and suffix != out.suffix:
            raise UsageError(f"--out {out} and --format {suffix[1:]} contradict each other.")
        targets = [out]
    elif out.suffix and not out.is_dir() and suffix is None and len(files) == 1:
        raise UsageError(f"--out {out}: files end in {', '.join(known)}. For a folder of that name, make it first.")
    elif out.is_file():
        raise FileExistsError(f"{out} is a file, not a folder. Name another --out.")
    else:
        targets = [out / f"{file.name}{suffix or ('.h5ad' if file.kind == H5AD else '.zarr')}" for file in files]
    for target in targets:
        refuse_existing(target, overwrite)
    return targets


def _is_folder_of_files(path: Path) -> bool:
    """Return whether ``path`` is a folder whose name merely ends like that of a zarr store."""
    return path.is_dir() and not any((path / name).exists() for name in (".zgroup", ".zattrs", "zarr.json"))


def write_table(table: pd.DataFrame, path: Path, rows: str = "cell") -> None:
    """Write a table of cells, or of what ``rows`` says, as ``.csv`` or ``.parquet``.

    Raises
    ------
    UsageError
        If what writes ``.parquet`` is not installed.
    """
    table = table.rename_axis(rows)
    with whole(path) as draft:
        if path.suffix == ".csv":
            table.to_csv(draft)
            return
        try:
            table.to_parquet(draft)
        except ImportError as error:
            raise UsageError(f"--format parquet needs pyarrow: pip install pyarrow. ({error})") from error
