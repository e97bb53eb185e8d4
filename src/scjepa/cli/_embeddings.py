"""What finding and drawing niches needs of a file that holds embeddings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata.io import read_elem

from scjepa import _keys
from scjepa.cli._cells import sections_of
from scjepa.cli._files import DataFile


@dataclass
class Embedded:
    """The embedded cells of one file.

    Attributes
    ----------
    obs
        The column ``"section"``, those that are asked for, and that of niches where there is one.
    embedding
        ``(n_cells, n_dims)``.
    coordinates
        ``(n_cells, 2 or 3)``, or no columns where none are needed.
    notes
        What scjepa noted in ``uns``.
    """

    obs: pd.DataFrame
    embedding: np.ndarray
    coordinates: np.ndarray
    notes: dict[str, Any]


def read_embedded(file: DataFile, options: argparse.Namespace, columns: Sequence[str]) -> Embedded:
    """Read the embedded cells of a file.

    Parameters
    ----------
    options
        ``use_rep``, ``key``, ``library_key``, ``spatial_key`` and ``map`` are read.
    columns
        ``obs`` columns that are needed.

    Raises
    ------
    ValueError
        If the embedding, a column or coordinates are not there.
    """
    with file.opened() as group:
        obs = read_elem(group["obs"])
        embedding = read_elem(_array(group, options.use_rep, file, "Embed its cells: scjepa embed MODEL FILE"))
        coordinates = np.empty((len(obs), 0))
        if options.map is not None:
            coordinates = read_elem(_array(group, options.spatial_key, file, "Name coordinates with --spatial-key"))
        notes = dict(read_elem(group["uns"][_keys.UNS])) if "uns" in group and _keys.UNS in group["uns"] else {}
        sections = sections_of(group, obs, file, options.library_key)
    for name in columns:
        if name not in obs:
            there = ", ".join(map(str, obs.columns)) or "none"
            raise ValueError(f"{file.path} has no column obs[{name!r}]; columns: {there}.")
    kept = obs[[name for name in dict.fromkeys([*columns, options.key]) if name in obs]].copy()
    kept[_keys.SECTION] = file.name if sections is None else sections
    if np.ndim(embedding) != 2:
        raise ValueError(f"{file.path}: obsm[{options.use_rep!r}] is no matrix, cells × dimensions.")
    return Embedded(kept, np.asarray(embedding), np.asarray(coordinates), notes)


def _array(group: Any, key: str, file: DataFile, then: str) -> Any:
    keys = sorted(group["obsm"]) if "obsm" in group else []
    if key not in keys:
        raise ValueError(f"{file.path} has no obsm[{key!r}]; obsm holds {', '.join(keys) or 'nothing'}. {then}.")
    return group["obsm"][key]
