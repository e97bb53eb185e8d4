"""The data of a comparison of sections, by technology and panel, and what methods are asked to do with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scjepa._core import keys as _keys
from scjepa._core.anndata import text_of, warn_of_words
from scjepa._core.keys import UNLABELLED
from scjepa._core.options import unknown_name
from scjepa.benchmark import inputs
from scjepa.benchmark.inputs import Data
from scjepa.benchmark.method import Parts
from scjepa.datasets import concat
from scjepa.tokens.vocabulary import likely_cause

WITHIN, SECTIONS, TECHNOLOGIES, AUTO = "within", "sections", "technologies", "auto"

KINDS = (WITHIN, SECTIONS, TECHNOLOGIES)
"""Each section by itself; all sections of a technology together; all technologies together."""


@dataclass(frozen=True)
class Unit:
    """Cells of one technology with one panel of genes.

    Attributes
    ----------
    name
        What it is called in tables.
    technology
        Name of the technology.
    adata
        Counts, ``obs`` with section and technology, coordinates and the spatial graph. It holds no label.
    labels
        ``(n_cells,)`` objects, ``None`` for cells without a label.
    """

    name: str
    technology: str
    adata: AnnData
    labels: np.ndarray

    @property
    def sections(self) -> list[str]:
        """Names of the sections, sorted."""
        return sorted(self.adata.obs[_keys.SECTION].astype(str).unique())


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
        return f"{inputs.digest(self.adata)[:16]}-{inputs.digest_of_texts(self.labels)}"

    @cached_property
    def labelled(self) -> np.ndarray:
        """Which cells have a label."""
        return has_label(self.labels)

    @property
    def n_labels(self) -> int:
        """Number of different labels."""
        return len(set(self.labels[self.labelled]))


def read_units(
    data: Data,
    label: str | None = None,
    *,
    keep_obs: Sequence[str] = (),
    keep_obsm: Sequence[str] = (),
    technology: str | None = None,
    section: str | None = None,
    layer: str | None = None,
) -> list[Unit]:
    """Return the data by technology and panel, in the order given; data sets that have both in common are one.

    Parameters
    ----------
    data
        AnnData objects or h5ad files.
    label, technology, section
        ``obs`` columns; ``None``: no labels, and ``"technology"`` and ``"section"`` where they are there.
    keep_obs, keep_obsm
        Columns and arrays that a method asks for by name.
    layer
        Layer of raw counts; default: ``X``.

    Raises
    ------
    FileNotFoundError, KeyError, TypeError, ValueError
        If a file or column is not there, no cell has a label, or the data cannot be used.
    """
    if label is not None and label in (technology or _keys.TECHNOLOGY, section or _keys.SECTION):
        raise ValueError(
            f"The label {label!r} is also the column of technologies or sections, which methods are given. "
            "Labels must stay out of training: name another column."
        )
    given = inputs.read_named(data)
    if label is not None and not any(label in adata.obs for adata in given.values()):
        there = sorted({str(key) for adata in given.values() for key in adata.obs})
        raise KeyError(f"No data have the label obs[{label!r}]; columns there: {', '.join(there) or 'none'}.")
    if label is not None and label in keep_obs:
        raise ValueError(f"obs[{label!r}] is the label, and no method may be given it.")
    parts: list[Unit] = []
    for name, adata in given.items():
        keys: Parts = {"library_key": section, "technology_key": technology, "layer": layer}
        cells = inputs.prepare(adata, name=name, **keys, obs=keep_obs, obsm=keep_obsm, graph=False)
        inputs.check_graph(name, cells)
        inputs.complete_graph(cells)
        parts += _by_technology(name, cells, _labels(adata, label))
    units = list(_merged(parts))
    for unit in units:
        inputs.add_graph(unit.name, unit.adata)
    if label is not None and not any(has_label(unit.labels).any() for unit in units):
        raise ValueError(
            f"obs[{label!r}] is missing (NaN or {UNLABELLED[0]!r}) for every cell. Leave the label out, or fill it in."
        )
    technologies = [unit.technology for unit in units]
    for unit in units:
        if technologies.count(unit.technology) > 1:  # one technology with two panels is two to whoever compares panels
            unit.adata.obs[_keys.TECHNOLOGY] = pd.Categorical([f"{unit.technology} ({unit.name})"] * unit.adata.n_obs)
    return units


def has_label(labels: np.ndarray) -> np.ndarray:
    """Return which cells have a label, ``(n_cells,)`` bool."""
    return np.array([label is not None and label not in UNLABELLED for label in labels], dtype=bool)


def _labels(adata: AnnData, label: str | None) -> np.ndarray:
    if label is None or label not in adata.obs:
        return np.full(adata.n_obs, None, dtype=object)
    labels = text_of(adata.obs[label])
    warn_of_words(labels, "label", label)
    return labels


def _by_technology(name: str, adata: AnnData, labels: np.ndarray) -> Iterator[Unit]:
    """Yield the cells of each technology with the genes that it measured."""
    technologies = adata.obs[_keys.TECHNOLOGY].astype(str)
    several = technologies.nunique() > 1
    panels = concat({name: adata}).varm[_keys.PANEL] if several else None
    for technology in technologies.unique():
        cells = (technologies == technology).to_numpy()
        genes = adata.var_names if panels is None else panels.index[panels[_keys.as_key(technology)]]
        part = adata[cells, genes].copy()
        part.varm.pop(_keys.PANEL, None)
        yield Unit(f"{name} {technology}" if several else name, technology, part, labels[cells])


def _merged(parts: Sequence[Unit]) -> Iterator[Unit]:
    """Yield units; parts of one technology that measured the same genes are one."""
    groups: dict[tuple[str, frozenset], list[Unit]] = {}
    for part in parts:
        groups.setdefault((part.technology, frozenset(part.adata.var_names)), []).append(part)
    for (technology, _), own in groups.items():
        if len(own) == 1:
            yield own[0]
            continue
        inputs.of_one_kind({part.name: part.adata for part in own})
        labels = np.concatenate([part.labels for part in own])
        yield Unit(" + ".join(part.name for part in own), technology, _joined(own), labels)


def _joined(units: Sequence[Unit]) -> AnnData:
    """Return the cells of several units as one object, in their order, with panels."""
    both = concat({unit.name: unit.adata for unit in units})
    for key in units[0].adata.obsm:
        if key != _keys.SPATIAL:  # what a method asked for by name, which concat leaves behind
            both.obsm[key] = np.vstack([unit.adata.obsm[key] for unit in units])
    return both


# -- tasks ---------------------------------------------------------------------------------------------------------


def make_tasks(units: Sequence[Unit], kinds: str | Sequence[str] = AUTO) -> list[Task]:
    """Return the tasks that the data allow.

    Parameters
    ----------
    units
        The data.
    kinds
        Names in :data:`KINDS`, or ``"auto"``: each unit's sections together (a single one by itself), and all
        technologies together where there are several.

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
    if SECTIONS in wanted and not several:
        sizes = ", ".join(f"{unit.name} has {len(unit.sections)}" for unit in units)
        raise ValueError(f"The task 'sections' needs a technology with two sections or more; {sizes}.")
    if TECHNOLOGIES in wanted and len(units) < 2:
        raise ValueError(
            f"The task 'technologies' needs two technologies or more; all data are {units[0].technology!r} with the "
            "same genes. Give further data, or name the column that tells technologies apart."
        )
    tasks = []
    if WITHIN in wanted or AUTO in wanted:
        chosen = units if WITHIN in wanted else [unit for unit in units if len(unit.sections) == 1]
        tasks += [task for unit in chosen for task in _within(unit)]
    if SECTIONS in wanted or AUTO in wanted:
        tasks += [Task(SECTIONS, unit.name, _settled(unit, unit.adata), unit.labels) for unit in several]
    if TECHNOLOGIES in wanted or (AUTO in wanted and len(units) > 1):
        tasks.append(_across(units))
    tasks = [replace(task, asked=any(has_label(unit.labels).any() for unit in units)) for task in tasks]
    if any(task.labelled.any() for task in tasks) and all(task.n_labels < 2 for task in tasks):
        labels = sorted({label for task in tasks for label in task.labels[task.labelled]})
        raise ValueError(
            f"All labelled cells have one label ({', '.join(map(repr, labels))}): agreement with one niche says "
            "nothing. Name another label, or none (then mixing and continuity are measured)."
        )
    return tasks


def _settled(unit: Unit, adata: AnnData) -> AnnData:
    """Return cells that :func:`scjepa.datasets.concat` joined, or that were cut out, with what was prepared alone."""
    settled = AnnData(
        sparse.csr_matrix(adata.X),
        obs=adata.obs[list(unit.adata.obs)],
        var=pd.DataFrame(index=adata.var_names),
        obsm={key: adata.obsm[key] for key in unit.adata.obsm},
        obsp={key: sparse.csr_matrix(adata.obsp[key]) for key in inputs.GRAPH},
    )
    for key in settled.obs:
        settled.obs[key] = pd.Categorical(text_of(settled.obs[key]))
    if _keys.PANEL in adata.varm:
        settled.varm[_keys.PANEL] = pd.DataFrame(adata.varm[_keys.PANEL], index=settled.var_names)
    inputs.note_graph(settled, adata.uns.get(f"{_keys.SPATIAL}_neighbors", {}).get("params", {}))
    return settled


def _within(unit: Unit) -> Iterator[Task]:
    names = unit.sections
    for name in names:
        cells = (unit.adata.obs[_keys.SECTION].astype(str) == name).to_numpy()
        data = unit.name if len(names) == 1 else f"{unit.name}: {name}"
        yield Task(WITHIN, data, _settled(unit, unit.adata[cells].copy()), unit.labels[cells])


def _across(units: Sequence[Unit]) -> Task:
    shared = set(units[0].adata.var_names).intersection(*(unit.adata.var_names for unit in units[1:]))
    if not shared:
        raise ValueError(
            f"No gene was measured by all technologies, so nothing can be evaluated across them. {_why_none(units)} "
            "Or leave the task 'technologies' out."
        )
    adata = _joined(units)
    genes = tuple(gene for gene in adata.var_names if gene in shared)
    labels = np.concatenate([unit.labels for unit in units])
    return Task(TECHNOLOGIES, " × ".join(unit.name for unit in units), _settled(units[0], adata), labels, genes)


def _why_none(units: Sequence[Unit]) -> str:
    """Return examples of the genes of each technology, and why two of them may have none in common."""
    sides = "; ".join(f"{unit.name}: {', '.join(unit.adata.var_names[:4])}, ..." for unit in units)
    for one, other in combinations(units, 2):
        names, others = (tuple(map(str, unit.adata.var_names)) for unit in (one, other))
        if not set(names).intersection(others):
            return f"{sides}. {likely_cause(names, others, repr(one.name), repr(other.name))}"
    return f"{sides}. Each two have some in common, but not the same: leave a technology out."
