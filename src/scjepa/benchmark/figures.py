"""Figures that every kind of comparison draws: maps of embeddings in two dimensions, colored by labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scjepa._core.leiden import umap_of
from scjepa._core.palette import SAFE, palette
from scjepa.pl.figure import bare, finish, panels, point_size
from scjepa.pl.labels import Labels

DEFAULT, OTHER = SAFE[0], "#A9B0C6"
"""Bars of what is looked at, and of the others."""

SIZE, WRAP = 2.5, 4
"""Width of a map in inches, and maps in a row."""

_LETTER = 0.085
"""Width of a letter of the legend in inches."""


def as_labels(title: str, values: np.ndarray) -> Labels:
    """Return names, ``None`` for cells without one, as colored labels."""
    codes, names = pd.factorize(pd.Series(values, dtype=object), sort=True)
    named = list(map(str, names))
    return Labels(title, codes.astype(np.int64), named, palette(len(named)), False)


def plain_axes(ax: Axes) -> None:
    """Take away what scores do not need: two sides of the frame, and large labels."""
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def umaps(embeddings: Mapping[str, np.ndarray], colorings: Sequence[Labels], seed: int = 0) -> Figure | None:
    """Draw embeddings in two dimensions, once for each coloring, below one another.

    Parameters
    ----------
    embeddings
        ``(n_cells, n_dims)`` by what stands above them.
    colorings
        Labels of the cells.
    seed
        Of UMAP, and of the order in which cells are drawn.
    """
    if not embeddings:
        return None
    n_cols = min(WRAP, len(embeddings))
    blocks = -(-len(embeddings) // n_cols)
    figure, grid = panels(blocks * len(colorings), n_cols, SIZE, SIZE + 0.35)
    longest = max(len(name) for labels in colorings for name in labels.names)
    figure.set_figwidth(n_cols * SIZE + 0.7 + _LETTER * longest)  # else the legend takes its room from the maps
    order = np.random.default_rng(seed).permutation(len(colorings[0].codes))
    for number, (title, embedding) in enumerate(embeddings.items()):
        block, column = divmod(number, n_cols)
        xy = umap_of(np.asarray(embedding), 15, seed)
        for row, labels in enumerate(colorings):
            ax = grid[block * len(colorings) + row, column]
            labels.draw(ax, xy, order, min(point_size(xy, SIZE, SIZE), 8.0))
            bare(ax)
            ax.set_box_aspect(1)
            if row == 0:
                ax.set_title(title, fontsize=9)
            if column == 0:
                ax.set_ylabel(labels.title, fontsize=9)
    for row, labels in enumerate(colorings):
        labels.legend(grid[row, n_cols - 1], SIZE, titled=False)
    for number in range(len(embeddings), blocks * n_cols):
        for row in range(len(colorings)):
            grid[number // n_cols * len(colorings) + row, number % n_cols].set_axis_off()
    return finish(figure, None, False)
