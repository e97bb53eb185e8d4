"""Heat maps of niches by niches, with the niches' colors along the sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from scjepa.pl.figure import panels

CELL = 0.42
"""Side of a field in inches, in which a number of three characters can be read."""

_NAME_INCHES = 0.085
"""Width of a character of a name in inches."""

_MARK = 9.0
"""Distance of the color marks from the axes in points."""

_TURNED_FROM = 4
"""Characters from which names below a matrix stand upright."""


def heat_map(
    values: np.ndarray,
    rows: tuple[Sequence[str], Sequence[str]],
    columns: tuple[Sequence[str], Sequence[str]],
    cmap: Colormap,
    norm: Normalize,
    form: str,
    bar: str,
) -> tuple[Figure, Axes]:
    """Draw a matrix, its numbers but zeros written into it.

    Parameters
    ----------
    values
        Array of shape (n_rows, n_columns); NaN stays gray and without a number.
    rows, columns
        Names and colors.
    cmap, norm
        How numbers become colors.
    form
        Format of the numbers, such as ``".2f"``.
    bar
        What the color bar tells.
    """
    n_rows, n_columns = values.shape
    turned = _longest(columns[0]) >= _TURNED_FROM
    width = n_columns * CELL + _longest(rows[0]) * _NAME_INCHES
    height = n_rows * CELL + (_longest(columns[0]) if turned else 1) * _NAME_INCHES
    figure, grid = panels(1, 1, width, height + 0.5)
    ax = grid[0, 0]
    ax.imshow(values, cmap=cmap, norm=norm)
    for (row, column), value in np.ndenumerate(values):
        text = format(value, form)
        if np.isfinite(value) and text.strip("-0."):  # zeros are left out
            red, green, blue, _ = cmap(norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            ax.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    ax.set_xticks(range(n_columns), columns[0], rotation=90 if turned else 0)
    ax.set_yticks(range(n_rows), rows[0])
    ax.spines[:].set_visible(False)
    color_marks(ax, rows[1], "left")
    color_marks(ax, columns[1], "bottom")
    share = min(1.0, 1.8 / (n_rows * CELL))
    side = ax.inset_axes((1 + 0.3 / (n_columns * CELL), 1 - share, 0.14 / (n_columns * CELL), share))
    beyond = np.nanmax(values, initial=float(norm.vmin or 0)) > float(norm.vmax or 0)
    figure.colorbar(ScalarMappable(norm, cmap), cax=side, label=bar, extend="max" if beyond else "neither")
    return figure, ax


def color_marks(ax: Axes, colors: Sequence[str], side: str, start: float = 0.0) -> None:
    """Put a dot of each category's color at the ``"left"`` or ``"bottom"`` of axes, one a step from ``start`` on.

    The names of the ticks move outwards to make room.
    """
    limits = ax.get_xlim(), ax.get_ylim()
    places, zeros = start + np.arange(len(colors)), np.zeros(len(colors))
    left = side == "left"
    along = ax.get_yaxis_transform() if left else ax.get_xaxis_transform()
    shift = (-_MARK, 0) if left else (0, -_MARK)
    ax.scatter(
        zeros if left else places,
        places if left else zeros,
        c=list(colors),
        marker="o",
        s=_MARK**2 / 2,
        linewidths=0,
        clip_on=False,
        transform=offset_copy(along, ax.figure, x=shift[0], y=shift[1], units="points"),  # type: ignore[arg-type]
    )
    ax.set(xlim=limits[0], ylim=limits[1])
    ax.tick_params(axis="y" if left else "x", length=0, pad=2 * _MARK)


def _longest(names: Sequence[str]) -> int:
    return max(map(len, names))
