"""How far cells of the same tissue lie from an atlas that did not see them: read out again without them, in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core.blocks import spatial_blocks
from scjepa.atlas._cells import KeptCells
from scjepa.atlas._reading import covariance_cosine, some_cells

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from scjepa.tl import NicheReadout

N_FOLDS = 5
"""Parts of the cells that are held out in turn, at most."""

_BLOCKS_A_FOLD = 4
"""Spatial blocks of each part, where there is one section."""

_QUANTILES = 1_001
"""Distances of held-out cells that are kept, evenly spaced in rank."""


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

    def as_new(self, readout: NicheReadout) -> np.ndarray:
        """Return the read-out of these cells as of sections that it was not fitted on."""
        names = np.full(len(self.codes), "") if self.sections is None else self.sections
        return readout.transform(self.sources, self.edges, np.array([f"{name}, new" for name in names], dtype=object))


@dataclass(frozen=True)
class Calibration:
    """Distances of held-out cells, and how these parts of the tissue compare with the others.

    Attributes
    ----------
    distances
        Distances of held-out cells, rising: all, or 1,001 evenly spaced in rank.
    n_cells
        Cells they are of.
    held_out
        What was held out in turn: ``"section"`` or ``"block"``.
    parts
        ``(n_parts, n_kept)`` of each part the same, at shares from 0 to 1, so that the alarms of each can be told.
    cosines
        ``(n_parts,)`` likeness of the covariance of each part with that of the others.
    """

    distances: np.ndarray
    n_cells: int
    held_out: str
    parts: np.ndarray
    cosines: np.ndarray

    def threshold(self, error: float) -> float:
        """Return the distance that a share ``error`` of the held-out cells exceeds.

        Raises
        ------
        ValueError
            If there are too few cells to tell.
        """
        rank = np.ceil((self.n_cells + 1) * (1 - error))
        if rank > self.n_cells:
            raise ValueError(
                f"error={error} cannot be told from {self.n_cells:,} held-out cells: it takes {int(1 / error):,} or "
                "more. Choose a larger error."
            )
        return float(self.distances[int(np.ceil((rank - 1) / max(self.n_cells - 1, 1) * (len(self.distances) - 1)))])

    def p_values(self, distance: np.ndarray) -> np.ndarray:
        """Return the share of held-out cells at each distance or farther, the cell itself counted among them."""
        farther = 1 - np.searchsorted(self.distances, distance, side="left") / len(self.distances)
        return ((farther * self.n_cells + 1) / (self.n_cells + 1)).astype(np.float32)

    def alarms(self, error: float) -> np.ndarray:
        """Return the share of false alarms in each part, ``(n_parts,)``."""
        threshold = self.threshold(error)
        return (self.parts > threshold).mean(axis=1)


def calibrated(tissue: Tissue, readout: NicheReadout, kept: KeptCells, places: np.ndarray | None) -> Calibration:
    """Hold out sections, or spatial blocks where there is one section, and tell how far their cells lie.

    Sections are read out by a read-out that is fitted anew on the others, as a new section will be. Blocks of one
    section are read out by the read-out of the atlas, and looked up among the kept cells of the other blocks.

    Parameters
    ----------
    places
        ``(n_cells, 2 or 3)`` coordinates, needed where there is one section.
    """
    has_niche = tissue.codes >= 0
    distances, cosines = [], []
    if places is None:
        held_out, looked_up = "section", _by_section(tissue, readout, kept)
    else:
        held_out, looked_up = "block", _by_block(tissue, readout, kept, places)
    for rows, reference, found in looked_up:
        distances.append(np.sort(reference.look_up(found[has_niche[rows]])[1]))
        cosines.append(covariance_cosine(reference.places, found))
    pooled = np.sort(np.concatenate(distances))
    parts = np.array([_thinned(one, _QUANTILES) for one in distances])
    return Calibration(_thinned(pooled, min(len(pooled), _QUANTILES)), len(pooled), held_out, parts, np.array(cosines))


def _by_section(
    tissue: Tissue, readout: NicheReadout, kept: KeptCells
) -> Iterator[tuple[np.ndarray, KeptCells, np.ndarray]]:
    """Yield cells of sections held out, the kept cells of the others, and the read-out of the former."""
    from sklearn.base import clone

    names, codes = np.unique(np.asarray(tissue.sections, dtype=str), return_inverse=True)
    for fold in _dealt(np.bincount(codes), min(N_FOLDS, len(names))):
        out = np.isin(codes, fold)
        others, held = tissue.some(np.flatnonzero(~out)), tissue.some(np.flatnonzero(out))
        anew = clone(readout).set_params(align=readout.align_)
        own = anew.fit_transform(others.sources, others.edges, others.sections)
        reference = KeptCells.of(own, others.codes, kept.n_niches, len(kept.places))
        yield np.flatnonzero(out), reference, held.as_new(anew)


def _by_block(
    tissue: Tissue, readout: NicheReadout, kept: KeptCells, places: np.ndarray
) -> Iterator[tuple[np.ndarray, KeptCells, np.ndarray]]:
    found = readout.transform(tissue.sources, tissue.edges, tissue.sections)
    size = max(1, len(places) // (N_FOLDS * _BLOCKS_A_FOLD))
    folds = spatial_blocks(places, None, size) % N_FOLDS
    for fold in np.unique(folds):
        out = folds == fold
        codes = np.where(out, -1, tissue.codes)
        yield np.flatnonzero(out), KeptCells.of(found, codes, kept.n_niches, len(kept.places)), found[out]


def _dealt(sizes: np.ndarray, n_folds: int) -> list[list[int]]:
    """Return sections dealt into folds of about equal size, the largest first."""
    folds: list[list[int]] = [[] for _ in range(n_folds)]
    for section in np.argsort(-sizes, kind="stable"):
        min(folds, key=lambda fold: int(sizes[fold].sum())).append(int(section))
    return folds


def _thinned(rising: np.ndarray, number: int) -> np.ndarray:
    ranks = np.linspace(0, len(rising) - 1, number)
    found: np.ndarray = rising[np.round(ranks).astype(np.int64)]
    return found
