"""Which sections a collection has: from a list, a folder, a pattern or a table, and what each is called."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from scjepa._core import keys as _keys
from scjepa._core.files import digest
from scjepa._core.stored import SUFFIXES, data_file
from scjepa.cohort.prepare import Task, said, write_panel
from scjepa.cohort.source import Found, Reading, opened_source, sections_in
from scjepa.tokens.vocabulary import likely_cause

if TYPE_CHECKING:
    import os

    import pandas as pd
    from anndata import AnnData

    Given: TypeAlias = str | os.PathLike[str] | AnnData
    Sources: TypeAlias = Given | Sequence[Given] | Mapping[str, Given] | pd.DataFrame

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
    if glob.has_magic(text) and not Path(text).exists():
        return sorted(glob.glob(text, recursive=True))
    path = Path(text)
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
        path = Path(str(row[PATH]))
        path = beside / path if beside is not None and not path.is_absolute() else path
        said_of = {part: str(row[key]) for part, key in columns.items() if key in table and row[key] == row[key]}
        items.append(Item(path, _name_of(path), **said_of))
    return items


def _is_path(given: object) -> bool:
    return isinstance(given, str) or hasattr(given, "__fspath__")


def _item(given: object, name: str) -> Item:
    of = _as_source(given)
    return Item(of, _name_of(of) if isinstance(of, Path) else name)


def _as_source(given: object) -> Path | AnnData:
    if _is_path(given):
        return Path(str(given))
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
