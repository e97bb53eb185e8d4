"""The cells that an atlas keeps, and where another cell lies among them: whose niche, and how far from all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from scjepa._core.arrays import canonical_order

if TYPE_CHECKING:
    from sklearn.neighbors import NearestNeighbors

_FEWEST = 50
"""Cells of a niche that are kept at least, where it has so many."""

_ROWS = 16_384
"""Cells that are looked up at one time."""

N_NEIGHBORS = 15
"""Kept cells that vote: as many as Leiden's graph has. On mPFC votes of 15, of 50 and of 30 weighed by distance agree
with the niches of all sections alike, shrunken discriminant analysis and a Gaussian a niche less."""


@dataclass(frozen=True)
class KeptCells:
    """Cells in a read-out, and the niche of each.

    Attributes
    ----------
    places
        ``(n_kept, n_dims)`` float32.
    codes
        ``(n_kept,)`` int64, number of the niche.
    n_niches
        Niches there are.
    """

    places: np.ndarray
    codes: np.ndarray
    n_niches: int

    @classmethod
    def of(cls, places: np.ndarray, codes: np.ndarray, n_niches: int, most: int) -> KeptCells:
        """Keep the same share of each niche, at most about ``most`` in all; cells of no niche (-1) are left out.

        Which are kept depends on where they lie, and not on the order of the cells.
        """
        order = canonical_order(places, codes)
        order = order[codes[order] >= 0]
        share = min(1.0, most / max(len(order), 1))
        kept = []
        for code in range(n_niches):
            own = order[codes[order] == code]
            number = min(len(own), max(_FEWEST, round(share * len(own))))
            kept.append(own[np.linspace(0, len(own) - 1, number).round().astype(np.int64)])
        rows = np.concatenate(kept)
        return cls(np.ascontiguousarray(places[rows], dtype=np.float32), codes[rows].astype(np.int64), n_niches)

    def look_up(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what the nearest kept cells tell of other cells.

        Parameters
        ----------
        places
            ``(n_cells, n_dims)``, in the same read-out.

        Returns
        -------
        tuple of numpy.ndarray
            Share of the votes of each niche, ``(n_cells, n_niches)`` float32; and the distance to the nearest niche,
            ``(n_cells,)`` float64: the mean distance to the nearest kept cells of a niche, in units of what it is in
            the median of these cells, for the niche of which it is least.
        """
        votes = np.zeros((len(places), self.n_niches), dtype=np.float32)
        distance = np.empty(len(places))
        for start in range(0, len(places), _ROWS):
            rows = slice(start, min(start + _ROWS, len(places)))
            reach = [search.kneighbors(places[rows])[0] for search in self._searches]
            distance[rows] = np.min([d.mean(axis=1) / s for d, s in zip(reach, self._spacings, strict=True)], axis=0)
            votes[rows][:, self._there] = _shares(reach)
        return votes, distance

    def centers(self) -> np.ndarray:
        """Return the mean of each niche, ``(n_niches, n_dims)``."""
        return np.array([self.places[self.codes == code].mean(axis=0) for code in range(self.n_niches)])

    @cached_property
    def _there(self) -> np.ndarray:
        """Niches that have kept cells; a part that is held out can hold all of one."""
        return np.unique(self.codes)

    @cached_property
    def _searches(self) -> list[NearestNeighbors]:
        """Search for the nearest kept cells of each niche."""
        from sklearn.neighbors import NearestNeighbors

        niches = [self.places[self.codes == code] for code in self._there]
        number = [min(N_NEIGHBORS, len(own)) for own in niches]
        return [
            NearestNeighbors(n_neighbors=k, algorithm="brute").fit(own) for k, own in zip(number, niches, strict=True)
        ]

    @cached_property
    def _spacings(self) -> np.ndarray:
        """Median over the kept cells of each niche of the mean distance to the nearest others of it; never 0."""
        found = np.zeros(len(self._searches))
        for position, search in enumerate(self._searches):
            if search.n_samples_fit_ > 1:
                number = min(N_NEIGHBORS, search.n_samples_fit_ - 1)
                found[position] = np.median(search.kneighbors(n_neighbors=number)[0].mean(axis=1))
        usual = float(np.median(found[found > 0])) if (found > 0).any() else 1.0
        return np.where(found > 0, found, usual)


def _shares(reach: Sequence[np.ndarray]) -> np.ndarray:
    """Return the share of each niche among the nearest of all, from the distances to the nearest of each niche."""
    distances = np.hstack(reach)
    ends = np.cumsum([one.shape[1] for one in reach])
    number = min(N_NEIGHBORS, distances.shape[1])
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :number]
    niche = np.searchsorted(ends, nearest, side="right")
    return np.stack([(niche == code).mean(axis=1) for code in range(len(reach))], axis=1).astype(np.float32)
