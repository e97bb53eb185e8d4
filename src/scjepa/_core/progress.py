"""How far a long loop is: one bar for all of them, with rate and time left, in a terminal or a notebook."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from scjepa._core.settings import settings

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")

DELAY = 2.0
"""Seconds before a bar appears: what takes less needs none."""


def shows_progress(asked: bool | None = None) -> bool:
    """Return whether bars are shown.

    Parameters
    ----------
    asked
        What the call says. ``None``: what ``scjepa.settings.progress_bar`` says; where that is ``None`` too, they are
        shown in a terminal and in a notebook, unless scvi-tools was told to be quiet (``scvi.settings.verbosity``
        above ``logging.INFO``).
    """
    wanted = settings.progress_bar if asked is None else asked
    if wanted is not None:
        return wanted
    scvi = sys.modules.get("scvi")
    quiet = scvi is not None and scvi.settings.verbosity > logging.INFO
    return not quiet and (is_notebook() or sys.stderr.isatty())


def is_notebook() -> bool:
    """Return whether the code runs in a notebook's kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def progress_bar(
    total: int | None, what: str, unit: str, *, asked: bool | None = None, initial: int = 0, delay: float = DELAY
) -> tqdm:
    """Return a bar that is shown as :func:`shows_progress` says; whoever takes steps calls its ``update``.

    Parameters
    ----------
    total
        Steps in all; ``None`` where that is not known.
    what
        What is done, before the bar.
    unit
        What a step is, such as ``"cells"``.
    asked
        Whether the call asks for a bar.
    initial
        Steps that were taken before.
    delay
        Seconds before it appears.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a notebook without ipywidgets, in which tqdm writes text
        from tqdm.auto import tqdm
    return tqdm(
        total=total,
        desc=what,
        unit=f" {unit}",
        initial=initial,
        delay=delay,
        disable=not shows_progress(asked),
        mininterval=0.2 if is_notebook() or sys.stderr.isatty() else 5.0,  # a log file is not to be flooded
        smoothing=0.1,
    )


def with_progress(
    steps: Iterable[T], total: int | None, what: str, unit: str, *, asked: bool | None = None
) -> Iterator[T]:
    """Yield the steps of a loop, with a bar of how many are done."""
    with progress_bar(total, what, unit, asked=asked) as bar:
        for step in steps:
            yield step
            bar.update()
