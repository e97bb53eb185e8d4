"""The read-out for niches of a collection, in passes over its sections, each resumable; and the niches found in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from scipy import sparse

from scjepa._core import keys as _keys
from scjepa._core.counts import TARGET_SUM
from scjepa._core.files import digest, locked, whole
from scjepa._core.options import AUTO
from scjepa._core.plain import Facts
from scjepa._core.warn import warn
from scjepa.cohort.shard import Shard
from scjepa.cohort.workers import WorkerDiedError, Workers
from scjepa.tl import NicheClusters, NicheReadout, PredictiveComponents
from scjepa.tl.sectionwise import (
    EXACT_FEATURES,
    MAX_RINGS,
    Features,
    JointSums,
    RingSums,
    SectionMoments,
    SectionSums,
    around,
    deals_of,
    fit_axes,
    fit_blocks,
    fit_chance,
    fit_directions,
    mapped_scores,
    readout_of,
    rings_of,
    scores_of,
    sections_alike,
)

if TYPE_CHECKING:
    from scjepa.cohort.collection import Collection


READOUT, FITTED = "readout.npy", "fitted.safetensors"
"""Files of a finished read-out: of all cells, and the fitted estimator."""

_COMPONENTS = "components.safetensors"

Sums = TypeVar("Sums", JointSums, RingSums, SectionSums)


@dataclass(frozen=True, eq=False)
class Readout:
    """A finished read-out of a collection.

    Attributes
    ----------
    folder
        Where it is.
    fitted
        The fitted estimator.
    values
        ``(n_cells, n_dims)`` float32, mapped.
    """

    folder: Path
    fitted: NicheReadout
    values: np.ndarray


@dataclass(frozen=True)
class _Place:
    """A section in a pass.

    Attributes
    ----------
    folder
        Folder of the read-out.
    shard
        File of the section.
    code, start, stop
        Its number, and its rows among all cells.
    columns
        File of the places of its genes among all genes, for sections of one panel.
    n_features
        Genes of all panels that are read.
    """

    folder: Path
    shard: Path
    code: int
    start: int
    stop: int
    columns: Path
    n_features: int

    def rows(self, name: str, mode: str = "r") -> np.ndarray:
        """Map the section's rows of an array of all cells, the last axis but one being cells."""
        whole_array = np.lib.format.open_memmap(self.folder / name, mode=mode)  # type: ignore[arg-type]
        return whole_array[..., self.start : self.stop, :]

    def features(self, shard: Shard) -> Features:
        """Return the counts of the section in the columns of all panels, to be log-normalized."""
        counts = shard.counts
        if len(shard.moment_columns) < shard.n_genes:
            counts = counts[:, shard.moment_columns]
        place = np.load(self.columns)
        shape = (shard.n_cells, self.n_features)
        return Features(sparse.csr_array((counts.data, place[counts.indices], counts.indptr), shape=shape), TARGET_SUM)


_RULE = "sections are compared by the genes that both have"
"""Part of what a read-out is named by: what was computed by an earlier rule is computed anew."""


def computed(collection: Collection, options: dict[str, Any], n_jobs: int) -> Readout:
    """Return the read-out of a collection, computed unless it is there.

    Parameters
    ----------
    collection
        A prepared one.
    options
        Of :class:`scjepa.tl.NicheReadout`.
    n_jobs
        Processes.
    """
    readout = NicheReadout(**options)
    readout.check_options()
    made_of = digest(_RULE, options, [(one.name, one.facts.digest, one.facts.panel) for one in collection])
    folder = collection.folder / "readout" / made_of
    if not (folder / FITTED).is_file():
        with locked(folder / "lock"), Workers(n_jobs) as workers:
            if not (folder / FITTED).is_file():
                _Passes(collection, readout, folder, workers).run()
    return Readout(folder, NicheReadout.load(folder / FITTED), np.load(folder / READOUT, mmap_mode="r"))


class _Passes:
    """The passes over the sections of a collection, in the order of :mod:`scjepa.tl.sectionwise`."""

    def __init__(self, collection: Collection, readout: NicheReadout, folder: Path, workers: Workers) -> None:
        self.collection, self.readout, self.folder, self.workers = collection, readout, folder, workers
        self.genes = _linear_genes(collection)
        self.places = self._places()

    def run(self) -> None:
        """Compute the read-out; what was computed on the way is removed in the end."""
        align = "scale" if self.readout.align == AUTO else self.readout.align
        components, sums = self._scores(align)
        if not sections_alike(self.readout, components, sums, self._moments) and self.readout.align == AUTO:
            _tell_apart(self.readout.similarity_)
            components, sums = self._scores("center")
        scores = f"scores-{components.align}.npy"
        fit_directions(components, sums)
        components.save(self.folder / _COMPONENTS)
        if components.align == "covariance":
            self._array("mapped.npy", (self.n_cells, components.axes_.shape[1]))
            self._pass("map", _map, {"scores": scores})
            scores = "mapped.npy"
        fit_chance(components, self._deals(scores, components))
        components.save(self.folder / _COMPONENTS)
        _tell_chance(components)
        self._array("rings.npy", (MAX_RINGS + 1, self.n_cells, components.weights_.shape[1]))
        rings = self._pass("rings", _rings, {"scores": scores})
        fit_blocks(self.readout, components, [_ring_sums(one) for one in rings])
        self.readout.save(self.folder / "draft.safetensors")
        one_cell = np.zeros((MAX_RINGS + 1, 1, components.weights_.shape[1]), dtype=np.float32)
        self._array(READOUT, (self.n_cells, readout_of(self.readout, one_cell).shape[1]))
        self._pass("readout", _side_by_side, {})
        with whole(self.folder / "readout.json") as draft:
            draft.write_text(json.dumps({"chosen": self.readout.describe(), "n_cells": self.n_cells}))
        self.readout.save(self.folder / FITTED)  # the last: what is before it may be half done
        for left in [*self.folder.glob("scores-*.npy"), *(self.folder / name for name in ("mapped.npy", "rings.npy"))]:
            left.unlink(missing_ok=True)
        for left in (self.folder / "parts", self.folder / "columns"):
            shutil.rmtree(left, ignore_errors=True)

    @property
    def n_cells(self) -> int:
        """Cells of all sections."""
        return self.collection.n_cells

    def _places(self) -> list[_Place]:
        """Return the sections, with the places of the genes of each panel written once."""
        (self.folder / "columns").mkdir(parents=True, exist_ok=True)
        number = {gene: place for place, gene in enumerate(self.genes)}
        places, written = [], set()
        for code, one in enumerate(self.collection):
            columns = self.folder / "columns" / f"{one.facts.panel}.npy"
            if columns not in written:
                own = np.array([number[one.genes[gene]] for gene in one.shard().moment_columns], dtype=np.int32)
                with whole(columns) as draft:
                    np.save(draft, own)
                written.add(columns)
            places.append(_Place(self.folder, one.path, code, one.start, one.stop, columns, len(self.genes)))
        return places

    def _moments(self) -> Iterator[tuple[np.ndarray, SectionMoments]]:
        for place in self.places:
            yield np.load(place.columns), Shard.load(place.shard).moments

    def _scores(self, align: str) -> tuple[PredictiveComponents, list[SectionSums]]:
        """Fit axes, and return the components with the sums of the scores of all sections."""
        n_joined = sum(one.facts.n_joined for one in self.collection)
        names = [one.name for one in self.collection]
        stacked = _Stacked(self.places) if len(self.genes) > EXACT_FEATURES else None
        components = fit_axes(self.readout, align, names, self._moments, self.genes, n_joined, stacked)
        components.save(self.folder / f"axes-{align}.safetensors")
        self._array(f"scores-{align}.npy", (self.n_cells, components.axes_.shape[1]))
        parts = self._pass(f"scores-{align}", _score, {"align": align})
        return components, [_section_sums(one) for one in parts]

    def _deals(self, scores: str, components: PredictiveComponents) -> Iterator[list[JointSums]]:
        """Yield the sums of all sections each time that cells were dealt out over the graph at random."""
        distances = np.concatenate([_distances(place.rows(scores)) for place in self.places])
        for number, dealt in enumerate(deals_of(distances)):
            np.save(self.folder / "dealt.npy", dealt)
            parts = self._pass(f"deal-{number}", _deal, {"scores": scores})
            yield [JointSums(int(one["size"]), one["total"], one["product"]) for one in parts]
        (self.folder / "dealt.npy").unlink(missing_ok=True)

    def _array(self, name: str, shape: tuple[int, ...]) -> None:
        """Make the file of an array of all cells, unless it is there; on most disks zeros take no place."""
        path = self.folder / name
        if path.is_file() and np.load(path, mmap_mode="r").shape == shape:
            return
        with whole(path) as draft:
            np.lib.format.open_memmap(draft, mode="w+", dtype=np.float32, shape=shape)

    def _pass(
        self, name: str, function: Callable[[_Place, dict[str, Any]], dict[str, Any]], options: dict[str, Any]
    ) -> list[dict[str, np.ndarray]]:
        """Run a function of each section that has no result of this name yet, and return the results of all."""
        folder = self.folder / "parts" / name
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{place.code}.npz" for place in self.places]
        tasks = [
            (function, place, file, options)
            for place, file in zip(self.places, files, strict=True)
            if not file.is_file()
        ]
        for task, failed in self.workers.each(_run, tasks):
            if isinstance(failed, WorkerDiedError):
                raise ValueError(f"{task[1].shard}: {failed}, as where memory is short. Take fewer: n_jobs=1.")
        return [dict(np.load(file)) for file in files]


def _run(task: tuple[Callable[[_Place, dict[str, Any]], dict[str, Any]], _Place, Path, dict[str, Any]]) -> None:
    """Run a function of a section, and write what it returns: then, and not before, it is done."""
    function, place, file, options = task
    result = function(place, options)
    with whole(file) as draft:
        np.savez(draft, **result)


# -- of one section -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _components(path: Path, changed: int) -> PredictiveComponents:
    """Return fitted components, read once by each process for each state of the file."""
    return PredictiveComponents.load(path)


def _fitted(place: _Place, name: str = _COMPONENTS) -> PredictiveComponents:
    path = place.folder / name
    return _components(path, path.stat().st_mtime_ns)


def _score(place: _Place, options: dict[str, Any]) -> dict[str, Any]:
    from scjepa.cohort.collection import checked

    shard = checked(place.shard)
    components = _fitted(place, f"axes-{options['align']}.safetensors")
    scores = scores_of(components, place.features(shard), place.code)
    place.rows(f"scores-{options['align']}.npy", "r+")[:] = scores
    sums = around(components, scores, shard.edges())
    return {**_of(sums.joint), "covariance": sums.covariance, "n_cells": sums.n_cells}


def _map(place: _Place, options: dict[str, Any]) -> dict[str, Any]:
    place.rows("mapped.npy", "r+")[:] = mapped_scores(_fitted(place), place.rows(options["scores"]), place.code)
    return {}


def _deal(place: _Place, options: dict[str, Any]) -> dict[str, Any]:
    dealt = np.load(place.folder / "dealt.npy", mmap_mode="r")[place.start : place.stop]
    scores = np.load(place.folder / options["scores"], mmap_mode="r")
    order = np.argsort(dealt, kind="stable")  # in the order of the file
    taken = np.empty((len(dealt), scores.shape[1]), dtype=np.float32)
    taken[order] = scores[dealt[order]]
    return _of(JointSums.of(taken, Shard.load(place.shard).edges(), _fitted(place).n_rings))


def _rings(place: _Place, options: dict[str, Any]) -> dict[str, Any]:
    edges = Shard.load(place.shard).edges()
    rings = rings_of(_fitted(place), np.array(place.rows(options["scores"])), edges)
    place.rows("rings.npy", "r+")[:] = rings
    return _of(RingSums.of(rings, np.diff(edges.indptr) > 0))


def _side_by_side(place: _Place, options: dict[str, Any]) -> dict[str, Any]:
    path = place.folder / "draft.safetensors"
    place.rows(READOUT, "r+")[:] = readout_of(NicheReadout.load(path), place.rows("rings.npy"))
    return {}


def _distances(scores: np.ndarray) -> np.ndarray:
    """Return the squared distance of each cell from 0."""
    found: np.ndarray = np.einsum("nk,nk->n", scores, scores, dtype=np.float64)
    return found


def _of(sums: JointSums | RingSums) -> dict[str, Any]:
    return {each.name: getattr(sums, each.name) for each in fields(sums)}


def _joint_sums(part: dict[str, np.ndarray]) -> JointSums:
    return JointSums(int(part["size"]), part["total"], part["product"])


def _section_sums(part: dict[str, np.ndarray]) -> SectionSums:
    return SectionSums(_joint_sums(part), part["covariance"], int(part["n_cells"]))


def _ring_sums(part: dict[str, np.ndarray]) -> RingSums:
    return RingSums(**{**part, "size": int(part["size"]), "n_cells": int(part["n_cells"])})  # type: ignore[arg-type]


# -- of all sections ------------------------------------------------------------------------------------------------


class _Stacked(Features):
    """The cells of all sections, section after section."""

    def __init__(self, places: list[_Place]) -> None:
        self._places = places
        self.n_cells, self.n_features = places[-1].stop, places[-1].n_features

    def chunks(self) -> Iterator[tuple[slice, Any]]:
        """Yield rows and their log-normalized counts."""
        for place in self._places:
            for rows, chunk in place.features(Shard.load(place.shard)).chunks():
                yield slice(place.start + rows.start, place.start + rows.stop), chunk


def _linear_genes(collection: Collection) -> list[str]:
    """Return the genes of all panels that the linear method reads: sorted, or in the order of the one panel."""
    read = {one.facts.panel: one for one in collection}
    panels = [[one.genes[gene] for gene in one.shard().moment_columns] for one in read.values()]
    return panels[0] if len(panels) == 1 else sorted(set().union(*panels))


def _tell_apart(similarity: float) -> None:
    warn(
        f"The sections differ in what they consist of (their covariances agree by {similarity:.2f}, sections of one "
        "tissue by 0.9 or more): z-scores within sections would take that away, so only their means are aligned "
        "(align='center'). Where sections differ by batch alone, pass align='scale'."
    )


def _tell_chance(components: PredictiveComponents) -> None:
    if components.correlations_[0] <= components.chance_:
        warn(
            "Nothing around a cell predicts it better than chance would: these niches are hardly of the tissue. Look "
            "whether coordinates and counts belong to the same cells."
        )


# -- niches -----------------------------------------------------------------------------------------------------------


def check_niches(n_niches: int | None, method: str, n_cells: int) -> None:
    """Refuse options that do not go together, before anything long is done.

    Raises
    ------
    TypeError, ValueError
        If there is no such method, the number cannot be, or a method needs one.
    """
    NicheClusters(n_niches, method=method).check_options()
    if n_niches is not None and n_niches > n_cells:
        raise ValueError(f"n_niches must lie between 1 and the number of cells ({n_cells:,}), found {n_niches}.")


def find_niches(
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
        "sections": _sections_mark(collection),
    }
    place = _niches_place(collection, key)
    for before in (".json", ".safetensors"):  # first: what is half written must not pass for earlier niches
        place.with_suffix(before).unlink(missing_ok=True)
    if clusters.method_ != "leiden":  # of which all cells would be kept a second time
        clusters.save(place.with_suffix(".safetensors"))
    with whole(place.with_suffix(".npy")) as draft:
        np.save(draft, labels.astype(np.int32))
    with whole(place.with_suffix(".json")) as draft:
        draft.write_text(json.dumps({"key": key, **about}, indent=1))


def read_niches(collection: Collection, key: str) -> tuple[np.ndarray, Facts]:
    """Return the niche of each cell, mapped, and how they were found.

    Raises
    ------
    KeyError
        If there are none of this name, or sections were prepared anew since.
    """
    place = _niches_place(collection, key)
    call = "collection.niches(n_niches=...)" if key == _keys.NICHE else f"collection.niches(key_added={key!r})"
    try:
        about = json.loads(place.with_suffix(".json").read_text())
        labels = np.load(place.with_suffix(".npy"), mmap_mode="r")
    except FileNotFoundError as error:
        raise KeyError(f"The collection has no niches {key!r}. Find them: {call}") from error
    if about["sections"] != _sections_mark(collection) or len(labels) != collection.n_cells:
        raise KeyError(f"Sections changed since the niches {key!r} were found. Find them anew: {call}")
    return labels, about


def _niches_place(collection: Collection, key: str) -> Path:
    return collection.folder / "niches" / f"{_keys.as_key(key)}.x"


def _sections_mark(collection: Collection) -> str:
    """Return a hash of what the sections are."""
    return digest([(one.name, one.facts.digest) for one in collection])
