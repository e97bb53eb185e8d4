"""The folder of a benchmark: one file for each finished run, whole or not there, and what they were made with."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

import scjepa
from scjepa._core.files import locked, whole
from scjepa._core.plain import plain
from scjepa.benchmark.method import UNKNOWN

KEY = ("data", "task", "method", "settings", "configuration", "seed")

TOOK = ("seconds", "cpu_seconds", "peak_gib")

COLUMNS = (*KEY, "readout", "group", "n_cells", "leiden_seed", "resolution", "metric", "value", *TOOK, "reason")
"""Columns of the tidy results."""

RUN_COLUMNS = (*KEY, *TOOK, "reason", "versions", "info", "code")

ABOUT, LOCK = "benchmark.json", "benchmark.lock"

TABLES = (
    *("results.csv", "runs.csv", "table1.csv", "table1.md", "table2.csv", "table2.md"),
    *("table.csv", "table.md", "differences.csv"),
)
"""What comparisons write to a folder beside runs: of sections, and of cells."""


@dataclass(frozen=True)
class Level:
    """A value of an axis of an ablation, and the configuration that has it.

    Attributes
    ----------
    axis, value
        In words.
    configuration
        As in the results.
    default
        Whether it is the value of the configuration that all others are changes of.
    untrained
        Configuration of the untrained encoder at this level; options that training alone reads are no part of it.
        ``""`` where it takes no part.
    """

    axis: str
    value: str
    configuration: str
    default: bool
    untrained: str = ""


@dataclass
class Scored:
    """Rows of scores, and what figures are drawn from.

    Attributes
    ----------
    rows
        A dict for each value: read-out, group, metric, value, and what it belongs to.
    embeddings
        ``(n_cells, n_dims)`` by read-out.
    clusters
        ``(n_cells,)`` by read-out, at the number of labels (without labels: at resolution 1), Leiden's first seed.
    chosen
        What read-outs chose from the data, in words, by read-out.
    """

    rows: list[dict[str, object]] = field(default_factory=list)
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)
    clusters: dict[str, np.ndarray] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)

    def add(self, readout: str, metric: str, value: float, **more: object) -> None:
        """Add a row."""
        self.rows.append({"readout": readout, "metric": metric, "value": value, **more})

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Embeddings and clusters by name, ``embedding_plain`` or ``clusters_plain``."""
        clusters = {f"clusters_{name}": np.asarray(one).astype(str) for name, one in self.clusters.items()}
        return {**{f"embedding_{name}": values for name, values in self.embeddings.items()}, **clusters}


@dataclass(frozen=True)
class RunKey:
    """What a run is: the columns by which it is found again."""

    data: str
    task: str
    method: str
    settings: str
    configuration: str
    seed: int

    @property
    def file_name(self) -> str:
        """A name that can be read, and tells apart what reads alike."""
        short = re.sub(r"[^A-Za-z0-9.=-]+", "_", ".".join(map(str, astuple(self))))
        return f"{short[:120]}.{hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:8]}"


@dataclass
class Run:
    """A finished run.

    Attributes
    ----------
    key
        What it is.
    about
        ``seconds``, ``cpu_seconds``, ``peak_gib``, ``reason`` (why it failed, or ``None``), ``versions``, ``info`` and
        ``code``.
    rows
        Its scores.
    arrays
        Embeddings and clusters by name, ``embedding_plain`` or ``clusters_plain``.
    """

    key: RunKey
    about: dict[str, Any]
    rows: list[dict[str, object]]
    arrays: dict[str, np.ndarray]


class Store:
    """Finished runs, in a folder or in memory.

    Parameters
    ----------
    folder
        Where they are kept; ``None``: in memory.

    Raises
    ------
    NotADirectoryError
        If it is a file, or is to be within one.
    ValueError
        If it has tables or runs of which it does not say what they were made with, or says so in a damaged file.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.levels: list[Level] = []
        self._runs: dict[RunKey, Run] = {}
        if self.folder is None:
            return
        there = next((path for path in (self.folder, *self.folder.parents) if path.exists()), None)
        if there is not None and not there.is_dir():
            raise NotADirectoryError(f"{there} is a file, and results are written to a folder. Name another one.")
        self._read_runs()
        found = [name for name in TABLES if (self.folder / name).exists()] + (["runs"] if self._runs else [])
        if found and not (self.folder / ABOUT).exists():  # looked for last: another process may be at its first results
            raise ValueError(
                f"{self.folder} has {', '.join(found)} and no {ABOUT}, so these are no results that could be gone on "
                "with, and would be overwritten. Name another folder."
            )
        _about(self.folder)

    def claim(self, how: Mapping[str, object], tasks: Mapping[str, str], levels: Sequence[Level]) -> None:
        """Note how results are made, or check that what is in the folder was made in the same way.

        Parameters
        ----------
        how
            Label and scoring: what the whole folder has in common.
        tasks
            Checksums of the data by name.

        Raises
        ------
        ValueError
            If the folder holds results of other data of the same name, or with another label or scoring, or an ablation
            of another configuration: its levels would be told against what they are no changes of.
        """
        with self.alone():  # what another process notes between reading and writing would be lost
            self._claim(how, tasks, levels)

    def _claim(self, how: Mapping[str, object], tasks: Mapping[str, str], levels: Sequence[Level]) -> None:
        this = json.loads(json.dumps(plain({"how": how, "tasks": tasks}, arrays=True)))
        before = {} if self.folder is None else _about(self.folder)
        if before:
            differ = [name for name, value in this["how"].items() if before["how"].get(name) != value]
            if differ:
                was = "; ".join(f"{name}: {before['how'].get(name)}" for name in differ)
                raise ValueError(f"{self.folder} holds results made with other options ({was}). Name another folder.")
            for name, checksum in this["tasks"].items():
                if before["tasks"].get(name, checksum) != checksum:
                    raise ValueError(f"{self.folder} holds results of other data called {name!r}. Name another folder.")
        old = before.get("levels", [])
        held, own = (next((lev.configuration for lev in part if lev.default), None) for part in (old, levels))
        if None not in (held, own) and held != own:
            raise ValueError(
                f"{self.folder} holds an ablation of {held!r}, this is one of {own!r}. Name another folder."
            )
        self.levels = _merged(old, levels)
        if self.folder is not None:
            merged = {"how": this["how"], "tasks": {**before.get("tasks", {}), **this["tasks"]}}
            with whole(self.folder / ABOUT) as part:
                part.write_text(json.dumps({**merged, "levels": [asdict(level) for level in self.levels]}, indent=1))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from changing what is noted of the folder, and its tables: wait until none does.

        Where the system or the disk knows no locks, nothing is waited for.
        """
        if self.folder is None:
            yield
            return
        with locked(self.folder / LOCK):
            yield

    def holds(self, folder: str | Path) -> bool:
        """Return whether a folder is the store's own."""
        return self.folder is not None and Path(folder).resolve() == self.folder.resolve()

    def reread(self) -> None:
        """Take up what other processes have finished in the folder since, and the levels that they noted."""
        if self.folder is not None:
            self._read_runs()
            self.levels = _merged(_about(self.folder).get("levels", []), self.levels)

    def _read_runs(self) -> None:
        for path in sorted((self.folder / "runs").glob("*.json")) if self.folder is not None else ():
            with suppress(OSError, ValueError, KeyError, TypeError):  # not ours, or damaged: it is run again
                found = json.loads(path.read_text())
                run = Run(RunKey(**found["key"]), found["about"], found["rows"], {})
                self._runs[run.key] = run

    def finished(self, key: RunKey, code: str = "") -> bool:
        """Return whether a run is there and did not fail; one's own function must be as it was, and known to be."""
        run = self._runs.get(key)
        if run is None or run.about["reason"] is not None or code == UNKNOWN:
            return False
        return not code or run.about["code"] == code

    def keep(self, run: Run) -> None:
        """Keep a run; its file is written last, so that a run that is there is whole."""
        if self.folder is not None:
            path = self.folder / "runs" / f"{run.key.file_name}.json"
            if run.arrays:
                with whole(path.with_name(f"{run.key.file_name}.npz")) as part:
                    np.savez_compressed(part, **run.arrays)  # type: ignore[arg-type]
            with whole(path) as part:
                text = {"key": asdict(run.key), "about": run.about, "rows": run.rows}
                part.write_text(json.dumps(plain(text, arrays=True), default=str))
            run.arrays = {}
        self._runs[run.key] = run

    def arrays(self, key: RunKey) -> dict[str, np.ndarray]:
        """Return embeddings and clusters of a run; nothing where they are not there any more."""
        if self.folder is None:
            return self._runs[key].arrays
        try:
            with np.load(self.folder / "runs" / f"{key.file_name}.npz", allow_pickle=False) as file:
                return dict(file)
        except (OSError, ValueError, BadZipFile):
            return {}

    def arrange(self, keys: Sequence[RunKey]) -> None:
        """Put runs in the order of ``keys``, others that are there, of other processes too, behind them."""
        self.reread()
        first = [key for key in keys if key in self._runs]
        self._runs = {key: self._runs[key] for key in dict.fromkeys((*first, *self._runs))}

    @property
    def keys(self) -> list[RunKey]:
        """All runs, the failed ones too."""
        return list(self._runs)

    def rows(self) -> pd.DataFrame:
        """Return the tidy results."""
        tables = []
        for run in self._runs.values():
            key, took = asdict(run.key), {name: run.about[name] for name in TOOK}
            rows = run.rows or [{"reason": run.about["reason"]}]
            tables += [{**key, **took, **{k: v for k, v in row.items() if v is not None}} for row in rows]
        table = pd.DataFrame(tables, columns=list(COLUMNS)).astype(dict.fromkeys(("value", "resolution", *TOOK), float))
        table = table.astype(dict.fromkeys(("seed", "n_cells", "leiden_seed"), "Int64"))
        for name in ("readout", "group", "metric", "reason"):
            table[name] = table[name].astype(object).where(table[name].notna(), None)
        return table

    def runs(self) -> pd.DataFrame:
        """Return a row for each run: what it took, what it did, why it failed."""
        found = [{**asdict(run.key), **run.about} for run in self._runs.values()]
        table = pd.DataFrame(found, columns=list(RUN_COLUMNS))
        return table.assign(info=[json.dumps(info, default=str) for info in table["info"]])


def _about(folder: Path) -> dict[str, Any]:
    """Return what a folder says of its results; nothing where it has none.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    path = folder / ABOUT
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise TypeError(f"it holds a {type(found).__name__}, not options and data")
        for name in ("how", "tasks"):
            if not isinstance(found.get(name), dict):
                raise TypeError(f"it has no {name!r}" if name not in found else f"{name!r} is {found[name]!r}")
        found["levels"] = [Level(**level) for level in found.get("levels", [])]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged, or no file of a benchmark ({' '.join(str(error).split())}). Name another folder, or "
            "remove this one to start anew."
        ) from error
    return found


def _merged(old: Sequence[Level], new: Sequence[Level]) -> list[Level]:
    """Return levels by axis, in the order they came in; none loses its untrained encoder by a call without it."""
    merged = {(level.axis, level.value, level.configuration): level for level in old}
    for level in new:
        key = (level.axis, level.value, level.configuration)
        if level.untrained or key not in merged:
            merged[key] = level
    axes = list(dict.fromkeys(level.axis for level in merged.values()))
    return sorted(merged.values(), key=lambda level: axes.index(level.axis))


# -- files, whole or not there ---------------------------------------------------------------------------------------


def write_files(folder: str | Path, files: Mapping[str, Callable[[Path], object]]) -> list[Path]:
    """Write files, by name what writes each, whole or not at all; return their paths."""
    paths = [Path(folder) / name for name in files]
    for path, write in zip(paths, files.values(), strict=True):
        with whole(path) as part:
            write(part)
    return paths


@lru_cache(maxsize=1)
def source_digest() -> str:
    """Return a checksum of scjepa's own files: it tells by which version of the code a result was made."""
    folder = Path(scjepa.__file__).parent
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()[:8]
