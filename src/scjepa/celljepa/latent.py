"""What is read off a trained model of cells: embeddings, labels and the values of genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from torch import Tensor

from scjepa._core import keys as _keys
from scjepa._core.checks import between
from scjepa._core.files import digest
from scjepa._core.options import unknown_name
from scjepa._core.plain import Facts
from scjepa._core.warn import warn
from scjepa.celljepa.data import CellTables, GeneTable
from scjepa.celljepa.module import CellEncoder, CellObjective, check_scale
from scjepa.celljepa.source import CellBatch, CellSource
from scjepa.celljepa.stream import corpus_of, streamed
from scjepa.models.embed import AUTO, Out, check_batch_size, embed_to, why_empty
from scjepa.models.reference import trained_vocabulary
from scjepa.models.setup import known_ids
from scjepa.nn.attention import rank_in_group
from scjepa.nn.jepa import float32_default
from scjepa.tl import LabelClassifier

if TYPE_CHECKING:
    from scjepa.celljepa.model import CellJEPA


@torch.inference_mode()
@float32_default()
def generate(
    encoder: CellEncoder, objective: CellObjective, batch: CellBatch, unknown: Tensor, n_iterations: int = 4
) -> Tensor:
    """Predict the values of unknown genes; after each iteration the surest of them count as known.

    An iteration predicts each unknown gene twice: from the known genes (gene prompt), and from the cell's embedding
    alone (cell prompt). The nearer the two, the surer the prediction. Of the genes that are left, an equal share of
    each cell's becomes known in each iteration, with the gene prompt's prediction, rounded to a bin, as value.

    Parameters
    ----------
    encoder
        The encoder.
    objective
        Its heads; trained with ``reconstruction_weight`` and, for the cell prompt to mean something, with
        ``cell_prompt_weight``.
    batch
        Known and unknown genes of each cell, each once; the values of unknown ones are not read.
    unknown
        ``(T,)`` bool.
    n_iterations
        1: all at once.

    Returns
    -------
    Tensor
        ``(T,)`` bins: what was predicted where unknown, not rounded, and what was given elsewhere.
    """
    if "value" not in objective.heads:
        raise ValueError("The model has no head that predicts values: train it with reconstruction_weight > 0.")
    head = objective.heads["value"]
    highest = encoder.embedding.highest
    left, given = unknown.clone(), batch.values.masked_fill(unknown, 0.0)
    result = given.clone()
    for remaining in range(n_iterations, 0, -1):
        if not left.any():
            break
        current = CellBatch(batch.genes, given, batch.sequences, batch.labels)
        cells, tokens = encoder(current, left)
        predicted = head(tokens).clamp(0, highest)
        result[left] = predicted
        if remaining == 1:
            break
        prompted = head(encoder(current, torch.ones_like(left), cells)[1]).clamp(0, highest)
        rows = batch.sequences[left]
        sizes = torch.bincount(rows, minlength=batch.n_sequences)
        n_known = torch.ceil(sizes / remaining).long()
        sure = rank_in_group(rows, (predicted - prompted[left]).abs()) < n_known[rows]
        places = left.nonzero()[:, 0][sure]
        given[places] = predicted[sure].round()
        left[places] = False
    return result


def with_unknown(batch: CellBatch, genes: Tensor) -> tuple[CellBatch, Tensor]:
    """Return ``batch`` with ``genes`` unknown in each cell, whether the cell expresses them or not.

    Parameters
    ----------
    batch
        The cells.
    genes
        ``(G,)`` distinct vocabulary ids.

    Returns
    -------
    tuple
        The cells' other genes and, behind them in each cell, ``genes`` in their order; and ``(T,)`` bool, true at the
        latter.
    """
    n, device = batch.n_sequences, batch.genes.device
    known = batch.select(~torch.isin(batch.genes, genes))
    rows = torch.arange(n, device=device).repeat_interleave(len(genes))
    order = torch.argsort(torch.cat([known.sequences, rows]), stable=True)
    unknown = torch.cat([torch.zeros_like(known.genes, dtype=torch.bool), torch.ones_like(rows, dtype=torch.bool)])
    joined = CellBatch(
        genes=torch.cat([known.genes, genes.repeat(n)])[order],
        values=torch.cat([known.values, torch.zeros_like(rows, dtype=known.values.dtype)])[order],
        sequences=torch.cat([known.sequences, rows])[order],
        labels=batch.labels,
    )
    return joined, unknown[order]


@dataclass(frozen=True)
class Reading:
    """Which genes of cells are read: named ones, by other names, how many and which; see ``CellJEPA``."""

    genes: Sequence[str] | None = None
    gene_names: GeneTable | None = None
    n_tokens: int | None = None
    kept: str | None = None


def source_of(
    model: CellJEPA, adata: AnnData | None, data: CellTables | None = None, reading: Reading | None = None
) -> CellSource:
    """Return the source of ``adata``, whose tables may be at hand, and warn of cells that it has nothing of."""
    read = reading or Reading()
    if data is None:
        how = {} if read.gene_names is None else {"gene_names": read.gene_names}
        ids = None if read.genes is None else known_ids(trained_vocabulary(model), read.genes)
        data = model._tables_of(adata, ids, **how)
    empty = data.tokens.lengths == 0
    if empty.any():
        warn(f"{empty_cells(model, model.adata if adata is None else adata, empty)} Their embedding is zero.")
    return model.source(data, model.device, n_tokens=read.n_tokens, kept=read.kept)


def empty_cells(model: CellJEPA, adata: AnnData, empty: np.ndarray) -> str:
    """Return the sentences that name cells without counts of known genes."""
    call = f"{type(model).__name__}.load_query_data(adata, model)"
    if trained_vocabulary(model) is not model.vocabulary:
        call = "model.train()"
    if corpus_of(adata) is not None:  # why is to be read off all counts
        return f"{empty.sum():,} cells have no counts, first {str(adata.obs_names[int(empty.argmax())])!r}."
    without = "not of a gene the model knows" + ("." if model.modules else f": {call} takes genes in.")
    why = why_empty(empty, adata.obs_names, model._counts_of(adata), without)
    return f"{empty.sum():,} cells have no count of a gene the model knows. {why}"


def latent(
    model: CellJEPA,
    adata: AnnData | None,
    data: CellTables | None = None,
    reading: Reading | None = None,
    *,
    scale: str = "cls",
    encoder: str = "target",
    batch_size: int | str = AUTO,
    out: Out = None,
) -> np.ndarray:
    """Return the embeddings of the cells of ``adata``, whose tables ``data`` may be at hand."""
    check_scale(scale)
    check_batch_size(batch_size)
    model.module.encoder(encoder)
    model._warn_if_untrained()
    source = source_of(model, adata, data, reading)
    return embed_to(out, model.module, source, scale=scale, encoder=encoder, batch_size=batch_size)


def predicted_expression(
    model: CellJEPA, genes: Sequence[str], adata: AnnData | None, n_iterations: int, reading: Reading, batch_size: int
) -> pd.DataFrame:
    """Return generated values of genes, as :meth:`scjepa.CellJEPA.predict_expression` says."""
    if model.config.tokens.unit != "gene":
        raise ValueError("Values are of genes: predict_expression needs a model with genes as tokens.")
    if n_iterations < 1 or batch_size < 1:
        raise ValueError(f"n_iterations and batch_size must be positive, found {n_iterations} and {batch_size}.")
    ids = trained_vocabulary(model).ids(list(genes))
    if (ids < 0).any() or len(set(ids)) < len(ids) or not len(ids):
        unknown = [name for name, i in zip(genes, ids, strict=True) if i < 0]
        raise ValueError(f"genes must be distinct names that the model knows; it does not know {unknown[:5]}.")
    model._warn_if_untrained()
    adata = model.adata if adata is None else adata
    source = source_of(model, adata, reading=reading)
    wanted = torch.from_numpy(ids).to(model.device)
    parts = []
    for cells in torch.arange(source.n_cells).split(batch_size):
        batch, asked = with_unknown(source.batch(cells), wanted)
        values = generate(model.module.target, model.module.objective, batch, asked, n_iterations)
        parts.append(values[asked].view(-1, len(ids)).cpu().numpy())
    return pd.DataFrame(np.concatenate(parts), index=adata.obs_names, columns=list(genes))


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
    batches
        ``(n,)`` int64 batch codes; ``None``: saved before batches were.
    """

    embedding: np.ndarray
    codes: np.ndarray
    names: tuple[str, ...]
    cells: np.ndarray
    source: str
    batches: np.ndarray | None = None

    @classmethod
    def of(cls, embedding: np.ndarray, data: CellTables, seed: int) -> Self:
        """Keep the cells that have a label and counts, or so many of them, drawn at random."""
        codes = data.labels
        cells = np.flatnonzero((codes >= 0) & embedding.any(axis=1))  # without counts a cell is near to all others
        if len(cells) > MOST_CELLS:
            cells = np.sort(np.random.default_rng(seed).choice(cells, MOST_CELLS, replace=False))
        names, batches = data.label_names, data.sections[cells]
        return cls(embedding[cells], codes[cells], names, cells, source_mark(data), batches)

    def facts(self) -> Facts:
        """Return what JSON can hold of it."""
        return {"names": list(self.names), "source": self.source}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return its arrays, by the names they are saved under."""
        found = {name: getattr(self, name) for name in ("embedding", "codes", "cells", "batches")}
        return {f"reference_{name}": array for name, array in found.items() if array is not None}

    @classmethod
    def from_saved(cls, facts: Facts, arrays: Mapping[str, np.ndarray]) -> Self:
        """Build it from what :meth:`facts` and :meth:`arrays` gave."""
        own = {name: arrays[f"reference_{name}"] for name in ("embedding", "codes", "cells")}
        batches = arrays.get("reference_batches")
        return cls(names=tuple(facts["names"]), source=facts["source"], batches=batches, **own)

    @cached_property
    def classifier(self) -> LabelClassifier:
        """Linear discriminants of the labels, calibrated on held-out batches, or cells where there is one batch.

        Raises
        ------
        ValueError
            If fewer than two labels have two cells.
        """
        codes, sizes = np.unique(self.codes, return_counts=True)
        kept = np.isin(self.codes, codes[sizes > 1])
        names = np.array(self.names, dtype=object)[self.codes[kept]]
        batches = None if self.batches is None else self.batches[kept]
        return LabelClassifier().fit(self.embedding[kept], names, batches)

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
    """Return a hash of what embeddings are made of."""
    on_disk = streamed(data)
    return on_disk.mark if on_disk is not None else digest(data.tokens.offsets, data.tokens.genes, data.tokens.values)


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
        reference = LabelReference.of(latent(model, None, data), data, model.seed)
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


METHODS = ("neighbors", "linear")
"""Ways of labelling."""


@dataclass(frozen=True)
class Labelling:
    """How cells are labelled, as :meth:`scjepa.CellJEPA.predict_labels` says."""

    method: str = "neighbors"
    n_neighbors: int = 15
    unknown: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(unknown_name("method of labelling", self.method, METHODS))
        if self.n_neighbors < 1:
            raise ValueError(f"n_neighbors must be positive, found {self.n_neighbors}.")
        if self.unknown is not None:
            between(0, 1)("unknown", self.unknown)


def predict(
    model: CellJEPA, adata: AnnData | None, how: Labelling, reading: Reading, batch_size: int | str
) -> pd.DataFrame:
    """Return each cell's label and confidence, as :meth:`scjepa.CellJEPA.predict_labels` says."""
    is_own = adata is None or adata is model.adata
    data = model._own_tables() if is_own or model._labelled is None or not model._labelled.saved else None
    known = labelled_cells(model, data)
    if how.unknown is not None and _keys.UNKNOWN in known.reference.names:
        raise ValueError(
            f"{_keys.UNKNOWN!r} is a label of the model's cells, and with unknown=... what cells of no label are "
            "called. Make it missing (NaN) in the labels before the model is made, or leave unknown out."
        )
    at_hand = data if is_own and reading.gene_names is None else None
    query = latent(model, adata, at_hand, reading, batch_size=batch_size)
    own = is_own and data is not None and (known.tables is data or known.reference.source == source_mark(data))
    empty = ~query.any(axis=1)
    names = list(known.reference.names)
    calls = None if how == Labelling(n_neighbors=how.n_neighbors) else known.reference.classifier.predict(query)
    if calls is not None and how.method == "linear":
        codes = np.array([names.index(name) for name in known.reference.classifier.labels_])[calls.codes]
        sure = calls.confidence
    else:
        codes, sure = known.reference.vote(query, how.n_neighbors, own=own)
    codes[empty], sure[empty] = -1, 0.0
    found = pd.DataFrame(
        {"label": pd.Categorical.from_codes(codes, names), "confidence": sure},
        index=(model.adata if adata is None else adata).obs_names,
    )
    if calls is not None and how.unknown is not None:
        known.reference.classifier.held_out.threshold(how.unknown)
        found["p_value"] = np.where(empty, np.nan, calls.p_values)
        found["label"] = found["label"].cat.add_categories([_keys.UNKNOWN])
        found.loc[found["p_value"] < how.unknown, "label"] = _keys.UNKNOWN
    return found
