"""Niches of a collection written back into its files, or copies of them, and nothing else touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.anndata import record, refuse_users
from scjepa._core.palette import palette
from scjepa._core.stored import Additions, add, data_file
from scjepa.cohort.readout import READOUT, niches_file, read_niches
from scjepa.cohort.source import Stamp, opened_source
from scjepa.cohort.workers import WorkerDiedError, Workers

if TYPE_CHECKING:
    import os

    from scjepa.cohort.collection import Collection, Section

_NOTED = ("method", "resolution", "n_neighbors", "random_state", "use_rep")
"""What is noted in files of how niches were found."""

_FORMATS = {"h5ad": ".h5ad", "zarr": ".zarr"}


@dataclass(frozen=True)
class _Writing:
    """A file, its sections, and where it is to be written to.

    Attributes
    ----------
    source, target
        The file, and the file that is made.
    parts
        Of each section its shard, and its rows among all cells.
    labels, readout
        Arrays of all cells.
    key, note, n_niches
        What the niches are called, how they were found, and how many there are.
    """

    source: Path
    target: Path
    parts: tuple[tuple[Path, int, int], ...]
    labels: Path
    readout: Path
    key: str
    note: Mapping[str, Any]
    n_niches: int


def write_back(
    collection: Collection,
    folder: str | os.PathLike[str] | None,
    key: str,
    form: str | None,
    overwrite: bool,
    n_jobs: int,
) -> list[Path]:
    """Do what :meth:`Collection.write_back` says."""
    if form is not None and form not in _FORMATS:
        raise ValueError(f"format must be 'h5ad' or 'zarr', found {form!r}.")
    if folder is None and form is not None:
        raise ValueError("format= is of copies: name the folder they go to. Files that are added to keep their format.")
    labels, about = read_niches(collection, key)
    by_source: dict[str, list[Section]] = {}
    for section in collection:
        by_source.setdefault(section.facts.path, []).append(section)
    in_memory = by_source.pop("", [])
    names = _file_names(list(by_source), form)
    note = {name: about[name] for name in _NOTED if name in about}
    arrays = (niches_file(collection, key), collection.folder / "readout" / about["readout"] / READOUT)
    writings = []
    for source, sections in by_source.items():
        target = Path(source) if folder is None else Path(folder) / names[source]
        parts = tuple((one.path, one.start, one.stop) for one in sections)
        how = {"slot": "obs", "n_niches": about["n_niches"], **note}
        writings.append(_Writing(Path(source), target, parts, *arrays, key, how, about["n_niches"]))
    for writing in writings:  # before anything is written
        _check_target(writing, folder is None, overwrite)
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
    _add_in_memory(collection, in_memory, labels, key, {"n_niches": about["n_niches"], **note}, arrays[1])
    return [writing.target for writing in writings]


def _file_names(sources: list[str], form: str | None) -> dict[str, str]:
    """Return what the copy of each file is called: as the file, with its folder's name where two are called alike."""
    short = [Path(source).name for source in sources]
    found = {}
    for source, name in zip(sources, short, strict=True):
        path = Path(source)
        name = f"{path.resolve().parent.name}_{name}" if short.count(name) > 1 else name
        found[source] = name if form is None else f"{Path(name).stem}{_FORMATS[form]}"
    return found


def _check_target(writing: _Writing, in_place: bool, overwrite: bool) -> None:
    if not writing.source.exists():
        raise ValueError(f"{writing.source} is gone, so niches cannot be added to it. Put it back, or leave it out.")
    if not in_place:
        if writing.target.exists() and not overwrite:
            raise FileExistsError(f"{writing.target} exists. Replace it with overwrite=True, or name another folder.")
        if writing.target.resolve() == writing.source.resolve():
            raise ValueError(f"{writing.target} is the file itself. To add niches to it, name no folder.")
    elif not overwrite:
        raise FileExistsError(
            f"Without a folder niches are added to {writing.source} itself. Name a folder, or pass overwrite=True."
        )
    with opened_source(writing.source) as source:
        known = source.notes()
        for slot, key in (("obs", writing.key), ("obsm", _keys.EMBEDDING_NICHE)):
            if key in source.keys(slot) and key not in known:
                raise FileExistsError(
                    f"{writing.source} has a {slot}[{key!r}] that scjepa did not write. Name the niches otherwise: "
                    "collection.niches(key_added=...)."
                )


def _write(writing: _Writing) -> None:
    """Write one file: a copy with the additions, whole or not at all."""
    from scjepa.cohort.shard import Shard

    with opened_source(writing.source) as source:
        cells = source.cells()
    labels, readout = (np.load(path, mmap_mode="r") for path in (writing.labels, writing.readout))
    codes = np.full(len(cells), -1, dtype=np.int32)
    embedding = np.full((len(cells), readout.shape[1]), np.nan, dtype=np.float32)
    for path, start, stop in writing.parts:
        shard = Shard.load(path)
        rows, is_all = shard.rows, "rows" not in shard.arrays
        if rows[-1] >= len(cells) or (is_all and len(rows) < len(cells)) or (cells[rows] != shard.cells).any():
            raise ValueError(
                f"{writing.source} has other cells than when it was prepared. Prepare it again: collection.prepare()"
            )
        codes[rows], embedding[rows] = labels[start:stop], readout[start:stop]
    add(data_file(writing.source), additions_of(writing, codes, embedding), writing.target)


def additions_of(writing: _Writing, codes: np.ndarray, embedding: np.ndarray) -> Additions:
    """Return what is added to a file; cells of sections that were left out have no niche."""
    import pandas as pd

    names = np.arange(writing.n_niches).astype(str)
    column = pd.Series(pd.Categorical.from_codes(codes, categories=names))
    return Additions(
        obs={writing.key: column},
        obsm={_keys.EMBEDDING_NICHE: embedding},
        uns={f"{writing.key}_colors": np.array(palette(writing.n_niches))},
        notes={writing.key: dict(writing.note), _keys.EMBEDDING_NICHE: {"slot": "obsm", "use_rep": [_keys.EXPRESSION]}},
    )


def _restamp(collection: Collection, sections: list[Section]) -> None:
    """Note what a file is now that results were added to it, so that its shards are not made anew."""
    stamp = asdict(Stamp.of(Path(sections[0].facts.path)))
    for section in sections:
        collection.replace_facts(replace(section.facts, stamp=stamp))


def _add_in_memory(
    collection: Collection,
    sections: list[Section],
    labels: np.ndarray,
    key: str,
    note: Mapping[str, Any],
    readout: Path,
) -> None:
    import pandas as pd

    values = np.load(readout, mmap_mode="r")
    for section in sections:
        adata = collection.object_of(section)
        refuse_users(adata, "obs", key)
        refuse_users(adata, "obsm", _keys.EMBEDDING_NICHE)
        names = np.arange(note["n_niches"]).astype(str)
        rows = section.shard().rows
        codes = np.full(adata.n_obs, -1)
        if key in adata.obs:
            codes = adata.obs[key].cat.set_categories(names).cat.codes.to_numpy(copy=True)
        codes[rows] = labels[section.start : section.stop]
        adata.obs[key] = pd.Categorical.from_codes(codes, categories=names)
        embedding = np.full((adata.n_obs, values.shape[1]), np.nan, dtype=np.float32)
        before = adata.obsm.get(_keys.EMBEDDING_NICHE)
        if before is not None and before.shape == embedding.shape:
            embedding[:] = before
        embedding[rows] = values[section.start : section.stop]
        adata.obsm[_keys.EMBEDDING_NICHE] = embedding
        adata.uns[f"{key}_colors"] = palette(len(names))
        record(adata, key, slot="obs", **note)
        record(adata, _keys.EMBEDDING_NICHE, slot="obsm", use_rep=[_keys.EXPRESSION])
