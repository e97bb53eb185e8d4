"""How far niches hang together in the tissue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scjepa._core.arrays import group_codes, tissue
from scjepa._core.neighbors import nearest_places

if TYPE_CHECKING:
    from scjepa._core.arrays import Labels, Matrix


@dataclass(frozen=True)
class NicheContinuity:
    """Continuity of niches in the tissue.

    Attributes
    ----------
    pas
        Percentage of abnormal spots, as a share in [0, 1]: cells whose niche differs from that of most of their
        nearest cells. Lower is smoother.
    chaos
        Mean distance to the nearest cell of the same niche, on standardized coordinates. Lower is more compact.
    like_neighbors
        Mean share of a cell's nearest cells that are of its niche, in [0, 1]. Higher is smoother.
    n_cells
        Cells scored.
    """

    pas: float
    chaos: float
    like_neighbors: float
    n_cells: int


def niche_continuity(
    clusters: Labels, coordinates: Matrix, sections: Labels | None = None, *, n_neighbors: int = 10
) -> NicheContinuity:
    """Measure how far niches hang together: PAS, CHAOS and the share of like neighbors.

    Each is computed within each section and averaged over sections, weighted by cells. None of them knows what is
    right: a single niche has the best values of all, and so has whatever averages over wide neighborhoods. Read them
    beside NMI, never alone.

    Parameters
    ----------
    clusters
        Niche of each cell, length n_cells.
    coordinates
        Array of shape (n_cells, 2 or 3), any unit.
    sections
        Section of each cell; ``None``: one section.
    n_neighbors
        Nearest cells to look at, itself not among them; at most all others of the section.

    Returns
    -------
    NicheContinuity
        ``pas``: share of cells whose niche differs from that of more than half of their ``n_neighbors`` nearest cells
        (6 or more of 10). ``chaos``: for each cell, the distance to the nearest cell of the same niche in the section,
        each axis z-scored over the section (an axis without variation is left as it is); a niche's only cell in a
        section has none and is left out; NaN where no cell has one. ``like_neighbors``: mean share of the
        ``n_neighbors`` nearest cells that are of the cell's niche. ``n_cells``: cells of sections with more than one
        cell.

    Raises
    ------
    ValueError
        If lengths differ, a cell has no niche or no section, coordinates have NaN, ``n_neighbors`` is not positive, or
        every section has a single cell.
    """
    codes, _ = group_codes(clusters, len(clusters), "clusters")
    places, of_section = tissue(coordinates, sections, len(codes))
    if n_neighbors < 1:
        raise ValueError(f"n_neighbors must be 1 or more, found {n_neighbors}.")
    like = np.full(len(codes), np.nan)
    apart = np.full(len(codes), np.nan)
    for cells, neighbors, _ in nearest_places(places, of_section, n_neighbors):
        like[cells] = (codes[neighbors] == codes[cells][:, None]).mean(axis=1)
        spread = places[cells].std(axis=0)
        scaled = (places[cells] - places[cells].mean(axis=0)) / np.where(spread > 0, spread, 1)
        for members, _, distances in nearest_places(scaled, codes[cells], 1):
            apart[cells[members]] = distances[:, 0]
    scored = ~np.isnan(like)
    if not scored.any():
        raise ValueError("Every section has a single cell, so no cell has a neighbor.")
    found = apart[~np.isnan(apart)]
    return NicheContinuity(
        pas=float((like[scored] < 0.5).mean()),
        chaos=float(found.mean()) if len(found) else float("nan"),
        like_neighbors=float(like[scored].mean()),
        n_cells=int(scored.sum()),
    )
