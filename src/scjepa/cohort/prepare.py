"""One section from its source to its shard: once, by one of the processes that share the folder."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core.files import digest, whole
from scjepa._core.plain import Facts, plain
from scjepa.cohort import locks
from scjepa.cohort.shard import FORMAT
from scjepa.cohort.source import Reading, Stamp, opened_source, read_section

if TYPE_CHECKING:
    from anndata import AnnData

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
        if not locks.take(task.lock):
            return Outcome(BUSY, why=f"{locks.holder(task.lock)} prepares it")
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
        locks.release(task.lock)


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
