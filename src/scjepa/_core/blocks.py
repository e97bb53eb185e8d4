"""Compact spatial blocks: the unit that training holds out and that metrics resample."""

from __future__ import annotations

import numpy as np


def spatial_blocks(coordinates: np.ndarray, sections: np.ndarray | None, block_size: int) -> np.ndarray:
    """Cut each section into compact blocks of at most ``block_size`` cells by halving it along its longer side.

    Parameters
    ----------
    coordinates
        ``(n_cells, 2 or 3)``, any unit.
    sections
        ``(n_cells,)`` codes, or ``None`` for one section.
    block_size
        Most cells of a block.

    Returns
    -------
    numpy.ndarray
        ``(n_cells,)`` int64 block codes from 0; no block crosses sections. Independent of the order of cells up to
        the numbering of blocks.
    """
    coordinates = np.asarray(coordinates, dtype=np.float64)
    codes = np.zeros(len(coordinates), dtype=np.int64) if sections is None else np.asarray(sections)
    blocks = np.empty(len(coordinates), dtype=np.int64)
    pending = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    n_blocks = 0
    while pending:
        members = pending.pop()
        if len(members) <= block_size:
            blocks[members] = n_blocks
            n_blocks += 1
            continue
        place = coordinates[members]
        longer = int(np.argmax(np.ptp(place, axis=0)))
        others = [axis for axis in range(place.shape[1]) if axis != longer]
        order = np.lexsort([*(place[:, axis] for axis in others), place[:, longer]])
        half = len(members) // 2
        pending += [members[order[:half]], members[order[half:]]]
    return blocks
