"""One comparison: methods × tasks × seeds, whatever the kind of data. Runs are kept, and missing ones made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeAlias, TypeVar

import pandas as pd

from scjepa._core.html import as_html
from scjepa._core.options import unknown_name
from scjepa._core.plain import plain
from scjepa._core.progress import with_progress
from scjepa._core.warn import warn
from scjepa.benchmark import method as registry
from scjepa.benchmark.method import OWN, Arguments, Function, Method, MethodError, Output, Parts
from scjepa.benchmark.outcome import check_options
from scjepa.benchmark.store import Run, RunKey, Scored, Store, source_digest, write_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Methods: TypeAlias = str | Sequence[str] | Arguments
"""A name, several, or a mapping from names to one's own function, or to options of a method of that name."""

Options: TypeAlias = Mapping[str, Arguments]
"""Options of methods by name."""

Say: TypeAlias = Callable[[str], None]
"""Is told, in words, what a comparison does."""

TaskT = TypeVar("TaskT")
EntryT = TypeVar("EntryT", bound="Entry")
EntryT_contra = TypeVar("EntryT_contra", bound="Entry", contravariant=True)
OutputT = TypeVar("OutputT", bound="Output")


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
        Checksum of one's own function (:func:`~scjepa.benchmark.method.code_of`), so that it is run anew when it was
        changed; ``""`` for methods that scjepa knows.
    """

    name: str
    method: Method
    settings: str
    configuration: str = "-"
    options: Arguments = field(default_factory=dict)
    code: str = ""

    @classmethod
    def of(cls, name: str, function: Function, wrap: bool = True) -> Self:
        """Return the entry of one's own function; see :func:`~scjepa.benchmark.method.of_function`."""
        return cls(name, registry.of_function(function, wrap), OWN, code=registry.code_of(function))


class Suite(Protocol[TaskT, EntryT_contra, OutputT]):
    """What a comparison needs to know of a kind of data: implement this for another kind, and hand it to a Study.

    Attributes
    ----------
    name
        ``"sections"`` or ``"cells"``: which methods it knows.
    """

    name: str

    def tasks(self) -> Sequence[TaskT]:
        """Return what methods are asked to do."""

    def plans(self, task: TaskT, entry: EntryT_contra, first: bool) -> bool:
        """Return whether a method is run on a task, with its first seed or with a further one."""

    def key(self, task: TaskT, entry: EntryT_contra, seed: int) -> RunKey:
        """Return what a run is called in tables, and by which it is found again."""

    def code(self, task: TaskT, entry: EntryT_contra) -> str:
        """Return a checksum of what a result rests on beside its key; ``""``: nothing that can change."""

    def run(self, task: TaskT, entry: EntryT_contra, seed: int) -> OutputT:
        """Run a method on a task; a failure is the output's ``error``, or raised."""

    def score(self, task: TaskT, entry: EntryT_contra, output: OutputT) -> Scored:
        """Score what a method gave: tidy rows, and the arrays that figures are drawn from."""


@dataclass
class Study(Generic[TaskT, EntryT, OutputT]):
    """Methods × tasks × seeds of a suite, run where a store does not have them.

    Parameters
    ----------
    suite
        The kind of data.
    entries
        Methods in their configurations.
    seeds
        Number of seeds, or the seeds.
    store
        Where runs are kept.
    say
        Called with a line at each step.
    """

    suite: Suite[TaskT, EntryT, OutputT]
    entries: Sequence[EntryT]
    seeds: int | Sequence[int]
    store: Store
    say: Say | None = None

    def __post_init__(self) -> None:
        self.seeds = seeds_of(self.seeds)
        tasks = list(self.suite.tasks())
        # The first seed of all before the second, so that a stopped comparison compares.
        self.planned = [
            (task, entry, seed)
            for number, seed in enumerate(self.seeds)
            for task in tasks
            for entry in self.entries
            if self.suite.plans(task, entry, number == 0)
        ]
        if not self.planned:
            raise ValueError(f"None of the methods ({', '.join(entry.name for entry in self.entries)}) takes part.")

    @property
    def keys(self) -> list[RunKey]:
        """What the planned runs are called."""
        return [self.suite.key(*run) for run in self.planned]

    def run(self) -> None:
        """Run what is missing, keep it, and put all runs into their order."""
        say = self.say or (lambda _: None)
        missing = [
            (task, entry, seed)
            for task, entry, seed in self.planned
            if not self.store.finished(self.suite.key(task, entry, seed), self.suite.code(task, entry))
        ]
        say(f"{len(self.planned)} runs, {len(self.planned) - len(missing)} of them there already")
        runs = with_progress(missing, len(missing), "Comparing", "runs", asked=None if self.say is None else False)
        for number, (task, entry, seed) in enumerate(runs, start=1):
            done = self._done(task, entry, seed)
            self.store.keep(done)
            key, about = done.key, done.about
            words = [f"{key.data} ({key.task})", key.method, key.settings, key.configuration, f"seed {seed}"]
            took = about["reason"] or f"{about['cpu_seconds']:.0f} s CPU, {about['peak_gib']:.2f} GiB"
            say(f"[{number}/{len(missing)}] {', '.join(word for word in words if word != '-')}: {took}")
        self.store.arrange(self.keys)

    def _done(self, task: TaskT, entry: EntryT, seed: int) -> Run:
        """Run a method on a task and score what it gives; what fails is a reason, never an error."""
        output, scored, reason = None, Scored(), None
        try:
            output = self.suite.run(task, entry, seed)
            reason = output.error
            if reason is None:
                scored = self.suite.score(task, entry, output)
        except MethodError as failure:
            reason = str(failure)
        except Exception as error:  # noqa: BLE001 - one method must not stop the others; its reason goes into its row
            where = "" if output is None else "It could not be scored. "
            reason = f"{where}{type(error).__name__}: {registry.one_line(error)}"
        of_code = {"source": source_digest(), "scib-metrics": version("scib-metrics")}  # iLISI changed with its 0.6
        versions = {**(output.versions if output else {}), **of_code}
        chosen = {f"readout.{name}": words for name, words in scored.chosen.items()}
        about = {
            **{name: float(getattr(output, name, "nan")) for name in ("seconds", "cpu_seconds", "peak_gib")},
            "reason": reason,
            "versions": " ".join(f"{name}={one}" for name, one in versions.items()),
            "info": {**(output.info if output else {}), **chosen},
            "code": self.suite.code(task, entry),
        }
        if reason is not None:
            scored = Scored([{"reason": reason}])
        return Run(self.suite.key(task, entry, seed), about, scored.rows, scored.arrays)


def seeds_of(seeds: int | Sequence[int]) -> list[int]:
    """Return the seeds: those given, or as many as were asked for.

    Raises
    ------
    TypeError, ValueError
        If they are not integers, or there is none.
    """
    try:
        if isinstance(seeds, str):
            raise TypeError
        chosen = [index(seed) for seed in seeds] if isinstance(seeds, Iterable) else list(range(index(seeds)))
    except TypeError:
        raise TypeError(
            f"seeds is the number of seeds, or a list of them, in whole numbers; found {seeds!r}."
        ) from None
    if not chosen:
        raise ValueError(f"There must be a seed or more, found seeds={seeds!r}.")
    return chosen


# -- which methods take part ---------------------------------------------------------------------------------------


def choose(
    methods: Methods, known: Mapping[str, Method], options: Options | None, more: tuple[str, ...] = ()
) -> list[tuple[str, Function | Parts]]:
    """Return the names of the methods that take part, each with one's own function or with its options, checked.

    Parameters
    ----------
    methods
        Names of methods or of groups, or a mapping.
    known
        Methods of the suite.
    options
        Options of methods by name.
    more
        Options that every method has.

    Raises
    ------
    ValueError
        If a method or an option is not known.
    TypeError
        If something is neither a function nor options, or a function has no name.
    """
    given = dict(options or {})
    for name in given:
        if name not in known:
            raise ValueError(unknown_name("method", name, known))
    found: list[tuple[str, Function | Parts]] = []
    for name, what in (methods if isinstance(methods, Mapping) else dict.fromkeys(names_of(methods, known))).items():
        if callable(what):
            if name in known or name in registry.groups_of(known):
                raise ValueError(f"{name!r} is the name of a method that is there. Give your function another name.")
            found.append((name, what))
        elif what is None or isinstance(what, Mapping):
            for one in names_of(name, known):
                own = _nested(plain({**given.get(one, {}), **(what or {})}, arrays=True))
                check_options(one, known[one], own, more)
                found.append((one, own))
        else:
            raise TypeError(f"methods[{name!r}] is a {type(what).__name__}; give a function, or a mapping of options.")
    for name in given:
        if name not in dict(found):
            there = ", ".join(dict(found))
            warn(f"options has some for {name!r}, which takes no part; the methods are {there}.")
    return found


def names_of(methods: object, known: Mapping[str, Method]) -> list[str]:
    """Return names of methods, groups taken apart, each once.

    Raises
    ------
    ValueError
        If one is not known, or there is none.
    TypeError
        If it is no name.
    """
    groups = registry.groups_of(known)
    if callable(methods) or not isinstance(methods, Iterable):
        raise TypeError(_unnamed(methods))
    found: list[str] = []
    for name in [methods] if isinstance(methods, str) else methods:
        if not isinstance(name, str):
            raise TypeError(_unnamed(name))
        if name not in groups and name not in known:
            raise ValueError(unknown_name("method", name, (*known, *groups)))
        found += groups.get(name, (name,))
    if not found:
        raise ValueError(f"Name a method or more: {', '.join((*groups, *known))}.")
    return list(dict.fromkeys(found))


def _unnamed(method: object) -> str:
    if callable(method):
        name = getattr(method, "__name__", type(method).__name__)
        return f"methods has the function {name} without a name in tables; give it one: methods={{'mine': {name}}}."
    return f"methods has {method!r}, a {type(method).__name__}; give names of methods, or a mapping from names."


def _nested(options: Arguments) -> Parts:
    """Return options in which ``"training.max_steps"`` has become ``{"training": {"max_steps": ...}}``."""
    nested: Parts = {}
    for name, value in options.items():
        *parts, last = name.split(".")
        place = nested
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = dict(value) if isinstance(value, Mapping) else value
    return nested


def word(value: object) -> str:
    """Return the value of an option as tables have it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


# -- what a comparison gives back ----------------------------------------------------------------------------------


@dataclass
class Results:
    """Scores of methods on tasks, as rows; suites add tables and figures.

    Attributes
    ----------
    rows
        Tidy results, a row for each value: ``data``, ``task``, ``method``, ``settings``, ``configuration``, ``seed``,
        ``readout``, ``group``, ``n_cells``, ``leiden_seed``, ``resolution``, ``metric``, ``value``, ``seconds``,
        ``cpu_seconds``, ``peak_gib`` and ``reason`` (why there is no value).
    runs
        A row for each run: what it took, versions of packages, what the method did, and why it failed.
    """

    rows: pd.DataFrame
    runs: pd.DataFrame
    _store: Store = field(repr=False)

    _repr_html_ = as_html

    def figures(self) -> dict[str, Figure]:
        """Return every figure that the results allow, by name."""
        raise NotImplementedError

    def _texts(self) -> dict[str, str]:
        """Return the suite's tables as the text of files, by name."""
        raise NotImplementedError

    def write(self, folder: str | Path) -> list[Path]:
        """Write tidy results and tables to a folder, each whole or not at all; return their paths.

        In the folder of the runs they are of all that are finished there, those of other processes too.
        """
        with self._store.alone() if self._store.holds(folder) else nullcontext():
            if self._store.holds(folder):  # else tables of fewer runs may come after those of more
                self._store.reread()
                self.rows, self.runs = self._store.rows(), self._store.runs()
            tidy = {"results.csv": self.rows, "runs.csv": self.runs}
            texts = {name: table.to_csv(index=False, float_format="%.5g") for name, table in tidy.items()}
            texts |= self._texts()
            return write_files(folder, {name: partial(Path.write_text, data=text) for name, text in texts.items()})

    def write_figures(self, folder: str | Path) -> list[Path]:
        """Write every figure as PNG to a folder."""
        how: Parts = {"dpi": 150, "bbox_inches": "tight"}
        return write_files(folder, {f"{name}.png": partial(one.savefig, **how) for name, one in self.figures().items()})

    def keep_in(self, out: str | Path | None) -> None:
        """Write the tables to the folder of a comparison, and warn where its runs are of several versions of scjepa."""
        sources = self.runs["versions"].astype(str).str.extract(r"\bsource=(\S+)")[0].dropna()
        if sources.nunique() > 1:
            warn(
                f"{out} holds results of {sources.nunique()} versions of scjepa's code (source=... in the column "
                "'versions' of runs.csv). Name another folder to run all of them with this one."
            )
        if out is not None:
            self.write(out)
