"""Figures of panels: how they are made, sized, saved and shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scjepa._core.options import unknown_name
from scjepa._core.plain import whole

_POINTS_PER_INCH = 72

_DPI = 150
"""Dots per inch of a saved figure where ``rcParams["savefig.dpi"]`` says nothing."""

_OF_NOTEBOOKS = ("inline", "ipympl", "widget", "nbagg")
"""In the names of back-ends of matplotlib that show figures which are open at the end of a cell."""

_OF_FILES = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")
"""Back-ends of matplotlib that write files and show nothing."""

Drawn: TypeAlias = Axes | list[Axes]
"""What a function of ``pl`` returns with ``show=False``: the axes of its panels, or of its one panel."""

DrawnT = TypeVar("DrawnT", Axes, list[Axes], dict[str, Axes], Drawn)


def panels(n_rows: int, n_cols: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes, an array of shape (n_rows, n_cols) of panels of the given size in inches."""
    size = (n_cols * width + 1.5, n_rows * height + 0.5)
    return plt.subplots(n_rows, n_cols, squeeze=False, figsize=size, layout="constrained")


def one_panel(ax: Axes | None, width: float, height: float) -> Axes:
    """Return the user's axes, or those of a new figure of one panel of the given size in inches."""
    return panels(1, 1, width, height)[1][0, 0] if ax is None else ax


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


def figure_of(axes: Axes | Sequence[Axes] | dict[str, Axes]) -> Figure:
    """Return the figure of axes."""
    several = list(axes.values()) if isinstance(axes, dict) else axes
    return cast(Figure, several.figure if isinstance(several, Axes) else several[0].figure)


def finish(axes: DrawnT, save: str | Path | None, show: bool | None, *, given: Axes | None = None) -> DrawnT | None:
    """Save a figure where asked, and show it or return its axes, as scanpy does.

    The figure stays pyplot's current one, so that a notebook shows it at the end of its cell and ``plt.savefig``
    saves it.

    Parameters
    ----------
    axes
        What to return where the figure is not shown.
    save
        File to save it in. Its dots per inch are ``rcParams["savefig.dpi"]``.
    show
        ``True``: show it now. ``False``: return the axes. ``None``: as scanpy's ``settings.autoshow`` says, which is
        to show it; but axes that were ``given`` are returned.
    given
        Axes of the user's that were drawn in.

    Raises
    ------
    ValueError
        If the file's suffix is no kind of figure that matplotlib writes.
    """
    figure = figure_of(axes)
    if save is not None:
        kind, known = Path(save).suffix.lstrip(".").lower(), figure.canvas.get_supported_filetypes()
        if kind and kind not in known:
            raise ValueError(f"save={str(save)!r}: {unknown_name('kind of figure', kind, known)}")
        dpi = max(_DPI, figure.dpi) if rcParams["savefig.dpi"] == "figure" else rcParams["savefig.dpi"]
        figure.savefig(_place_of(save), dpi=dpi, bbox_inches="tight")
    if show is False or (show is None and (given is not None or not _autoshow())):
        return axes
    backend = plt.get_backend().lower()
    in_notebook = any(name in backend for name in _OF_NOTEBOOKS)
    if show or not (in_notebook or backend in _OF_FILES):
        plt.show()
    elif save is not None and not in_notebook:
        plt.close(figure)  # as scanpy does, so that loops in scripts do not pile figures up
    return None


def apart(figure: Figure) -> Figure:
    """Return a figure that pyplot no longer knows: it is its caller's to save or show."""
    plt.close(figure)
    return figure


def _place_of(save: str | Path) -> Path:
    """Return where to save: a bare name, as text, goes to scanpy's ``settings.figdir``."""
    path = Path(save)
    if not isinstance(save, str) or path.name != save:
        return path
    from scanpy import settings

    settings.figdir.mkdir(parents=True, exist_ok=True)
    return settings.figdir / path


def _autoshow() -> bool:
    from scanpy import settings

    return bool(settings.autoshow)


def as_list(names: str | Sequence[str] | None) -> list[str]:
    """Return one name or several as a list."""
    return [] if names is None else [names] if isinstance(names, str) else list(names)


def titles_of(title: str | Sequence[str] | None, usual: Sequence[str]) -> list[str]:
    """Return the title of each panel, the usual ones where none are given.

    Raises
    ------
    ValueError
        If their number is not that of the panels.
    """
    titles = as_list(title) or list(usual)
    if len(titles) != len(usual):
        raise ValueError(f"title has {len(titles)} texts, and {', '.join(map(repr, usual))} need {len(usual)}.")
    return titles


def check_choice(kind: str, name: str, known: Sequence[str]) -> None:
    """Refuse what is none of the names that are known, with the nearest of them."""
    if name not in known:
        raise ValueError(unknown_name(kind, name, known))


def grid_shape(n_panels: int, n_cols: int | None, at_most: int = 4) -> tuple[int, int]:
    """Return rows and columns for ``n_panels``: ``n_cols`` columns, or ``at_most`` in rows as equal as can be."""
    even = -(-n_panels // -(-n_panels // at_most))
    n_cols = min(n_panels, even if n_cols is None else whole("ncols", n_cols, least=1))
    return -(-n_panels // n_cols), n_cols


def size_of(ax: Axes) -> tuple[float, float]:
    """Return width and height of axes in inches."""
    box = ax.get_window_extent().transformed(figure_of(ax).dpi_scale_trans.inverted())
    return box.width, box.height


def point_size(xy: np.ndarray, width: float, height: float, span: np.ndarray | None = None) -> float:
    """Return the marker area in points² with which the cells nearly cover the area that they take of a panel.

    Parameters
    ----------
    xy
        ``(n_cells, 2)`` coordinates.
    width, height
        Of the panel in inches.
    span
        Width and height of the panel in the unit of the coordinates. Default: the extent of the cells.
    """
    extent = np.ptp(xy, axis=0) if len(xy) else np.zeros(2)
    longest = extent.max()
    if longest == 0:
        return 60.0
    shown = extent if span is None else span
    scale = min(width / max(shown[0], 1e-3 * longest), height / max(shown[1], 1e-3 * longest))
    area = np.prod(np.maximum(extent, 0.1 * longest) * scale * _POINTS_PER_INCH)
    return float(np.clip(0.7 * area / len(xy), 0.5, 60.0))


def bare(ax: Axes) -> None:
    """Take away ticks and frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
