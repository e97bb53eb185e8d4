"""Ranges of the options of a dataclass, with errors that name the option."""

from __future__ import annotations

from numbers import Real
from typing import Any


def number(owner: object, name: str) -> Any:
    """Return the value of an option that is one number."""
    value = getattr(owner, name)
    if not isinstance(value, Real):
        raise TypeError(f"{type(owner).__name__}.{name} must be a number, found {value!r}.")
    return value


def positive(owner: object, *names: str) -> None:
    """Raise where an option is no number above 0."""
    for name in names:
        value = number(owner, name)
        if isinstance(value, bool) or not value > 0:
            raise ValueError(f"{type(owner).__name__}.{name} must be positive, found {value!r}.")


def within(owner: object, low: float, high: float, *names: str) -> None:
    """Raise where an option does not lie in ``[low, high]``."""
    for name in names:
        value = number(owner, name)
        if not low <= value <= high:
            raise ValueError(f"{type(owner).__name__}.{name} must lie in [{low}, {high}], found {value!r}.")


def one_of(owner: object, name: str, choices: tuple[str, ...]) -> None:
    """Raise where an option is none of ``choices``."""
    value = getattr(owner, name)
    if value not in choices:
        raise ValueError(f"{type(owner).__name__}.{name} must be one of {', '.join(choices)}; found {value!r}.")
