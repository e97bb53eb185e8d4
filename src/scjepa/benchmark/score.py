"""Read-outs and scores of one result on sections: the same for every method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import permutations
from typing import Any, TypeAlias

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.arrays import varied_embedding
from scjepa._core.leiden import MIN_SHARE, EmbeddingGraph, Partition
from scjepa._core.options import AUTO, unknown_name
from scjepa._core.plain import take_plain
from scjepa.benchmark.controls import harmony
from scjepa.benchmark.method import OWN, MethodResult, one_line
from scjepa.benchmark.store import Scored
from scjepa.benchmark.suites.tissue import Task
from scjepa.metrics import ari, ilisi, label_transfer, mmd, niche_continuity, nmi
from scjepa.tl import NicheReadout, aggregate, standardize

ALL = "all"
"""Group of all cells of a task."""

Tell = Callable[[str], Any]
"""Is told, in words, what a read-out chose from the data."""

CELLS = "cell embedding"
"""The source, beside expression, that the read-out for niches is given."""


def _nobody(words: str) -> None:
    """Hear what was chosen, and leave it at that."""


Readout: TypeAlias = Callable[..., np.ndarray | None]
"""What makes of a method's result what is clustered, ``(n_cells, n_dims)``, from the result, its task and what is told
of choices; ``None`` where the method has no such embedding."""

HARMONY = "+harmony"
"""Ends the name of a read-out that Harmony follows."""


def _plain(result: MethodResult, task: Task, tell: Tell = _nobody) -> np.ndarray | None:
    return result.embedding


def _components(result: MethodResult, task: Task, tell: Tell = _nobody, *, align: str) -> np.ndarray | None:
    if result.embedding is None:
        return None
    return standardize(result.embedding, groups=task.sections, n_comps=30, align=align)


def _hops(result: MethodResult, task: Task, tell: Tell = _nobody, *, align: str) -> np.ndarray | None:
    if result.cell_embedding is None:
        return None
    cells = standardize(result.cell_embedding, groups=task.sections, n_comps=20, align=align)
    return aggregate(cells, connectivities=task.adata.obsp[f"{_keys.SPATIAL}_connectivities"], n_hops=3)


def _niche(
    result: MethodResult, task: Task, tell: Tell = _nobody, *, align: str, expression: bool = False
) -> np.ndarray | None:
    """Read out by :class:`scjepa.tl.NicheReadout`, the cell embedding alone or beside expression."""
    if result.cell_embedding is None:
        return None
    sources = {_keys.EXPRESSION: task.narrow} if expression else {}
    found, graph = NicheReadout(align=align), task.adata.obsp[f"{_keys.SPATIAL}_connectivities"]
    values = found.fit_transform({**sources, CELLS: result.cell_embedding}, graph, task.sections)
    tell(found.describe())
    return values


def _harmonized(before: Readout) -> Readout:
    def harmonized(result: MethodResult, task: Task, tell: Tell = _nobody) -> np.ndarray | None:
        values = before(result, task, tell)
        if values is None or len(np.unique(task.batches)) < 2:
            return None
        varied_embedding(values)
        return harmony(values, task.batches)

    return harmonized


_BEFORE: Mapping[str, Readout] = {
    "plain": _plain,
    "z30": partial(_components, align="scale"),
    "hops": partial(_hops, align="scale"),
    "niche": partial(_niche, align=AUTO),
    "niche+X": partial(_niche, align=AUTO, expression=True),
    "aligned30": partial(_components, align="covariance"),
    "aligned_hops": partial(_hops, align="covariance"),
    "aligned_niche": partial(_niche, align="covariance"),
    "aligned_niche+X": partial(_niche, align="covariance", expression=True),
}

READOUTS: Mapping[str, Readout] = {
    **_BEFORE,
    **{f"{name}{HARMONY}": _harmonized(before) for name, before in _BEFORE.items()},
}
"""Read-outs by name: the embedding as it is; z-scored in each section, 30 components; that of the cells, z-scored in
each section, 20 components, beside its means over hops 1 to 3; that of the cells by :class:`scjepa.tl.NicheReadout`,
alone or beside expression; all but the first with one covariance in all sections as well; each of them corrected by
Harmony for technologies, or for sections where there is one technology. ``None`` where a method has no such embedding,
or nothing is to be corrected."""


READOUT_WORDS = {
    "plain": "embedding as it is",
    "z30": "embedding, z-scored per section, 30 components",
    "hops": "cell embedding, z-scored per section, 20 components, hops 0-3 side by side",
    "niche": "cell embedding, predictive components, rings and weights chosen from the data",
    "niche+X": "cell embedding beside expression, predictive components, rings and weights chosen from the data",
    "aligned30": "embedding, one covariance in all sections, 30 components",
    "aligned_hops": "cell embedding, one covariance in all sections, 20 components, hops 0-3 side by side",
    "aligned_niche": "cell embedding, one covariance in all sections, predictive components, rings and weights chosen",
    "aligned_niche+X": "cell embedding beside expression, one covariance in all sections, predictive components, rings "
    "and weights chosen",
    "own": "the method's own clusters",
}
"""What tables call read-outs."""


def check_readouts(names: Sequence[str]) -> None:
    """Check that read-outs are known and can be made.

    Raises
    ------
    ValueError
        If there is none, or one is not known.
    ImportError
        If one needs Harmony, and ``harmonypy`` is not installed.
    """
    for name in names:
        if name not in READOUTS:
            raise ValueError(unknown_name("read-out", name, READOUTS))
        if name.endswith(HARMONY) and find_spec("harmonypy") is None:
            raise ImportError(f"The read-out {name!r} needs harmonypy: pip install harmonypy.")
    if not names:
        raise ValueError(f"Name a read-out or more: {', '.join(READOUTS)}.")


# -- scores --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scoring:
    """How results are scored.

    Parameters
    ----------
    resolutions
        Leiden's resolutions.
    leiden_seeds
        Number of Leiden's seeds.
    readouts
        Names of read-outs: ``"plain"``, ``"z30"``, ``"hops"``, ``"niche"``, ``"niche+X"``; for several sections also
        ``"aligned30"``, ``"aligned_hops"``, ``"aligned_niche"`` and ``"aligned_niche+X"``; any of them followed by
        ``"+harmony"``, such as ``"hops+harmony"``.
    n_neighbors
        Neighbors in the graph of embeddings, the cell included.
    min_share
        At the number of labels, clusters of a smaller share of the cells do not count, and their cells join the
        cluster of their nearest cell.
    """

    resolutions: Sequence[float] = (0.6, 0.8, 1.0, 1.2, 1.4)
    leiden_seeds: int = 3
    readouts: Sequence[str] = ("plain", "z30", "hops", "niche", "niche+X")
    n_neighbors: int = 15
    min_share: float = MIN_SHARE

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolutions", tuple(map(float, self.resolutions)))
        object.__setattr__(self, "readouts", tuple(self.readouts))
        take_plain(self)
        if not self.resolutions or not all(resolution > 0 for resolution in self.resolutions):
            raise ValueError(f"resolutions must be positive numbers, found {self.resolutions}.")
        if self.leiden_seeds < 1:
            raise ValueError(f"leiden_seeds must be 1 or more, found {self.leiden_seeds}.")
        check_readouts(self.readouts)


def score(task: Task, result: MethodResult, scoring: Scoring, resolutions: Sequence[float | None] = (None,)) -> Scored:
    """Score a result by every read-out that it allows.

    Parameters
    ----------
    resolutions
        Of the columns of the method's own clusters; those of ``None`` count as matched to the number of labels.

    Returns
    -------
    Scored
        Where something cannot be measured, its row has the reason.
    """
    scored = Scored()
    for name in scoring.readouts if result.embedding is not None else ():
        try:
            values = READOUTS[name](result, task, partial(scored.chosen.__setitem__, name))
            if values is None:
                continue
            varied_embedding(values)
        except ValueError as error:
            scored.add(name, "nmi", float("nan"), reason=one_line(error))
            continue
        scored.embeddings[name] = values
        _score_clusterings(scored, task, name, values, scoring)
        _score_mixing(scored, task, name, values)
    if result.clusters is not None:
        columns = np.asarray(result.clusters).reshape(len(task.labels), -1).T
        for resolution, column in zip(resolutions, columns, strict=True):
            matched = resolution is None
            at = result.info.get("matched_resolution") if matched else resolution
            _score_partition(scored, task, OWN, column, matched, resolution=at, leiden_seed=0)
        scored.clusters[OWN] = columns[-1]
        _score_continuity(scored, task, OWN, columns[-1])
        _tell_unlabelled(scored, task, OWN)
    return scored


def groups_of(task: Task) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each technology and its cells, and all of them where there are several."""
    names = np.unique(task.technologies)
    for name in names:
        yield str(name), task.technologies == name
    if len(names) > 1:
        yield ALL, np.ones(len(task.labels), dtype=bool)


def _score_clusterings(scored: Scored, task: Task, name: str, values: np.ndarray, scoring: Scoring) -> None:
    graph = EmbeddingGraph(values, scoring.n_neighbors)
    for seed in range(scoring.leiden_seeds):
        found: list[tuple[bool, Partition]] = []
        if task.n_labels:
            found += [(False, graph.leiden(resolution, seed)) for resolution in scoring.resolutions]
            found.append((True, graph.match(task.n_labels, seed, scoring.min_share)))
        for matched, partition in found:
            of = {"resolution": float(partition.resolution), "leiden_seed": seed}
            _score_partition(scored, task, name, partition.labels, matched, **of)
        if seed == 0:
            shown = found[-1][1] if found else graph.leiden(1.0, seed)
            scored.clusters[name] = shown.labels
            _score_continuity(scored, task, name, shown.labels)
    _tell_unlabelled(scored, task, name)


def _tell_unlabelled(scored: Scored, task: Task, name: str) -> None:
    """Say of each technology that none of its cells has a label, where agreement was asked for."""
    for group, cells in groups_of(task) if task.asked else ():
        if not (cells & task.labelled).any():
            reason = f"None of the {cells.sum()} cells has a label: nothing to agree with."
            scored.add(name, "nmi", float("nan"), reason=reason, group=group, n_cells=0)


def _score_partition(
    scored: Scored, task: Task, name: str, clusters: np.ndarray, matched: bool, **of: float | None
) -> None:
    """Add agreement with the labels, for each technology by itself and for all cells."""
    clusters = np.asarray(clusters)
    suffix = "_matched" if matched else ""
    n_clusters = len(np.unique(clusters))
    for group, cells in groups_of(task):
        kept = cells & task.labelled
        about = {"group": group, "n_cells": int(kept.sum()), **of}
        n_labels = len(set(task.labels[kept]))
        if n_labels == 0:  # _tell_unlabelled says so once, not for each clustering
            continue
        if n_labels == 1:
            reason = f"The {kept.sum()} labelled cells have one label, {task.labels[kept][0]!r}: nothing to agree with."
            scored.add(name, f"nmi{suffix}", float("nan"), reason=reason, **about)
            continue
        scored.add(name, f"nmi{suffix}", nmi(task.labels[kept], clusters[kept], ignore=()), **about)
        scored.add(name, f"ari{suffix}", ari(task.labels[kept], clusters[kept], ignore=()), **about)
    largest = ALL if len(np.unique(task.technologies)) > 1 else str(task.technologies[0])
    scored.add(name, f"n_clusters{suffix}", n_clusters, group=largest, n_cells=len(clusters), **of)


def _score_continuity(scored: Scored, task: Task, name: str, clusters: np.ndarray) -> None:
    clusters = np.asarray(clusters)
    for group, cells in groups_of(task):
        try:
            places, sections = task.adata.obsm[_keys.SPATIAL][cells], task.sections[cells]
            found = niche_continuity(clusters[cells], places, sections)
        except ValueError as error:
            scored.add(name, "pas", float("nan"), group=group, reason=one_line(error))
            continue
        for metric in ("pas", "chaos", "like_neighbors"):
            scored.add(name, metric, getattr(found, metric), group=group, n_cells=found.n_cells)


def _score_mixing(scored: Scored, task: Task, name: str, values: np.ndarray) -> None:
    """Add how well technologies mix (sections, where there is one technology), and whether labels carry over."""
    across = len(np.unique(task.technologies)) > 1
    batches, what = task.batches, "technology" if across else "section"
    if len(np.unique(batches)) < 2:
        return
    group = ALL if across else str(task.technologies[0])
    for metric, measure in (("ilisi", ilisi), ("mmd", mmd)):
        of = {"group": group, "n_cells": len(values)}
        try:
            scored.add(name, f"{metric}_{what}", measure(values, batches), **of)
        except ValueError as error:
            scored.add(name, f"{metric}_{what}", float("nan"), reason=one_line(error), **of)
    labelled = [str(b) for b in np.unique(batches) if task.labelled[batches == b].any()]
    for reference, query in permutations(labelled, 2) if across else ():
        one, other = batches == reference, batches == query
        of = {"group": f"{reference} to {query}", "n_cells": int((other & task.labelled).sum())}
        try:
            found = label_transfer(values[one], task.labels[one], values[other], task.labels[other])
        except ValueError as error:
            scored.add(name, "transfer_accuracy", float("nan"), reason=one_line(error), **of)
            continue
        for metric in ("accuracy", "macro_f1", "majority_rate"):
            scored.add(name, f"transfer_{metric}", getattr(found, metric), **of)
