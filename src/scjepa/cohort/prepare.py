"""Which sections there are, what each is called, and each from its source to its shard, by one of the processes."""

from __future__ import annotations

import glob
import json
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.files import digest, holder, release, take, whole
from scjepa._core.plain import Facts, plain
from scjepa._core.stored import SUFFIXES, data_file
from scjepa._core.warn import warn
from scjepa.cohort.shard import FORMAT
from scjepa.cohort.source import Found, Reading, Stamp, opened_source, read_section, sections_in
from scjepa.cohort.workers import WorkerDiedError, Workers
from scjepa.tokens.vocabulary import likely_cause

if TYPE_CHECKING:
    import os

    import pandas as pd
    from anndata import AnnData

    Given: TypeAlias = str | os.PathLike[str] | AnnData
    Sources: TypeAlias = Given | Sequence[Given] | Mapping[str, Given] | pd.DataFrame


MADE, KEPT, RENEWED, BUSY, REFUSED = "made", "kept", "renewed", "busy", "refused"
"""What became of a section: its shard was made; was there; was there of another state of the file, or damaged, and was
made anew; is being made by another run; cannot be made."""


@dataclass(frozen=True)
class SectionFacts:
    """What is known of a prepared section without opening its shard.

    Attributes
    ----------
    id
        Name of its files.
    name
        What it is called in the collection.
    path
        File of its source; empty for an object in memory.
    value
        What the source's column of sections says of it; ``None``: the source is one section.
    technology
        How it was measured; ``None``: not said.
    panel
        Its panel, a name of a file in ``panels/``.
    n_cells, n_genes, n_counts, n_edges, n_joined
        Cells, genes of the panel, counts that are not zero, edges, and cells that have neighbors.
    n_bytes, digest
        Size of the shard, and hash of what it holds.
    stamp
        What the file was when it was read; empty for an object in memory.
    how
        What was read of it.
    told
        Warnings of the reading.
    format
        That of the shard.
    """

    id: str
    name: str
    path: str
    value: str | None
    technology: str | None
    panel: str
    n_cells: int
    n_genes: int
    n_counts: int
    n_edges: int
    n_joined: int
    n_bytes: int
    digest: str
    stamp: dict[str, Any]
    how: dict[str, Any]
    told: list[str] = field(default_factory=list)
    format: int = FORMAT

    def to_dict(self) -> Facts:
        """Return the facts as JSON can hold them."""
        return plain(asdict(self))


@dataclass(frozen=True)
class Task:
    """A section that is to be prepared.

    Attributes
    ----------
    folder
        The prepared folder.
    of
        Its file, or object in memory.
    id, name, value, technology
        As in :class:`SectionFacts`.
    how
        What is read.
    """

    folder: Path
    of: Path | AnnData
    id: str
    name: str
    value: str | None
    technology: str | None
    how: Reading

    @property
    def shard(self) -> Path:
        """File of its arrays."""
        return self.folder / "shards" / f"{self.id}.safetensors"

    @property
    def facts(self) -> Path:
        """File of what is known of it."""
        return self.folder / "shards" / f"{self.id}.json"

    @property
    def lock(self) -> Path:
        """File that is there while a process prepares it."""
        return self.folder / "shards" / f"{self.id}.lock"

    @property
    def where(self) -> str:
        """What it is called in messages."""
        place = str(self.of) if isinstance(self.of, Path) else f"the object {self.name!r}"
        return place if self.value is None else f"{place}, section {self.value!r}"


@dataclass(frozen=True)
class Outcome:
    """What became of a section.

    Attributes
    ----------
    status
        One of the words of this module.
    facts
        Of its shard, where there is one.
    why
        Why it was refused or made anew.
    """

    status: str
    facts: SectionFacts | None = None
    why: str = ""


def prepare_section(task: Task) -> Outcome:
    """Make the shard of a section unless it is there, whole or not at all, and free what was read."""
    try:
        known, why = _known(task)
        if known is not None:
            return Outcome(KEPT, known)
        if not take(task.lock):
            return Outcome(BUSY, why=f"{holder(task.lock)} prepares it")
    except OSError as error:
        return Outcome(REFUSED, why=f"{task.where}: {error}")
    try:
        known, why = _known(task)  # another run may have been faster
        if known is not None:
            return Outcome(KEPT, known)
        return Outcome(RENEWED if why else MADE, _make(task), why)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a file, it is named and holds up no other
        return Outcome(REFUSED, why=f"{task.where}: {said(error)}")
    finally:
        release(task.lock)


def _make(task: Task) -> SectionFacts:
    for draft in task.shard.parent.glob(f".{task.id}.part-*"):  # of a process that was killed
        draft.unlink()
    is_file = isinstance(task.of, Path)
    stamp = Stamp.of(task.of) if isinstance(task.of, Path) else None
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="anndata|zarr")
        with opened_source(task.of) as source:
            genes = source.genes()
            shard = read_section(source, task.value, task.how)
    if isinstance(task.of, Path) and stamp is not None and not Stamp.of(task.of).same_as(stamp):
        raise ValueError("It changed while it was read. Prepare it again: collection.prepare()")
    found = shard.save(task.shard)
    facts = SectionFacts(
        id=task.id,
        name=task.name,
        path=str(task.of) if is_file else "",
        value=task.value,
        technology=task.technology,
        panel=write_panel(task.folder, list(genes)),
        n_cells=shard.n_cells,
        n_genes=len(genes),
        n_counts=len(shard.arrays["counts_data"]),
        n_edges=len(shard.arrays["graph_indices"]),
        n_joined=int(np.count_nonzero(np.diff(shard.arrays["graph_indptr"]))),
        n_bytes=task.shard.stat().st_size,
        digest=found,
        stamp={} if stamp is None else asdict(stamp),
        how=task.how.to_dict(),
        told=[str(warning.message) for warning in told],
    )
    write_facts(task.facts, facts)
    return facts


def _known(task: Task) -> tuple[SectionFacts | None, str]:
    """Return the facts of a shard that can be kept; else why it is made anew, nothing where there was none."""
    facts = read_facts(task.facts)
    if facts is None:
        return None, ""
    if not isinstance(task.of, Path):
        return None, "objects in memory are read again"
    if facts.how != task.how.to_dict() or facts.format != FORMAT:
        return None, "it was prepared with other options"
    if not task.shard.is_file() or task.shard.stat().st_size != facts.n_bytes:
        return None, "its shard was damaged or gone"
    if not Stamp.of(task.of).same_as(Stamp(**facts.stamp)):
        return None, "the file has changed since it was prepared"
    if (facts.name, facts.technology) != (task.name, task.technology):
        facts = SectionFacts(**{**facts.to_dict(), "name": task.name, "technology": task.technology})
        write_facts(task.facts, facts)
    return facts, ""


def said(error: Exception) -> str:
    """Return what an error says; of one that says too little also its kind."""
    if isinstance(error, FileNotFoundError):
        return "it is gone. Put it back, or leave it out."
    if isinstance(error, PermissionError):
        return "it may not be read by this user. Change its permissions (chmod), or leave it out."
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    known = isinstance(error, ValueError | KeyError | TypeError) and " " in text
    return text if known else f"it cannot be read ({type(error).__name__}: {text}). Copy it anew, or leave it out."


def read_facts(path: Path) -> SectionFacts | None:
    """Return the facts in a file; ``None`` where there is none, or it is of another version or damaged."""
    try:
        return SectionFacts(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_facts(path: Path, facts: SectionFacts) -> None:
    """Write facts to a file."""
    with whole(path) as draft:
        draft.write_text(json.dumps(facts.to_dict(), indent=1))


def write_panel(folder: Path, genes: Sequence[str]) -> str:
    """Write the names of the genes of a panel, once, and return what the panel is called."""
    names = [str(gene) for gene in genes]
    panel = digest(names)
    path = folder / "panels" / f"{panel}.json"
    if not path.is_file():
        with whole(path) as draft:
            draft.write_text(json.dumps(names))
    return panel


def read_panel(folder: Path, panel: str) -> list[str]:
    """Return the names of the genes of a panel."""
    names: list[str] = json.loads((folder / "panels" / f"{panel}.json").read_text())
    return names


# -- which sections there are -----------------------------------------------------------------------------------------


_TABLES = (".csv", ".tsv")

PATH = "path"
"""Column of a table of samples that names the file."""

_LONGEST = 60
"""Letters of a section's name in the name of its shard."""


@dataclass(frozen=True)
class Item:
    """A file or object as it was given.

    Attributes
    ----------
    of
        The file, or the object.
    name
        What it is called: its file name without suffix, or its key.
    section, technology
        What a table of samples says; ``None``: nothing.
    """

    of: Path | AnnData
    name: str
    section: str | None = None
    technology: str | None = None

    @property
    def where(self) -> str:
        """What it is called in messages."""
        return str(self.of) if isinstance(self.of, Path) else f"the object {self.name!r}"


def items_of(given: Sources, library_key: str | None, technology_key: str | None) -> list[Item]:
    """Return the files and objects of a collection, each with a name of its own.

    Raises
    ------
    FileNotFoundError
        If a folder, a pattern or a list names no file.
    KeyError
        If a table has no column ``"path"``.
    TypeError
        If something is neither a path nor AnnData.
    ValueError
        If a file is there twice.
    """
    import pandas as pd

    if isinstance(given, pd.DataFrame):
        items = _of_table(given, library_key, technology_key)
    elif isinstance(given, Mapping):
        items = [Item(_as_source(one), str(name)) for name, one in given.items()]
    elif _is_path(given) and Path(str(given)).suffix in _TABLES:
        table = pd.read_csv(str(given), sep="\t" if str(given).endswith(".tsv") else ",", dtype=str)
        items = _of_table(table, library_key, technology_key, Path(str(given)).parent)
    else:
        items = [_item(one, str(number)) for number, one in enumerate(_listed(given))]
    if not items:
        raise FileNotFoundError(f"There is no file of cells (.h5ad, .zarr) in {given!r}. Name files, or their folder.")
    paths = Counter(item.of.resolve() for item in items if isinstance(item.of, Path))
    again = [path for path, n in paths.items() if n > 1]
    if again:
        raise ValueError(f"{again[0]} is there twice. Several sections of one file are told apart by library_key=...")
    return _named_apart(items)


def _listed(given: object) -> Iterable[object]:
    if not _is_path(given):
        return [given] if hasattr(given, "obs_names") else list(given)  # type: ignore[call-overload]
    text = str(given)
    if glob.has_magic(text) and not _path(text).exists():
        return sorted(glob.glob(text, recursive=True))
    path = _path(text)
    if path.is_dir() and path.suffix not in SUFFIXES:
        return sorted(one for one in path.iterdir() if one.suffix in SUFFIXES and not one.name.startswith("."))
    return [path]


def _of_table(
    table: pd.DataFrame, library_key: str | None, technology_key: str | None, beside: Path | None = None
) -> list[Item]:
    """Return the files of a table of samples; paths that are not absolute are from the table's folder."""
    if PATH not in table:
        there = ", ".join(map(repr, table.columns))
        raise KeyError(f"The table of samples has no column {PATH!r}; its columns are {there}. Rename one.")
    columns = {"section": library_key or _keys.SECTION, "technology": technology_key or _keys.TECHNOLOGY}
    items = []
    for _, row in table.iterrows():
        path = _path(str(row[PATH]))
        path = beside / path if beside is not None and not path.is_absolute() else path
        said_of = {part: str(row[key]) for part, key in columns.items() if key in table and row[key] == row[key]}
        items.append(Item(path, _name_of(path), **said_of))
    return items


def _is_path(given: object) -> bool:
    return isinstance(given, str) or hasattr(given, "__fspath__")


def _item(given: object, name: str) -> Item:
    of = _as_source(given)
    return Item(of, _name_of(of) if isinstance(of, Path) else name)


def _path(text: str) -> Path:
    if "://" in text:
        raise ValueError(
            f"{text} is an address, and files are opened by path. Open it, its counts lazily, and pass the object: "
            "anndata.AnnData(anndata.experimental.read_elem_lazy(group['X']), ...)."
        )
    return Path(text)


def _as_source(given: object) -> Path | AnnData:
    if _is_path(given):
        return _path(str(given))
    from scjepa._core.anndata import require_anndata

    require_anndata(given)
    return given  # type: ignore[return-value]


def _name_of(path: Path) -> str:
    name = path.name
    for suffix in (*SUFFIXES, ".spatialdata"):
        name = name.removesuffix(suffix)
    return name


def _named_apart(items: list[Item]) -> list[Item]:
    """Put the folder's name before files that are called alike, and their number where that does not help."""
    short = Counter(item.name for item in items)
    longer = [
        replace(item, name=f"{item.of.resolve().parent.name}_{item.name}")
        if short[item.name] > 1 and isinstance(item.of, Path)
        else item
        for item in items
    ]
    seen = Counter(item.name for item in longer)
    return [
        replace(item, name=f"{item.name}_{number}") if seen[item.name] > 1 else item
        for number, item in enumerate(longer)
    ]


def tasks_of(items: Sequence[Item], folder: Path, how: Reading) -> tuple[list[Task], dict[str, str]]:
    """Look into each file, and return the sections there are, and what cannot be one and why, by file.

    Names of cells, genes and sections are read, nothing else.
    """
    found: list[tuple[Item, Found, int]] = []
    refused: dict[str, str] = {}
    panels: dict[str, tuple[str, list[str]]] = {}
    for item in items:
        try:
            if isinstance(item.of, Path):
                data_file(item.of)
            with opened_source(item.of) as source:
                sections = sections_in(source, how)
                genes = list(source.genes())
                panels[item.where] = (write_panel(folder, genes), genes)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a file, it is named and holds up no other
            refused[item.where] = f"{item.where}: {said(error)}"
            continue
        found += [(item, one, len(sections)) for one in sections]
    refused |= _strangers(panels)
    found = [each for each in found if each[0].where not in refused]
    names = [_called(*each) for each in found]
    occurs = Counter(names)
    tasks = []
    for (item, one, _), short in zip(found, names, strict=True):
        name = f"{item.name}-{short}" if occurs[short] > 1 else short
        key = f"{_keys.as_key(name)[:_LONGEST]}-{digest(item.where, one.value)[:10]}"
        technology = item.technology or one.technology
        tasks.append(Task(folder, item.of, key, name, one.value, technology, how))
    return tasks, refused


def _called(item: Item, section: Found, n_sections: int) -> str:
    """Return what a section is called, but for those of other files."""
    if n_sections == 1:
        return item.section or section.value or item.name
    return str(section.value) if item.section is None else f"{item.section}-{section.value}"


def _strangers(panels: Mapping[str, tuple[str, list[str]]]) -> dict[str, str]:
    """Return the files whose genes cannot be matched with those of the others, and why.

    Panels belong together where a chain of genes in common joins them; that of the panel that most files have counts.
    """
    n_files = Counter(panel for panel, _ in panels.values())
    genes = dict(panels.values())
    if len(genes) < 2:
        return {}
    usual = n_files.most_common(1)[0][0]
    joined, left = set(genes[usual]), {panel for panel in genes if panel != usual}
    while met := {panel for panel in left if not joined.isdisjoint(genes[panel])}:
        joined = joined.union(*(genes[panel] for panel in met))
        left -= met
    return {
        where: f"{where}: none of its {len(own):,} genes ({', '.join(own[:3])}, ...) is in any other panel. "
        + likely_cause(own, genes[usual], "this file", "the others")
        for where, (panel, own) in panels.items()
        if panel in left
    }


# -- what became of them ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What :meth:`Collection.prepare` did.

    Attributes
    ----------
    made
        Names of the sections that were prepared.
    kept
        Names of those that were there.
    renewed
        Names of those that were prepared anew, and why: the file had changed, or the shard was damaged.
    refused
        What could not be prepared, and why, by file and section.
    warnings
        What was noticed in sections that were prepared, by their names.
    """

    made: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    renewed: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    warnings: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        counted = {"made": self.made, "there already": self.kept, "made anew": self.renewed, "refused": self.refused}
        lines = [", ".join(f"{len(names):,} {what}" for what, names in counted.items() if names) or "nothing to do"]
        lines += [f"made anew: {name}: {why}" for name, why in self.renewed.items()]
        lines += [f"refused: {why}" for why in self.refused.values()]
        return "\n".join(lines + [f"warning: {name}: {text}" for name, text in self.warnings.items()])


_PAUSE = 1.0
"""Seconds between looks at sections that another run prepares."""


def prepared(tasks: Sequence[Task], workers: Workers) -> Iterator[tuple[Task, Outcome]]:
    """Yield each section and what became of it; those that another run prepares at last."""
    here = [task for task in tasks if not isinstance(task.of, Path)]
    left = [task for task in tasks if isinstance(task.of, Path)]
    for some, workers_of in ((here, Workers(1)), (left, workers)):
        while some:
            busy = []
            for task, outcome in workers_of.each(prepare_section, some):
                if isinstance(outcome, WorkerDiedError):
                    why = f"{task.where}: {outcome}, as where memory is short. Take fewer processes: n_jobs=1."
                    yield task, Outcome(REFUSED, why=why)
                elif outcome.status == BUSY:
                    busy.append(task)
                else:
                    yield task, outcome
            some = busy
            if busy:
                time.sleep(_PAUSE)


def raise_first(refused: dict[str, str], errors: str) -> None:
    """Refuse what the first of these says, unless errors are skipped."""
    if refused and errors == "raise":
        raise ValueError(f"{next(iter(refused.values()))} To prepare all others: collection.prepare(errors='skip')")


def report_of(done: Sequence[tuple[Task, Outcome]], refused: dict[str, str]) -> Report:
    """Return what became of sections, and warn of what was noticed in those that were read."""
    named: dict[str, list[str]] = {MADE: [], KEPT: [], RENEWED: []}
    told = {}
    for task, outcome in done:
        named[outcome.status].append(task.name)
        if outcome.facts is not None and outcome.facts.told:
            told[task.name] = " ".join(outcome.facts.told)
            if outcome.status != KEPT:
                warn(f"{task.where}: {told[task.name]}")
    renewed = {task.name: outcome.why for task, outcome in done if outcome.status == RENEWED}
    return Report(tuple(named[MADE]), tuple(named[KEPT]), renewed, dict(refused), told)
