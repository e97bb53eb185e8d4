"""Colors of categories."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np

MISSING = "#D9D9D9"
"""Cells without a label."""

SAFE = (
    "#3344DD", "#DDDD00", "#660022", "#BB6600", "#8899FF", "#00EEFF",
    "#003366", "#555500", "#FFAA99", "#FF55BB", "#339977", "#994488",
)  # fmt: skip
"""Twelve colors kept apart for normal, protan, deutan and tritan vision.

The smallest distance of two of them is 19 (normal), 11 (protan, deutan) and 9 (tritan) in OKLab × 100; in
matplotlib's default ten it is 0.7 for the worst pair. In this order the first colors are the most distinct.
"""


def palette(n_colors: int) -> list[str]:
    """Return ``n_colors`` hex colors: :data:`SAFE` up to twelve, scanpy's palettes of 20, 28 and 102 beyond.

    A color depends on its position and on which palette is needed, not on the data, so that figures of the same
    number of niches agree. Beyond 102 the colors repeat.
    """
    if n_colors <= len(SAFE):
        return list(SAFE[:n_colors])
    from matplotlib.colors import to_hex
    from scanpy.plotting import palettes

    fits = (p for p in (palettes.default_20, palettes.default_28) if n_colors <= len(p))
    return [to_hex(color) for color in islice(cycle(next(fits, palettes.default_102)), n_colors)]


def spare_colors(n_colors: int, used: Sequence[str]) -> list[str]:
    """Return ``n_colors`` that stand apart from those ``used``: each in turn the farthest from all before (RGB)."""
    from matplotlib.colors import to_rgb
    from scanpy.plotting.palettes import default_20

    pool = [*SAFE, *default_20]
    rgb = np.array([to_rgb(color) for color in pool])
    taken = [to_rgb(color) for color in (*used, MISSING, "white")]
    chosen = []
    for _ in range(n_colors):
        farthest = int(np.linalg.norm(rgb[:, None] - np.array(taken), axis=-1).min(axis=1).argmax())
        chosen.append(pool[farthest])
        taken.append(to_rgb(pool[farthest]))
    return chosen
