"""What methods are asked to do: niches within a section, across sections, across technologies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
from anndata import AnnData

from scjepa._core import keys as _keys
from scjepa._core.options import unknown_name
from scjepa.benchmark._units import Unit, has_label, joined
from scjepa.benchmark.methods._inputs import digest, prepare
from scjepa.tokens.vocabulary import likely_cause

WITHIN, SECTIONS, TECHNOLOGIES, AUTO = "within", "sections", "technologies", "auto"

KINDS = (WITHIN, SECTIONS, TECHNOLOGIES)
"""Each section by itself; all sections of a technology together; all technologies together."""


@dataclass(frozen=True)
class Task:
    """Cells that a method is given at once, and the labels that it is not given.

    Attributes
    ----------
    kind
        One of ``"within"``, ``"sections"`` and ``"technologies"``.
    data
        Name of the data, of the section too where a data set has several.
    adata
        Counts, section, technology, coordinates and spatial graph under their usual names. No label.
    labels
        ``(n_cells,)`` objects, ``None`` for cells without a label.
    shared
        Genes that all technologies measured, for embeddings across technologies; ``None``: all genes.
    asked
        Whether agreement with labels was asked for: cells without one are then a reason, not a choice.
    """

    kind: str
    data: str
    adata: AnnData
    labels: np.ndarray
    shared: tuple[str, ...] | None = None
    asked: bool = False

    @cached_property
    def narrow(self) -> AnnData:
        """The cells with shared genes only, for methods that cannot train on genes they do not embed."""
        return self.adata if self.shared is None else self.adata[:, list(self.shared)].copy()

    @cached_property
    def technologies(self) -> np.ndarray:
        """Technology of each cell."""
        return self.adata.obs[_keys.TECHNOLOGY].astype(str).to_numpy()

    @cached_property
    def sections(self) -> np.ndarray:
        """Section of each cell."""
        return self.adata.obs[_keys.SECTION].astype(str).to_numpy()

    @property
    def batches(self) -> np.ndarray:
        """What is to mix: technologies where there are several, else sections."""
        return self.technologies if len(np.unique(self.technologies)) > 1 else self.sections

    @cached_property
    def digest(self) -> str:
        """Checksum of the cells, and of the labels they are scored with."""
        return f"{digest(self.adata)[:16]}-{hash_of(self.labels)}"

    @cached_property
    def labelled(self) -> np.ndarray:
        """Which cells have a label."""
        return has_label(self.labels)

    @property
    def n_labels(self) -> int:
        """Number of different labels."""
        return len(set(self.labels[self.labelled]))


def hash_of(values: np.ndarray) -> str:
    """Return a short checksum of texts."""
    import hashlib

    return hashlib.sha256(repr(list(values)).encode()).hexdigest()[:8]


def make_tasks(
    units: Sequence[Unit],
    kinds: str | Sequence[str] = AUTO,
    obs: Sequence[str] = (),
    obsm: Sequence[str] = (),
) -> list[Task]:
    """Return the tasks that the data allow.

    Parameters
    ----------
    units
        The data.
    kinds
        Names in :data:`KINDS`, or ``"auto"``: each unit's sections together (a single one by itself), and all
        technologies together where there are several.
    obs, obsm
        What methods ask for by name.

    Raises
    ------
    ValueError
        If a kind is not known, the data cannot give it, technologies share no gene, or there is one label in all.
    """
    wanted = [kinds] if isinstance(kinds, str) else list(kinds)
    for kind in wanted:
        if kind not in (*KINDS, AUTO):
            raise ValueError(unknown_name("task", kind, (*KINDS, AUTO)))
    several = [unit for unit in units if len(unit.sections) > 1]
    sizes = ", ".join(f"{unit.name} has {len(unit.sections)}" for unit in units)
    if SECTIONS in wanted and not several:
        raise ValueError(f"The task 'sections' needs a technology with two sections or more; {sizes}.")
    if TECHNOLOGIES in wanted and len(units) < 2:
        raise ValueError(
            f"The task 'technologies' needs two technologies or more; all data are {units[0].technology!r} with the "
            "same genes. Give further data, or name the column that tells technologies apart."
        )
    tasks = []
    if WITHIN in wanted or AUTO in wanted:
        chosen = units if WITHIN in wanted else [unit for unit in units if len(unit.sections) == 1]
        tasks += [task for unit in chosen for task in _within(unit, obs, obsm)]
    if SECTIONS in wanted or AUTO in wanted:
        tasks += [Task(SECTIONS, unit.name, _prepared(unit.adata, obs, obsm), unit.labels) for unit in several]
    if TECHNOLOGIES in wanted or (AUTO in wanted and len(units) > 1):
        tasks.append(_across(units, obs, obsm))
    tasks = [replace(task, asked=any(has_label(unit.labels).any() for unit in units)) for task in tasks]
    if any(task.labelled.any() for task in tasks) and all(task.n_labels < 2 for task in tasks):
        labels = sorted({label for task in tasks for label in task.labels[task.labelled]})
        raise ValueError(
            f"All labelled cells have one label ({', '.join(map(repr, labels))}): agreement with one niche says "
            "nothing. Name another label, or none (then mixing and continuity are measured)."
        )
    return tasks


def _prepared(adata: AnnData, obs: Sequence[str], obsm: Sequence[str]) -> AnnData:
    return prepare(adata, obs=obs, obsm=obsm)


def _within(unit: Unit, obs: Sequence[str], obsm: Sequence[str]) -> Iterator[Task]:
    names = unit.sections
    for name in names:
        cells = (unit.adata.obs[_keys.SECTION].astype(str) == name).to_numpy()
        data = unit.name if len(names) == 1 else f"{unit.name}: {name}"
        yield Task(WITHIN, data, _prepared(unit.adata[cells].copy(), obs, obsm), unit.labels[cells])


def _across(units: Sequence[Unit], obs: Sequence[str], obsm: Sequence[str]) -> Task:
    shared = set(units[0].adata.var_names).intersection(*(unit.adata.var_names for unit in units[1:]))
    if not shared:
        raise ValueError(
            f"No gene was measured by all technologies, so nothing can be evaluated across them. {_why_none(units)} "
            "Or leave the task 'technologies' out."
        )
    adata = joined(units)
    genes = tuple(gene for gene in adata.var_names if gene in shared)
    labels = np.concatenate([unit.labels for unit in units])
    return Task(TECHNOLOGIES, " × ".join(unit.name for unit in units), _prepared(adata, obs, obsm), labels, genes)


def _why_none(units: Sequence[Unit]) -> str:
    """Return examples of the genes of each technology, and why two of them may have none in common."""
    sides = "; ".join(f"{unit.name}: {', '.join(unit.adata.var_names[:4])}, ..." for unit in units)
    for one, other in combinations(units, 2):
        names, others = (tuple(map(str, unit.adata.var_names)) for unit in (one, other))
        if not set(names).intersection(others):
            return f"{sides}. {likely_cause(names, others, repr(one.name), repr(other.name))}"
    return f"{sides}. Each two have some in common, but not the same: leave a technology out."
