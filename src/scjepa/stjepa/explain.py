"""Why a trained model puts a cell in its niche: what moves when tokens are hidden, or neighbors are others.

Hiding tokens is what the model was trained with, so that it knows such inputs; neighbors that are edited are real cells
of the same section.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from scjepa._core.anndata import embedding_of, niches_of
from scjepa.models import embed
from scjepa.models.estimate import token_budget
from scjepa.nn import float32_default
from scjepa.stjepa.latent import refuse_summed, source_of
from scjepa.stjepa.module import STJEPAModule
from scjepa.stjepa.source import Batch, TokenSource
from scjepa.tl.edits import Edit, EditedNeighborhoods, donors_of, edit_all, told
from scjepa.tl.evidence import (
    Hidden,
    NicheEvidence,
    Null,
    Sampled,
    as_table,
    falls,
    gene_rows,
    labels_in,
    mean_differences,
    named_niches,
    neighbor_rows,
)
from scjepa.tl.prediction import SURPRISE, Strata, joined_in, refuse_surprise, unexpectedness, write_surprise
from scjepa.tokens.source import runs_of

if TYPE_CHECKING:
    import pandas as pd

    from scjepa.stjepa.model import STJEPA

_PROBES, _NEAR = 32, 0.01
"""Cells by which an embedding is known again, and the share of its size by which it may differ."""


@dataclass(frozen=True)
class Reader:
    """A model that embeds some cells, with tokens hidden or neighbors replaced.

    Attributes
    ----------
    module
        The model.
    source
        Tokens and neighbors of all cells.
    encoder
        ``"target"`` or ``"context"``.
    """

    module: STJEPAModule
    source: TokenSource
    encoder: str

    @classmethod
    def of_model(cls, model: STJEPA, adata: AnnData | None, encoder: str = "target") -> Reader:
        """Return the reader of data by a model."""
        return cls(model.module, source_of(model, adata, None, encoder, embed.AUTO, model._scale), encoder)

    @classmethod
    def of_niches(
        cls, model: STJEPA, adata: AnnData | None, niche_key: str, use_rep: str, what: str
    ) -> tuple[AnnData, Reader, np.ndarray]:
        """Return the data, what embeds it, and its embedding of neighborhoods, known to be the model's."""
        own = model.adata if adata is None else adata
        refuse_summed(model.config, what)
        niches_of(own, niche_key)
        reader = cls.of_model(model, own)
        return own, reader, own_embedding(reader, own, use_rep)

    def embed(self, batch: Batch, scale: str = "neighborhood") -> np.ndarray:
        """Return the embeddings of a batch, ``(B, width)`` float32."""
        found: np.ndarray = self.module.embed(batch, self.encoder, scale).cpu().numpy()
        return found

    def batches(self, cells: np.ndarray, times: int = 1) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield positions among ``cells`` and their neighborhoods, few enough to be embedded ``times`` over."""
        budget = max(1, token_budget(self.module.config.encoder, self.source.device) // times)
        place = {int(cell): number for number, cell in enumerate(cells)}
        for taken, batch in embed.batches(self.source, np.asarray(cells, dtype=np.int64), embed.AUTO, budget):
            yield np.array([place[int(cell)] for cell in taken]), batch

    def of(self, cells: np.ndarray) -> np.ndarray:
        """Return the embeddings of cells, ``(n, width)``."""
        found = np.empty((len(cells), self.module.config.encoder.width), dtype=np.float32)
        for rows, batch in self.batches(cells):
            found[rows] = self.embed(batch)
        return found


def own_embedding(reader: Reader, adata: AnnData, use_rep: str) -> np.ndarray:
    """Return ``adata.obsm[use_rep]`` if it is what this model makes of these cells.

    Raises
    ------
    KeyError
        If it is not there.
    ValueError
        If it is of another model, another version of it, or other data.
    """
    there = embedding_of(adata, use_rep)
    n_cells = reader.source.n_cells
    cells = np.unique(np.linspace(0, n_cells - 1, _PROBES).astype(np.int64))
    width = reader.module.config.encoder.width
    with torch.inference_mode():
        anew = reader.of(cells)
    if there.shape != (n_cells, width) or np.linalg.norm(anew - there[cells]) > _NEAR * np.linalg.norm(anew):
        raise ValueError(
            f"adata.obsm[{use_rep!r}] is not what this model makes of these cells: it is of another model, of this one "
            "before it was trained further, or of other data. Embed them anew: model.niches(adata), or "
            f"adata.obsm[{use_rep!r}] = model.get_latent_representation(adata)."
        )
    return there


# -- hiding ------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def hide_neighbors(reader: Reader, sampled: Sampled, evidence: NicheEvidence, values: np.ndarray) -> Hidden:
    """Hide each neighbor of each sampled cell in turn, and the cell itself.

    Rings: 0 the cell itself, 1 the nearer half of the neighbors that the model reads, 2 the farther half.
    """
    n_segments = reader.source.n_neighbors + 1
    near = reader.source.neighbors_of(sampled.cells)
    parts = []
    for rows, batch in reader.batches(sampled.cells, n_segments):
        repeated = batch.repeat(n_segments)
        hidden_segment = torch.div(repeated.sequences, batch.n_sequences, rounding_mode="floor")
        is_hidden = repeated.segments == hidden_segment
        n_hidden = torch.bincount(repeated.sequences[is_hidden], minlength=repeated.n_sequences)
        matters = ((n_hidden > 0) & (n_hidden < repeated.lengths)).cpu().numpy()
        moved = reader.embed(repeated.select(~is_hidden))[matters]
        which, segments = np.tile(rows, n_segments)[matters], np.repeat(np.arange(n_segments), len(rows))[matters]
        effect, shift = _change(moved, sampled, which, evidence, values)
        parts.append(Hidden(which, near[which, segments], _ring(segments, n_segments), effect, shift))
    return Hidden(*(np.concatenate([getattr(part, name) for part in parts]) for name in Hidden.__annotations__))


def _ring(segments: np.ndarray, n_segments: int) -> np.ndarray:
    return np.where(segments == 0, 0, np.where(segments <= n_segments // 2, 1, 2))


def _change(
    moved: np.ndarray, sampled: Sampled, which: np.ndarray, evidence: NicheEvidence, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return by how much the log-odds of the niche fell, and how far the embedding moved."""
    before = values[sampled.cells][which].astype(np.float64)
    halves = sampled.halves[which]
    before_scores, after = (evidence.scores(each.astype(np.float64), halves) for each in (before, moved))
    effect = falls(before_scores, after, sampled.niches[which])
    return effect, np.linalg.norm(moved - before, axis=1) / evidence.spread


@dataclass(frozen=True)
class HiddenGenes:
    """What happened when a gene was hidden from the sampled cells and their neighbors.

    Attributes
    ----------
    cell, gene
        ``(n_pairs,)`` position of the cell among those sampled, and vocabulary id.
    scores
        ``(n_pairs, n_niches)`` float32 scores of niches after.
    shift
        ``(n_pairs,)`` how far the embedding moved.
    before
        ``(n, n_niches)`` scores before.
    """

    cell: np.ndarray
    gene: np.ndarray
    scores: np.ndarray
    shift: np.ndarray
    before: np.ndarray

    def of(self, genes: np.ndarray, niche: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the fall of a niche's log-odds and the shift, each ``(n, n_genes)``; NaN where there is no token."""
        column = np.full(int(max(genes.max(), self.gene.max())) + 1, -1)
        column[genes] = np.arange(len(genes))
        own = column[self.gene] >= 0
        place = self.cell[own], column[self.gene[own]]
        effect, shift = (np.full((len(self.before), len(genes)), np.nan) for _ in range(2))
        effect[place] = falls(self.before[place[0]], self.scores[own].astype(np.float64), niche)
        shift[place] = self.shift[own]
        return effect, shift


@torch.inference_mode()
def hide_genes(reader: Reader, sampled: Sampled, evidence: NicheEvidence, values: np.ndarray) -> HiddenGenes:
    """Hide each gene that is a token of a sampled cell or of its neighbors, wherever it is one."""
    before = values[sampled.cells].astype(np.float64)
    cells, genes, scores, shift = [], [], [], []
    budget = token_budget(reader.module.config.encoder, reader.source.device)
    for rows, batch in reader.batches(sampled.cells):
        pairs = torch.unique(batch.sequences * reader.module.n_genes + batch.genes)
        sequence, gene = pairs // reader.module.n_genes, pairs % reader.module.n_genes
        ends = batch.lengths[sequence].cumsum(0)
        start = 0
        while start < len(pairs):
            done = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(torch.searchsorted(ends, done + budget, right=True)))
            part = slice(start, stop)
            kept, is_left = _without(batch, sequence[part], gene[part])
            left = is_left.cpu().numpy()
            moved = reader.embed(kept)[left]
            which = rows[sequence[part].cpu().numpy()][left]
            cells.append(which)
            genes.append(gene[part].cpu().numpy()[left])
            scores.append(evidence.scores(moved.astype(np.float64), sampled.halves[which]).astype(np.float32))
            shift.append(np.linalg.norm(moved - before[which], axis=1) / evidence.spread)
            start = stop
    which, ids, after, moved = (np.concatenate(part) for part in (cells, genes, scores, shift))
    return HiddenGenes(which, ids, after, moved, evidence.scores(before, sampled.halves))


@float32_default()
def _without(batch: Batch, sequence: Tensor, gene: Tensor) -> tuple[Batch, Tensor]:
    """Return for each pair the sequence without the tokens of the gene, and which of them have any token left."""
    first = torch.cat([batch.lengths.new_zeros(1), batch.lengths.cumsum(0)])[sequence]
    copy, within = runs_of(batch.lengths[sequence])
    rows = first[copy] + within
    keep = batch.genes[rows] != gene[copy]
    rows, copy = rows[keep], copy[keep]
    made = replace(batch.select(rows), sequences=copy, technologies=batch.technologies[sequence], partners=None)
    return made, torch.bincount(copy, minlength=len(sequence)) > 0


# -- surprise ----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def own_and_context(reader: Reader) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return embeddings of each cell alone and of its neighbors without it, ``(n_cells, width)`` each.

    Returns
    -------
    tuple
        The two, float32, and which cells have both tokens and neighbors with tokens, bool.
    """
    n_cells, width = reader.source.n_cells, reader.module.config.encoder.width
    own, context = (np.zeros((n_cells, width), dtype=np.float32) for _ in range(2))
    there = np.zeros(n_cells, dtype=bool)
    for cells, batch in reader.batches(np.arange(n_cells)):
        is_own = batch.segments == 0
        halves = [batch.select(is_own), batch.select(~is_own)]
        for out, half in zip((own, context), halves, strict=True):
            out[cells] = reader.embed(half)
        there[cells] = ((halves[0].lengths > 0) & (halves[1].lengths > 0)).cpu().numpy()
    return own, context, there


# -- editing -----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def embed_edited(reader: Reader, cells: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Return the embeddings of cells whose neighbors are ``near``, ``(n, n_neighbors)`` with -1 for none."""
    return Reader(reader.module, reader.source.with_neighbors(cells, near), reader.encoder).of(cells)


# -- what the model says -----------------------------------------------------------------------------------------------


def explained(
    model: STJEPA,
    adata: AnnData | None,
    niche_key: str,
    *,
    by: str,
    niches: Sequence[str] | None,
    use_rep: str,
    genes: bool,
    n_cells: int,
    n_permutations: int,
    random_state: int,
) -> pd.DataFrame:
    """Return what speaks for each niche, as :meth:`scjepa.STJEPA.explain` says."""
    own, reader, values = Reader.of_niches(model, adata, niche_key, use_rep, "explain")
    how, wanted = Null.of(n_permutations, random_state), named_niches(own, niche_key, niches)
    keys = model._keys_for(own)
    labels, names = labels_in(own, by)
    sampled = Sampled.of(own, niche_key, n_cells, None, keys.library_key, keys.spatial_key, random_state)
    evidence = sampled.evidence(values)
    hidden = hide_neighbors(reader, sampled, evidence, values)
    rows = neighbor_rows(hidden, sampled, labels, names, how)
    if genes:
        found = hide_genes(reader, sampled, evidence, values)
        ids = np.unique(found.gene)
        names = [model.vocabulary.names[id_] for id_ in ids]
        differences = mean_differences(own, sampled.codes, sampled.names, keys.layer)
        rows += gene_rows(partial(found.of, ids), sampled, names, differences, how)
    return as_table(rows, wanted, is_told=evidence.is_told)


def edited(
    model: STJEPA,
    adata: AnnData | None,
    niche_key: str,
    change: tuple[str | None, Mapping[str, str] | None, str | None, int],
    *,
    by: str,
    niches: Sequence[str] | None,
    use_rep: str,
    n_cells: int,
    random_state: int,
) -> EditedNeighborhoods:
    """Return cells before and after a change of neighbors, as :meth:`scjepa.STJEPA.edit_neighborhood` says.

    Parameters
    ----------
    change
        What is removed, replaced and added, and how many are added.
    """
    own, reader, values = Reader.of_niches(model, adata, niche_key, use_rep, "edit_neighborhood")
    keys, (labels, names) = model._keys_for(own), labels_in(own, by)
    edit = Edit.of(*change, names, by)
    sampled = Sampled.of(own, niche_key, n_cells, niches, keys.library_key, keys.spatial_key, random_state)
    near = reader.source.neighbors_of(sampled.cells)[:, 1:]
    donors = donors_of(own, labels, keys.library_key, random_state)
    found = edit_all(sampled.cells, near, edit, donors, partial(embed_edited, reader))
    return told(own, sampled, sampled.evidence(values), values, found)


def surprise(
    model: STJEPA, adata: AnnData | None, cell_type_key: str | None, encoder: str, key_added: str | None
) -> pd.DataFrame:
    """Return how little each cell is what surrounds it predicts, as :meth:`scjepa.STJEPA.get_surprise` says."""
    import pandas as pd

    own = model.adata if adata is None else adata
    refuse_summed(model.config, "get_surprise")
    if key_added is not None:
        refuse_surprise(own, key_added)
    reader = Reader.of_model(model, own, encoder)
    keys = model._keys_for(own)
    strata = Strata.of(own, keys.layer, cell_type_key, keys.library_key, keys.spatial_key)
    alone, around, there = own_and_context(reader)
    joined = joined_in(there, own)
    score = unexpectedness(alone, around, joined, strata.folds)
    if key_added is not None:
        write_surprise(own, score, strata, key_added, cell_type_key=cell_type_key, encoder=encoder)
    columns = {SURPRISE: score, f"{SURPRISE}_p_value": strata.p_values(score)}
    return pd.DataFrame(columns, index=own.obs_names)
