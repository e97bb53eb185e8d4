"""The course of a training, metric by metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import ArrayLike

from scjepa.pl.figure import Drawn, blocks, finish

_PANEL = (3.2, 2.4)
"""Width and height of a panel in inches."""

_COLORS = ("C0", "C1", "C4", "C7")
"""Blue, orange, purple, gray: told apart by color-blind readers too."""

_RATIO = "_ratio"
"""How the names of ratios of losses end."""

_SMOOTH_FROM = 100
"""Points from which a line gets a running mean."""


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
    axes = [ax] if ax is not None else list(blocks(len(drawn), 1, *_PANEL, ncols)[1].flat)
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
