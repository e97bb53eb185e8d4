"""Data sets by name: local files, and public ones through squidpy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import anndata as ad
import pandas as pd

from scjepa._core.keys import CELL_TYPE, REGION, SECTION, TECHNOLOGY
from scjepa._core.options import unknown_name
from scjepa._core.settings import settings
from scjepa._core.squidpy import squidpy

if TYPE_CHECKING:
    from anndata import AnnData

_SQUIDPY = "squidpy:"
_SUFFIX = ".h5ad"


PUBLIC: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "four_i": ("HeLa cells", "4i"),
        "imc": ("human breast cancer", "imaging mass cytometry"),
        "merfish": ("mouse preoptic hypothalamus", "MERFISH"),
        "mibitof": ("human colorectal carcinoma", "MIBI-TOF"),
        "sc_mouse_cortex": ("mouse cortex", "dissociated"),
        "seqfish": ("mouse embryo", "seqFISH"),
        "slideseqv2": ("mouse hippocampus", "Slide-seqV2"),
        "visium_fluo_adata": ("mouse brain", "Visium"),
        "visium_hne_adata": ("mouse brain", "Visium"),
    }
)
"""Public data sets of ``squidpy.datasets`` that come as AnnData, their tissue and technology; many hold
normalized values, not counts."""


def load(name: str, path: str | os.PathLike[str] | None = None) -> AnnData:
    """Read a data set by name.

    Parameters
    ----------
    name
        Name of an h5ad file without its ending, such as ``"starmap_visual_cortex"``; or ``"squidpy:"`` and a function
        of ``squidpy.datasets`` that returns AnnData, such as ``"squidpy:imc"``, which is downloaded once.
    path
        The file, or a folder to look in, subfolders included. Default: ``scjepa.settings.data_dir`` and the
        environment variable ``SCJEPA_DATA``. With ``"squidpy:"``: the file to keep the download in; default squidpy's.

    Returns
    -------
    AnnData
        As in the file; ``section``, ``technology``, ``region`` and ``cell_type`` in ``obs`` are made categorical
        where they are there.

    Raises
    ------
    FileNotFoundError
        If no file has that name, with the folders that were searched and what they hold.
    ValueError
        If several files have that name, or squidpy has no such data set.

    Examples
    --------
    >>> adata = scjepa.datasets.load("starmap_visual_cortex", "data/")  # doctest: +SKIP
    """
    if name.startswith(_SQUIDPY):
        return _categorical(_load_public(name.removeprefix(_SQUIDPY), path))
    if path is not None and Path(path).is_file():
        return _categorical(ad.read_h5ad(path))
    stem = name.removesuffix(_SUFFIX)
    folders = _folders(path)
    files = _find(folders)
    matches = [file for file in files if file.stem == stem]
    if not matches:
        raise FileNotFoundError(_not_found(stem, folders, files))
    if len(matches) > 1:
        places = ", ".join(map(str, matches))
        raise ValueError(f"Several files are named {stem}{_SUFFIX}: {places}. Give one of them as path.")
    return _categorical(ad.read_h5ad(matches[0]))


def available(path: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Return what :func:`load` can read now: the h5ad files that are there, then the public sets of squidpy.

    Parameters
    ----------
    path
        Folder to look in, subfolders included. Default as in :func:`load`.

    Returns
    -------
    DataFrame
        Index ``name``; columns ``tissue``, ``technology`` (empty for files) and ``file`` (empty for data
        that squidpy downloads).
    """
    rows = [(file.stem, "", "", str(file)) for file in _find(_folders(path))]
    rows += [(_SQUIDPY + name, *about, "") for name, about in PUBLIC.items()]
    return pd.DataFrame(rows, columns=["name", "tissue", "technology", "file"]).set_index("name")


def _folders(path: str | os.PathLike[str] | None) -> list[Path]:
    """Return the folders to search, without repeats: ``path``, or the setting and the environment variable."""
    given = [path] if path is not None else [settings.data_dir, os.environ.get("SCJEPA_DATA")]
    return list(dict.fromkeys(Path(folder).expanduser() for folder in given if folder))


def _find(folders: list[Path]) -> list[Path]:
    found = (file.resolve() for folder in folders for file in folder.rglob(f"*{_SUFFIX}"))
    return sorted(dict.fromkeys(found))


def _not_found(name: str, folders: list[Path], files: list[Path]) -> str:
    wanted = f"{name}{_SUFFIX}"
    if not folders:
        return (
            f"{wanted} was not looked for: no folder is set. Call scjepa.datasets.load({name!r}, path='folder'), or "
            "set scjepa.settings.data_dir or the environment variable SCJEPA_DATA. Without data: "
            "scjepa.datasets.simulated_tissue()."
        )
    places = ", ".join(f"{folder}{'' if folder.is_dir() else ' (no such folder)'}" for folder in folders)
    names = [file.stem for file in files]
    near = get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"{wanted} was not found in {places}.{hint} Found there: {_listing(files)}. Call "
        f"scjepa.datasets.load({name!r}, path=...) with the folder or the file; scjepa.datasets.available(path) lists "
        "what a folder holds."
    )


def _listing(files: list[Path], most: int = 20) -> str:
    names = ", ".join(file.stem for file in files[:most]) or "no h5ad file"
    return names + (f" and {len(files) - most} more" if len(files) > most else "")


def _load_public(name: str, path: str | os.PathLike[str] | None) -> AnnData:
    if name not in PUBLIC:
        raise ValueError(unknown_name("data set of squidpy", name, PUBLIC) + " See scjepa.datasets.available().")
    read = getattr(squidpy().datasets, name)
    return read() if path is None else read(path=path)


def _categorical(adata: AnnData) -> AnnData:
    for key in (SECTION, TECHNOLOGY, REGION, CELL_TYPE):
        if key in adata.obs and not isinstance(adata.obs[key].dtype, pd.CategoricalDtype):
            adata.obs[key] = adata.obs[key].astype("category")
    return adata
