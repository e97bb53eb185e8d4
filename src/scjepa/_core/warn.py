"""Warnings that point at the user's line, however deep in the package they are raised."""

from __future__ import annotations

import sys
import warnings

_PASSED = frozenset({"scjepa", "lightning", "scvi", "torch", "sklearn", "contextlib", "functools"})
"""Packages whose frames are passed over: ours, and those that call us back or wrap what we offer."""


def warn(message: str) -> None:
    """Give a ``UserWarning`` with the file and line of the code that called the package.

    ``stacklevel`` counts frames, so it goes wrong whenever a function is wrapped; and Python below 3.12 cannot skip
    frames by their file.

    Parameters
    ----------
    message
        What was found, and what to do.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _PASSED:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
