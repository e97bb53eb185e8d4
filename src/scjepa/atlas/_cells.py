"""The cells that an atlas keeps: their read-out, by which they vote for niches, and their surroundings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from scjepa._core.arrays import canonical_order
from scjepa.atlas._coordinates import Places
from scjepa.atlas._distance import NicheDistance

if TYPE_CHECKING:
    from sklearn.neighbors import NearestNeighbors

_FEWEST = 50
"""Cells of a niche that are kept at least, where it has so many."""

_ROWS = 16_384
"""Cells that are looked up at one time."""

N_NEIGHBORS = 15
"""Kept cells that vote: as many as Leiden's graph has. On mPFC votes of 15, of 50 and of 30 weighed by distance agree
with the niches of all sections alike; shrunken discriminant analysis and a Gaussian a niche do less well."""


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
    """

    places: Places
    codes: np.ndarray
    n_niches: int

    @classmethod
    def of(cls, places: Places, codes: np.ndarray, n_niches: int, most: int) -> KeptCells:
        """Keep the same share of each niche, at most about ``most`` in all; cells of no niche (-1) are left out.

        Which are kept depends on where they lie, and not on the order of the cells.
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
        return cls(places.some(rows), codes[rows].astype(np.int64), n_niches)

    def __len__(self) -> int:
        return len(self.codes)

    def votes(self, readout: np.ndarray) -> np.ndarray:
        """Return the share of each niche among the kept cells nearest to others, ``(n_cells, n_niches)`` float32."""
        found = np.empty((len(readout), self.n_niches), dtype=np.float32)
        for start in range(0, len(readout), _ROWS):
            rows = slice(start, min(start + _ROWS, len(readout)))
            niche = self.codes[self._search.kneighbors(readout[rows], return_distance=False)]
            found[rows] = np.stack([(niche == code).mean(axis=1) for code in range(self.n_niches)], axis=1)
        return found

    def distance(self, surroundings: np.ndarray, sections: np.ndarray | None) -> np.ndarray:
        """Return how far the surroundings of other cells are from those of the niches; see :class:`NicheDistance`."""
        return self._distances.of(surroundings, sections)

    def centers(self) -> np.ndarray:
        """Return the mean of each niche in the read-out, ``(n_niches, n_dims)``."""
        return np.array([self.places.readout[self.codes == code].mean(axis=0) for code in range(self.n_niches)])

    @cached_property
    def _search(self) -> NearestNeighbors:
        from sklearn.neighbors import NearestNeighbors

        number = min(N_NEIGHBORS, len(self.codes))
        return NearestNeighbors(n_neighbors=number, algorithm="brute").fit(self.places.readout)

    @cached_property
    def _distances(self) -> NicheDistance:
        return NicheDistance(self.places.surroundings, self.codes)
