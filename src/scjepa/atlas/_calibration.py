"""How strange cells of the same tissue are to an atlas that did not see them: read out again without them, in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from scjepa._core.conformal import HeldOut, thinned
from scjepa._core.neighbors import spatial_blocks
from scjepa.atlas._cells import CROWDED, Coordinates, KeptCells, Places, step_of
from scjepa.atlas._sections import covariance_cosine, some_cells

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from scjepa.tl import NicheReadout

N_FOLDS = 5
"""Parts of the cells that are held out in turn, at most."""

_SHARES = 11
"""Shares of the error that are tried."""

_BLOCKS_A_FOLD = 4
"""Spatial blocks of each part, where there is one section."""


@dataclass(frozen=True)
class Tissue:
    """What an atlas is fitted on.

    Attributes
    ----------
    sources
        What the read-out reads, by name.
    edges
        ``(n_cells, n_cells)`` spatial graph.
    sections
        ``(n_cells,)`` names of sections; ``None``: one.
    codes
        ``(n_cells,)`` niche of each cell, -1 for none.
    """

    sources: Mapping[str, Any]
    edges: csr_matrix
    sections: np.ndarray | None
    codes: np.ndarray

    def some(self, rows: np.ndarray) -> Tissue:
        """Return some of the cells, with the edges among them."""
        sections = None if self.sections is None else self.sections[rows]
        return Tissue(some_cells(self.sources, rows), self.edges[rows][:, rows], sections, self.codes[rows])

    def fitted(self, readout: NicheReadout) -> tuple[Coordinates, Places]:
        """Return the coordinates that a read-out of these cells makes, and where the cells are in them."""
        return Coordinates.fit(readout, self.sources, self.edges, self.sections)

    def as_new(self, coordinates: Coordinates) -> Places:
        """Return where these cells are, taken for new sections."""
        names = np.array([f"{name}, new" for name in self.names], dtype=object)
        return coordinates.of(self.sources, self.edges, names)

    @property
    def names(self) -> np.ndarray:
        """``(n_cells,)`` names of sections, as text."""
        return np.full(len(self.codes), "all") if self.sections is None else self.sections.astype(str)


@dataclass(frozen=True)
class Calibration(HeldOut):
    """How strange held-out cells are, and how these parts of the tissue compare with the others.

    Attributes
    ----------
    held_out
        What was held out in turn: ``"section"`` or ``"block"``.
    parts
        ``(n_parts, n_kept, 3)`` distance and crowding, coarse and fine, of cells of each part, evenly spaced in rank of
        distance, so that the alarms of each can be told.
    cosines
        ``(n_parts,)`` likeness of the covariance of each part with that of the others.
    """

    held_out: str
    parts: np.ndarray
    cosines: np.ndarray

    def thresholds(self, error: float) -> np.ndarray:
        """Return the distance and the crowding that a :meth:`share` of cells exceeds, in the part that does so most.

        Sections differ, and a new one may differ as much as the worst that was held out: the share that all held-out
        cells together exceed would be too small a distance for half of them. Fine crowding, which is compared within
        sections, differs less between them, so there it is the share of all held-out cells of which it was told: the
        largest of a few parts would be larger by chance.

        Raises
        ------
        ValueError
            If there are too few cells to tell.
        """
        self.threshold(error)
        return self._exceeded_by(self.share(error))

    def share(self, error: float) -> float:
        """Return the share of cells that may exceed each of distance and crowding, for ``error`` to exceed any of them.

        Half of ``error``, for alarms are mostly of the same cells, or less where a part would have more. A third at
        least: it is enough, in the mean of parts, where all alarms are of others. All where no crowding is told.
        """
        number = int(self._is_told.sum())
        for share in np.linspace(error / min(number, 2), error / number, _SHARES):
            if np.any(self.parts > self._exceeded_by(share), axis=-1).mean(axis=1).max() <= error:
                break
        return float(share)

    def _exceeded_by(self, share: float) -> np.ndarray:
        found = [
            np.quantile(self._compared(at), 1 - share, axis=None if pooled else 1, method="higher").max()
            for at, pooled in enumerate(self._is_pooled)
        ]
        return np.where(self._is_told, np.maximum(found, 0), np.inf)

    def _compared(self, at: int) -> np.ndarray:
        """Return a measure of the parts, ``(n_parts, n_kept)``; where it is pooled, of those of which it was told."""
        parts = self.parts[..., at]
        return parts[parts.any(axis=1)] if self._is_pooled[at] and parts.any() else parts

    @property
    def _is_pooled(self) -> np.ndarray:
        """Whether distance and crowding are compared with those of all parts together."""
        return np.array([False, *(crowding.within for crowding in CROWDED)])[: self.parts.shape[-1]]

    @property
    def _is_told(self) -> np.ndarray:
        """Whether distance and crowding were told of any held-out cell: blocks and small sections have no crowding."""
        told: np.ndarray = np.any(self.parts, axis=(0, 1))
        return told

    def exceeded(self, strangeness: np.ndarray, error: float) -> np.ndarray:
        """Return whether each cell exceeds any threshold; the last axis is that of distance and crowding."""
        found: np.ndarray = np.any(strangeness > self.thresholds(error), axis=-1)
        return found

    def p_values(self, strangeness: np.ndarray, error: float = 0.1) -> np.ndarray:
        """Return the share of cells as strange or stranger, of the held-out part where it is largest, or of all parts.

        The smallest of those by distance and by crowding, times ``error`` over its :meth:`share`, at most 1.
        """
        found = [self._p_values(strangeness[:, at], at) for at in range(len(self._is_told)) if self._is_told[at]]
        return np.minimum(np.min(found, axis=0) * (error / self.share(error)), 1).astype(np.float32)

    def _p_values(self, values: np.ndarray, at: int) -> np.ndarray:
        parts = self._compared(at)
        n_cells = max(1, self.n_cells // len(self.parts)) * (len(parts) if self._is_pooled[at] else 1)
        parts = np.sort(parts.reshape(1, -1) if self._is_pooled[at] else parts, axis=1)
        found: np.ndarray = np.max([HeldOut(part, n_cells).p_values(values) for part in parts], axis=0)
        return found

    def alarms(self, error: float) -> np.ndarray:
        """Return the share of false alarms in each part, ``(n_parts,)``."""
        found: np.ndarray = self.exceeded(self.parts, error).mean(axis=1)
        return found


def calibrated(
    tissue: Tissue, readout: NicheReadout, places: Places, n_kept: int, coordinates: np.ndarray | None
) -> Calibration:
    """Hold out sections, or spatial blocks where there is one section, and tell how far their cells lie.

    Sections are read out by a read-out that is fitted anew on the others, as a new section will be. Blocks of one
    section are read out by the read-out of the atlas, and compared with the kept cells of the other blocks.

    Parameters
    ----------
    places
        Where the cells are in the coordinates of the read-out.
    n_kept
        Cells that the atlas keeps; the same share is kept of those that are not held out.
    coordinates
        ``(n_cells, 2 or 3)``, where there is one section.
    """
    if coordinates is None:
        held_out, parts = "section", _by_section(tissue, readout, n_kept)
    else:
        held_out, parts = "block", _by_block(tissue, places, n_kept, coordinates)
    found, cosines = [], []
    for kept, new, sections, edges, has_niche in parts:
        if not has_niche.any():
            continue
        strangeness = kept.strangeness(new, sections, edges)[has_niche]
        found.append(strangeness[np.lexsort(strangeness.T[::-1])])
        cosines.append(covariance_cosine(kept.places.surroundings, new.surroundings[has_niche]))
    if not found:
        raise ValueError(
            f"No {held_out} that is held out has a cell with a niche, so how far cells of known niches lie cannot be "
            "told. Find niches of all cells first: scjepa.tl.find_niches(adata)."
        )
    pooled = HeldOut.of(np.concatenate(found)[:, 0])
    of_parts = np.array([thinned(one) for one in found])
    return Calibration(pooled.distances, pooled.n_cells, held_out, of_parts, np.array(cosines))


_Part: TypeAlias = "tuple[KeptCells, Places, np.ndarray | None, csr_matrix, np.ndarray]"
"""Kept cells of what is not held out; where the cells are that are; their sections, where these are to be moved
as new ones are; their graph; and which of them have a niche."""


def _by_section(tissue: Tissue, readout: NicheReadout, n_kept: int) -> Iterator[_Part]:
    from sklearn.base import clone

    names, codes = np.unique(tissue.names, return_inverse=True)
    for fold in _dealt(np.bincount(codes), min(N_FOLDS, len(names))):
        out = np.isin(codes, fold)
        others, held = tissue.some(np.flatnonzero(~out)), tissue.some(np.flatnonzero(out))
        anew = clone(readout).set_params(align=readout.align_)
        anew.fit(others.sources, others.edges, others.sections)
        coordinates, places = others.fitted(anew)
        kept = _like(n_kept, tissue.codes, places, others.codes)
        yield kept, held.as_new(coordinates), held.names, held.edges, held.codes >= 0


def _by_block(tissue: Tissue, places: Places, n_kept: int, coordinates: np.ndarray) -> Iterator[_Part]:
    size = max(1, len(coordinates) // (N_FOLDS * _BLOCKS_A_FOLD))
    folds = spatial_blocks(coordinates, None, size) % N_FOLDS
    for fold in np.unique(folds):
        out = folds == fold
        codes, rows = np.where(out, -1, tissue.codes), np.flatnonzero(out)
        kept = _like(n_kept, tissue.codes, places, codes)
        yield kept, places.some(rows), None, tissue.edges[rows][:, rows], tissue.codes[rows] >= 0


def _like(n_kept: int, all_codes: np.ndarray, places: Places, codes: np.ndarray) -> KeptCells:
    """Keep as large a share of cells as the atlas does, of those that are not held out."""
    most = max(1, round(n_kept * (codes >= 0).sum() / (all_codes >= 0).sum()))
    return KeptCells.of(places, codes, int(all_codes.max()) + 1, most, step_of(n_kept))


def _dealt(sizes: np.ndarray, n_folds: int) -> list[list[int]]:
    """Return sections dealt into folds of about equal size, the largest first."""
    folds: list[list[int]] = [[] for _ in range(n_folds)]
    for section in np.argsort(-sizes, kind="stable"):
        min(folds, key=lambda fold: int(sizes[fold].sum())).append(int(section))
    return folds
