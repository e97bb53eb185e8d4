from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from scjepa._core.palette import MISSING, SAFE, palette, spare_colors

# Severe protanopia, deuteranopia and tritanopia in linear RGB (Machado, Oliveira and Fernandes 2009).
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
LMS = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def _smallest_distance(colors: list[str], vision: str) -> float:
    rgb = np.array([to_rgb(color) for color in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(VISION[vision]).T, 0, 1)
    oklab = 100 * np.cbrt(seen @ np.array(LMS).T) @ np.array(LAB).T
    return np.linalg.norm(oklab[:, None] - oklab, axis=-1)[np.triu_indices(len(colors), 1)].min()


@pytest.mark.parametrize(("vision", "apart"), [("normal", 18), ("protan", 9.5), ("deutan", 9.5), ("tritan", 8.7)])
def test_safe_colors_stay_apart_for_every_vision(vision, apart):
    assert _smallest_distance([*SAFE], vision) > apart


def _luminance(color: str) -> float:
    rgb = np.array(to_rgb(color))
    return float(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("color", palette(102))
def test_every_color_stands_out_on_white_and_on_black(color):
    """As WCAG 2.2 asks of graphics."""
    assert 1.05 / (_luminance(color) + 0.05) >= 3
    assert (_luminance(color) + 0.05) / 0.05 >= 3


@pytest.mark.parametrize("n_colors", [0, 1, 9, 10, 20, 102])
def test_palettes_hold_as_many_distinct_colors_as_asked(n_colors):
    assert len(set(palette(n_colors))) == len(palette(n_colors)) == n_colors


def test_beyond_the_longest_palette_colors_repeat():
    assert len(palette(250)) == 250
    assert palette(250)[102] == palette(250)[0]


def test_spare_colors_are_new():
    spare = spare_colors(6, SAFE[:8])
    assert len(set(spare)) == 6
    assert not set(spare) & {*SAFE[:8], MISSING}


def test_a_color_depends_on_its_position_alone():
    assert palette(40)[:7] == palette(7)


def test_twenty_niches_can_be_told_apart():
    assert _smallest_distance(palette(20), "normal") > 10
