"""Labels from labelled cells nearby: a vote of the nearest neighbors among embeddings, and the cells that vote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from scjepa._core.digest import digest
from scjepa._core.warn import warn
from scjepa.celljepa.data import CellTables
from scjepa.celljepa.latent import Reading, latent
from scjepa.models.store import Facts

if TYPE_CHECKING:
    from scjepa.celljepa.model import CellJEPA

MOST_CELLS = 50_000
"""Labelled cells that are kept to compare with, at most."""


@dataclass(frozen=True)
class LabelReference:
    """Embeddings of labelled cells.

    Attributes
    ----------
    embedding
        ``(n, width)`` float32.
    codes
        ``(n,)`` int64 label codes.
    names
        Labels in the order of their codes.
    cells
        ``(n,)`` int64 which cells of their data these are.
    source
        Hash of those data's tables.
    """

    embedding: np.ndarray
    codes: np.ndarray
    names: tuple[str, ...]
    cells: np.ndarray
    source: str

    @classmethod
    def of(cls, embedding: np.ndarray, codes: np.ndarray, names: tuple[str, ...], source: str, seed: int) -> Self:
        """Keep the cells that have a label and counts, or so many of them, drawn at random."""
        cells = np.flatnonzero((codes >= 0) & embedding.any(axis=1))  # without counts a cell is near to all others
        if len(cells) > MOST_CELLS:
            cells = np.sort(np.random.default_rng(seed).choice(cells, MOST_CELLS, replace=False))
        return cls(embedding[cells], codes[cells], names, cells, source)

    def facts(self) -> dict[str, Any]:
        """Return what JSON can hold of it."""
        return {"names": list(self.names), "source": self.source}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return its arrays, by the names they are saved under."""
        return {f"reference_{name}": getattr(self, name) for name in ("embedding", "codes", "cells")}

    @classmethod
    def from_saved(cls, facts: Facts, arrays: Mapping[str, np.ndarray]) -> Self:
        """Build it from what :meth:`facts` and :meth:`arrays` gave."""
        own = {name: arrays[f"reference_{name}"] for name in ("embedding", "codes", "cells")}
        return cls(names=tuple(facts["names"]), source=facts["source"], **own)

    def vote(self, query: np.ndarray, n_neighbors: int, *, own: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return the commonest label among the nearest neighbors (by cosine), and the share of them that have it.

        Parameters
        ----------
        query
            ``(m, width)`` embeddings.
        n_neighbors
            Neighbors, at most as many as there are.
        own
            Whether the query's cells are all cells of these data, in their order: no cell then votes on itself.

        Returns
        -------
        tuple
            ``(m,)`` codes, -1 where nobody votes, and ``(m,)`` float64 shares. Of labels with as many votes the one
            with the nearer neighbors (by the sum of their cosines) wins.
        """
        spare = int(own)
        k = min(n_neighbors + spare, len(self.codes))
        finder = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(normalize(self.embedding))
        distance, near = finder.kneighbors(normalize(query))
        counts = np.ones_like(distance)
        if own:
            itself = self.cells[near] == np.arange(len(query))[:, None]
            if k > n_neighbors:  # a cell that is not among them leaves out the last
                itself[:, -1] |= ~itself.any(axis=1)
            counts[itself] = 0.0
        cosine = 1 - distance**2 / 2
        votes, nearness = np.zeros((2, len(query), len(self.names)))
        rows = np.arange(len(query))[:, None]
        np.add.at(votes, (rows, self.codes[near]), counts)
        np.add.at(nearness, (rows, self.codes[near]), counts * (1 + cosine))
        winner = (votes + nearness / (4 * k)).argmax(axis=1)  # 1 + cosine is 2 at most: ties only
        voters = counts.sum(axis=1)
        return np.where(voters > 0, winner, -1), votes[rows[:, 0], winner] / np.maximum(voters, 1)


@dataclass(frozen=True)
class Labelled:
    """The labelled cells that a model compares with.

    Attributes
    ----------
    reference
        Their embeddings.
    tables
        The tables of the model's data that these were made of; ``None``: they were saved with the model.
    n_steps
        Steps that the model had been trained for.
    """

    reference: LabelReference
    tables: CellTables | None = None
    n_steps: int = 0

    @property
    def saved(self) -> bool:
        """Whether they came with the model."""
        return self.tables is None

    def holds(self, tables: CellTables, n_steps: int) -> bool:
        """Return whether they are still what the model's data and weights give."""
        return self.saved or (self.tables is tables and self.n_steps == n_steps)


def has_labelled_cells(data: CellTables) -> bool:
    """Return whether a cell has a label, and counts by which to compare it."""
    return bool(((data.labels >= 0) & (data.tokens.lengths > 0)).any())


def source_mark(data: CellTables) -> str:
    """Return a hash of the tables that embeddings are made of."""
    return digest(data.tokens.offsets, data.tokens.genes, data.tokens.values)


def labelled_cells(model: CellJEPA, data: CellTables | None = None) -> Labelled:
    """Return the labelled cells to compare with: those saved with the model, or made once of these weights and data.

    Raises
    ------
    ValueError
        If there are none.
    """
    known = model._labelled
    if known is not None and known.saved:
        return known
    data = model._own_tables() if data is None else data
    if known is None or not known.holds(data, model.n_steps_):
        if not has_labelled_cells(data):
            raise ValueError(
                "The model has no labelled cells to compare with. Name the labels, setup_anndata(adata, "
                "labels_key=...), before the model is made."
            )
        about = (data.labels, data.label_names, source_mark(data), model.seed)
        reference = LabelReference.of(latent(model, None, data), *about)
        known = model._labelled = Labelled(reference, data, model.n_steps_)
    return known


def kept_reference(model: CellJEPA) -> LabelReference | None:
    """Return the labelled cells that are saved with a model: of a fine-tuned one, or one that was asked for labels."""
    if model._labelled is not None and model._labelled.saved:
        return model._labelled.reference
    if not model.is_finetuned_ and model._labelled is None:
        return None
    data = model._own_tables()
    return labelled_cells(model, data).reference if has_labelled_cells(data) else None


def forget(model: CellJEPA, data: CellTables) -> None:
    """Forget embeddings of labelled cells, because the weights that made them are about to change."""
    saved = model._labelled is not None and model._labelled.saved
    model._labelled = None
    if saved and not has_labelled_cells(data):
        warn(
            "The labelled cells that were saved with the model were embedded by the weights it had, and the data "
            "has no labels to take their place: after training, predict_labels has nothing to compare with."
        )


def predict(
    model: CellJEPA, adata: AnnData | None, n_neighbors: int, reading: Reading, batch_size: int | str
) -> pd.DataFrame:
    """Return each cell's label and confidence, as :meth:`scjepa.CellJEPA.predict_labels` says."""
    if n_neighbors < 1:
        raise ValueError(f"n_neighbors must be positive, found {n_neighbors}.")
    is_own = adata is None or adata is model.adata
    data = model._own_tables() if is_own or model._labelled is None or not model._labelled.saved else None
    known = labelled_cells(model, data)
    at_hand = data if is_own and reading.gene_names is None else None
    query = latent(model, adata, at_hand, reading, batch_size=batch_size)
    own = is_own and data is not None and (known.tables is data or known.reference.source == source_mark(data))
    codes, share = known.reference.vote(query, n_neighbors, own=own)
    empty = ~query.any(axis=1)
    codes[empty], share[empty] = -1, 0.0
    labels = pd.Categorical.from_codes(codes, list(known.reference.names))
    names = (model.adata if adata is None else adata).obs_names
    return pd.DataFrame({"label": labels, "confidence": share}, index=names)
