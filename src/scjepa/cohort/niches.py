"""Niches of all sections together, from the read-out of a collection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.files import digest, whole
from scjepa._core.options import unknown_name
from scjepa._core.plain import Facts

if TYPE_CHECKING:
    from scjepa.cohort.collection import Collection
    from scjepa.cohort.readout import Readout

LEIDEN, KMEANS = "leiden", "kmeans"

METHODS = (LEIDEN, KMEANS)
"""Ways to cluster a read-out."""

LARGEST_LEIDEN = 100_000
"""Cells up to which Leiden clusters all of them."""

_BATCH, _EPOCHS, _STARTS = 16_384, 5, 3
"""Cells of a batch of k-means, times that it sees all cells at most, and beginnings of which it takes the best."""

_AT_ONCE = 2**18
"""Cells that are assigned to niches at once."""


def check(n_niches: int | None, method: str | None, n_cells: int) -> None:
    """Refuse options that do not go together, before anything long is done.

    Raises
    ------
    TypeError, ValueError
        If there is no such method, the number cannot be, or a method needs one.
    """
    if method is not None and method not in METHODS:
        raise ValueError(unknown_name("method", method, METHODS))
    if n_niches is None and _chosen(method, n_cells) == KMEANS:
        raise ValueError(f"Of {n_cells:,} cells niches are found by k-means, which takes their number: n_niches=...")
    if n_niches is None:
        return
    if isinstance(n_niches, bool) or not isinstance(n_niches, int | np.integer):
        raise TypeError(f"n_niches must be a whole number, found {n_niches!r} ({type(n_niches).__name__}).")
    if not 1 <= n_niches <= n_cells:
        raise ValueError(f"n_niches must lie between 1 and the number of cells ({n_cells:,}), found {n_niches}.")


def _chosen(method: str | None, n_cells: int) -> str:
    return method or (LEIDEN if n_cells <= LARGEST_LEIDEN else KMEANS)


def find(
    collection: Collection,
    readout: Readout,
    key: str,
    n_niches: int | None,
    *,
    method: str | None,
    resolution: float,
    random_state: int,
) -> None:
    """Cluster the read-out, and keep the niche of each cell in the folder, with how they were found."""
    method = _chosen(method, len(readout.values))
    labels, made = _clustered(readout.values, method, n_niches, resolution, random_state)
    about = {
        **made,
        "n_niches": int(labels.max()) + 1,
        "method": method,
        "random_state": random_state,
        "use_rep": _keys.EMBEDDING_NICHE,
        "readout": readout.folder.name,
        "sections": _mark(collection),
    }
    place = _place(collection, key)
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


def _clustered(
    values: np.ndarray, method: str, n_niches: int | None, resolution: float, seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return niches 0, 1, ... by decreasing size, and how they were found."""
    if method == KMEANS:
        return by_size(_by_kmeans(values, int(n_niches or 1), seed)), {}
    from anndata import AnnData

    from scjepa.tl import niches

    holder = AnnData(obsm={_keys.EMBEDDING_NICHE: np.array(values)}, shape=(len(values), 0))
    niches(holder, _keys.EMBEDDING_NICHE, n_niches=n_niches, resolution=resolution, random_state=seed)
    note = holder.uns[_keys.UNS][_keys.NICHE]
    kept = ("resolution", "n_neighbors", "flavor")
    return holder.obs[_keys.NICHE].cat.codes.to_numpy(), {name: note[name] for name in kept}


def _by_kmeans(values: np.ndarray, n_niches: int, seed: int) -> np.ndarray:
    """Cluster a mapped array batch by batch."""
    from sklearn.cluster import MiniBatchKMeans

    rng = np.random.default_rng(seed)
    search = MiniBatchKMeans(n_niches, batch_size=_BATCH, n_init=_STARTS, max_iter=_EPOCHS, random_state=seed)
    sample = values[np.sort(rng.choice(len(values), min(len(values), 2 * _AT_ONCE), replace=False))]
    search.fit(sample)
    starts = range(0, len(values), _AT_ONCE)
    return np.concatenate([search.predict(np.array(values[start : start + _AT_ONCE])) for start in starts])


def by_size(labels: np.ndarray) -> np.ndarray:
    """Return clusters numbered by decreasing size; ties stay in their order."""
    sizes = np.bincount(labels)
    number = np.empty(len(sizes), dtype=np.int32)
    number[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return number[labels]
