"""Figures of panels: how they are made, sized and handed out."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_POINTS_PER_INCH = 72


def panels(n_rows: int, n_cols: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes, an array of shape (n_rows, n_cols) of panels of the given size in inches."""
    size = (n_cols * width + 1.5, n_rows * height + 0.5)
    return plt.subplots(n_rows, n_cols, squeeze=False, figsize=size, layout="constrained")


def blocks(
    n_blocks: int, n_high: int, width: float, height: float, n_cols: int | None, at_most: int = 4
) -> tuple[Figure, np.ndarray]:
    """Return a figure of blocks side by side and below one another, each of ``n_high`` panels one above the other.

    Columns are as in :func:`grid_shape`. The axes are an array of shape (n_blocks, n_high); none are left over.
    """
    n_rows, n_cols = grid_shape(n_blocks, n_cols, at_most)
    figure, grid = panels(n_rows * n_high, n_cols, width, height)
    found = grid.reshape(n_rows, n_high, n_cols).swapaxes(1, 2).reshape(-1, n_high)
    for unused in found[n_blocks:].flat:
        unused.remove()
    return figure, found[:n_blocks]


def finish(figure: Figure, save: str | Path | None, show: bool, *, owned: bool = True) -> Figure:
    """Save and show a figure where asked, and return it.

    A figure of our own (``owned``) is taken out of pyplot, so that a notebook shows it once, as the value of its cell,
    and loops that make many figures do not pile them up.
    """
    if save is not None:
        figure.savefig(save, dpi=150, bbox_inches="tight")
    if show:
        plt.show()
    if owned:
        plt.close(figure)
    return figure


def grid_shape(n_panels: int, n_cols: int | None, at_most: int = 4) -> tuple[int, int]:
    """Return rows and columns for ``n_panels``: ``n_cols`` columns, or ``at_most`` in rows as equal as can be."""
    if n_cols is not None and n_cols < 1:
        raise ValueError(f"ncols must be positive, found {n_cols}.")
    if n_cols is None:
        n_cols = -(-n_panels // -(-n_panels // at_most))
    n_cols = min(n_panels, n_cols)
    return -(-n_panels // n_cols), n_cols


def point_size(xy: np.ndarray, width: float, height: float) -> float:
    """Return the marker area in points² with which the cells nearly cover a panel of the given size in inches."""
    extent = np.ptp(xy, axis=0) if len(xy) else np.zeros(2)
    longest = extent.max()
    if longest == 0:
        return 60.0
    scale = min(width / max(extent[0], 1e-3 * longest), height / max(extent[1], 1e-3 * longest))
    area = np.prod(np.maximum(extent, 0.1 * longest) * scale * _POINTS_PER_INCH)
    return float(np.clip(0.7 * area / len(xy), 0.5, 60.0))


def bare(ax: Axes) -> None:
    """Take away ticks and frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
