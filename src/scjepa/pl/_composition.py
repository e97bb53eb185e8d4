"""What niches are made of, as stacked bars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from scjepa._core import keys as _keys
from scjepa._core.keys import UNLABELLED
from scjepa._core.palette import MISSING, SAFE, palette
from scjepa.pl.figure import finish, panels
from scjepa.pl.labels import Labels, outer_legend
from scjepa.tl import niche_composition

if TYPE_CHECKING:
    from anndata import AnnData

_BAR = 0.28
"""Height of a bar with its gap in inches."""

_OTHER = "#8C8C8C"
"""Labels that are lumped together: darker than cells without a label."""


def composition(
    adata: AnnData,
    niche_key: str = _keys.NICHE,
    *,
    by: str = _keys.CELL_TYPE,
    normalize: bool = True,
    max_labels: int = len(SAFE),
    save: str | Path | None = None,
    show: bool = False,
) -> Figure:
    """Draw the cell types (or sections, or other labels) of each niche as stacked bars.

    Colors are those of ``adata.uns[f"{by}_colors"]`` where they are there; niches have none here, for a bar of the same
    color would seem to belong to them. Nothing is written to ``adata``.

    Parameters
    ----------
    adata
        Annotated data.
    niche_key
        Column of ``adata.obs`` with niches; behind each stands its number of cells.
    by
        Column of ``adata.obs`` with labels. Cells without one are light gray.
    normalize
        ``True``: shares of the niche's cells. ``False``: numbers of cells.
    max_labels
        Labels that get a color of their own: those with the longest bars in any niche. The others are lumped together
        in dark gray: more than twelve colors cannot be told apart.
    save
        File to save the figure in.
    show
        Call ``matplotlib.pyplot.show()``.

    Returns
    -------
    matplotlib.figure.Figure
        One panel.

    Raises
    ------
    KeyError
        If a column is not there.
    ValueError
        If no cell has a niche, or ``max_labels`` is not positive.
    """
    if max_labels < 1:
        raise ValueError(f"max_labels must be positive, found {max_labels}.")
    counts, shares = niche_composition(adata, niche_key, by=by)
    totals = counts.sum(axis=1)
    values, colors = _lumped(shares if normalize else counts, Labels.of(adata, by), max_labels)
    height = len(values) * _BAR + 0.6
    figure, grid = panels(1, 1, 5.0, height)
    ax = grid[0, 0]
    places = np.arange(len(values))
    left = np.zeros(len(values))
    for name, color in zip(values.columns, colors, strict=True):
        width = values[name].to_numpy(dtype=float)
        ax.barh(places, width, left=left, height=0.8, color=color, edgecolor="white", linewidth=0.4)
        left += width
    ax.set_yticks(places, [f"{name} ({total:,})" for name, total in totals.items()])
    ax.set_ylim(len(values) - 0.4, -0.6)
    ax.set_xlim(0, float(left.max()))
    ax.set_xlabel("share of cells" if normalize else "cells")
    ax.set_ylabel(f"{niche_key} (cells)")
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    handles = [Patch(color=color, label=str(name)) for name, color in zip(values.columns, colors, strict=True)]
    outer_legend(ax, handles, height, by)
    return finish(figure, save, show)


def _lumped(values: pd.DataFrame, labels: Labels, at_most: int) -> tuple[pd.DataFrame, list[str]]:
    """Return the values with labels of short bars added up in one column, and the colors of the columns."""
    missing = UNLABELLED[0]
    named = [name for name in values.columns if name != missing]
    longest = values[named].max().sort_values(ascending=False, kind="stable").index[:at_most]
    kept, few = [name for name in named if name in longest], [name for name in named if name not in longest]
    own = labels.chosen or not few
    colors = [labels.color_of(name) for name in kept] if own else palette(len(kept))
    table = values[kept].copy()
    if few:
        table[f"{len(few)} others"] = values[few].sum(axis=1)
        colors.append(_OTHER)
    if missing in values:
        table[missing] = values[missing]
        colors.append(MISSING)
    return table, colors
