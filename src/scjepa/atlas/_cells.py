"""The coordinates of an atlas, and the cells that it keeps, by which distances are measured and niches voted for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.sparse import identity

from scjepa._core.arrays import canonical_order, principal_axes, slices, votes

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.neighbors import NearestNeighbors

    from scjepa.tl import NicheReadout, PredictiveComponents


_FEWEST = 50
"""Cells of a niche that are kept at least, where it has so many."""

_ROWS = 16_384
"""Cells that are looked up, or whose rings are held, at one time."""

N_NEIGHBORS = 15
"""Kept cells that vote: as many as Leiden's graph has. On mPFC votes of 15, of 50 and of 30 weighed by distance agree
with the niches of all sections alike; shrunken discriminant analysis and a Gaussian a niche do less well."""

_NEAREST = 15
"""Kept cells of a niche whose mean distance counts."""

_SPREAD, _MEASURED_TO = 16, 5_000
"""Steps on the spatial graph over which distances are averaged; kept cells that they are measured to, about."""

_COMPARED, _LIKE, _FEWER = 2_500, 0.05, 0.4
"""For how crowded cells are: cells of a section that others are compared with, about; the share of them, and of the
kept cells, that counts as near; share of the cells that takes part when the section is moved, for a layer that is
missing may be half of it."""

_CLOSEST = 0.1
"""Least distance: cells in the very place of kept ones say no more than that they are near."""

_MOVED_BY, _STEPS, _NEARER, _ENOUGH = 2_000, 4, 0.7, 10
"""How sections are moved: cells that tell by how much, about; steps; share of the cells that take part; cells of a
niche from which on it does."""

MOST_FEATURES = 500
"""Features of a source whose means over surroundings are looked at, those of largest weight in the read-out."""

_N_AXES = 50
"""Principal axes of the surroundings."""

_FITTED_ON = 5_000
"""Cells that the axes are found of, about."""

_RIDGE = 0.2
"""By how much components are shrunk where genes are missing."""


class Crowding(NamedTuple):
    """A way to tell how crowded cells are.

    Attributes
    ----------
    n_axes
        Principal axes in which distances are measured.
    n_steps
        Steps on the spatial graph over which crowding is averaged.
    within
        Whether it is compared with the other cells of the section, and so differs less between sections.
    fewest
        Cells that a section needs.
    """

    n_axes: int
    n_steps: int
    within: bool
    fewest: int


CROWDED = (Crowding(50, 4, False, 100), Crowding(100, 1, True, 1_000))
"""Coarse and fine, by rising ``fewest``. Whole sections alone have fine crowding: in halves of sections of mPFC, and in
discs of 600 cells, it took the largest false alarms from 13 and 14 % to 17 and 23 % (benchmarks/atlas/cut_outs.py)."""


class Places(NamedTuple):
    """Where cells are, in the coordinates of an atlas.

    Attributes
    ----------
    readout
        ``(n_cells, n_dims)`` float32: the read-out that niches were found in, which knows what tells them apart.
    surroundings
        ``(n_cells, n_axes)`` float32: principal components of the means of standardized features over the cell and two
        rings, which know of other directions too.
    means
        ``(n_cells, n_features)`` float16: these means; of kept cells, those of the ones that distances are measured to.
    """

    readout: np.ndarray
    surroundings: np.ndarray
    means: np.ndarray

    def some(self, rows: np.ndarray) -> Places:
        """Return some of the cells."""
        return Places(*(values[rows] for values in self))


class Coordinates:
    """A fitted read-out, and axes of the surroundings.

    Niches that lack a region are told apart by other genes than those that would tell the region, so the read-out is
    nearly blind to it: of layers of mPFC that were left out in turn the mean AUC is 0.70 by the read-out, 0.83 by the
    surroundings, and 0.92 where sections are moved as well (:class:`~scjepa.atlas._cells.NicheDistance`).

    Parameters
    ----------
    readout
        The read-out.
    axes
        ``(n_features, n_axes)`` of the features of all sources side by side, at most 500 of each.
    """

    def __init__(self, readout: NicheReadout, axes: np.ndarray) -> None:
        self.readout = readout
        self.axes = axes

    @classmethod
    def fit(
        cls, readout: NicheReadout, sources: Mapping[str, Any], edges: csr_matrix, sections: np.ndarray | None
    ) -> tuple[Coordinates, Places]:
        """Find the axes of cells that the read-out was fitted on; return also where these cells are."""
        found = readout.transform(sources, edges, sections)
        means = _means(readout, sources, edges, sections)
        order = canonical_order(found)
        sample = means[order[:: max(1, len(order) // _FITTED_ON)]].astype(np.float64)
        axes = principal_axes(sample - sample.mean(axis=0), min(_N_AXES, means.shape[1])).astype(np.float32)
        return cls(readout, axes), Places(found, means @ axes, means.astype(np.float16))

    def of(
        self, sources: Mapping[str, Any], edges: csr_matrix, sections: np.ndarray | None, missing: Sequence[str] = ()
    ) -> Places:
        """Return where cells are; ``sections`` as :meth:`scjepa.tl.NicheReadout.transform` takes them.

        Components of the surroundings are fitted to the genes that are there: genes that are ``missing`` would draw
        all cells to the middle, and away from the kept ones.
        """
        found = self.readout.transform(sources, edges, sections)
        axes = self.axes
        if missing:
            there = ~np.concatenate([np.isin(names, missing) for names in _names(self.readout)])[:, None]
            seen = (axes * there).astype(np.float64)
            axes = (seen @ np.linalg.inv(seen.T @ seen + _RIDGE * np.eye(axes.shape[1]))).astype(np.float32)
        means = _means(self.readout, sources, edges, sections)
        return Places(found, means @ axes, means.astype(np.float16))


def _means(
    readout: NicheReadout, sources: Mapping[str, Any], edges: csr_matrix, sections: np.ndarray | None
) -> np.ndarray:
    """Return means of standardized features over each cell and its two rings, all sources with one variance."""
    own = []
    for name, components in zip(readout.sources_, readout.components_, strict=True):
        features = _features(components).transform(sources[name], sections)
        own.append(features / np.float32(np.sqrt(features.shape[1])))
    return _means_around(np.hstack(own), edges)


def _chosen(components: PredictiveComponents) -> np.ndarray:
    """Return the features of largest weight, rising."""
    weights = np.square(components.loadings_).sum(axis=1)
    return np.sort(np.argsort(-weights, kind="stable")[:MOST_FEATURES])


def _names(readout: NicheReadout) -> list[np.ndarray]:
    """Return the names of these features by source; empty where they have none."""
    found = []
    for components in readout.components_:
        names = getattr(components, "feature_names_in_", np.full(components.n_features_in_, ""))
        found.append(names.astype(str)[_chosen(components)])
    return found


def _features(components: PredictiveComponents) -> PredictiveComponents:
    """Return what gives the standardized features of which components are made, those of largest weight."""
    kept, chosen = components.to_dict(), _chosen(components)
    width = len(chosen)
    axes = np.zeros((components.n_features_in_, width))
    axes[chosen, np.arange(width)] = 1
    # A map of principal components to covariances in common has no meaning for features.
    maps = np.tile(np.eye(width), (len(kept["maps_"]), 1, 1))
    plain = {"axes_": axes, "weights_": np.eye(width), "center_": np.zeros(width), "maps_": maps}
    options = {**kept["options"], "align": "scale" if components.align == "covariance" else components.align}
    return type(components).from_dict({**kept, **plain, "options": options})


def _means_around(values: np.ndarray, edges: csr_matrix) -> np.ndarray:
    """Return means over each cell and the cells of its two rings, which all weigh the same."""
    found = np.empty(values.shape, dtype=np.float32)
    one_step = edges + identity(edges.shape[0], dtype=np.float32, format="csr")
    for rows in slices(len(values), _ROWS):
        reached = one_step[rows] @ one_step
        reached.data[:] = 1
        found[rows] = (reached @ values) / np.maximum(np.diff(reached.indptr), 1)[:, None]
    return found


# -- kept cells --------------------------------------------------------------------------------------------------------


class NicheDistance:
    """Distance of surroundings to the nearest niche.

    Of each niche, the mean distance to its nearest kept cells, in units of what it is in the median of these cells
    themselves; of all niches the least. Chosen on mPFC, where each layer in turn was left out of the atlas, over
    distances to all cells, of Mahalanobis, by a Gaussian a niche and to segments between niches.

    Parameters
    ----------
    values
        ``(n_kept, n_dims)`` surroundings of the kept cells.
    codes
        ``(n_kept,)`` their niches.
    """

    def __init__(self, values: np.ndarray, codes: np.ndarray) -> None:
        self._niches = [values[codes == code] for code in np.unique(codes)]

    def of(self, values: np.ndarray, sections: np.ndarray | None) -> np.ndarray:
        """Return the distance of each cell, ``(n_cells,)``; ``sections`` of ``None`` are not moved."""
        if sections is not None:
            values = self._moved(values, sections)
        found = np.empty(len(values))
        for rows in slices(len(values), _ROWS):
            found[rows] = self._to_niches(values[rows])[0].min(axis=1)
        return found

    def _moved(self, values: np.ndarray, sections: np.ndarray) -> np.ndarray:
        """Return surroundings with each section as a whole where the atlas is.

        A section that has a region more or less than the atlas has another mean and variance, by which all its cells
        are displaced. Each step moves it by the mean of what cells lack to the nearest kept cells of their nearest
        niche: the nearer 70% of the cells take part, and every niche weighs the same. On mPFC regions left out then
        stand apart by an AUC of 0.92 in place of 0.83.
        """
        found = values.copy()
        for section in np.unique(sections):
            rows = np.flatnonzero(sections == section)
            order = rows[canonical_order(values[rows])]
            sample = values[order[:: max(1, len(order) // _MOVED_BY)]]
            found[rows] += self._move(sample).astype(values.dtype)
        return found

    def _move(self, sample: np.ndarray, nearer: float = _NEARER) -> np.ndarray:
        """Return by how much a section is moved, ``(n_dims,)``, from some of its cells."""
        total = np.zeros(sample.shape[1])
        for _ in range(_STEPS):
            moved = (sample + total).astype(sample.dtype)
            distances, nearest = self._to_niches(moved)
            niche, distance = distances.argmin(axis=1), distances.min(axis=1)
            near = distance <= np.quantile(distance, nearer)
            means = []
            for code, own in enumerate(self._niches):
                rows = np.flatnonzero(near & (niche == code))
                if len(rows) >= _ENOUGH:
                    means.append((own[nearest[code][rows]].mean(axis=1) - moved[rows]).mean(axis=0))
            total += np.mean(means, axis=0) if means else 0.0
        return total

    def _to_niches(self, values: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the distance to each niche, ``(n_cells, n_niches)``, and the nearest kept cells of each."""
        found = [search.kneighbors(values) for search in self._searches]
        reach = [near.mean(axis=1) / usual for (near, _), usual in zip(found, self._usual, strict=True)]
        return np.stack(reach, axis=1), [indices for _, indices in found]

    @cached_property
    def _searches(self) -> list[NearestNeighbors]:
        """Search for the nearest kept cells of each niche."""
        from sklearn.neighbors import NearestNeighbors

        numbers = [min(_NEAREST, len(own)) for own in self._niches]
        return [
            NearestNeighbors(n_neighbors=number, algorithm="brute").fit(own)
            for number, own in zip(numbers, self._niches, strict=True)
        ]

    @cached_property
    def _usual(self) -> np.ndarray:
        """Median over the kept cells of each niche of the mean distance to the nearest others of it; never 0."""
        found = np.zeros(len(self._niches))
        for code, (own, search) in enumerate(zip(self._niches, self._searches, strict=True)):
            if len(own) > 1:
                others = search.kneighbors(n_neighbors=min(_NEAREST, len(own) - 1))[0]
                found[code] = np.median(others.mean(axis=1))
        usual = float(np.median(found[found > 0])) if (found > 0).any() else 1.0
        return np.where(found > 0, found, usual)


@dataclass(frozen=True)
class _Space:
    """Where cells of a section, and kept ones, are in the axes in which crowding is told.

    Attributes
    ----------
    axes
        ``(n_dims, n_axes)`` whitened within niches.
    own, kept
        Cells of the section and kept cells along them.
    move
        What moves the section to the atlas.
    """

    axes: np.ndarray
    own: np.ndarray
    kept: np.ndarray
    move: np.ndarray

    @classmethod
    def of(cls, crowding: Crowding, own: np.ndarray, kept: np.ndarray, codes: np.ndarray) -> _Space:
        axes = _whitening(kept[:, : crowding.n_axes], codes)
        own, kept = own[:, : len(axes)] @ axes, kept[:, : len(axes)] @ axes
        move = NicheDistance(kept, codes)._move(own, _FEWER).astype(np.float32)
        return cls(axes, own, kept, move)

    def crowding(self, values: np.ndarray, shared: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Return how crowded some cells are; ``shared`` are pairs of them and of ``own`` with cells in common."""
        values = values[:, : len(self.axes)] @ self.axes
        to_own, to_kept = _squares(values, self.own), _squares(values + self.move, self.kept)
        to_own[shared] = np.inf
        near = np.maximum(_nearest(to_kept), _CLOSEST) / np.maximum(_nearest(to_own), _CLOSEST)
        return np.log(np.where(near > 0, near, 1.0))  # 1 where too few lie so far away


@dataclass(frozen=True)
class KeptCells:
    """Cells of an atlas, and the niche of each.

    Attributes
    ----------
    places
        Where they are.
    codes
        ``(n_kept,)`` int64, number of the niche.
    n_niches
        Niches there are.
    step
        Of how many of a niche distances are measured to one. The denser cells are, the more do nearest ones share
        their surroundings, so it must be the same where distances are compared.
    """

    places: Places
    codes: np.ndarray
    n_niches: int
    step: int

    @classmethod
    def of(cls, places: Places, codes: np.ndarray, n_niches: int, most: int, step: int | None = None) -> KeptCells:
        """Keep the same share of each niche, at most about ``most`` in all; cells of no niche (-1) are left out.

        Without a ``step``, the one by which distances are measured to about 5,000 cells. Which are kept depends on
        where they lie, and not on the order of the cells.
        """
        order = canonical_order(places.readout, codes)
        order = order[codes[order] >= 0]
        share = min(1.0, most / max(len(order), 1))
        kept = []
        for code in range(n_niches):
            own = order[codes[order] == code]
            number = min(len(own), max(_FEWEST, round(share * len(own))))
            kept.append(own[np.linspace(0, len(own) - 1, number).round().astype(np.int64)])
        rows = np.concatenate(kept)
        codes, step = codes[rows].astype(np.int64), step or step_of(len(rows))
        of_measured = places.means[rows[_measured_to(codes, step)]]
        return cls(places.some(rows)._replace(means=of_measured), codes, n_niches, step)

    def __len__(self) -> int:
        return len(self.codes)

    def votes(self, readout: np.ndarray) -> np.ndarray:
        """Return the share of each niche among the kept cells nearest to others, ``(n_cells, n_niches)`` float32."""
        found = np.empty((len(readout), self.n_niches), dtype=np.float32)
        for rows in slices(len(readout), _ROWS):
            niche = self.codes[self._search.kneighbors(readout[rows], return_distance=False)]
            found[rows] = votes(niche, self.n_niches) / niche.shape[1]
        return found

    def strangeness(self, places: Places, sections: np.ndarray | None, edges: csr_matrix) -> np.ndarray:
        """Return how far cells are from the niches, and how crowded they are, coarse and fine: ``(n_cells, 3)``."""
        apart = self.distance(places.surroundings, sections, edges)
        return np.column_stack([apart, self.crowding(places, sections, edges)])

    def distance(self, surroundings: np.ndarray, sections: np.ndarray | None, edges: csr_matrix) -> np.ndarray:
        """Return how far tissue around cells is from the niches, ``(n_cells,)``; see :class:`NicheDistance`.

        The geometric mean of the distance in the surroundings as they are and of that in surroundings whitened within
        niches, and of the cells around: what an atlas lacks lies together, and what is far by chance does not. On mPFC
        this finds 74 to 96 % of each layer that is left out, in place of 47 to 95 %.
        """
        found = np.zeros(len(surroundings))
        for distances, axes in self._distances:
            apart = np.maximum(distances.of(surroundings @ axes, sections), _CLOSEST)
            found += np.log(apart) / len(self._distances)
        return np.exp(_averaged(found, edges, _SPREAD))

    def crowding(self, places: Places, sections: np.ndarray | None, edges: csr_matrix) -> np.ndarray:
        """Return how much nearer the own section is than the atlas, coarse and fine: ``(n_cells, 2)``.

        The logarithm of the mean distance to the nearest 5 % of the kept cells, over that to the nearest 5 % of the
        section that lie more than four steps away, and so share no surroundings. Where the atlas lacks a layer, cells
        of it lie between two niches, not far from either; but many of the section lie there, and few of the atlas. In
        principal components of both, whitened within niches. Chosen on mPFC and section 151673 of DLPFC.

        Coarse is by 50 components, and finds broad layers; fine is by 100, less averaged over the tissue, and finds
        layers of a few spots. In so many directions every section differs from the others, some more than others, so
        fine crowding is compared with that of the other cells of the section.

        0 in a section of too few cells (coarse 100, fine 1,000), and where ``sections`` are not told: blocks of one
        section do not tell by how much another section would be nearer to itself. On mPFC 12 to 35 % of a second
        section were false alarms.
        """
        if sections is None:
            return np.zeros((len(places.means), len(CROWDED)))
        one_step = edges + identity(edges.shape[0], dtype=np.float32, format="csr")
        reached, found = one_step @ one_step, np.zeros((len(sections), len(CROWDED)))
        members = [np.flatnonzero(sections == name) for name in np.unique(sections)]
        for rows in members:
            some = [crowding for crowding in CROWDED if len(rows) >= crowding.fewest]
            if some and places.means[rows].any():
                found[rows, : len(some)] = self._crowding(places.some(rows), reached[rows][:, rows], some)
        for at, crowding in enumerate(CROWDED):
            found[:, at] = _averaged(found[:, at], edges, crowding.n_steps)
            for rows in members if crowding.within else ():
                found[rows, at] = _within(found[rows, at])
        return found

    def _crowding(self, places: Places, reached: csr_matrix, crowded: Sequence[Crowding]) -> np.ndarray:
        """Return how crowded the cells of one section are, ``(n_cells, n_crowded)``.

        ``reached`` from each are the cells of its surroundings.
        """
        order = canonical_order(places.readout)
        others = order[:: max(1, len(order) // _COMPARED)]
        there = places.means.any(axis=0)  # genes that are missing have a mean of 0
        codes = self.codes[_measured_to(self.codes, self.step)]
        own, kept = (values[:, there].astype(np.float32) for values in (places.means[others], self.places.means))
        both = np.concatenate([own, kept[np.linspace(0, len(kept) - 1, len(own)).astype(np.int64)]]).astype(np.float64)
        most = min(max(crowding.n_axes for crowding in crowded), both.shape[1])
        axes = principal_axes(both - both.mean(axis=0), most).astype(np.float32)
        spaces = [_Space.of(crowding, own @ axes, kept @ axes, codes) for crowding in crowded]
        to_others, found = reached[:, others].tocsr(), np.zeros((len(order), len(crowded)))
        for rows in slices(len(order), _ROWS // 4):
            values = places.means[rows][:, there].astype(np.float32) @ axes
            shared = (reached[rows] @ to_others).nonzero()
            found[rows] = np.column_stack([space.crowding(values, shared) for space in spaces])
        return found

    def centers(self) -> np.ndarray:
        """Return the mean of each niche in the read-out, ``(n_niches, n_dims)``."""
        return np.array([self.places.readout[self.codes == code].mean(axis=0) for code in range(self.n_niches)])

    @cached_property
    def _search(self) -> NearestNeighbors:
        from sklearn.neighbors import NearestNeighbors

        number = min(N_NEIGHBORS, len(self.codes))
        return NearestNeighbors(n_neighbors=number, algorithm="brute").fit(self.places.readout)

    @cached_property
    def _distances(self) -> list[tuple[NicheDistance, np.ndarray]]:
        """Distances to some of the kept cells, and the axes that each is measured along."""
        some = _measured_to(self.codes, self.step)
        values, codes = self.places.surroundings[some], self.codes[some]
        axes = [np.eye(values.shape[1], dtype=np.float32), _whitening(values, codes)]
        return [(NicheDistance(values @ each, codes), each) for each in axes]


def step_of(n_kept: int) -> int:
    """Return of how many kept cells distances are measured to one."""
    return max(1, n_kept // _MEASURED_TO)


def _measured_to(codes: np.ndarray, step: int) -> np.ndarray:
    """Return the kept cells that distances are measured to, niche after niche."""
    return np.concatenate([np.flatnonzero(codes == code)[::step] for code in np.unique(codes)])


def _averaged(values: np.ndarray, edges: csr_matrix, n_steps: int) -> np.ndarray:
    """Return means over the cells around, taken so many times."""
    around = edges + identity(edges.shape[0], dtype=np.float32, format="csr")
    number = np.asarray(around.sum(axis=1)).ravel()
    for _ in range(n_steps):
        values = (around @ values) / number
    return values


def _squares(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return squared distances, a rounding error under 0 at least; a fourth of the time of scikit-learn, in float32."""
    found: np.ndarray = -2 * values @ others.T
    found += np.square(values).sum(axis=1)[:, None]
    found += np.square(others).sum(axis=1)
    return found


def _nearest(squares: np.ndarray) -> np.ndarray:
    """Return the mean distance to the nearest 5 % of the columns, which are put in another order."""
    number = max(1, round(_LIKE * squares.shape[1]))
    squares.partition(number - 1, axis=1)  # in place: a copy takes as long
    found: np.ndarray = np.sqrt(np.maximum(squares[:, :number], 0)).mean(axis=1)
    return found


def _within(values: np.ndarray) -> np.ndarray:
    """Return how far values lie above their median, in units of how far the lowest tenth lies below."""
    lowest, median = np.quantile(values, [0.1, 0.5])
    return (values - median) / max(median - lowest, 1e-12)


def _whitening(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return axes along which values vary alike within niches, ``(n_dims, n_dims)``, half shrunk."""
    rest = values.astype(np.float64)
    for code in np.unique(codes):
        rest[codes == code] -= rest[codes == code].mean(axis=0)
    lengths, axes = np.linalg.eigh(rest.T @ rest / len(rest))
    shrunk = (np.maximum(lengths, 0) + lengths.mean()) / 2
    found: np.ndarray = (axes / np.sqrt(np.maximum(shrunk, 1e-12))).astype(np.float32)
    return found
