"""Figures of what models say: predicted labels, what confidence is worth, perturbations, the course of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import ArrayLike

from scjepa._core.anndata import array_of, column_of, labels_of
from scjepa._core.arrays import correlation
from scjepa._core.keys import UNKNOWN
from scjepa._core.palette import MISSING
from scjepa._core.plain import whole
from scjepa.pl._describe import _heat_map
from scjepa.pl._maps import _shares
from scjepa.pl.figure import Drawn, blocks, finish, one_panel, titles_of
from scjepa.pl.labels import Labels

_PANEL = 3.2
"""Side of a panel in inches."""

_COURSE = (3.2, 2.4)
"""Width and height of a panel in inches."""

_COLORS = ("C0", "C1", "C4", "C7")
"""Blue, orange, purple, gray: told apart by color-blind readers too."""

_RATIO = "_ratio"
"""How the names of ratios of losses end."""

_SMOOTH_FROM = 100
"""Points from which a line gets a running mean."""


def confusion(
    adata: AnnData,
    truth: str,
    key: str = "predicted_label",
    *,
    title: str | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Draw what cells of each known label were called, ``"unknown"`` last.

    Numbers are shares of the row's cells. Cells without a known label are left out.

    Parameters
    ----------
    adata
        Annotated data.
    truth
        Column of ``adata.obs`` of known labels, in rows.
    key
        Column of predicted labels, in columns: of :func:`scjepa.tl.annotate`.
    title
        Above the panel. Default: the share of right labels.
    ax, save, show
        As in :func:`scjepa.pl.compare`.

    Returns
    -------
    matplotlib.axes.Axes or None
        The axes where they are not shown.

    Raises
    ------
    KeyError
        If a column is not there.
    ValueError
        If no cell has a label in both.

    Examples
    --------
    >>> scjepa.pl.confusion(adata, "cell_type")
    """
    known, called = (pd.Series(labels_of(column_of(adata, name)), dtype=object) for name in (truth, key))
    table = pd.crosstab(known, called)
    if table.empty:
        raise ValueError(f"No cell has a label in both adata.obs[{truth!r}] and adata.obs[{key!r}].")
    rows = list(table.index)
    columns = [name for name in rows if name in table and name != UNKNOWN]
    columns += [name for name in table if name not in (*rows, UNKNOWN)]
    columns += [UNKNOWN] if UNKNOWN in table else []
    counts = table[columns].to_numpy()
    first = Labels.of(adata, truth)
    color_of = dict(zip(first.names, first.colors, strict=True))
    sides = ([f"{name} ({size:,})" for name, size in zip(rows, counts.sum(axis=1), strict=True)], columns)
    colors = ([color_of.get(name, MISSING) for name in names] for names in (rows, columns))
    left, below = zip(sides, colors, strict=True)
    panel = _heat_map(ax, counts / counts.sum(axis=1, keepdims=True), left, below, "share of the row's cells")
    panel.set(xlabel=key, ylabel=truth)
    right = sum(table.at[name, name] for name in rows if name in table)
    text = f"{right / counts.sum():.1%} of {counts.sum():,} cells as known" if title is None else title
    panel.set_title(text, fontsize=10, loc="left")
    return finish(panel, save, show, given=ax)


def reliability(
    adata: AnnData,
    truth: str,
    key: str = "predicted_label",
    *,
    n_bins: int = 10,
    title: str | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Draw what confidence is worth: the share of right labels by confidence, bins of as many cells each.

    Cells without a known label are left out, as are those whose known label is called for no cell: a label that the
    reference lacks can be right nowhere. Scored are the nearest labels, also of unknown cells.

    Parameters
    ----------
    adata
        Annotated data.
    truth
        Column of ``adata.obs`` of known labels.
    key
        Column of predicted labels; ``f"{key}_confidence"`` holds their confidence, and ``f"{key}_nearest"``, where it
        is there, the labels of unknown cells.
    n_bins
        Bins at most.
    title
        Above the panel. Default: the expected calibration error.
    ax, save, show
        As in :func:`scjepa.pl.compare`.

    Returns
    -------
    matplotlib.axes.Axes or None
        The axes where they are not shown.

    Raises
    ------
    KeyError
        If a column is not there.
    ValueError
        If no cell is left, or a confidence is not in [0, 1].

    Examples
    --------
    >>> scjepa.pl.reliability(adata, "cell_type")
    """
    from sklearn.calibration import CalibrationDisplay

    from scjepa.metrics import expected_calibration_error

    n_bins = whole("n_bins", n_bins, least=1)
    nearest = f"{key}_nearest" if f"{key}_nearest" in adata.obs else key
    known, called = (labels_of(column_of(adata, name)) for name in (truth, nearest))
    sure = _shares(adata, f"{key}_confidence")
    kept = np.isin(known.astype(str), called[called != None].astype(str)) & ~np.isnan(sure)  # noqa: E711 - of each
    kept &= (known != None) & (called != None)  # noqa: E711
    if not kept.any():
        raise ValueError(f"No cell has a label in adata.obs[{truth!r}] that is called in adata.obs[{nearest!r}].")
    right, sure = (known == called)[kept].astype(int), sure[kept]
    panel = one_panel(ax, _PANEL, _PANEL)
    drawn = CalibrationDisplay.from_predictions(
        right, sure, n_bins=n_bins, strategy="quantile", ax=panel, pos_label=1, ref_line=False
    )
    low = min(0.95, drawn.prob_pred.min(), drawn.prob_true.min())
    panel.plot([low, 1], [low, 1], color=MISSING, lw=1, zorder=0)
    panel.set(xlabel="confidence", ylabel="share of right labels", box_aspect=1)
    if (legend := panel.get_legend()) is not None:
        legend.remove()
    error = expected_calibration_error(right, sure)
    panel.set_title(f"calibration error {error:.3f}" if title is None else title, fontsize=10, loc="left")
    return finish(panel, save, show, given=ax)


def perturbation(
    predicted: AnnData,
    measured: pd.DataFrame,
    conditions: Sequence[str] | None = None,
    *,
    n_genes: int = 5,
    title: str | Sequence[str] | None = None,
    ncols: int | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> Drawn | None:
    """Draw predicted against measured changes from control, a dot for each gene and a panel for each condition.

    Parameters
    ----------
    predicted
        Of :meth:`scjepa.CellJEPA.predict_perturbation` or ``scjepa perturb``: a profile for each condition, that of
        control in ``layers["control"]``.
    measured
        Conditions × genes, mean expression: ``means`` of :func:`scjepa.perturbation.condition_profiles`. Conditions and
        genes are found by name.
    conditions
        Which to draw. Default: all that both have.
    n_genes
        Genes of the largest measured change, whose names are written.
    title
        Above the panels. Default: the condition and the correlation of changes.
    ncols
        Panels in a row, at most 4 by default.
    ax, save, show
        As in :func:`scjepa.pl.niches`.

    Returns
    -------
    matplotlib.axes.Axes or list of them or None
        The axes of the panels where they are not shown.

    Raises
    ------
    KeyError
        If there are no control profiles, or a condition is in one of the two alone.
    ValueError
        If they share no condition or no gene, or ``ax`` is given for more than one panel.

    Examples
    --------
    >>> known = scjepa.perturbation.condition_profiles(adata)
    >>> scjepa.pl.perturbation(model.predict_perturbation(["KLF1"]), known.means)
    """
    if "control" not in predicted.layers:
        raise KeyError("predicted has no layers['control']: give what predict_perturbation returned.")
    both = [name for name in predicted.obs_names if name in measured.index]
    wanted = both if conditions is None else [conditions] if isinstance(conditions, str) else list(conditions)
    absent = [name for name in wanted if name not in both]
    if absent:
        where = "measured" if absent[0] in predicted.obs_names else "predicted"
        raise KeyError(f"{where} has no condition {absent[0]!r}; both have {', '.join(map(repr, both[:5])) or 'none'}.")
    genes = [name for name in predicted.var_names if name in measured.columns]
    if not wanted or not genes:
        raise ValueError(f"predicted and measured share no {'gene' if wanted else 'condition'}.")
    if ax is not None and len(wanted) > 1:
        raise ValueError(f"ax is one panel, and there are {len(wanted)} conditions. Name one with conditions=...")
    panels = [ax] if ax is not None else list(blocks(len(wanted), 1, _PANEL, _PANEL, ncols)[1][:, 0])
    part = predicted[wanted, genes]
    control = array_of(part.layers["control"])
    said, was = array_of(part.X) - control, measured.loc[wanted, genes].to_numpy() - control
    usual = [f"{name}, r = {correlation(x, y):.2f}" for name, x, y in zip(wanted, was, said, strict=True)]
    for panel, x, y, text in zip(panels, was, said, titles_of(title, usual), strict=True):
        panel.scatter(x, y, s=8, alpha=0.6, linewidths=0)
        span = [min(x.min(), y.min()), max(x.max(), y.max())]
        panel.plot(span, span, color=MISSING, lw=1, zorder=0)
        _name_genes(panel, x, y, genes, np.argsort(-np.abs(x), kind="stable")[:n_genes])
        panel.set(xlabel="measured change", ylabel="predicted change", box_aspect=1)
        panel.set_title(text, fontsize=10, loc="left")
    return finish(panels if len(panels) > 1 else panels[0], save, show, given=ax)


def _name_genes(ax: Axes, x: np.ndarray, y: np.ndarray, genes: Sequence[str], named: np.ndarray) -> None:
    """Write the names of some genes toward the middle, one above the other where dots are close."""
    named = named[np.argsort(y[named], kind="stable")]
    low, high = ax.get_ylim()
    heights = y[named].astype(float)
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + 0.06 * (high - low))
    heights -= heights.mean() - y[named].mean() if len(heights) else 0.0
    middle, step = np.mean(ax.get_xlim()), 0.06 * np.ptp(ax.get_xlim())
    line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2}
    for gene, height in zip(named, heights, strict=True):
        to_right = x[gene] < middle
        place = (x[gene] + (step if to_right else -step), height)
        side = "left" if to_right else "right"
        ax.annotate(genes[gene], (x[gene], y[gene]), place, fontsize=7, ha=side, va="center", arrowprops=line)


# -- trainings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Panel:
    """What one panel shows.

    Attributes
    ----------
    title
        Its title.
    lines
        For each line, its name and the keys of ``history`` it may have; the first that is there is drawn.
    level
        Height of a dotted line to compare with, and what it means.
    noisy
        Long lines are drawn with their running mean.
    doublings
        The vertical axis is logarithmic, in powers of two.
    of_teacher
        It tells of the teacher, and says nothing where there is none.
    """

    title: str
    lines: Mapping[str, tuple[str, ...]]
    level: tuple[float, str] | None = None
    noisy: bool = True
    doublings: bool = False
    of_teacher: bool = False


_LOSS = _Panel(
    "loss",
    {
        "training": ("loss", "train_loss", "train_loss_step", "train_loss_epoch"),
        "validation": ("validation_loss", "validation_loss_epoch"),
    },
)
_PANELS = (
    _Panel("effective rank", {"": ("effective_rank", "rankme")}),
    _Panel("std of the embedding", {"": ("embedding_std", "std_mean")}),
    _Panel("mean cosine of two cells", {"": ("mean_cosine", "cosine")}),
    _Panel("cosine of student and teacher", {"": ("teacher_cosine",)}, of_teacher=True),
    _Panel("learning rate", {"": ("learning_rate",)}, noisy=False),
    _Panel("momentum of the teacher", {"": ("momentum",)}, noisy=False, of_teacher=True),
)


def training(
    model_or_history: object,
    *,
    ncols: int | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> Drawn | None:
    """Draw the course of a training: loss, its ratio to that of knowing nothing, effective rank, spread, similarity.

    Where a loss ratio stays at 1, no more has been learned than the mean of what is predicted (for tokens, that of each
    gene); where views of one neighborhood stay as spread as views of all (``objective="lejepa"``), nothing is told from
    what is visible. An effective rank that falls towards 1 with a mean cosine that rises towards 1 is collapse.

    Parameters
    ----------
    model_or_history
        A trained model, or its ``history``: a mapping of metric names to data frames or series with one column,
        indexed by step or epoch. Only metrics that are there are drawn; lines of many points are drawn faintly under
        their running mean. A model's objective says what its ratios compare; of a mapping all share one panel.
    ncols
        Panels in a row; default at most 4.
    ax
        Axes to draw in, where one metric is there. ``None``: a new figure.
    save, show
        As in :func:`scjepa.pl.niches`.

    Returns
    -------
    matplotlib.axes.Axes or list of them or None
        One for each metric that is there, where they are not shown.

    Raises
    ------
    ValueError
        If there is no history, or none of the metrics known is in it.
    """
    history = _history(model_or_history)
    panels_ = (_LOSS, *_ratio_panels(model_or_history, history), *_PANELS)
    momentum = _finite(history, ("momentum",))
    alone = momentum is not None and (momentum == 0).all()  # LeJEPA's target is a copy of its one encoder
    shown = [panel for panel in panels_ if not (alone and panel.of_teacher)]
    drawn = [(panel, lines) for panel in shown if (lines := _lines(panel, history))]
    if not drawn:
        known = ", ".join(keys[0] for panel in panels_ for keys in panel.lines.values())
        raise ValueError(f"history has none of the metrics to draw; it has {list(history)}, known are: {known}.")
    if ax is not None and len(drawn) > 1:
        raise ValueError(f"ax holds one panel, and {len(drawn)} metrics are there. Leave ax out.")
    axes = [ax] if ax is not None else list(blocks(len(drawn), 1, *_COURSE, ncols)[1].flat)
    for (panel, lines), own in zip(drawn, axes, strict=True):
        _draw(own, panel, lines)
    return finish(axes[0] if len(axes) == 1 else axes, save, show, given=ax)


def _history(model_or_history: object) -> Mapping[str, ArrayLike]:
    history = model_or_history if isinstance(model_or_history, Mapping) else getattr(model_or_history, "history", None)
    if not history:
        raise ValueError("There is no training history. Train first: model.train()")
    return history


def _ratio_panels(model_or_history: object, history: Mapping[str, object]) -> list[_Panel]:
    """Return the panels of ratios, as the model's objective has them; where that is not known, one panel for all."""
    objective = getattr(getattr(model_or_history, "module", None), "objective", None)
    known = getattr(objective, "ratios", {})
    panels_: dict[str, _Panel] = {}
    for name in dict.fromkeys([*known, *(key.removesuffix(_RATIO) for key in history if key.endswith(_RATIO))]):
        title, line, at_one, doublings = "loss / loss of knowing nothing", name, "nothing is learned", True
        if name in known:
            _, line, title, at_one, doublings = known[name]
        panel = panels_.setdefault(title, _Panel(title, {}, level=(1.0, at_one), doublings=doublings))
        panels_[title] = replace(panel, lines={**panel.lines, line: (f"{name}{_RATIO}",)})
    return list(panels_.values())


def _lines(panel: _Panel, history: Mapping[str, ArrayLike]) -> dict[str, pd.Series]:
    """Return the lines of a panel that the history holds."""
    found = {name: _finite(history, keys) for name, keys in panel.lines.items()}
    return {name: line for name, line in found.items() if line is not None}


def _finite(history: Mapping[str, ArrayLike], keys: tuple[str, ...]) -> pd.Series | None:
    """Return what the history holds under the first of the keys that has finite numbers, these alone."""
    for key in keys:
        if key in history:
            values = history[key]
            line = values.iloc[:, 0] if isinstance(values, pd.DataFrame) else pd.Series(values)
            line = pd.to_numeric(line).replace([np.inf, -np.inf], np.nan).dropna()
            if len(line):
                return line
    return None


def _draw(ax: Axes, panel: _Panel, lines: Mapping[str, pd.Series]) -> None:
    units = [line.index.name or "step" for line in lines.values()]
    named = []
    for number, (name, line) in enumerate(lines.items()):
        # Steps and epochs do not share an axis: a second unit goes on top.
        own = ax if units[number] == units[0] else ax.twiny()
        own.set_xlabel(units[number], fontsize=8)
        own.tick_params(labelsize=8)
        color = _COLORS[number]
        if panel.noisy and len(line) >= _SMOOTH_FROM:
            own.plot(line.index, line, color=color, alpha=0.25, linewidth=0.8)
            line = line.rolling(len(line) // 20, center=True, min_periods=1).mean()
        drawn = own.plot(line.index, line, color=color, label=name, marker="o" if len(line) < 3 else None)
        named += drawn if name else []
    if panel.level is not None:
        height, meaning = panel.level
        named.append(ax.axhline(height, color="0.4", linestyle=":", label=meaning))
    if panel.doublings:
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if named:
        ax.legend(handles=named, frameon=False, fontsize=8)
    ax.set_title(panel.title, fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
