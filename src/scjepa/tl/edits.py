"""Neighborhoods edited: neighbors of a kind removed, replaced or added, and how far cells and their niches move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.anndata import groups_of
from scjepa._core.html import as_html
from scjepa._core.plain import whole
from scjepa.tl._aggregate import rings_of
from scjepa.tl._drivers import ReadTissue
from scjepa.tl.evidence import NicheEvidence, Sampled, falls, labels_in

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


class EditedNeighborhoods(NamedTuple):
    """How cells move when their neighborhoods are edited, and how far they move when other neighbors are.

    Attributes
    ----------
    cells
        Data frame, a row for each cell that was edited: ``niche``; ``n_edited``, neighbors that were; ``shift``, the
        distance it moved, 1 being the root of the total variance; ``effect``, the fall of its niche's log-odds, nats;
        ``niche_after``, the most likely niche afterwards; ``control_shift`` and ``control_effect``, the same where as
        many neighbors of another kind were edited (NaN where there are not so many).
    before, after
        Data frames, cells × niches: probability of each niche before and after.
    """

    cells: pd.DataFrame
    before: pd.DataFrame
    after: pd.DataFrame

    def _repr_html_(self) -> str:
        return as_html(self)


@dataclass(frozen=True)
class Edit:
    """What is done to the neighbors of a cell; one of the three.

    Attributes
    ----------
    remove
        Code of the neighbors that are removed.
    replace
        Code of the neighbors that are replaced, and of the cells that come in their place.
    add
        Code of the cells that are added.
    n_added
        How many.
    """

    remove: int | None = None
    replace: tuple[int, int] | None = None
    add: int | None = None
    n_added: int = 1

    @classmethod
    def of(
        cls,
        remove: str | None,
        replace: Mapping[str, str] | None,
        add: str | None,
        n_added: int,
        names: Sequence[str],
        by: str,
    ) -> Edit:
        """Return the edit that is named.

        Raises
        ------
        ValueError
            If not one edit is named, or a label is not there.
        """
        if sum(given is not None for given in (remove, replace, add)) != 1:
            raise ValueError("Name one edit: remove='A', replace={'A': 'B'} or add='B'.")
        if replace is not None and (not isinstance(replace, Mapping) or len(replace) != 1):
            raise ValueError(f"replace must name one label and what takes its place, {{'A': 'B'}}; found {replace!r}.")

        def code(name: object) -> int:
            if str(name) not in names:
                raise ValueError(f"No cell is {name!r} in adata.obs[{by!r}]; there are {', '.join(names)}.")
            return list(names).index(str(name))

        pair = None if replace is None else next((code(old), code(new)) for old, new in replace.items())
        one = None if remove is None else code(remove)
        return cls(one, pair, None if add is None else code(add), whole("n_added", n_added, least=1))


@dataclass(frozen=True)
class Donors:
    """Cells of a section by label, to be drawn as neighbors.

    Attributes
    ----------
    labels, sections
        ``(n_cells,)`` codes of labels (-1: none) and of sections.
    rng
        Generator.
    """

    labels: np.ndarray
    sections: np.ndarray
    rng: np.random.Generator

    def draw(self, cell: int, near: np.ndarray, label: int | None, n: int) -> np.ndarray:
        """Return up to ``n`` cells of the section of ``cell`` with a label (any: ``None``), none of its neighbors."""
        there = self.sections == self.sections[cell]
        if label is not None:
            there &= self.labels == label
        there[near[near >= 0]] = False
        there[cell] = False
        cells = np.flatnonzero(there)
        return self.rng.choice(cells, n, replace=False) if len(cells) >= n else np.empty(0, dtype=np.int64)


def edited(near: np.ndarray, cell: int, edit: Edit, donors: Donors) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Return the neighbors of a cell after the edit, after the control, and how many were edited.

    Parameters
    ----------
    near
        ``(n_neighbors,)`` neighbors from near to far, -1 for none. Where it is full, added cells take the place of the
        farthest.

    Returns
    -------
    tuple
        Neighbors; those of the control, ``None`` where there is none; 0 where nothing could be edited.
    """
    labels = np.where(near >= 0, donors.labels[near], -2)
    if edit.add is not None:
        return _added(near, cell, edit, donors)
    if edit.remove is not None:
        places = np.flatnonzero(labels == edit.remove)
        others = np.flatnonzero((near >= 0) & (labels != edit.remove))
        found, control = near.copy(), None
        found[places] = -1
        if len(places) <= len(others):
            control = near.copy()
            control[donors.rng.choice(others, len(places), replace=False)] = -1
        return found, control, len(places)
    old, new = edit.replace or (-1, -1)
    places = np.flatnonzero(labels == old)
    return _replaced(near, places, cell, (new, old), donors)


def _added(near: np.ndarray, cell: int, edit: Edit, donors: Donors) -> tuple[np.ndarray, np.ndarray | None, int]:
    free = np.flatnonzero(near < 0)[: edit.n_added]
    places = np.r_[free, np.flatnonzero(near >= 0)[::-1][: edit.n_added - len(free)]]
    return _replaced(near, places, cell, (edit.add, None), donors)


def _replaced(
    near: np.ndarray, places: np.ndarray, cell: int, labels: tuple[int | None, int | None], donors: Donors
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Put cells of the first label in the places, and for the control cells of the second."""
    found, control = (_put(near, places, donors.draw(cell, near, label, len(places))) for label in labels)
    return (near, None, 0) if found is None else (found, control, len(places))


def _put(near: np.ndarray, places: np.ndarray, cells: np.ndarray) -> np.ndarray | None:
    if len(cells) < len(places) or not len(places):
        return None
    found = near.copy()
    found[places] = cells
    return found


def edit_all(
    cells: np.ndarray,
    near: np.ndarray,
    edit: Edit,
    donors: Donors,
    embed: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Edit the neighborhoods of cells, and embed them and their controls.

    Parameters
    ----------
    near
        ``(n, n_neighbors)``.
    embed
        From cells and their neighbors to representations.

    Returns
    -------
    tuple
        Which cells were edited, bool; how many neighbors of each that was; representations of these afterwards; and of
        their controls, NaN where there is none.
    """
    results = [edited(own, int(cell), edit, donors) for cell, own in zip(cells, near, strict=True)]
    is_edited = np.array([number > 0 for *_, number in results], dtype=bool)
    if not is_edited.any():
        raise ValueError(
            "No cell that was drawn could be edited: none has such neighbors, or its section has no cells to take "
            "their place. Draw more cells, n_cells=..., of other niches, niches=..., or name another label."
        )
    kept = [result for result in results if result[2] > 0]
    own = cells[is_edited]
    after = embed(own, np.array([found for found, *_ in kept]))
    has_control = np.array([control is not None for _, control, _ in kept], dtype=bool)
    controls = np.full_like(after, np.nan)
    if has_control.any():
        stacked = np.array([control for _, control, _ in kept if control is not None])
        controls[has_control] = embed(own[has_control], stacked)
    return is_edited, np.array([number for *_, number in kept]), after, controls


def told(
    adata: AnnData,
    sampled: Sampled,
    evidence: NicheEvidence,
    values: np.ndarray,
    found: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> EditedNeighborhoods:
    """Return what edits did, in tables."""
    import pandas as pd

    is_edited, numbers, after, controls = found
    cells, niches = sampled.cells[is_edited], sampled.niches[is_edited]
    before = values[cells].astype(np.float64)
    names, index = np.array(evidence.names, dtype=object), adata.obs_names[cells]
    halves = sampled.halves[is_edited]
    scores, scores_after = (evidence.scores(each.astype(np.float64), halves) for each in (before, after))
    has_control = np.isfinite(controls).all(axis=1)
    control_effect = np.full(len(cells), np.nan)
    of_controls = evidence.scores(controls[has_control].astype(np.float64), halves[has_control])
    control_effect[has_control] = falls(scores[has_control], of_controls, niches[has_control])
    table = pd.DataFrame(
        {
            "niche": names[niches],
            "n_edited": numbers,
            "shift": np.linalg.norm(after - before, axis=1) / evidence.spread,
            "effect": falls(scores, scores_after, niches),
            "niche_after": names[scores_after.argmax(axis=1)],
            "control_shift": np.linalg.norm(controls - before, axis=1) / evidence.spread,
            "control_effect": control_effect,
        },
        index=index,
    )
    both = (scores, scores_after)
    shares = [pd.DataFrame(evidence.membership(each), index=index, columns=evidence.names) for each in both]
    return EditedNeighborhoods(table, *shares)


def edit_neighborhood(
    adata: AnnData,
    niche_key: str = _keys.NICHE,
    *,
    remove: str | None = None,
    replace: Mapping[str, str] | None = None,
    add: str | None = None,
    n_added: int = 1,
    by: str = _keys.CELL_TYPE,
    niches: Sequence[str] | None = None,
    key: str = _keys.EMBEDDING_NICHE,
    n_cells: int = 100,
    spatial_key: str = _keys.SPATIAL,
    random_state: int = 0,
) -> EditedNeighborhoods:
    """Remove, replace or add neighbors of a kind, and tell how cells move in the linear read-out.

    Of each niche some cells are drawn. The mean of their first ring is taken of the edited neighbors; further rings
    stay. Cells that come in are drawn from the same section. With each edit goes a control of as many neighbors:
    others are removed; the same are replaced by cells of their own kind; cells of any kind are added. What an edit says
    is its difference from the control: how the read-out, which knows this tissue as it is, takes such a neighborhood.
    It says nothing of what the cells would do. For a trained model see :meth:`scjepa.STJEPA.edit_neighborhood`.

    Parameters
    ----------
    adata
        Annotated data with niches, the read-out they were found in and what that was made of. Nothing is written.
    niche_key
        Column of ``adata.obs`` with niches.
    remove
        Label of neighbors to remove.
    replace
        Label of neighbors to replace, and the label of cells that take their place, ``{"A": "B"}``.
    add
        Label of cells to add.
    n_added
        How many to add.
    by
        Column of ``adata.obs`` with the labels.
    niches
        Niches whose cells are edited. Default: all.
    key
        Key in ``adata.obsm`` of the read-out.
    n_cells
        Cells of each niche, at most; those that have no such neighbor are left out.
    spatial_key
        Key in ``adata.obsm`` of coordinates.
    random_state
        Seed of what is drawn.

    Returns
    -------
    EditedNeighborhoods
        ``cells``, ``before`` and ``after``.

    Raises
    ------
    KeyError
        If niches, labels or the read-out are not there, with the next call.
    ValueError
        If not one edit is named, a label or niche is not there, or no cell that was drawn could be edited.

    Examples
    --------
    >>> found = scjepa.tl.edit_neighborhood(adata, replace={"Oligo": "eL6-2"}, niches=["3"])
    >>> found.cells[["shift", "control_shift"]].mean()
    """
    tissue = ReadTissue.of(adata, key)
    labels, names = labels_in(adata, by)
    edit = Edit.of(remove, replace, add, n_added, names, by)
    sampled = Sampled.of(adata, niche_key, n_cells, niches, tissue.library_key, spatial_key, random_state)
    near = _near(tissue, sampled.cells, edit.n_added if add is not None else 0)
    donors = donors_of(adata, labels, tissue.library_key, random_state)
    found = edit_all(sampled.cells, near, edit, donors, lambda cells, new: _read_out(tissue, cells, new))
    return told(adata, sampled, sampled.evidence(tissue.values), tissue.values, found)


def donors_of(adata: AnnData, labels: np.ndarray, library_key: str | None, random_state: int) -> Donors:
    """Return the cells that may come in."""
    sections = groups_of(adata, library_key)
    codes = np.zeros(adata.n_obs, dtype=np.int64) if sections is None else np.unique(sections, return_inverse=True)[1]
    return Donors(labels, codes, np.random.default_rng(random_state))


def _near(tissue: ReadTissue, cells: np.ndarray, n_more: int) -> np.ndarray:
    """Return the first ring of cells, ``(n, most + n_more)``, -1 for none."""
    ring = next(iter(rings_of(tissue.edges, cells, 1)))
    size = np.diff(ring.indptr)
    near = np.full((len(cells), int(size.max(initial=0)) + n_more), -1, dtype=np.int64)
    near[np.arange(near.shape[1]) < size[:, None]] = ring.indices
    return near


def _read_out(tissue: ReadTissue, cells: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Return the read-out of cells whose first ring is ``near``."""
    found = tissue.values[cells].astype(np.float64)
    there = near >= 0
    size = there.sum(axis=1)[:, None]
    for (source, ring), (columns, scale) in tissue.blocks().items():
        if ring == 1:
            own = tissue.components[source].astype(np.float64)
            total = np.where(there[..., None], own[near], 0.0).sum(axis=1)
            found[:, columns] = scale * np.where(size > 0, total / np.maximum(size, 1), own[cells])
    return found
