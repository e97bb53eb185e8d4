"""Which methods take part, each in which configuration."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from scjepa._core.options import unknown_name
from scjepa._core.plain import plain
from scjepa.benchmark._plan import _word, code_of, warn_of_options
from scjepa.benchmark.cells._methods import (
    BATCHES,
    CELL_METHODS,
    DROPOUT,
    FINETUNE,
    GROUPS,
    OWN,
    PARTS,
    PRETRAINED,
    TASKS,
    UNTRAINED,
    CellMethod,
)
from scjepa.benchmark.cells._training import CellTraining
from scjepa.celljepa.config import CELL_PRESETS, CellJEPAConfig, resolve_cells

Methods = str | Sequence[str] | Mapping[str, Any]
"""A name, several, or a mapping from names to one's own function, or to options of a method of that name."""

_EMBEDDING = ("tokens", "encoder")
_TRAINING = (*_EMBEDDING, "masking", "objective", "training")


@dataclass(frozen=True)
class CellEntry:
    """A method with its configuration.

    Attributes
    ----------
    name
        Name in tables.
    method
        The method.
    options
        What was chosen, without what the configuration holds.
    config
        Of Cell-JEPA's models.
    function
        One's own.
    """

    name: str
    method: CellMethod
    options: Mapping[str, Any] = field(default_factory=dict)
    config: CellJEPAConfig | None = None
    function: Callable[..., Any] | None = None

    @property
    def settings(self) -> str:
        """How it comes by what it knows."""
        return self.method.settings

    def parts(self, task: str) -> tuple[str, ...]:
        """Return the parts of the configuration that bear on a task."""
        parts = _EMBEDDING if self.settings == UNTRAINED else _TRAINING
        # Fine-tuning has an objective and a mask of its own, and what pretraining used is in its starting point.
        return (*parts, "finetuning") if task == FINETUNE else parts

    def configuration(self, task: str) -> str:
        """Return what was chosen for a task in words; ``"-"`` where nothing was."""
        words = [] if self.config is None else [told(self.config, self.parts(task))]
        return ", ".join([*words, *(f"{name}={_word(value)}" for name, value in self.options.items())]) or "-"

    def code(self, task: str) -> str:
        """Return a checksum of what a task's result rests on beside scjepa's code."""
        if self.function is not None:
            return code_of(self.function)
        if self.config is None:
            return ""
        own, files = chosen(self.config, self.parts(task)), self.files()
        return checksum([own, files] if files else own)

    def files(self) -> dict[str, str]:
        """Return a checksum of each file that an option names: what it holds may be other modules tomorrow."""
        paths = {
            name: value for name, value in self.options.items() if isinstance(value, str) and Path(value).is_file()
        }
        return {name: hashlib.sha256(Path(path).read_bytes()).hexdigest()[:8] for name, path in paths.items()}

    def takes_part(self, task: str) -> bool:
        """Whether it can do a task."""
        return task in self.method.tasks

    def seeded(self, task: str) -> bool:
        """Whether a task's result depends on the seed, be it that of the thinning."""
        return self.function is None or task == DROPOUT or self._takes_seed

    @cached_property
    def _takes_seed(self) -> bool:
        return self.function is not None and "seed" in inspect.signature(self.function).parameters


def chosen(config: CellJEPAConfig, parts: Sequence[str]) -> dict[str, Any]:
    """Return some parts of a configuration as plain values."""
    return {name: part for name, part in asdict(config).items() if name in parts}


def checksum(values: Any) -> str:
    """Return a short checksum of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:8]


def told(config: CellJEPAConfig, parts: Sequence[str]) -> str:
    """Return the nearest preset, and what differs from it: ``"demo, training.max_steps=20"``."""
    own = _flat(chosen(config, parts))
    differ = {}
    for name, preset in CELL_PRESETS.items():
        theirs = _flat(chosen(preset, parts))
        differ[name] = [f"{key}={_word(value)}" for key, value in own.items() if theirs[key] != value]
    nearest = min(differ, key=lambda name: len(differ[name]))
    return ", ".join([nearest, *differ[nearest]])


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def entries_of(
    methods: Methods,
    training: CellTraining | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[CellEntry]:
    """Return the methods that take part.

    Raises
    ------
    ValueError
        If a method or an option is not known, or a value cannot be.
    TypeError
        If something is neither a function nor options.
    """
    given = dict(methods) if isinstance(methods, Mapping) else dict.fromkeys(_names(methods))
    for name in options or {}:
        if name not in CELL_METHODS:
            raise ValueError(unknown_name("method", name, CELL_METHODS))
    training = training or CellTraining()
    entries: list[CellEntry] = []
    for name, what in given.items():
        if callable(what):
            entries.append(_own(name, what))
        elif what is None or isinstance(what, Mapping):
            for known in _names([name]):
                own = {**(options or {}).get(known, {}), **(what or {})}
                entries.append(_known(known, training, own))
        else:
            raise TypeError(f"methods[{name!r}] is a {type(what).__name__}; give a function, or a mapping of options.")
    warn_of_options(options or {}, [entry.name for entry in entries])
    return list({entry.name: entry for entry in entries}.values())


def _names(methods: str | Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in [methods] if isinstance(methods, str) else methods:
        if name not in GROUPS and name not in CELL_METHODS:
            raise ValueError(unknown_name("method", name, (*CELL_METHODS, *GROUPS)))
        found += GROUPS.get(name, (name,))
    if not found:
        raise ValueError(f"Name a method or more: {', '.join((*GROUPS, *CELL_METHODS))}.")
    return list(dict.fromkeys(found))


def _own(name: str, function: Callable[..., Any]) -> CellEntry:
    if name in GROUPS or name in CELL_METHODS:
        raise ValueError(f"{name!r} is the name of a method that is there. Give your function another name.")
    about = (inspect.getdoc(function) or "one's own function").split("\n")[0]
    return CellEntry(name, CellMethod(name, about, OWN, ()), function=function)


def _known(name: str, training: CellTraining, given: Mapping[str, Any]) -> CellEntry:
    method = CELL_METHODS[name]
    own = _nested(plain(given, arrays=True))
    for option in own:
        if option not in method.options:
            raise ValueError(unknown_name(f"option of {name!r}", option, method.options))
    if method.settings not in (PRETRAINED, UNTRAINED):
        return CellEntry(name, method, own)
    own_parts = {part: own.pop(part) for part in PARTS if part in own}
    start = own.pop("preset", "modules") if method.modules else training.preset
    # What is said of the preset is said of gene tokens: modules have a preset, and options, of their own.
    steps = [method.changes, own_parts] if method.modules else [training.changes or {}, method.changes, own_parts]
    config = resolve_cells(start)
    for parts in steps:
        config = resolve_cells(config, **parts)
    if method.modules != (config.tokens.unit == "module"):
        kind = "modules" if method.modules else "genes"
        raise ValueError(f"{name!r} has {kind} as tokens, and the preset {start!r} has not. Name another preset.")
    config = training.lengthened(config)
    if isinstance(own.get("modules"), Path):
        own["modules"] = str(own["modules"])
    return CellEntry(name, method, own, config)


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options in which ``"training.max_steps"`` has become ``{"training": {"max_steps": ...}}``."""
    nested: dict[str, Any] = {}
    for name, value in options.items():
        *parts, last = name.split(".")
        place = nested
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = dict(value) if isinstance(value, Mapping) else value
    return nested


def chosen_tasks(tasks: str | Sequence[str], has_batches: bool) -> list[str]:
    """Return the tasks in their order; ``"auto"``: all that the data allow.

    Raises
    ------
    ValueError
        If one is not known, or needs batches where none were named.
    """
    wanted = [tasks] if isinstance(tasks, str) else list(tasks)
    for task in wanted:
        if task not in (*TASKS, "auto"):
            raise ValueError(unknown_name("task", task, (*TASKS, "auto")))
    if BATCHES in wanted and not has_batches:
        raise ValueError(f"The task {BATCHES!r} needs the obs column of batches: batch=... (--batch COLUMN).")
    if "auto" in wanted:
        wanted += [task for task in TASKS if has_batches or task != BATCHES]
    found = [task for task in TASKS if task in wanted]
    if not found:
        raise ValueError(f"Name a task or more: {', '.join(TASKS)}.")
    return found
