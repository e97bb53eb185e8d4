"""Columns of numbers as colors, drawn on a scatter and told in a color bar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from scjepa._core.palette import MISSING
from scjepa.pl.labels import scatter

VIRIDIS = colormaps["viridis"].with_extremes(bad=MISSING)
"""Dark to light, also for color-blind readers and in print; cells without a number are gray."""


@dataclass(frozen=True)
class Numbers:
    """A column of numbers and the range that its colors cover.

    Attributes
    ----------
    title
        Name of the column.
    values
        float64 of shape (n_cells,), NaN for cells without a number.
    low, high
        Numbers that get the first and the last color.
    """

    title: str
    values: np.ndarray
    low: float
    high: float

    def draw(self, ax: Axes, xy: np.ndarray, rows: np.ndarray, size: float) -> None:
        """Draw the cells ``rows`` at ``xy``: those without a number below, the lowest on top."""
        rows = rows[np.argsort(-self.values[rows], kind="stable")]  # NaN comes last
        rows = np.roll(rows, int(np.isnan(self.values[rows]).sum()))
        scatter(ax, xy[rows], size, c=self.values[rows], cmap=VIRIDIS, vmin=self.low, vmax=self.high)

    def legend(self, ax: Axes, height: float, *, titled: bool) -> None:
        """Put the color bar outside, to the right of ``ax``, two inches high where the panel of ``height`` has them."""
        share = min(0.9, 2.0 / height)
        bar = ax.inset_axes((1.04, 1 - share, 0.05, share))
        ax.figure.colorbar(ScalarMappable(Normalize(self.low, self.high), VIRIDIS), cax=bar)
        bar.tick_params(labelsize=9)
        if titled:
            bar.set_title(self.title, fontsize=9, loc="left", pad=10)
