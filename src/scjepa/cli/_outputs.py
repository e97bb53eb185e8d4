"""Results in files: written beside their place and renamed, so that none is ever half there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scjepa.cli._command import UsageError
from scjepa.cli._files import H5AD, SPATIALDATA, SUFFIXES, DataFile

ANNDATA = (".h5ad", ".zarr")
TABLES = (".npy", ".csv", ".parquet")


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """Yield a place beside ``path`` to write a file or folder to; it gets its name at the end, or is removed.

    The place has the same suffix, so that what writes by suffix writes the right thing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.part-{os.getpid()}{path.suffix}")
    try:
        yield draft
        replace(draft, path)
    finally:
        remove(draft)


def replace(draft: Path, path: Path) -> None:
    """Give ``draft`` the name ``path``; what had it before is gone only then."""
    if not (path.is_dir() and not path.is_symlink()):
        os.replace(draft, path)
        return
    before = path.with_name(f".{path.name}.before-{os.getpid()}")
    path.rename(before)  # a folder cannot be replaced in one step
    try:
        draft.rename(path)
    except OSError:
        before.rename(path)
        raise
    shutil.rmtree(before)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise ``FileExistsError`` where there is something that may not be replaced."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Pass --overwrite to replace it, or name another --out.")


def plan(
    files: Sequence[DataFile], out: Path | None, overwrite: bool, suffix: str | None = None, tables: bool = False
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
        Whether ``.npy``, ``.csv`` and ``.parquet`` will do too.

    Raises
    ------
    UsageError
        If ``out`` is missing, or is a file of a kind that is not written, or one file for several inputs.
    FileExistsError
        If a file is there, or an input would be written to, without ``overwrite``.
    """
    known = (*ANNDATA, *TABLES) if tables else ANNDATA
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
    else:
        if out.is_file():
            raise FileExistsError(f"{out} is a file, not a folder. Name another --out.")
        targets = [out / f"{file.name}{suffix or _suffix(file)}" for file in files]
    for target in targets:
        refuse_existing(target, overwrite)
    return targets


def _is_folder_of_files(path: Path) -> bool:
    """Return whether ``path`` is a folder whose name merely ends like that of a zarr store."""
    return path.is_dir() and not any((path / name).exists() for name in (".zgroup", ".zattrs", "zarr.json"))


def _suffix(file: DataFile) -> str:
    return ".h5ad" if file.kind == H5AD else ".zarr"


def is_input(target: Path, file: DataFile) -> bool:
    """Return whether a result goes into the file it was made from."""
    return target.exists() and target.resolve() == file.path.resolve()


def kind_at(target: Path, file: DataFile) -> str:
    """Return the kind that a result has: SpatialData stays SpatialData in zarr and becomes its table in h5ad."""
    kind = SUFFIXES[target.suffix] if target.suffix in SUFFIXES else file.kind
    return SPATIALDATA if kind != H5AD and file.kind == SPATIALDATA else kind
