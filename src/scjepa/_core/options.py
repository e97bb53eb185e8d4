"""Configurations as frozen dataclasses, and registries of what can be chosen by name."""

from __future__ import annotations

import typing
from collections import UserDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import import_module
from typing import Any, Self, TypeVar, cast

from scjepa._core.checks import Check
from scjepa._core.meaning import did_you_mean
from scjepa._core.plain import Facts, take_plain
from scjepa._core.warn import warn

T = TypeVar("T")
ConfigT = TypeVar("ConfigT", bound="Config")

AUTO = "auto"
"""The value of an option that is decided from the data when a model is made."""

Idle = tuple[str, Callable[[Any, Any], bool]]
"""Why an option does nothing, and whether it does nothing in a part (first argument) of a whole configuration (second).

The reason may name ``{part}``, the part's name, and ``{config}``, the configuration."""


class UnknownNameError(ValueError, KeyError):
    """A name that is not known."""

    __str__ = Exception.__str__  # a KeyError would show its message in quotes


def unknown_name(kind: str, name: object, known: Iterable[object]) -> str:
    """Return the sentence of an error about a name that is not known, with the nearest that is."""
    names = sorted(map(str, known))
    return f"Unknown {kind} {name!r}.{did_you_mean(name, names)} Known: {', '.join(names)}."


class Registry(UserDict[str, T]):
    """Things by name; a name that is not known is a ``ValueError`` that tells the nearest.

    Parameters
    ----------
    kind
        What the things are, for errors.
    entries
        The things.
    """

    def __init__(self, kind: str, entries: Mapping[str, T]):
        self.kind = kind
        super().__init__(entries)

    def __missing__(self, name: str) -> T:
        raise UnknownNameError(unknown_name(self.kind, name, self.data))


def imported(entry: str) -> Any:
    """Return what ``"package.module:Name"`` names."""
    module, _, name = entry.partition(":")
    return getattr(import_module(module), name)


def option(default: T, check: Check | None = None, *, idle: Idle | None = None) -> T:
    """Return a field of a :class:`Config` with a default, a check of its range, and when it does nothing."""
    return cast(T, field(default=default, metadata={"check": check, "idle": idle}))


@dataclass(frozen=True)
class Config:
    """Base of frozen dataclasses of options; each value has the type that is annotated and is checked by its field."""

    def __post_init__(self) -> None:
        take_plain(self)
        for each in fields(self):
            check, value = each.metadata.get("check"), getattr(self, each.name)
            if check is not None and value is not None:
                check(f"{type(self).__name__}.{each.name}", value)

    def to_dict(self) -> Facts:
        """Return nested plain dictionaries, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Build options from what :meth:`to_dict` gave; options that were not there yet take their defaults."""
        return cls().changed(values)

    def changed(self, changes: object) -> Self:
        """Return these options with changes: a dataclass of this type, or a mapping of names to values.

        Raises
        ------
        ValueError
            If a name is not known, or a value is out of its range.
        TypeError
            If the changes are something else.
        """
        if isinstance(changes, type(self)):
            return changes
        if not isinstance(changes, Mapping):
            raise TypeError(
                f"Expected a {type(self).__name__} or a mapping of its options, found {type(changes).__name__}."
            )
        known = {each.name for each in fields(self) if each.init}
        for name in changes:
            if name not in known:
                raise ValueError(unknown_name(f"option of {type(self).__name__}", name, known))
        parts = {name: getattr(self, name) for name in changes}
        values = {n: part.changed(changes[n]) if isinstance(part, Config) else changes[n] for n, part in parts.items()}
        return replace(self, **values)

    @classmethod
    def option_types(cls) -> Facts:
        """Return the types of the options by name."""
        hints = typing.get_type_hints(cls)
        return {each.name: hints[each.name] for each in fields(cls)}

    @classmethod
    def option_paths(cls) -> list[str]:
        """Return the names of the options, those of parts as ``"part.option"``."""
        found = []
        for name, kind in cls.option_types().items():
            inner = kind.option_paths() if isinstance(kind, type) and issubclass(kind, Config) else None
            found += [name] if inner is None else [f"{name}.{path}" for path in inner]
        return found


def resolve_preset(preset: str | ConfigT, presets: Mapping[str, ConfigT], parts: Mapping[str, object]) -> ConfigT:
    """Return the configuration of a preset, or a whole configuration, with those parts changed that are not ``None``.

    Raises
    ------
    ValueError
        If the preset, a part or an option is not known, or a value is out of its range.

    Warns
    -----
    UserWarning
        If an option that is named does nothing beside the others.
    """
    config = preset if isinstance(preset, Config) else presets[preset]
    changes = {name: part for name, part in parts.items() if part is not None}
    changed = config.changed(changes)
    _warn_of_idle(changed, changed, changes)
    return changed


def _warn_of_idle(config: Config, own: Config, changes: Mapping[str, object], part: str = "") -> None:
    """Warn of options that are named in changes and do nothing; one that is set to 0 is meant to do nothing."""
    reasons: dict[str, list[str]] = {}
    for each in fields(own):
        value, change, name = getattr(own, each.name), changes.get(each.name), f"{part}{each.name}"
        if isinstance(value, Config) and isinstance(change, Mapping):
            _warn_of_idle(config, value, change, f"{name}.")
        why, when = each.metadata.get("idle") or ("", None)
        if each.name in changes and value != 0 and when is not None and when(own, config):
            reasons.setdefault(why.format(part=part.rstrip("."), config=config), []).append(name)
    for why, names in reasons.items():
        warn(f"{', '.join(names)} does nothing here, for {why}.")
