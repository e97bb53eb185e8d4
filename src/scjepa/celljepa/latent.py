"""Embedding of cells and generation of their genes' values; what :class:`CellJEPA` hands on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from scjepa._core.options import unknown_name
from scjepa._core.warn import warn
from scjepa.celljepa.data import CellTables, GeneTable
from scjepa.celljepa.generation import generate, with_unknown
from scjepa.celljepa.module import CELL_POOLING
from scjepa.celljepa.source import CellSource
from scjepa.models.embed import AUTO, Out, check_batch_size, embed_to, why_empty
from scjepa.models.setup import known_ids

if TYPE_CHECKING:
    from scjepa.celljepa.model import CellJEPA


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
        ids = None if read.genes is None else known_ids(model.vocabulary, read.genes)
        data = model._tables_of(adata, ids, **how)
    empty = data.tokens.lengths == 0
    if empty.any():
        warn(f"{empty_cells(model, model.adata if adata is None else adata, empty)} Their embedding is zero.")
    return model.source(data, model.device, n_tokens=read.n_tokens, kept=read.kept)


def empty_cells(model: CellJEPA, adata: AnnData, empty: np.ndarray) -> str:
    """Return the sentences that name cells without counts of known genes."""
    call = f"{type(model).__name__}.load_query_data(adata, model)"
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
    if scale not in CELL_POOLING:
        raise ValueError(unknown_name("scale", scale, CELL_POOLING))
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
    ids = model.vocabulary.ids(list(genes))
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
