"""Niches and embeddings written back into the files, or copies of them, and nothing else touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.anndata import record, refuse_users
from scjepa._core.palette import palette
from scjepa._core.stored import Additions, add, data_file
from scjepa.cohort import readout
from scjepa.cohort.shard import Shard
from scjepa.cohort.source import Stamp, opened_source
from scjepa.cohort.workers import WorkerDiedError, Workers

if TYPE_CHECKING:
    import os

    from anndata import AnnData

    from scjepa.cohort.collection import Collection, Section

_NOTED = ("method", "resolution", "n_neighbors", "random_state", "use_rep")
"""What is noted in files of how niches were found."""

_FORMATS = {"h5ad": ".h5ad", "zarr": ".zarr"}


@dataclass(frozen=True)
class _Part:
    """What is added of the cells of one section.

    Attributes
    ----------
    shard
        Its file.
    niches
        Their niches; ``None``: none are added.
    obsm
        Their rows of arrays, by key.
    """

    shard: Path
    niches: np.ndarray | None
    obsm: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Writing:
    """A file, its sections, and where it is to be written to.

    Attributes
    ----------
    source, target
        The file, and the file that is made.
    parts
        Of each section what is added.
    key, note, n_niches
        What the niches are called, how they were found, and how many there are.
    notes
        What is noted of arrays, by key.
    """

    source: Path
    target: Path
    parts: tuple[_Part, ...]
    key: str | None
    note: Mapping[str, Any]
    n_niches: int
    notes: Mapping[str, Mapping[str, Any]]

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Where in a file something is added."""
        return [*([("obs", self.key)] if self.key is not None else []), *(("obsm", key) for key in self.notes)]


def write_back(
    collection: Collection,
    folder: str | os.PathLike[str] | None,
    key: str | None,
    obsm: Mapping[str, np.ndarray | str | os.PathLike[str]],
    form: str | None,
    overwrite: bool,
    n_jobs: int,
) -> list[Path]:
    """Do what :meth:`Collection.write_back` says."""
    if form is not None and form not in _FORMATS:
        raise ValueError(f"format must be 'h5ad' or 'zarr', found {form!r}.")
    if folder is None and form is not None:
        raise ValueError("format= is of copies: name the folder they go to. Files that are added to keep their format.")
    arrays, notes, labels, note = _added(collection, key, obsm)
    by_source: dict[str, list[Section]] = {}
    for section in collection:
        by_source.setdefault(section.facts.path, []).append(section)
    in_memory = by_source.pop("", [])
    names = _file_names(list(by_source), form)
    writings = []
    for source, sections in by_source.items():
        target = Path(source) if folder is None else Path(folder) / names[source]
        parts = tuple(_part(one, labels, arrays) for one in sections)
        how = {"slot": "obs", **note}
        writings.append(_Writing(Path(source), target, parts, key, how, note.get("n_niches", 0), notes))
    for writing in writings:  # before anything is written
        _check_target(writing, folder is None, overwrite)
    for section in in_memory:
        for slot, name in [*(("obsm", one) for one in arrays), *([] if key is None else [("obs", key)])]:
            refuse_users(collection.object_of(section), slot, name)
    unchanged = {
        source: folder is None and Stamp.of(Path(source)).same_as(Stamp(**sections[0].facts.stamp))
        for source, sections in by_source.items()
    }
    with Workers(n_jobs) as workers:
        for writing, failed in workers.each(_write, writings):
            if isinstance(failed, WorkerDiedError):
                raise ValueError(f"{writing.source}: {failed}. Write again: files that are there are whole.")
            if unchanged[str(writing.source)]:  # but for what is added here
                _restamp(collection, by_source[str(writing.source)])
    for section in in_memory:
        _add_in_memory(collection.object_of(section), section, _part(section, labels, arrays), key, note, notes)
    return [writing.target for writing in writings]


def _added(
    collection: Collection, key: str | None, obsm: Mapping[str, np.ndarray | str | os.PathLike[str]]
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]], np.ndarray | None, dict[str, Any]]:
    """Return arrays of all cells and what is noted of each, and niches and what is noted of them."""
    arrays = {name: _array(collection, name, value) for name, value in obsm.items()}
    notes: dict[str, dict[str, Any]] = {name: {"slot": "obsm"} for name in arrays}
    if key is None:
        if not arrays:
            raise ValueError("There is nothing to write: name niches with key=..., or arrays with obsm={...}.")
        return arrays, notes, None, {}
    labels, about = readout.read_niches(collection, key)
    if _keys.EMBEDDING_NICHE not in arrays:
        kept = collection.folder / "readout" / about["readout"] / readout.READOUT
        arrays[_keys.EMBEDDING_NICHE] = np.load(kept, mmap_mode="r")
        notes[_keys.EMBEDDING_NICHE] = {"slot": "obsm", "use_rep": [_keys.EXPRESSION]}
    return arrays, notes, labels, {"n_niches": about["n_niches"], **{n: about[n] for n in _NOTED if n in about}}


def _array(collection: Collection, key: str, given: np.ndarray | str | os.PathLike[str]) -> np.ndarray:
    """Return an array of all cells, mapped where it is a file."""
    values = given if isinstance(given, np.ndarray) else np.load(Path(given), mmap_mode="r")
    if values.ndim != 2 or len(values) != collection.n_cells:
        raise ValueError(
            f"obsm[{key!r}] must have the shape ({collection.n_cells}, n_dims), a row for each cell of the collection, "
            f"found {values.shape}."
        )
    return values


def _part(section: Section, labels: np.ndarray | None, arrays: Mapping[str, np.ndarray]) -> _Part:
    rows = slice(section.start, section.stop)
    taken = {key: np.asarray(values[rows]) for key, values in arrays.items()}  # mapped still, until it is used
    return _Part(section.path, None if labels is None else np.asarray(labels[rows]), taken)


def _file_names(sources: list[str], form: str | None) -> dict[str, str]:
    """Return what the copy of each file is called: as the file, with its folder's name where two are called alike.

    Where that does not tell them apart, they are numbered.
    """

    def named(path: Path) -> str:
        return path.name if form is None else f"{path.stem}{_FORMATS[form]}"

    again = Counter(named(Path(source)) for source in sources)
    found = {}
    for source in sources:
        name = named(Path(source))
        found[source] = f"{Path(source).resolve().parent.name}_{name}" if again[name] > 1 else name
    again, seen = Counter(found.values()), Counter[str]()
    for source, name in found.items():
        if again[name] > 1:
            seen[name] += 1
            found[source] = f"{Path(name).stem}_{seen[name]}{Path(name).suffix}"
    return found


def _check_target(writing: _Writing, in_place: bool, overwrite: bool) -> None:
    if not writing.source.exists():
        raise ValueError(f"{writing.source} is gone, so nothing can be added to it. Put it back, or leave it out.")
    if not in_place:
        if writing.target.exists() and not overwrite:
            raise FileExistsError(f"{writing.target} exists. Replace it with overwrite=True, or name another folder.")
        if writing.target.resolve() == writing.source.resolve():
            raise ValueError(f"{writing.target} is the file itself. To add to it, name no folder.")
    elif not overwrite:
        raise FileExistsError(
            f"Without a folder results are added to {writing.source} itself. Name a folder, or pass overwrite=True."
        )
    with opened_source(writing.source) as source:
        known = source.notes()
        for slot, key in writing.keys:
            if key in source.keys(slot) and key not in known:
                call = "the niches otherwise: collection.niches(key_added=...)." if slot == "obs" else "another key."
                raise FileExistsError(f"{writing.source} has a {slot}[{key!r}] that scjepa did not write. Name {call}")


def _write(writing: _Writing) -> None:
    """Write one file: a copy with the additions, whole or not at all."""
    with opened_source(writing.source) as source:
        cells = source.cells()
    codes = np.full(len(cells), -1, dtype=np.int32)
    n_dims = {key: values.shape[1] for key, values in writing.parts[0].obsm.items()}
    obsm = {key: np.full((len(cells), n), np.nan, dtype=np.float32) for key, n in n_dims.items()}
    for part in writing.parts:
        shard = Shard.load(part.shard)
        rows, is_all = shard.rows, "rows" not in shard.arrays
        if rows[-1] >= len(cells) or (is_all and len(rows) < len(cells)) or (cells[rows] != shard.cells).any():
            raise ValueError(
                f"{writing.source} has other cells than when it was prepared. Prepare it again: collection.prepare()"
            )
        if part.niches is not None:
            codes[rows] = part.niches
        for key, values in part.obsm.items():
            obsm[key][rows] = values
    add(data_file(writing.source), additions_of(writing, codes, obsm), writing.target)


def additions_of(writing: _Writing, codes: np.ndarray, obsm: Mapping[str, np.ndarray]) -> Additions:
    """Return what is added to a file; cells of sections that were left out have no niche."""
    import pandas as pd

    notes = {key: dict(note) for key, note in writing.notes.items()}
    if writing.key is None:
        return Additions(obsm=obsm, notes=notes)
    names = np.arange(writing.n_niches).astype(str)
    column = pd.Series(pd.Categorical.from_codes(codes, categories=names))
    colors = {f"{writing.key}_colors": np.array(palette(writing.n_niches))}
    notes[writing.key] = dict(writing.note)
    return Additions(obs={writing.key: column}, obsm=obsm, uns=colors, notes=notes)


def _restamp(collection: Collection, sections: list[Section]) -> None:
    """Note what a file is now that results were added to it, so that its shards are not made anew."""
    stamp = asdict(Stamp.of(Path(sections[0].facts.path)))
    for section in sections:
        collection.replace_facts(replace(section.facts, stamp=stamp))


def _add_in_memory(
    adata: AnnData, section: Section, part: _Part, key: str | None, note: Mapping[str, Any], notes: Mapping[str, Any]
) -> None:
    import pandas as pd

    rows = section.shard().rows
    if key is not None and part.niches is not None:
        names = np.arange(note["n_niches"]).astype(str)
        codes = np.full(adata.n_obs, -1)
        if key in adata.obs:
            codes = adata.obs[key].cat.set_categories(names).cat.codes.to_numpy(copy=True)
        codes[rows] = part.niches
        adata.obs[key] = pd.Categorical.from_codes(codes, categories=names)
        adata.uns[f"{key}_colors"] = palette(len(names))
        record(adata, key, slot="obs", **note)
    for name, values in part.obsm.items():
        whole = np.full((adata.n_obs, values.shape[1]), np.nan, dtype=np.float32)
        before = adata.obsm.get(name)
        if before is not None and before.shape == whole.shape:  # of another section of the object
            whole[:] = before
        whole[rows] = values
        adata.obsm[name] = whole
        record(adata, name, **notes[name])
