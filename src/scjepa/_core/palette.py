"""Colors of categories."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

MISSING = "#D9D9D9"
"""Cells without a label."""

SAFE = (
    "#003CFF", "#D27800", "#C31E4B", "#4BA578", "#960FB4", "#006900", "#A578FF", "#FF0FC3", "#696987",
)  # fmt: skip
"""Nine colors that stay apart for normal, protan, deutan and tritan vision, and against white and black.

The smallest distance of two of them is 18.8 (normal), 9.8 (protan), 9.6 (deutan) and 8.8 (tritan) in OKLab × 100; in
matplotlib's default ten it is 0.7 for the worst pair. In this order the first colors are the most distinct.
"""

_LONGEST = 102
"""Colors of the longest palette; beyond, they repeat."""

_CONTRAST = 3.0
"""Contrast of a color with white and with black that WCAG 2.2 asks of graphics, at least."""

_STEP = 15
"""Step of red, green and blue between the colors that are chosen from."""

_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
"""From linear RGB to the cones, and from these to lightness and two axes of hue, in which distances are as seen."""


def palette(n_colors: int) -> list[str]:
    """Return ``n_colors`` hex colors, each with a contrast of 3:1 or more with white and with black.

    A color depends on its position alone, so a niche keeps its color whatever the number of niches. The first nine are
    :data:`SAFE`; further ones are each the farthest from all before. Beyond 102 the colors repeat.
    """
    colors = list(SAFE) if n_colors <= len(SAFE) else [*SAFE, *spare_colors(_LONGEST - len(SAFE), SAFE)]
    return [colors[i % len(colors)] for i in range(n_colors)]


def spare_colors(n_colors: int, used: Sequence[str]) -> list[str]:
    """Return ``n_colors`` that stand apart from those ``used``: each in turn the farthest from all before."""
    return list(_spare(n_colors, tuple(used)))


@cache
def _spare(n_colors: int, used: tuple[str, ...]) -> tuple[str, ...]:
    from matplotlib.colors import to_hex, to_rgb

    rgb, places = _pool()
    taken = _seen(np.array([to_rgb(color) for color in (*used, MISSING)]))
    distance = np.linalg.norm(places[:, None] - taken, axis=-1).min(axis=1)
    chosen = []
    for _ in range(n_colors):
        farthest = int(distance.argmax())
        chosen.append(to_hex(rgb[farthest]).upper())
        distance = np.minimum(distance, np.linalg.norm(places - places[farthest], axis=-1))
    return tuple(chosen)


@cache
def _pool() -> tuple[np.ndarray, np.ndarray]:
    """Return the colors of a grid that stand out on white and on black, and where they are in OKLab."""
    levels = np.arange(0, 256, _STEP) / 255
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    light = _linear(rgb) @ (0.2126, 0.7152, 0.0722)
    stands_out = (1.05 / (light + 0.05) >= _CONTRAST) & ((light + 0.05) / 0.05 >= _CONTRAST)
    return rgb[stands_out], _seen(rgb[stands_out])


def _linear(rgb: np.ndarray) -> np.ndarray:
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _seen(rgb: np.ndarray) -> np.ndarray:
    """Return colors in OKLab, ``(n, 3)``."""
    return np.cbrt(_linear(rgb) @ _TO_CONES.T) @ _TO_OKLAB.T
