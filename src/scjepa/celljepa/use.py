"""What Cell-JEPA gives back: embeddings of cells, labels, and values of genes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from scjepa._core.digest import digest
from scjepa._core.options import unknown_name
from scjepa._core.warn import warn
from scjepa.celljepa.config import CellJEPAConfig
from scjepa.celljepa.data import CellTables, GeneTable
from scjepa.celljepa.gene_modules import GeneModules
from scjepa.celljepa.generation import generate, with_unknown
from scjepa.celljepa.labels import LabelReference
from scjepa.celljepa.module import CELL_POOLING, CellJEPAModule
from scjepa.celljepa.source import CellSource
from scjepa.models.base import JEPAModel
from scjepa.models.embed import AUTO, check_batch_size
from scjepa.models.embedded import embed_to
from scjepa.models.empty import why_empty
from scjepa.tokens.vocabulary import Vocabulary


def _source_mark(data: CellTables) -> str:
    return digest(data.tokens.offsets, data.tokens.genes, data.tokens.values)


class CellUseMixin(JEPAModel):
    """``get_latent_representation``, ``predict_labels`` and ``predict_expression``."""

    config: CellJEPAConfig
    module: CellJEPAModule
    vocabulary: Vocabulary
    modules: GeneModules | None
    is_finetuned_: bool
    _labelled: tuple[Any, LabelReference] | None
    """What the embeddings of labelled cells were made from, ``None`` if they were saved with the model; and they."""

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        *,
        encoder: str = "target",
        pooling: str = "cls",
        gene_table: GeneTable | None = None,
        batch_size: int | str = AUTO,
        out: np.ndarray | str | Path | None = None,
        key_added: str | None = None,
    ) -> np.ndarray:
        """Embed cells.

        Parameters
        ----------
        adata
            Other data; genes are aligned by name, those the model does not know are left out with a warning, and it
            needs neither labels nor batches. Default: the model's own.
        encoder
            ``"target"`` (the EMA teacher) or ``"context"`` (the student). Both see all values here.
        pooling
            ``"cls"`` (the paper's) or ``"genes"`` (the mean of the cell's gene vectors).
        gene_table
            Where the names of ``adata`` are not the model's, Ensembl ids and symbols say: what leads from the former to
            the latter, a mapping, a Series or the name of a column of ``adata.var``. Counts of genes with one name are
            added up.
        batch_size
            Cells at a time, or ``"auto"``. The result does not depend on it, save for rounding.
        out
            A float32 array of shape ``(n_cells, n_latent)`` or the path of a ``.npy`` file, as in
            :meth:`STJEPA.get_latent_representation`. Default: a new array.
        key_added
            Also write the result to ``adata.obsm[key_added]``.

        Returns
        -------
        numpy.ndarray
            ``(n_cells, n_latent)`` float32. A cell's embedding does not depend on other cells or on the order of the
            genes; cells without counts are zero, and a warning names them.

        Raises
        ------
        ValueError, TypeError
            If an option cannot be used, a value cannot be a count, or no gene matches.
        """
        if pooling not in CELL_POOLING:
            raise ValueError(unknown_name("pooling", pooling, CELL_POOLING))
        check_batch_size(batch_size)
        self.module.encoder(encoder)
        self._warn_if_untrained()
        adata = self.adata if adata is None else adata
        source = self._source_for(adata, gene_table)
        embedding = embed_to(out, self.module, source, scale=pooling, encoder=encoder, batch_size=batch_size)
        if key_added is not None:
            adata.obsm[key_added] = embedding
        return embedding

    def _source_for(self, adata: AnnData, gene_table: GeneTable | None) -> CellSource:
        if adata is self.adata and gene_table is None:
            data = self._own_tables()
        else:
            data = self._tables(adata, gene_table=gene_table)  # type: ignore[call-arg]
        empty = data.tokens.lengths == 0
        if empty.any():
            warn(f"{self._empty_cells(adata, empty)} Their embedding is zero.")
        return self._source_of(data, self.device)

    def _empty_cells(self, adata: AnnData, empty: np.ndarray) -> str:
        """Return the sentences that name cells without counts of known genes."""
        call = f"{type(self).__name__}.load_query_data(adata, model)"
        without = "not of a gene the model knows" + ("." if self.modules else f": {call} takes genes in.")
        why = why_empty(empty, adata.obs_names, self._counts_of(adata), without)
        return f"{empty.sum():,} cells have no count of a gene the model knows. {why}"

    def predict_labels(
        self,
        adata: AnnData | None = None,
        *,
        n_neighbors: int = 15,
        gene_table: GeneTable | None = None,
        batch_size: int | str = AUTO,
    ) -> pd.DataFrame:
        """Tell each cell's label by the labelled cells that are nearest to it in the embedding.

        The labelled cells are the model's own, at most 50,000 of them, drawn at random. They are saved with a model
        that was fine-tuned or has predicted labels, so that it can be loaded on unlabelled data. Works with a
        pretrained model; :meth:`finetune` is to make it better.

        Parameters
        ----------
        adata
            Cells to label. Default: the model's own, none of which votes on itself.
        n_neighbors
            Cells that vote.
        gene_table, batch_size
            As in :meth:`get_latent_representation`.

        Returns
        -------
        pandas.DataFrame
            By cell ``"label"``, the commonest among the neighbors (categorical), and ``"confidence"``, the share of
            neighbors that have it, in (0, 1]. That is no probability of being right: a cell of a type that the
            reference lacks gets a label too, often with a high share. Cells without counts get none, and 0, and so
            does the only labelled cell of the model's own data, which nobody votes on.

        Raises
        ------
        ValueError
            If the model has no labelled cells to compare with.
        """
        if n_neighbors < 1:
            raise ValueError(f"n_neighbors must be positive, found {n_neighbors}.")
        reference = self._label_reference()
        query = self.get_latent_representation(adata, gene_table=gene_table, batch_size=batch_size)
        own = (adata is None or adata is self.adata) and reference.source == _source_mark(self._own_tables())
        codes, share = reference.vote(query, n_neighbors, own=own)
        empty = ~query.any(axis=1)
        codes[empty], share[empty] = -1, 0.0
        labels = pd.Categorical.from_codes(codes, list(reference.names))
        names = (self.adata if adata is None else adata).obs_names
        return pd.DataFrame({"label": labels, "confidence": share}, index=names)

    def _label_reference(self) -> LabelReference:
        """Return embeddings of labelled cells: those saved with the model, or made once for these weights and data."""
        if self._labelled is not None and self._labelled[0] is None:
            return self._labelled[1]
        mark = (self.n_steps_, self._fingerprint())
        if self._labelled is None or self._labelled[0] != mark:
            if not self._has_labelled_cells():
                raise ValueError(
                    "The model has no labelled cells to compare with. Name the labels, setup_anndata(adata, "
                    "labels_key=...), before the model is made."
                )
            data = self._own_tables()
            embedding, source = self.get_latent_representation(), _source_mark(data)
            reference = LabelReference.of(embedding, data.labels, data.label_names, source, self.seed)
            self._labelled = (mark, reference)
        return self._labelled[1]

    def _has_labelled_cells(self) -> bool:
        """Return whether the model's data has a cell with a label, and with counts by which to compare it."""
        data = self._own_tables()
        return bool(((data.labels >= 0) & (data.tokens.lengths > 0)).any())

    def _kept_reference(self) -> LabelReference | None:
        """Return the labelled cells that are saved with the model: of a fine-tuned one, or one that was asked."""
        if self._labelled is not None and self._labelled[0] is None:
            return self._labelled[1]
        wanted = self.is_finetuned_ or self._labelled is not None
        return self._label_reference() if wanted and self._has_labelled_cells() else None

    def _drop_reference(self) -> None:
        """Forget embeddings of labelled cells, because the weights that made them are about to change."""
        saved = self._labelled is not None and self._labelled[0] is None
        self._labelled = None
        if saved and not self._has_labelled_cells():
            warn(
                "The labelled cells that were saved with the model were embedded by the weights it had, and the data "
                "has no labels to take their place: after training, predict_labels has nothing to compare with."
            )

    def predict_expression(
        self,
        genes: Sequence[str],
        adata: AnnData | None = None,
        *,
        n_iterations: int = 4,
        gene_table: GeneTable | None = None,
        batch_size: int = 64,
    ) -> pd.DataFrame:
        """Generate the values of genes from the cells' other genes, a share at a time (Appendix C).

        For models trained with prompts (``objective={"cell_prompt_weight": 1.0}``); others generate too.

        Parameters
        ----------
        genes
            Names of genes the model knows. What a cell has of them is hidden first.
        adata, gene_table
            As in :meth:`get_latent_representation`.
        n_iterations
            In each an equal share of the genes becomes known, those on which gene prompt and cell prompt agree best; 1:
            all at once.
        batch_size
            Cells at a time.

        Returns
        -------
        pandas.DataFrame
            Cells × genes: bins from 0 to ``n_bins - 1``. Training shows expressed genes alone, so this is how high a
            gene would be among the cell's expressed ones, not whether it is expressed.

        Raises
        ------
        ValueError
            If a gene is not known, a number is not positive, or the model has no head that predicts values.
        """
        if self.config.tokens.unit != "gene":
            raise ValueError("Values are of genes: predict_expression needs a model with genes as tokens.")
        if n_iterations < 1 or batch_size < 1:
            raise ValueError(f"n_iterations and batch_size must be positive, found {n_iterations} and {batch_size}.")
        ids = self.vocabulary.ids(list(genes))
        if (ids < 0).any() or len(set(ids)) < len(ids) or not len(ids):
            unknown = [name for name, i in zip(genes, ids, strict=True) if i < 0]
            raise ValueError(f"genes must be distinct names that the model knows; it does not know {unknown[:5]}.")
        self._warn_if_untrained()
        adata = self.adata if adata is None else adata
        source = self._source_for(adata, gene_table)
        wanted = torch.from_numpy(ids).to(self.device)
        parts = []
        for cells in torch.arange(source.n_cells).split(batch_size):
            batch, asked = with_unknown(source.batch(cells), wanted)
            values = generate(self.module.target, self.module.objective, batch, asked, n_iterations)
            parts.append(values[asked].view(-1, len(ids)).cpu().numpy())
        return pd.DataFrame(np.concatenate(parts), index=adata.obs_names, columns=list(genes))
