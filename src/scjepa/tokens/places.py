"""Where the neighbors of a cell lie, seen from it and free of units: what the ``"coordinate"`` encoder reads."""

from __future__ import annotations

import numpy as np

from scjepa.tokens.neighborhoods import NeighborTable


def neighbor_places(
    neighbors: NeighborTable, coordinates: np.ndarray, sections: np.ndarray | None = None
) -> np.ndarray:
    """Return where each neighbor lies from its index cell, in median neighbor distances of its section.

    A shift of a section, or another unit of its coordinates, changes nothing. The unit belongs to the whole section,
    so a part of it cut out can have a slightly different one.

    Parameters
    ----------
    neighbors
        The neighbors of each cell.
    coordinates
        ``(n_cells, 2)`` or ``(n_cells, 3)`` positions, in any unit.
    sections
        ``(n_cells,)`` section codes or names; ``None``: one section.

    Returns
    -------
    numpy.ndarray
        ``(n_cells, n_neighbors, 3)`` float32; the third coordinate is 0 where there are two, and a neighbor that is
        not there has the place 0. In a section whose neighbors all share one place the unit is 1.

    Raises
    ------
    ValueError
        If there are not as many coordinates as cells, or not two or three a cell.
    """
    coordinates = np.asarray(coordinates, dtype=np.float64)
    index, present = neighbors.index, neighbors.index >= 0
    if coordinates.ndim != 2 or len(coordinates) != len(index) or coordinates.shape[1] not in (2, 3):
        raise ValueError(
            f"Expected two or three coordinates for each of {len(index):,} cells, found shape {coordinates.shape}."
        )
    places = np.zeros((*index.shape, 3), dtype=np.float32)
    codes = np.zeros(len(index), dtype=np.int64) if sections is None else np.unique(sections, return_inverse=True)[1]
    for section in range(codes.max(initial=-1) + 1):
        cells = np.flatnonzero(codes == section)
        near, there = index[cells], present[cells]
        offsets = np.where(there[..., None], coordinates[near] - coordinates[cells][:, None], 0.0)
        distances = np.linalg.norm(offsets, axis=2)[there]
        unit = np.median(distances) if len(distances) else 0.0
        places[cells, :, : coordinates.shape[1]] = offsets / (unit if unit > 0 else 1.0)
    return places
