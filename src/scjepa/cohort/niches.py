"""Niches of all sections together, from the read-out of a collection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.files import digest, whole
from scjepa._core.plain import Facts
from scjepa.tl import NicheClusters

if TYPE_CHECKING:
    from scjepa.cohort.collection import Collection
    from scjepa.cohort.readout import Readout


def check(n_niches: int | None, method: str, n_cells: int) -> None:
    """Refuse options that do not go together, before anything long is done.

    Raises
    ------
    TypeError, ValueError
        If there is no such method, the number cannot be, or a method needs one.
    """
    NicheClusters(n_niches, method=method).check_options()
    if n_niches is not None and n_niches > n_cells:
        raise ValueError(f"n_niches must lie between 1 and the number of cells ({n_cells:,}), found {n_niches}.")


def find(
    collection: Collection,
    readout: Readout,
    key: str,
    n_niches: int | None,
    *,
    method: str,
    resolution: float,
    random_state: int,
) -> None:
    """Cluster the read-out, and keep the niche of each cell in the folder, with how they were found."""
    clusters = NicheClusters(n_niches, method=method, resolution=resolution, random_state=random_state)
    labels = clusters.fit_predict(readout.values)
    about = {
        **clusters.note(),
        "use_rep": _keys.EMBEDDING_NICHE,
        "readout": readout.folder.name,
        "sections": _mark(collection),
    }
    place = _place(collection, key)
    for before in (".json", ".safetensors"):  # first: what is half written must not pass for earlier niches
        place.with_suffix(before).unlink(missing_ok=True)
    if clusters.method_ != "leiden":  # of which all cells would be kept a second time
        clusters.save(place.with_suffix(".safetensors"))
    with whole(place.with_suffix(".npy")) as draft:
        np.save(draft, labels.astype(np.int32))
    with whole(place.with_suffix(".json")) as draft:
        draft.write_text(json.dumps({"key": key, **about}, indent=1))


def read(collection: Collection, key: str) -> tuple[np.ndarray, Facts]:
    """Return the niche of each cell, mapped, and how they were found.

    Raises
    ------
    KeyError
        If there are none of this name, or sections were prepared anew since.
    """
    place = _place(collection, key)
    call = "collection.niches(n_niches=...)" if key == _keys.NICHE else f"collection.niches(key_added={key!r})"
    try:
        about = json.loads(place.with_suffix(".json").read_text())
        labels = np.load(place.with_suffix(".npy"), mmap_mode="r")
    except FileNotFoundError as error:
        raise KeyError(f"The collection has no niches {key!r}. Find them: {call}") from error
    if about["sections"] != _mark(collection) or len(labels) != collection.n_cells:
        raise KeyError(f"Sections changed since the niches {key!r} were found. Find them anew: {call}")
    return labels, about


def labels_file(collection: Collection, key: str) -> Path:
    """Return the file of the niches of all cells."""
    return _place(collection, key).with_suffix(".npy")


def _place(collection: Collection, key: str) -> Path:
    return collection.folder / "niches" / f"{_keys.as_key(key)}.x"


def _mark(collection: Collection) -> str:
    """Return a hash of what the sections are."""
    return digest([(one.name, one.facts.digest) for one in collection])
