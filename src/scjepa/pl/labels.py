"""Columns of ``obs`` and genes as colors: labels and numbers, drawn on a scatter and named in a legend or color bar."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection
from matplotlib.colors import Normalize, is_color_like, to_hex, to_rgba_array
from matplotlib.lines import Line2D
from natsort import natsorted

from scjepa._core.anndata import array_of, categories_of, counts_of, require_anndata, text_of
from scjepa._core.keys import NICHE, SPATIAL, UNLABELLED
from scjepa._core.matching import best_matching, contingency
from scjepa._core.meaning import did_you_mean
from scjepa._core.options import unknown_name
from scjepa._core.palette import MISSING, palette, spare_colors
from scjepa.datasets import table_of
from scjepa.pl.figure import as_list, titles_of

Colors: TypeAlias = Sequence[str] | Mapping[str, str] | str | None
"""Colors of categories: in their order, by name, or the name of a color map of matplotlib's."""

VIRIDIS = colormaps["viridis"].with_extremes(bad=MISSING)
"""Dark to light, also for color-blind readers and in print; cells without a number are gray."""

_HIGH = 98
"""Percent of the cells that express a gene below the number that gets the last color: a few cells far above the others
would leave all of these dark."""

_RASTERIZE_FROM = 5_000
_LEGEND_LINE = 0.2
"""Height of a legend entry in inches."""

_OTHERS = "others"
"""What cells are called that are of none of the ``groups``."""

_LEGEND = {"frameon": False, "fontsize": 9, "handlelength": 1.2, "handletextpad": 0.4, "columnspacing": 0.8}
"""How legends look."""


@dataclass(frozen=True)
class Labels:
    """A categorical column and its colors.

    Attributes
    ----------
    title
        Name of the column, or what it is called in the figure.
    codes
        int64 of shape (n_cells,): position in ``names``, -1 for cells without a label.
    names
        Name of each category.
    colors
        Color of each category.
    chosen
        The colors are those of ``adata.uns``.
    rest
        What gray cells are called.
    """

    title: str
    codes: np.ndarray
    names: list[str]
    colors: list[str]
    chosen: bool
    rest: str = UNLABELLED[0]

    @classmethod
    def of(cls, adata: AnnData, key: str, colors: Colors = None) -> Labels:
        """Read ``adata.obs[key]`` and its colors: those that are given, or in ``adata.uns[f"{key}_colors"]``."""
        found = categories_of(adata, key)
        names = list(found.categories)
        codes = found.codes.astype(np.int64)
        if colors is not None:
            return cls(key, codes, names, _given_colors(colors, names), True)
        return cls(key, codes, names, *_stored_colors(adata, key, names))

    def part(self, names: Sequence[str]) -> tuple[Sequence[str], list[str]]:
        """Return some of the categories and their colors."""
        return names, [self.colors[self.names.index(name)] for name in names]

    def colored_like(self, other: Labels) -> Labels:
        """Return these labels in the colors of the labels of ``other`` that they share most cells with, one to one.

        Labels left over get colors that ``other`` does not use. Colors that are there already are kept.
        """
        if self.chosen:
            return self
        shared = contingency(self.codes, other.codes, (len(self.names), len(other.names)))
        partner = best_matching(shared)
        spare = iter(spare_colors(len(self.names) - len(partner), other.colors))
        colors = [other.colors[partner[i]] if i in partner else next(spare) for i in range(len(self.names))]
        return replace(self, colors=colors)

    def keep(self, adata: AnnData, key: str) -> Labels:
        """Write the colors to ``adata.uns[f"{key}_colors"]``, so that every figure has them; a view stays as it is."""
        if not adata.is_view:
            color_of = dict(zip(self.names, self.colors, strict=True))
            adata.uns[f"{key}_colors"] = [color_of.get(name, MISSING) for name in _all_names(adata.obs[key])]
        return self

    def only(self, groups: Collection[str]) -> Labels:
        """Return these labels with all cells gray but those of ``groups``."""
        kept = [i for i, name in enumerate(self.names) if name in groups]
        place = np.full(len(self.names) + 1, -1)  # code -1 is the last one
        place[kept] = np.arange(len(kept))
        names, colors = [self.names[i] for i in kept], [self.colors[i] for i in kept]
        return replace(self, codes=place[self.codes], names=names, colors=colors, rest=_OTHERS)

    def draw(self, ax: Axes, xy: np.ndarray, rows: np.ndarray, size: float) -> None:
        """Draw the cells ``rows`` at ``xy``, those without a label below the others."""
        rows = rows[np.argsort(self.codes[rows] >= 0, kind="stable")]
        lookup = to_rgba_array([*self.colors, MISSING])  # code -1 is the last one
        scatter(ax, xy[rows], size, color=lookup[self.codes[rows]])

    def legend(self, ax: Axes, height: float, *, titled: bool) -> None:
        """Put the legend outside, to the right of ``ax``, in as many columns as a panel of ``height`` inches needs."""
        there = set(self.codes.tolist())
        entries = [pair for i, pair in enumerate(zip(self.names, self.colors, strict=True)) if i in there]
        if -1 in there:
            entries.append((self.rest, MISSING))
        handles = [Line2D([], [], ls="", marker="o", markersize=6, color=color, label=name) for name, color in entries]
        outer_legend(ax, handles, height, self.title if titled else None)


@dataclass(frozen=True)
class Numbers:
    """A column of numbers, or a gene, and the range that its colors cover.

    Attributes
    ----------
    title
        Name of the column or gene, or what it is called in the figure.
    values
        float64 of shape (n_cells,), NaN for cells without a number.
    low, high
        Numbers that get the first and the last color.
    lowest_on_top
        Whether the cells of the lowest numbers lie on top, or those of the highest.
    """

    title: str
    values: np.ndarray
    low: float
    high: float
    lowest_on_top: bool = False

    @classmethod
    def of_column(cls, title: str, values: np.ndarray) -> Numbers:
        """Return numbers whose colors cover all of them."""
        found = values[np.isfinite(values)]
        low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 1.0)
        return cls(title, values, low, high if high > low else low + 1.0)

    @classmethod
    def of_gene(cls, adata: AnnData, gene: str, layer: str | None) -> Numbers:
        """Return the numbers of a gene in ``X`` or a layer."""
        place = int(np.flatnonzero(adata.var_names == gene)[0])
        values = array_of(counts_of(adata, layer)[:, [place]])[:, 0].astype(np.float64)
        expressed = values[values > 0]
        found = cls.of_column(gene, values)
        return replace(found, high=float(np.percentile(expressed, _HIGH))) if len(expressed) else found

    def draw(self, ax: Axes, xy: np.ndarray, rows: np.ndarray, size: float) -> None:
        """Draw the cells ``rows`` at ``xy``, those without a number below the others."""
        sign = -1 if self.lowest_on_top else 1
        rows = rows[np.argsort(sign * self.values[rows], kind="stable")]  # NaN comes last
        rows = np.roll(rows, int(np.isnan(self.values[rows]).sum()))
        scatter(ax, xy[rows], size, c=self.values[rows], cmap=VIRIDIS, vmin=self.low, vmax=self.high)

    def legend(self, ax: Axes, height: float, *, titled: bool) -> None:
        """Put the color bar outside, to the right of ``ax``, two inches high where the panel of ``height`` has them."""
        share = min(0.9, 2.0 / height)
        bar = ax.inset_axes((1.04, 1 - share, 0.05, share))
        beyond = "max" if np.nanmax(self.values, initial=self.high) > self.high else "neither"
        ax.figure.colorbar(ScalarMappable(Normalize(self.low, self.high), VIRIDIS), cax=bar, extend=beyond)
        bar.tick_params(labelsize=9)
        if titled:
            bar.set_title(self.title, fontsize=9, loc="left", pad=10)


Layer: TypeAlias = Labels | Numbers


def cells_of(data: object, spatial_key: str = SPATIAL) -> AnnData:
    """Return annotated data, or the table of a SpatialData object.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if type(data).__name__ == "SpatialData":
        return table_of(data, spatial_key=spatial_key)  # type: ignore[arg-type]
    require_anndata(data)
    return data  # type: ignore[return-value]


def layers_of(
    adata: AnnData,
    color: str | Sequence[str],
    *,
    reference: str | None = None,
    groups: str | Sequence[str] | None = None,
    colors: Colors = None,
    title: str | Sequence[str] | None = None,
    layer: str | None = None,
) -> list[Layer]:
    """Return what is drawn for each column of ``obs`` or gene, and write the colors of labels to ``uns``.

    Parameters
    ----------
    color
        Columns and genes; of a name that both have, the column.
    reference
        Column of labels that takes the colors of those of ``color`` that it shares most cells with.
    groups
        Labels that keep their color; cells of others are gray.
    colors
        Colors of the labels in ``color``.
    title
        What each is called.
    layer
        Layer that genes are read from. ``None``: ``adata.X``.

    Raises
    ------
    KeyError
        If a name is neither that of a column nor of a gene.
    ValueError
        If nothing is named, no column has a label in ``groups``, or the number of titles is another.
    """
    names = as_list(color)
    if not names:
        raise ValueError("color names no column of adata.obs and no gene.")
    found = [_layer_of(adata, name, colors, layer) for name in names]
    if reference is not None:
        known = next((one for one in found if isinstance(one, Labels)), None)
        labels = Labels.of(adata, reference)
        found.append((labels if known is None else labels.colored_like(known)).keep(adata, reference))
    if groups is not None:
        found = _grouped(found, as_list(groups))
    titles = titles_of(title, [one.title for one in found])
    return [replace(one, title=own) for one, own in zip(found, titles, strict=True)]


def _layer_of(adata: AnnData, key: str, colors: Colors, layer: str | None) -> Layer:
    if key in adata.obs or key == NICHE:
        values = None if key not in adata.obs else _numbers_in(adata.obs[key])
        return Labels.of(adata, key, colors).keep(adata, key) if values is None else Numbers.of_column(key, values)
    if key in adata.var_names:
        return Numbers.of_gene(adata, key, layer)
    known = [*map(str, adata.obs.columns), *map(str, adata.var_names)]
    columns = ", ".join(map(repr, adata.obs.columns)) or "none"
    raise KeyError(
        f"{key!r} is no column of adata.obs and no gene.{did_you_mean(key, known)} Columns are {columns}; genes are in "
        "adata.var_names."
    )


def _numbers_in(column: pd.Series) -> np.ndarray | None:
    """Return a column of numbers; ``None`` for labels, among them whole numbers that run from 0 or 1 without a gap."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return None
    if pd.api.types.is_integer_dtype(column):
        distinct = np.sort(column.dropna().unique())
        if len(distinct) and distinct[0] in (0, 1) and distinct[-1] - distinct[0] == len(distinct) - 1:
            return None
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _grouped(layers: Sequence[Layer], groups: Sequence[str]) -> list[Layer]:
    """Return the layers with cells of other labels gray, in the columns that have one of ``groups``."""
    known = {name for one in layers if isinstance(one, Labels) for name in one.names}
    for name in groups:
        if str(name) not in known:
            raise ValueError(unknown_name("label in groups", name, known))
    wanted = set(map(str, groups))
    return [one.only(wanted) if isinstance(one, Labels) and wanted & set(one.names) else one for one in layers]


def outer_legend(ax: Axes, handles: Sequence[Artist], height: float, title: str | None) -> None:
    """Put a legend outside, to the right of ``ax``, in as many columns as axes of ``height`` inches need."""
    per_column = max(4, int(height / _LEGEND_LINE) - 1)
    entries = {"handles": list(handles), "title": title, "ncols": -(-len(handles) // per_column)}
    ax.legend(**entries, loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0, alignment="left", **_LEGEND)


# -- colors --------------------------------------------------------------------------------------------------------


def _all_names(column: pd.Series) -> list[str]:
    """Return the categories of a column in the order that scanpy keeps colors in, cells without a label among them."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return list(map(str, column.cat.categories))
    return list(natsorted({name for name in text_of(column) if name is not None}))


def _stored_colors(adata: AnnData, key: str, names: list[str]) -> tuple[list[str], bool]:
    """Return the colors of the categories ``names`` and whether they are those in ``adata.uns``, which must fit."""
    all_names, colors = _all_names(adata.obs[key]), list(adata.uns.get(f"{key}_colors", []))
    if len(colors) == len(all_names) and all(map(is_color_like, colors)):
        by_name = dict(zip(all_names, colors, strict=True))
        return [by_name[name] for name in names], True
    return palette(len(names)), False


def _given_colors(colors: Colors, names: list[str]) -> list[str]:
    """Return the color of each name, of those that the user gives.

    Raises
    ------
    ValueError
        If there is none for a name, or one is no color.
    """
    if isinstance(colors, str):
        if colors not in colormaps:
            raise ValueError(unknown_name("color map for palette", colors, ("tab10", "Set2", "viridis")))
        ramp = colormaps[colors]
        if hasattr(ramp, "colors") and len(names) <= ramp.N < 256:  # a list of colors, and no gradient
            return [to_hex(ramp(i)) for i in range(len(names))]
        return [to_hex(ramp(place)) for place in np.linspace(0, 1, len(names))]
    given = colors if isinstance(colors, Mapping) else dict(zip(names, colors or (), strict=False))
    for name in names:
        if name not in given:
            raise ValueError(f"palette has no color for {name!r}; {len(names)} labels need one each.")
        if not is_color_like(given[name]):
            raise ValueError(f"palette[{name!r}] is no color of matplotlib's: {given[name]!r}.")
    return [to_hex(given[name]) for name in names]


def scatter(ax: Axes, xy: np.ndarray, size: float, **kwargs: Any) -> PathCollection:
    """Draw round cells without edges; many cells become an image inside vector files."""
    return ax.scatter(
        xy[:, 0], xy[:, 1], s=size, linewidths=0, rasterized=len(xy) >= _RASTERIZE_FROM, plotnonfinite=True, **kwargs
    )
