"""Options in dataclasses: changed by name, with the nearest name where one is not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any, TypeVar

T = TypeVar("T")

AUTO = "auto"
"""The value of an option that is decided from the data when a model is made."""


def unknown_name(kind: str, name: object, known: Any) -> str:
    """Return the sentence of an error about a name that is not known, with the nearest that is."""
    known = sorted(map(str, known))
    near = get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}."


def override(config: Any, changes: Any) -> Any:
    """Return the dataclass ``config`` with ``changes``: a dataclass of its type, or a mapping of names to values."""
    if isinstance(changes, type(config)):
        return changes
    if not isinstance(changes, Mapping):
        raise TypeError(
            f"Expected a {type(config).__name__} or a mapping of its options, found {type(changes).__name__}."
        )
    known = {f.name: getattr(config, f.name) for f in fields(config)}
    for name in changes:
        if name not in known:
            raise ValueError(unknown_name(f"option of {type(config).__name__}", name, known))
    nested = {
        name: override(known[name], value) if hasattr(known[name], "__dataclass_fields__") else value
        for name, value in changes.items()
    }
    return replace(config, **nested)


def from_registry(kind: str, registry: Mapping[str, T], name: str) -> T:
    """Return the entry ``name`` of a registry.

    Raises
    ------
    ValueError
        If there is none; the message has the nearest name.
    """
    if name not in registry:
        raise ValueError(unknown_name(kind, name, registry))
    return registry[name]
