"""Read-outs: the same ways from what a method returns to what is clustered, for every method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.arrays import varied_embedding
from scjepa._core.keys import EXPRESSION
from scjepa._core.options import AUTO, unknown_name
from scjepa.benchmark.controls import harmony
from scjepa.benchmark.method import MethodResult
from scjepa.benchmark.suites.tissue import Task
from scjepa.tl import NicheReadout, aggregate, standardize

Tell = Callable[[str], Any]
"""Is told, in words, what a read-out chose from the data."""

CELLS = "cell embedding"
"""The source, beside expression, that the read-out for niches is given."""


def _nobody(words: str) -> None:
    """Hear what was chosen, and leave it at that."""


class Readout(Protocol):
    """What makes of a method's result what is clustered."""

    def __call__(self, result: MethodResult, task: Task, tell: Tell = _nobody) -> np.ndarray | None:
        """Return ``(n_cells, n_dims)``, or ``None`` where the method has no such embedding."""


HARMONY = "+harmony"
"""Ends the name of a read-out that Harmony follows."""


def _plain(result: MethodResult, task: Task, tell: Tell = _nobody) -> np.ndarray | None:
    return result.embedding


def _components(align: str) -> Readout:
    def components(result: MethodResult, task: Task, tell: Tell = _nobody) -> np.ndarray | None:
        return (
            None
            if result.embedding is None
            else standardize(result.embedding, groups=task.sections, n_comps=30, align=align)
        )

    return components


def _hops(align: str) -> Readout:
    def hops(result: MethodResult, task: Task, tell: Tell = _nobody) -> np.ndarray | None:
        if result.cell_embedding is None:
            return None
        cells = standardize(result.cell_embedding, groups=task.sections, n_comps=20, align=align)
        return aggregate(cells, connectivities=task.adata.obsp[f"{_keys.SPATIAL}_connectivities"], n_hops=3)

    return hops


def _niche(expression: bool, align: str) -> Readout:
    """Return the read-out of :class:`scjepa.tl.NicheReadout`, of the cell embedding alone or beside expression."""

    def niche(result: MethodResult, task: Task, tell: Tell = _nobody) -> np.ndarray | None:
        if result.cell_embedding is None:
            return None
        sources = {EXPRESSION: task.narrow} if expression else {}
        found = NicheReadout(align=align)
        graph = task.adata.obsp[f"{_keys.SPATIAL}_connectivities"]
        values = found.fit_transform({**sources, CELLS: result.cell_embedding}, graph, task.sections)
        tell(found.describe())
        return values

    return niche


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
    "z30": _components("scale"),
    "hops": _hops("scale"),
    "niche": _niche(expression=False, align=AUTO),
    "niche+X": _niche(expression=True, align=AUTO),
    "aligned30": _components("covariance"),
    "aligned_hops": _hops("covariance"),
    "aligned_niche": _niche(expression=False, align="covariance"),
    "aligned_niche+X": _niche(expression=True, align="covariance"),
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
