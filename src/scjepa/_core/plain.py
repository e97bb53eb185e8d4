"""NumPy's and torch's scalars as Python's: what users sweep over with ``np.arange``, and what JSON cannot hold."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

import numpy as np

Facts = dict[str, Any]
"""What JSON can hold, by name."""


def plain(value: Any, *, arrays: bool = False) -> Any:
    """Return ``value`` with Python's numbers, truth values and text in the place of NumPy's and torch's.

    Lists, tuples and mappings are gone through. All else is returned as it is.

    Parameters
    ----------
    arrays
        Whether arrays become lists; without dimensions they are numbers in any case.
    """
    if isinstance(value, np.floating):
        return float(value)  # item() of a long double is a long double
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and (arrays or value.ndim == 0)):
        return plain(value.tolist(), arrays=arrays)
    if type(value).__module__.partition(".")[0] == "torch" and getattr(value, "ndim", None) == 0:
        return value.item()
    if isinstance(value, Mapping):
        return {plain(key): plain(part, arrays=arrays) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(part, arrays=arrays) for part in value)
    return value


def whole(name: str, value: object, least: int | None = None) -> int:
    """Return ``value`` as an int.

    Parameters
    ----------
    name
        What it is called in an error.
    value
        A whole number, of whatever type; 20.0 is one.
    least
        Smallest number that will do.

    Raises
    ------
    ValueError
        If it is none, or is too small.
    """
    found = plain(value)
    number = float(found) if isinstance(found, int | float) and not isinstance(found, bool) else math.nan
    if not number.is_integer() or (least is not None and number < least):
        bound = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name} must be a whole number{bound}, found {value!r}.")
    return int(found)


def seed_of(value: object) -> int:
    """Return a seed as an int; a number below 0, or none, is a ``ValueError``."""
    return whole("seed", value, least=0)


def take_plain(owner: Any) -> None:
    """Take the fields of a frozen dataclass as Python's own values, each of the type that it is annotated with.

    Fields of other types than numbers, truth values, text and tuples of them are left alone, and ranges are the
    dataclass's to check.

    Raises
    ------
    TypeError
        If a value is of another type; the message names the field.
    """
    hints = _hints(type(owner))  # type: ignore[arg-type]
    for field in fields(owner):
        value = _fitted(
            f"{type(owner).__name__}.{field.name}", plain(getattr(owner, field.name), arrays=True), hints[field.name]
        )
        object.__setattr__(owner, field.name, value)


@lru_cache(maxsize=64)
def _hints(cls: type) -> Facts:
    return typing.get_type_hints(cls)


def _fitted(name: str, value: Any, hint: Any) -> Any:
    """Return ``value`` as one of the types that ``hint`` names."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if is_union else (hint,)
    if value is None and type(None) in kinds:
        return None
    sequence = next((kind for kind in kinds if typing.get_origin(kind) is tuple), None)
    if sequence is not None and isinstance(value, list | tuple):
        inner = typing.get_args(sequence)[0]
        return tuple(_fitted(name, part, inner) for part in value)
    if bool in kinds:
        if value not in (True, False):
            raise TypeError(f"{name} must be True or False, found {value!r}.")
        return bool(value)
    others = {kind for kind in kinds if kind is not type(None) and kind is not sequence}
    if others and others <= {int, float}:
        return _number(name, value, only_whole=float not in others)
    if others == {str}:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be text, found {value!r}.")
        return str(value)
    return value


def _number(name: str, value: Any, *, only_whole: bool) -> Any:
    if not isinstance(value, int | float) or (isinstance(value, float) and math.isnan(value)):
        raise TypeError(f"{name} must be a number, found {value!r}.")
    if not only_whole or isinstance(value, int):
        return value
    if not value.is_integer():
        raise TypeError(f"{name} must be a whole number, found {value!r}.")
    return int(value)
