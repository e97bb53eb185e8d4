"""The data of a comparison: cells of one technology and panel without labels, and their labels apart from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scjepa._core import keys as _keys
from scjepa._core.anndata import array_of, counts_of, missing_key, require_anndata, text_of, warn_of_words
from scjepa._core.counts import advice_on
from scjepa._core.instruments import how_to_read, raw_output
from scjepa._core.keys import UNLABELLED
from scjepa.benchmark._graphs import check_graph, complete_graph, graph_of, of_one_kind, with_graph
from scjepa.benchmark.methods._inputs import column_of, coordinates_of
from scjepa.datasets import concat
from scjepa.tokens.counts import CountCheck, read_counts
from scjepa.tokens.vocabulary import check_names

_PLACE = f"Put cell coordinates there, such as adata.obsm[{_keys.SPATIAL!r}] = adata.obs[['x', 'y']].to_numpy()."

Data: TypeAlias = AnnData | str | PathLike | Mapping[str, Any] | Sequence[Any]
"""AnnData or the path of an h5ad file; several of them in a list, or by name."""


@dataclass(frozen=True)
class Columns:
    """Where things are in ``obs``; ``None``: ``"section"`` and ``"technology"`` where they are there, and no labels."""

    label: str | None = None
    technology: str | None = None
    section: str | None = None
    layer: str | None = None

    def __post_init__(self) -> None:
        used = (self.technology or _keys.TECHNOLOGY, self.section or _keys.SECTION)
        if self.label is not None and self.label in used:
            raise ValueError(
                f"The label {self.label!r} is also the column of technologies or sections, which methods are given. "
                "Labels must stay out of training: name another column."
            )


@dataclass(frozen=True)
class Unit:
    """Cells of one technology with one panel of genes.

    Attributes
    ----------
    name
        What it is called in tables.
    technology
        Name of the technology.
    adata
        Counts, ``obs`` with section and technology, coordinates and the spatial graph. It holds no label.
    labels
        ``(n_cells,)`` objects, ``None`` for cells without a label.
    """

    name: str
    technology: str
    adata: AnnData
    labels: np.ndarray

    @property
    def sections(self) -> list[str]:
        """Names of the sections, sorted."""
        return sorted(self.adata.obs[_keys.SECTION].astype(str).unique())


def read_units(data: Data, columns: Columns, keep_obs: Sequence[str] = (), keep_obsm: Sequence[str] = ()) -> list[Unit]:
    """Return the data by technology and panel, in the order given; data sets that have both in common are one.

    Parameters
    ----------
    data
        AnnData objects or h5ad files.
    columns
        Where things are.
    keep_obs, keep_obsm
        Columns and arrays that a method asks for by name.

    Raises
    ------
    FileNotFoundError, KeyError, TypeError, ValueError
        If a file or column is not there, no cell has a label, or the data cannot be used.
    """
    named = _named(data)
    if columns.label is not None and not any(columns.label in adata.obs for adata in named.values()):
        there = sorted({str(key) for adata in named.values() for key in adata.obs})
        raise KeyError(f"No data have the label obs[{columns.label!r}]; columns there: {', '.join(there) or 'none'}.")
    if columns.label is not None and columns.label in keep_obs:
        raise ValueError(f"obs[{columns.label!r}] is the label, and no method may be given it.")
    parts = [
        part
        for name, adata in named.items()
        for part in _by_technology(name, _light(name, adata, columns, keep_obs, keep_obsm), _labels(adata, columns))
    ]
    units = list(_merged(parts))
    for unit in units:
        with_graph(unit.name, unit.adata)
    if columns.label is not None and not any(has_label(unit.labels).any() for unit in units):
        raise ValueError(
            f"obs[{columns.label!r}] is missing (NaN or {UNLABELLED[0]!r}) for every cell. Leave the label out, or "
            "fill it in."
        )
    technologies = [unit.technology for unit in units]
    for unit in units:
        if technologies.count(unit.technology) > 1:  # one technology with two panels is two to whoever compares panels
            unit.adata.obs[_keys.TECHNOLOGY] = pd.Categorical([f"{unit.technology} ({unit.name})"] * unit.adata.n_obs)
    return units


def has_label(labels: np.ndarray) -> np.ndarray:
    """Return which cells have a label, ``(n_cells,)`` bool."""
    return np.array([label is not None and label not in UNLABELLED for label in labels], dtype=bool)


def _named(data: Data) -> dict[str, AnnData]:
    if isinstance(data, Mapping):
        given = {str(name): one for name, one in data.items()}
    else:
        several = list(data) if isinstance(data, Sequence) and not isinstance(data, str) else [data]
        names = [_name_of(one, i) for i, one in enumerate(several)]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"Two data sets are called {twice[0]!r}. Name them: data={{'a': ..., 'b': ...}}.")
        given = dict(zip(names, several, strict=True))
    if not given:
        raise ValueError("There are no data: pass AnnData objects or paths of h5ad files.")
    return {name: _read(name, one) for name, one in given.items()}


def _name_of(one: Any, position: int) -> str:
    if isinstance(one, str | PathLike):
        stem = Path(one).stem
        return stem
    return f"data {position + 1}"


def _read(name: str, one: Any) -> AnnData:
    if not isinstance(one, str | PathLike):
        require_anndata(one, name)
        return one
    import anndata as ad

    place = Path(one)
    if not place.exists():
        raise FileNotFoundError(f"There is no file {one}.")
    if place.is_dir() or raw_output(place) is not None:
        raise TypeError(f"Expected an AnnData object or an h5ad file for {name!r}, found {one}. {how_to_read(one)}")
    return ad.read_h5ad(one)


def _labels(adata: AnnData, columns: Columns) -> np.ndarray:
    if columns.label is None or columns.label not in adata.obs:
        return np.full(adata.n_obs, None, dtype=object)
    labels = text_of(adata.obs[columns.label])
    warn_of_words(labels, "label", columns.label)
    return labels


def _light(name: str, adata: AnnData, columns: Columns, keep_obs: Sequence[str], keep_obsm: Sequence[str]) -> AnnData:
    """Return the cells with what methods may see, a section and a technology; nothing of the user's is changed."""
    if adata.isbacked:
        raise ValueError(f"{name!r} is backed by {adata.filename}. Read it: adata = adata.to_memory().")
    counts = counts_of(adata, columns.layer, name)
    check_names(adata.var_names, repr(name))
    wanted = {_keys.SECTION: columns.section, _keys.TECHNOLOGY: columns.technology}
    try:
        obs = {key: column_of(adata, column, key, name) for key, column in wanted.items()}
        obs.update({key: column_of(adata, key, key, name) for key in keep_obs})
    except (KeyError, ValueError) as error:
        raise type(error)(f"{name!r}: {error.args[0]}") from error
    for key in (_keys.SPATIAL, *keep_obsm):
        if key not in adata.obsm:
            then = _PLACE if key == _keys.SPATIAL else "Name one of them in the method's options."
            raise missing_key("obsm", key, adata.obsm, then, name)
    try:
        place = {_keys.SPATIAL: coordinates_of(adata, _keys.SPATIAL)}
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from error
    light = AnnData(
        _counts(name, counts, adata, columns.layer),
        obs=pd.DataFrame(obs, index=adata.obs_names),
        var=pd.DataFrame(index=adata.var_names),
        obsm=place | {key: array_of(adata.obsm[key]) for key in keep_obsm if key != _keys.SPATIAL},
        obsp=graph_of(adata),
    )
    if _keys.PANEL in adata.varm:
        light.varm[_keys.PANEL] = adata.varm[_keys.PANEL]
    if f"{_keys.SPATIAL}_neighbors" in adata.uns:
        light.uns[f"{_keys.SPATIAL}_neighbors"] = adata.uns[f"{_keys.SPATIAL}_neighbors"]
    check_graph(name, light)
    complete_graph(light)
    return light


def _counts(name: str, counts: Any, adata: AnnData, layer: str | None) -> Any:
    """Return counts in memory; refuse what cannot be any before anything runs, for every method would fail."""
    check = CountCheck(adata.obs_names, adata.var_names, advice_on(adata, layer))
    try:
        read = read_counts(counts, check=check)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name!r}: {error}") from error
    return counts if isinstance(counts, np.ndarray) or sparse.issparse(counts) else read


def _by_technology(name: str, adata: AnnData, labels: np.ndarray) -> Iterator[Unit]:
    """Yield the cells of each technology with the genes that it measured."""
    technologies = adata.obs[_keys.TECHNOLOGY].astype(str)
    several = technologies.nunique() > 1
    panels = concat({name: adata}).varm[_keys.PANEL] if several else None
    for technology in technologies.unique():
        cells = (technologies == technology).to_numpy()
        genes = adata.var_names if panels is None else panels.index[panels[_keys.as_key(technology)]]
        part = adata[cells, genes].copy()
        part.varm.pop(_keys.PANEL, None)
        yield Unit(f"{name} {technology}" if several else name, technology, part, labels[cells])


def _merged(parts: Sequence[Unit]) -> Iterator[Unit]:
    """Yield units; parts of one technology that measured the same genes are one."""
    groups: dict[tuple[str, frozenset], list[Unit]] = {}
    for part in parts:
        groups.setdefault((part.technology, frozenset(part.adata.var_names)), []).append(part)
    for (technology, _), own in groups.items():
        if len(own) == 1:
            yield own[0]
            continue
        of_one_kind({part.name: part.adata for part in own})
        labels = np.concatenate([part.labels for part in own])
        yield Unit(" + ".join(part.name for part in own), technology, joined(own), labels)


def joined(units: Sequence[Unit]) -> AnnData:
    """Return the cells of several units as one object, in their order, with panels."""
    both = concat({unit.name: unit.adata for unit in units})
    for key in units[0].adata.obsm:
        if key != _keys.SPATIAL:  # what a method asked for by name, which concat leaves behind
            both.obsm[key] = np.vstack([unit.adata.obsm[key] for unit in units])
    return both
