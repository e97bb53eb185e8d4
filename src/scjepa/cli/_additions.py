"""Columns and embeddings added to a copy of a file; all else in it stays as it is, byte for byte where it can."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata.io import read_elem, read_h5ad, read_zarr, write_elem

from scjepa._core import keys as _keys
from scjepa.cli._files import H5AD, SPATIALDATA, DataFile, opened
from scjepa.cli._outputs import drafted, is_input, kind_at, remove, replace


@dataclass(frozen=True)
class Additions:
    """What is to be added to an AnnData object.

    Attributes
    ----------
    obs
        Columns, in the order of the cells.
    obsm
        Arrays, ``(n_cells, n_dims)``.
    uns
        Entries of ``uns``.
    notes
        Entries of ``uns["scjepa"]``; others there stay.
    """

    obs: Mapping[str, pd.Series] = field(default_factory=dict)
    obsm: Mapping[str, np.ndarray] = field(default_factory=dict)
    uns: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def write(self, group: Any) -> None:
        """Add to the HDF5 or zarr group of an AnnData object."""
        for name in ("obsm", "uns"):
            if name not in group:
                write_elem(group, name, {})
        for key, embedding in self.obsm.items():
            write_elem(group["obsm"], key, embedding)
        for key, value in self.uns.items():
            write_elem(group["uns"], key, value)
        if self.notes:
            before = read_elem(group["uns"][_keys.UNS]) if _keys.UNS in group["uns"] else {}
            write_elem(group["uns"], _keys.UNS, {**before, **self.notes})
        for key, column in self.obs.items():
            _write_column(group["obs"], key, column)


def _write_column(frame: Any, key: str, column: pd.Series) -> None:
    write_elem(frame, key, column.array)
    order = [str(name) for name in frame.attrs["column-order"]]
    frame.attrs["column-order"] = order if key in order else [*order, key]


def add(file: DataFile, additions: Additions, target: Path) -> None:
    """Write a copy of ``file`` with ``additions`` to ``target``, which may be the file itself.

    Of a SpatialData store that is written to itself, the table alone is written anew.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr and anndata tell of formats to come
        _add(file, additions, target, kind_at(target, file))


def _add(file: DataFile, additions: Additions, target: Path, kind: str) -> None:
    if kind == SPATIALDATA and is_input(target, file):
        _add_to_table(file, additions)
        return
    with drafted(target) as draft:
        if kind == file.kind:
            _copy(file.path, draft)
            with opened(draft, "r+") as root:
                additions.write(root if file.table is None else root[f"tables/{file.table}"])
            _consolidate(draft)
        else:
            _convert(file, kind, additions, draft)


def _copy(path: Path, draft: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, draft)
    else:
        shutil.copyfile(path, draft)


def _convert(file: DataFile, kind: str, additions: Additions, draft: Path) -> None:
    """Write the AnnData object of a file in another format."""
    if file.kind == H5AD:
        adata = read_h5ad(file.path)
    else:
        adata = read_zarr(file.path if file.table is None else file.path / "tables" / file.table)
    if kind == H5AD:
        adata.write_h5ad(draft)
    else:
        adata.write_zarr(draft)
    with opened(draft, "r+") as group:
        additions.write(group)
    _consolidate(draft)


def _add_to_table(file: DataFile, additions: Additions) -> None:
    """Replace the table in a SpatialData store by a copy with the additions; images stay where they are."""
    place = file.path / "tables" / str(file.table)
    draft = file.path.with_name(f".{file.path.name}.part-{os.getpid()}")  # nothing in a store but its elements
    try:
        _copy(place, draft)
        with opened(draft, "r+") as group:
            additions.write(group)
        replace(draft, place)
    finally:
        remove(draft)
    _consolidate(file.path)


def _consolidate(path: Path) -> None:
    """Bring the summary that a zarr store keeps of its contents up to date, if it keeps one."""
    if not path.is_dir():
        return
    import zarr

    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    if root.metadata.zarr_format == 3 or (path / ".zmetadata").exists():
        zarr.consolidate_metadata(root.store, zarr_format=root.metadata.zarr_format)
