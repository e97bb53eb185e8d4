"""The way from an embedding to the read-out that niches were found in, gone again with another embedding of the cells.

What was done is read from the notes in ``uns["scjepa"]``, whichever function of this package wrote them: fitted
read-outs are applied as they are, z-scores and means over rings are made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.anndata import Note, embedding_of, groups_of, record_of
from scjepa._core.arrays import principal_axes
from scjepa._core.graph import spatial_graph_of
from scjepa.tl._aggregate import means_over_hops
from scjepa.tl._niche_readout import sources_of
from scjepa.tl._standardize import standardized

if TYPE_CHECKING:
    from anndata import AnnData

_Step = Callable[[np.ndarray], np.ndarray]

_TOLERANCE = 1e-3
"""Share of its spread by which a read-out that is made anew may differ from the one that is there."""


@dataclass(frozen=True)
class Way:
    """How a read-out came from one embedding.

    Attributes
    ----------
    base
        Key in ``obsm`` of the embedding.
    steps
        What was done to it, in turn.
    """

    base: str
    steps: tuple[_Step, ...] = ()

    def place(self, values: np.ndarray) -> np.ndarray:
        """Return the read-out of another embedding of the same cells, in the coordinates of the one that is there."""
        for step in self.steps:
            values = step(values)
        return values


def ways_to(adata: AnnData, use_rep: str) -> list[Way]:
    """Return how ``obsm[use_rep]`` came from embeddings: from itself first, then from what the notes lead back to."""
    return list(_ways(adata, use_rep, frozenset()))


def _ways(adata: AnnData, key: str, met: frozenset[str]) -> Iterator[Way]:
    yield Way(key)
    note = record_of(adata, key)
    if note.get("slot") != "obsm" or key in met:
        return
    for source in _names(note.get("use_rep")):
        step = _step(adata, note, source) if source != _keys.EXPRESSION and source in adata.obsm else None
        if step is not None:
            for way in _ways(adata, source, met | {key}):
                yield Way(way.base, (*way.steps, step))


def _names(use_rep: object) -> list[str]:
    return [] if use_rep is None else [str(name) for name in np.atleast_1d(np.asarray(use_rep, dtype=object))]


def _step(adata: AnnData, note: Note, source: str) -> _Step | None:
    """Return what a note says was done with ``obsm[source]``; ``None`` where it says nothing that is known here."""
    fitted = note.get("fitted")
    if fitted is not None:
        return _sources(adata, note, source) if "sources_" in fitted else _components(adata, note)
    if "n_hops" in note:
        return _rings(adata, note)
    return _scores(adata, note, source) if "align" in note else None


def _anew(adata: AnnData, by: object) -> np.ndarray:
    """Return groups of cells under names that no fit knows, so that each is standardized by its own mean and variance.

    Hiding tokens moves all cells of a section alike, which says nothing of one of them.
    """
    groups = groups_of(adata, None if by is None else str(by))
    names = np.full(adata.n_obs, "") if groups is None else groups
    return np.array([f"{name}, masked" for name in names], dtype=object)


def _sources(adata: AnnData, note: Note, source: str) -> _Step | None:
    """Apply a fitted read-out of several sources, of which this one is another embedding."""
    from scjepa.tl._niche_estimator import NicheReadout

    fitted = NicheReadout.from_dict(note["fitted"])
    if source not in fitted.sources_:
        return None
    graph = spatial_graph_of(adata, note["neighbors_key"], note.get("library_key"))
    sources, groups = sources_of(adata, list(fitted.sources_), note.get("layer")), _anew(adata, note.get("library_key"))
    return lambda values: fitted.transform({**sources, source: values}, graph, groups)


def _components(adata: AnnData, note: Note) -> _Step:
    from scjepa.tl._predictive import PredictiveComponents

    fitted, groups = PredictiveComponents.from_dict(note["fitted"]), _anew(adata, note.get("library_key"))
    return lambda values: fitted.transform(values, groups)


def _rings(adata: AnnData, note: Note) -> _Step:
    graph = spatial_graph_of(adata, note["neighbors_key"], note.get("library_key"))
    n_hops, side_by_side = int(note["n_hops"]), bool(note["concatenate"])
    return lambda values: means_over_hops(values, graph, n_hops, side_by_side)


def _scores(adata: AnnData, note: Note, source: str) -> _Step:
    """Z-score within groups anew, and take the principal axes of the embedding that is there."""
    groups, align, n_comps = groups_of(adata, note.get("library_key")), str(note["align"]), note.get("n_comps")
    there = embedding_of(adata, source)
    if n_comps is None or int(n_comps) >= there.shape[1]:
        return lambda values: standardized(values, groups, None, align)
    axes = principal_axes(standardized(there, groups, None, align).astype(np.float64), int(n_comps))
    return lambda values: standardized(values, groups, None, align) @ axes


def check_way(adata: AnnData, way: Way, use_rep: str) -> None:
    """Raise where the way does not lead from the embedding that is there to the read-out that is there.

    Raises
    ------
    ValueError
        With the next call.
    """
    if not way.steps:
        return
    there = embedding_of(adata, use_rep).astype(np.float64)
    anew = np.asarray(way.place(embedding_of(adata, way.base)), dtype=np.float64)
    if anew.shape != there.shape or np.abs(anew - there).mean() > _TOLERANCE * max(there.std(), 1e-30):
        raise ValueError(
            f"adata.obsm[{use_rep!r}] is not the read-out of adata.obsm[{way.base!r}] as it is now. Make it, and the "
            f"niches, anew: scjepa.tl.{_maker(record_of(adata, use_rep))}, then scjepa.tl.niches(adata, {use_rep!r})."
        )


def _maker(note: Note) -> str:
    if "fitted" in note:
        return "niche_readout(adata)" if "sources_" in note["fitted"] else "predictive_components(adata, ...)"
    return "aggregate(adata, ...)" if "n_hops" in note else "standardize(adata, ...)"


def reads_expression_alone(adata: AnnData, use_rep: str) -> bool:
    """Return whether a read-out is of counts and of no embedding, or of one that had too little to say."""
    note = record_of(adata, use_rep)
    fitted = note.get("fitted")
    if fitted is None:
        return False
    read = _names(fitted["sources_"]) if "sources_" in fitted else _names(note.get("use_rep")) or [_keys.EXPRESSION]
    return read == [_keys.EXPRESSION]
