"""Which methods take part, each in which configurations: names, one's own functions, and axes of an ablation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anndata import AnnData

from scjepa._core.options import unknown_name
from scjepa._core.plain import plain
from scjepa._core.warn import warn
from scjepa.benchmark._code import code_of
from scjepa.benchmark._given import part_of
from scjepa.benchmark.methods import METHODS, Method
from scjepa.stjepa.config import STJEPAConfig, resolve

OURS = "stjepa"

UNTRAINED = "untrained"

CONTROLS = (UNTRAINED, "linear", "pooled_input", "neighborhood_pca", "section_zscored_pca", "harmony_pca")

GROUPS: Mapping[str, tuple[str, ...]] = {
    "all": tuple(name for name in METHODS if name != "precomputed"),
    "controls": CONTROLS,
    "peers": tuple(name for name in METHODS if name not in (OURS, "precomputed", *CONTROLS)),
}
"""Names that stand for several methods."""

Methods = str | Sequence[str] | Mapping[str, Any]
"""A name, several, or a mapping from names to one's own function, or to options of a method of that name."""

Axes = Mapping[str | tuple[str, ...], Sequence[Any]]
"""Values of an option such as ``"tokens.n_tokens"``; of several options at once, a tuple of names and of values."""

_UNTOLD = ("preset", "accelerator", "genes", "batch_size")
"""Options that are no part of a configuration's name: told otherwise, or without influence on the result."""

SETTINGS = "settings"
"""Option of every method: the one of its settings that takes part, where all would take too long."""

PARTS = ("tokens", "encoder", "masking", "objective", "training")


@dataclass(frozen=True)
class Entry:
    """A method with its settings and its configuration.

    Attributes
    ----------
    name
        Name in tables.
    method
        The method.
    settings
        One of the method's.
    configuration
        The options that were chosen, in words; ``"-"`` where there are none.
    options
        The options.
    code
        Checksum of one's own function (:func:`~scjepa.benchmark._code.code_of`), so that it is run anew when it was
        changed; ``""`` for scjepa's methods.
    """

    name: str
    method: Method
    settings: str
    configuration: str = "-"
    options: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""

    @property
    def takes_resolution(self) -> bool:
        """Whether it makes clusters at resolutions of Leiden, and is given those of the scoring."""
        return "resolutions" in self.method.options and not {"resolution", "resolutions"} & set(self.options)


@dataclass(frozen=True)
class Level:
    """A value of an axis, and the configuration that has it.

    Attributes
    ----------
    axis, value
        In words.
    configuration
        As in the results.
    default
        Whether it is the value of the configuration that all others are changes of.
    untrained
        Configuration of the untrained encoder at this level: what of the level training alone reads is no part of it.
        ``""`` where it takes no part.
    """

    axis: str
    value: str
    configuration: str
    default: bool
    untrained: str = ""


def entries_of(
    methods: Methods, *, preset: Any = "base", options: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Entry]:
    """Return the methods that take part, each in all its settings.

    Raises
    ------
    ValueError
        If a method or an option is not known.
    TypeError
        If something is neither a function nor options, or a function has no name.
    """
    chosen = dict(methods) if isinstance(methods, Mapping) else dict.fromkeys(_names(methods))
    for name in options or {}:
        if name not in METHODS:
            raise ValueError(unknown_name("method", name, METHODS))
    entries: list[Entry] = []
    for name, what in chosen.items():
        if callable(what):
            entries.append(_own(name, what))
        elif what is None or isinstance(what, Mapping):
            for known in _names([name]):
                entries += _known(known, preset, {**((options or {}).get(known, {})), **(what or {})})
        else:
            raise TypeError(f"methods[{name!r}] is a {type(what).__name__}; give a function, or a mapping of options.")
    warn_of_options(options or {}, [entry.name for entry in entries])
    return list({(e.name, e.settings, e.configuration): e for e in entries}.values())


def warn_of_options(options: Mapping[str, Any], names: Sequence[str]) -> None:
    """Warn of options of methods that take no part."""
    for name in options:
        if name not in names:
            there = ", ".join(dict.fromkeys(names))
            warn(f"options has some for {name!r}, which takes no part; the methods are {there}.")


def _names(methods: str | Sequence[str]) -> list[str]:
    found: list[str] = []
    if callable(methods) or not isinstance(methods, Iterable):
        raise TypeError(_unnamed(methods))
    for name in [methods] if isinstance(methods, str) else methods:
        if not isinstance(name, str):
            raise TypeError(_unnamed(name))
        if name not in GROUPS and name not in METHODS:
            raise ValueError(unknown_name("method", name, (*METHODS, *GROUPS)))
        found += GROUPS.get(name, (name,))
    if not found:
        raise ValueError(f"Name a method or more: {', '.join((*GROUPS, *METHODS))}.")
    return list(dict.fromkeys(found))


def _unnamed(method: Any) -> str:
    if callable(method):
        name = getattr(method, "__name__", type(method).__name__)
        return f"methods has the function {name} without a name in tables; give it one: methods={{'mine': {name}}}."
    return f"methods has {method!r}, a {type(method).__name__}; give names of methods, or a mapping from names."


def _known(name: str, preset: Any, options: Mapping[str, Any]) -> Iterator[Entry]:
    method = METHODS[name]
    given = plain(options, arrays=True)
    chosen = _settings_of(name, given.pop(SETTINGS, None))
    for option in given:
        if option not in method.options:
            raise ValueError(unknown_name(f"option of {name!r}", option, (*method.options, SETTINGS)))
    if "preset" in method.options:
        given.setdefault("preset", preset)
        resolve(given["preset"], **{part: given[part] for part in PARTS if part in given})
    for settings in chosen:
        yield Entry(name, method, settings, told(given), given)


def _settings_of(name: str, wanted: Any) -> tuple[str, ...]:
    """Return the settings a method takes part in: all of them where none is named."""
    known = METHODS[name].settings
    if wanted is None:
        return known
    if wanted not in known:
        raise ValueError(unknown_name(f"settings of {name!r}", str(wanted), known))
    return (wanted,)


def told(options: Mapping[str, Any]) -> str:
    """Return options in words: the preset first, then ``part.option=value``."""
    preset = options.get("preset")
    words = [] if preset is None else [preset if isinstance(preset, str) else "own configuration"]
    for name, value in options.items():
        if name in _UNTOLD:
            continue
        if isinstance(value, Mapping):
            words += [f"{name}.{key}={_word(part)}" for key, part in value.items()]
        else:
            words.append(f"{name}={_word(value)}")
    return ", ".join(words) or "-"


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _own(name: str, function: Callable[..., Any]) -> Entry:
    """Return one's own function as a method.

    It is called with AnnData and, where it has parameters of these names, ``seed``, ``n_niches`` and ``genes``.
    """
    if name in GROUPS or name in METHODS:
        raise ValueError(f"{name!r} is the name of a method that is there. Give your function another name.")
    parameters = inspect.signature(function).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    wanted = [key for key in ("seed", "n_niches", "genes") if key in parameters]
    if inspect.Parameter.VAR_KEYWORD in kinds:
        wanted = ["seed", "n_niches"]

    def run(adata: AnnData, **arguments: Any) -> dict[str, Any]:
        cells = adata.obs_names  # as they are before the function, which may filter its copy
        return part_of(function(adata, **{key: arguments[key] for key in wanted if key in arguments}), cells)

    about = (inspect.getdoc(function) or "one's own function").split("\n")[0]
    options = ("genes",) if "genes" in wanted else ()
    method = Method(about, "nothing", run, settings=("own",), options=options, seeded="seed" in wanted, packages=())
    return Entry(name, method, "own", code=code_of(function))


def ablation(entries: Sequence[Entry], axes: Axes) -> tuple[list[Entry], list[Level]]:
    """Return the entries with ST-JEPA at every level of every axis beside them, and the levels.

    One axis is changed at a time, from the configuration that takes part anyway, the default: a level of every axis,
    named or not, and run once. The untrained encoder, where it takes part, is that of the level too.

    Raises
    ------
    ValueError
        If ST-JEPA takes no part, or an axis or a value is none that it can have.
    TypeError
        If an axis has no list of values.
    """
    if not isinstance(axes, Mapping):
        raise TypeError(f"axes is a {type(axes).__name__}; give values by option: {{'tokens.n_tokens': [16, 32]}}.")
    if not axes:
        return list(entries), []
    base = next((entry for entry in entries if entry.name == OURS), None)
    if base is None:
        raise ValueError(f"Axes are those of {OURS!r}: name it among the methods.")
    control = next((entry for entry in entries if entry.name == UNTRAINED), None)
    default = _configured(base.options)
    found, levels = [base], []
    for axis, values in axes.items():
        names = (axis,) if isinstance(axis, str) else tuple(axis)
        changed = []
        if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
            raise TypeError(f"The axis {axis!r} needs a list of values, found {values!r}: {{{axis!r}: [{values!r}]}}.")
        for value in plain(list(values), arrays=True):
            own = (value,) if isinstance(axis, str) or not isinstance(value, list | tuple) else tuple(value)
            if len(own) != len(names):
                raise ValueError(f"The axis {names} needs {len(names)} values each, found {value!r}.")
            changed.append((own, _changed(base, dict(zip(names, own, strict=True)))))
        if all(entry is not base for _, entry in changed):
            changed.insert(0, (tuple(_value(default, name) for name in names), base))
        for own, entry in changed:
            beside = None if control is None else _untrained(control, entry)
            found += [entry] if beside is None else [entry, beside]
            told_of = (" × ".join(names), " × ".join(map(_word, own)), entry.configuration, entry is base)
            levels.append(Level(*told_of, "" if beside is None else beside.configuration))
    every = {(e.name, e.settings, e.configuration): e for e in (*entries, *found)}
    return list(every.values()), levels


def _value(whole: STJEPAConfig, name: str) -> Any:
    """Return the value of an option such as ``"tokens.n_tokens"``."""
    part, dot, option = name.partition(".")
    if part not in PARTS or not dot:
        raise ValueError(f"An axis is PART.OPTION, such as tokens.n_tokens, of {', '.join(PARTS)}; found {name!r}.")
    if not hasattr(getattr(whole, part), option):
        raise ValueError(unknown_name(f"option of {part!r}", option, vars(getattr(whole, part))))
    return getattr(getattr(whole, part), option)


def _untrained(control: Entry, entry: Entry) -> Entry:
    """Return the encoder of an entry, untrained: with its preset, tokens and encoder, without what training reads."""
    read = {part: entry.options[part] for part in PARTS if part in entry.options and part in control.method.options}
    rest = {name: value for name, value in control.options.items() if name not in PARTS}
    options = {**rest, "preset": entry.options["preset"], **read}
    return Entry(control.name, control.method, control.settings, told(options), options)


def _configured(options: Mapping[str, Any]) -> STJEPAConfig:
    return resolve(options["preset"], **{part: options[part] for part in PARTS if part in options})


def _changed(base: Entry, changes: Mapping[str, Any]) -> Entry:
    """Return an entry with options changed; the entry itself where it has these values already."""
    whole = _configured(base.options)
    options = {**base.options}
    for name, value in changes.items():
        _value(whole, name)  # raises where there is no such option
        part, _, option = name.partition(".")
        options[part] = {**dict(options.get(part) or {}), option: value}
    if _configured(options) == whole:  # raises for a value that cannot be, before anything runs
        return base
    extra = ", ".join(f"{name}={_word(value)}" for name, value in changes.items())
    rest = {name: value for name, value in base.options.items() if name not in PARTS}
    kept = told({**rest, **{p: base.options[p] for p in PARTS if p in base.options}})
    return Entry(base.name, base.method, base.settings, f"{kept}, {extra}", options)
