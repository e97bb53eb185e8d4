"""Ranges of options, with errors that name the option."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import TypeAlias

Check: TypeAlias = Callable[[str, object], None]
"""Raises where a value, of that name, is out of its range."""


def _check(is_right: Callable[[float], bool], range_: str) -> Check:
    def check(name: str, value: object) -> None:
        if not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, found {value!r}.")
        if not is_right(float(value)):
            raise ValueError(f"{name} must {range_}, found {value!r}.")

    return check


POSITIVE = _check(lambda value: value > 0, "be positive")
NOT_NEGATIVE = _check(lambda value: value >= 0, "not be negative")


def at_least(low: float) -> Check:
    """Return a check of numbers of ``low`` or more."""
    return _check(lambda value: value >= low, f"be {low} or more")


def within(low: float, high: float) -> Check:
    """Return a check of numbers in ``[low, high]``."""
    return _check(lambda value: low <= value <= high, f"lie in [{low}, {high}]")


def above(low: float, high: float) -> Check:
    """Return a check of numbers in ``(low, high]``."""
    return _check(lambda value: low < value <= high, f"lie in ({low}, {high}]")


def between(low: float, high: float) -> Check:
    """Return a check of numbers in ``(low, high)``."""
    return _check(lambda value: low < value < high, f"lie strictly between {low} and {high}")


def one_of(*choices: str) -> Check:
    """Return a check of names."""

    def check(name: str, value: object) -> None:
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}; found {value!r}.")

    return check


def check_fields(owner: object, check: Check, *names: str) -> None:
    """Check fields of a dataclass by name."""
    for name in names:
        check(f"{type(owner).__name__}.{name}", getattr(owner, name))
