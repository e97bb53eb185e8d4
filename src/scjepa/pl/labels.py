"""Columns of ``obs`` as colors, labels and numbers: drawn on a scatter and told in a legend or a color bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection
from matplotlib.colors import Normalize, is_color_like, to_rgba_array
from matplotlib.lines import Line2D

from scjepa._core.anndata import categories_of
from scjepa._core.keys import UNLABELLED
from scjepa._core.matching import best_matching, contingency
from scjepa._core.palette import MISSING, palette, spare_colors

VIRIDIS = colormaps["viridis"].with_extremes(bad=MISSING)
"""Dark to light, also for color-blind readers and in print; cells without a number are gray."""

_RASTERIZE_FROM = 5_000
_LEGEND_LINE = 0.2
"""Height of a legend entry in inches."""


_LEGEND = {"frameon": False, "fontsize": 9, "handlelength": 1.2, "handletextpad": 0.4, "columnspacing": 0.8}
"""How legends look."""


@dataclass(frozen=True)
class Labels:
    """A categorical column and its colors.

    Attributes
    ----------
    title
        Name of the column.
    codes
        int64 of shape (n_cells,): position in ``names``, -1 for cells without a label.
    names
        Name of each category.
    colors
        Color of each category.
    chosen
        The colors are those of ``adata.uns``.
    """

    title: str
    codes: np.ndarray
    names: list[str]
    colors: list[str]
    chosen: bool

    @classmethod
    def of(cls, adata: AnnData, key: str) -> Labels:
        """Read ``adata.obs[key]`` and, where they fit, the colors in ``adata.uns[f"{key}_colors"]``."""
        found = categories_of(adata, key)
        names = list(found.categories)
        return cls(key, found.codes.astype(np.int64), names, *_colors_of(adata, key, names))

    def part(self, names: Sequence[str]) -> tuple[Sequence[str], list[str]]:
        """Return some of the categories and their colors."""
        return names, [self.colors[self.names.index(name)] for name in names]

    def colored_like(self, other: Labels) -> Labels:
        """Return these labels in the colors of the labels of ``other`` that they share most cells with, one to one.

        Labels left over get colors that ``other`` does not use. Colors chosen by the user are kept.
        """
        if self.chosen:
            return self
        shared = contingency(self.codes, other.codes, (len(self.names), len(other.names)))
        partner = best_matching(shared)
        spare = iter(spare_colors(len(self.names) - len(partner), other.colors))
        colors = [other.colors[partner[i]] if i in partner else next(spare) for i in range(len(self.names))]
        return replace(self, colors=colors)

    def draw(self, ax: Axes, xy: np.ndarray, rows: np.ndarray, size: float) -> None:
        """Draw the cells ``rows`` at ``xy``, those without a label below the others."""
        rows = rows[np.argsort(self.codes[rows] >= 0, kind="stable")]
        lookup = to_rgba_array([*self.colors, MISSING])  # code -1 is the last one
        scatter(ax, xy[rows], size, color=lookup[self.codes[rows]])

    def legend(self, ax: Axes, height: float, *, titled: bool) -> None:
        """Put the legend outside, to the right of ``ax``, in as many columns as a panel of ``height`` inches needs."""
        entries = list(zip(self.names, self.colors, strict=True))
        if (self.codes < 0).any():
            entries.append((UNLABELLED[0], MISSING))
        handles = [Line2D([], [], ls="", marker="o", markersize=6, color=color, label=name) for name, color in entries]
        outer_legend(ax, handles, height, self.title if titled else None)


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


def outer_legend(ax: Axes, handles: Sequence[Artist], height: float, title: str | None) -> None:
    """Put a legend outside, to the right of ``ax``, in as many columns as axes of ``height`` inches need."""
    per_column = max(4, int(height / _LEGEND_LINE) - 1)
    entries = {"handles": list(handles), "title": title, "ncols": -(-len(handles) // per_column)}
    ax.legend(**entries, loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0, alignment="left", **_LEGEND)


def _colors_of(adata: AnnData, key: str, names: list[str]) -> tuple[list[str], bool]:
    """Return the colors of the categories ``names`` and whether they are those in ``adata.uns``, which must fit."""
    column = adata.obs[key]
    all_names = list(map(str, column.cat.categories)) if isinstance(column.dtype, pd.CategoricalDtype) else names
    colors = list(adata.uns.get(f"{key}_colors", []))
    if len(colors) == len(all_names) and all(map(is_color_like, colors)):
        by_name = dict(zip(all_names, colors, strict=True))
        return [by_name[name] for name in names], True
    return palette(len(names)), False


def scatter(ax: Axes, xy: np.ndarray, size: float, **kwargs: Any) -> PathCollection:
    """Draw round cells without edges; many cells become an image inside vector files."""
    return ax.scatter(
        xy[:, 0], xy[:, 1], s=size, linewidths=0, rasterized=len(xy) >= _RASTERIZE_FROM, plotnonfinite=True, **kwargs
    )
