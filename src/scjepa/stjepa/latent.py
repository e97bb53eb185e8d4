"""Embedding with a model of neighborhoods: cells at their scales, with tokens hidden, and genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from anndata import AnnData
from tqdm.auto import tqdm

from scjepa._core import keys as _keys
from scjepa._core.options import unknown_name
from scjepa._core.plain import seed_of
from scjepa._core.warn import warn
from scjepa.models.base import JEPAModel
from scjepa.models.embed import AUTO, CHUNK, check_batch_size, embed_genes, embed_scales
from scjepa.models.embedded import check_embedding_memory, embed_to
from scjepa.models.empty import why_empty
from scjepa.stjepa.config import STJEPAConfig
from scjepa.stjepa.masked import MaskedRepresentations, check_masks
from scjepa.stjepa.module import STJEPAModule
from scjepa.stjepa.pooling import POOLING
from scjepa.stjepa.source import TokenSource
from scjepa.tl import check_niches, niche_readout, niches
from scjepa.tokens.vocabulary import Panels, Vocabulary

NEIGHBORHOOD = "neighborhood"
"""The scale that is meant where none is named."""

SHARED = "shared"
"""``genes`` that names the genes all technologies measured."""


class LatentMixin(JEPAModel):
    """What a model of neighborhoods gives back: embeddings of cells, neighborhoods and genes."""

    config: STJEPAConfig
    module: STJEPAModule
    vocabulary: Vocabulary
    panels: Panels

    def get_latent_representation(
        self,
        adata: AnnData | Sequence[AnnData] | Mapping[str, AnnData] | None = None,
        *,
        scale: str = "neighborhood",
        encoder: str = "target",
        genes: str | Sequence[str] | None = None,
        batch_size: int | str = AUTO,
        out: np.ndarray | str | Path | None = None,
        key_added: str | None = None,
    ) -> Any:
        """Embed cells: the mean over the contextual tokens of a neighborhood, or of its index cell.

        Parameters
        ----------
        adata
            Other data, or a list or a mapping of such, with a spatial graph. Sections and technologies may be new;
            where they are found is what ``setup_anndata`` was told of this object, else of the model's own.
            Genes are aligned by name; those the model does not know are left out with a warning
            (:meth:`load_query_data` takes them in). Counts are normalized with the model's statistics, those of their
            technology or, where the model does not know it, of all technologies. Default: the model's own.
        scale
            ``"neighborhood"`` (the cell with its neighbors: for niches) or ``"cell"`` (the index cell's tokens, seen
            in context; with ``tokenizer="neighborhood"``, which tells no cells apart, the cell as a neighborhood of
            its own counts alone).
        encoder
            ``"target"`` (the EMA encoder) or ``"context"``.
        genes
            Genes that may become tokens: ``"shared"`` (those all technologies measured), a list of names, or ``None``
            for all. A token's value is the same in each case.
        batch_size
            Cells at a time, or ``"auto"``: as many as fit a share of the device's memory. The result does not depend on
            it, save for rounding.
        out
            Where to write: a float32 array or memory map of shape ``(n_cells, n_latent)``, or the path of a ``.npy``
            file, for results larger than memory. A path can be resumed: it is written as ``<name>.part`` with a small
            ``<name>.json`` beside it, and the same call with the same weights and data goes on where a killed one
            stopped, or returns the finished file. Default: a new array.
        key_added
            Also write the result to ``adata.obsm[key_added]``.

        Returns
        -------
        numpy.ndarray
            ``(n_cells, n_latent)`` float32: ``out`` if it is an array, a read-only memory map if it is a path. Cells
            without any token at that scale are zero, and a warning names them. For a list of AnnData a list of such
            arrays, for a mapping a dictionary.

        Raises
        ------
        ValueError, TypeError
            If ``scale``, ``encoder``, ``batch_size`` or ``out`` cannot be used, or no gene matches.
        KeyError
            If the data lacks coordinates, a spatial graph or the layer of counts.
        FileExistsError
            If there is a file at ``out`` from another model or other data; it is not replaced.
        """
        if isinstance(adata, Mapping | Sequence) and not isinstance(adata, str):
            if out is not None:
                raise ValueError("out takes the result of one AnnData object; embed them one by one.")
            several: dict[str, Any] = {"scale": scale, "encoder": encoder, "genes": genes, "batch_size": batch_size}
            each = adata.values() if isinstance(adata, Mapping) else adata
            found = [self.get_latent_representation(one, key_added=key_added, **several) for one in each]
            return dict(zip(adata, found, strict=True)) if isinstance(adata, Mapping) else found
        if scale not in POOLING:
            raise ValueError(unknown_name("scale", scale, POOLING))
        check_batch_size(batch_size)
        self.module.encoder(encoder)
        self._warn_if_untrained()
        source = self._source(adata, self._gene_ids(genes), scale)
        self._warn_of_empty(source, scale, adata, genes)
        embedding = embed_to(out, self.module, source, scale=scale, encoder=encoder, batch_size=batch_size)
        if key_added is not None:
            (self.adata if adata is None else cast(AnnData, adata)).obsm[key_added] = embedding
        return embedding

    def get_masked_representations(
        self,
        adata: AnnData | None = None,
        *,
        n_masks: int = 8,
        ratio: float = 0.3,
        seed: int = 0,
        scale: str | None = None,
        encoder: str = "target",
        genes: str | Sequence[str] | None = None,
        batch_size: int | str = AUTO,
    ) -> MaskedRepresentations:
        """Embed cells several times, each time with other tokens hidden, for :func:`scjepa.tl.niche_confidence`.

        Parameters
        ----------
        n_masks
            Times to embed; each takes about (1 - ratio) of the time of :meth:`get_latent_representation`.
        ratio
            Share of each cell's tokens that is hidden, in (0, 1); a cell keeps one token at least.
        seed
            Seed of the masks. What is hidden depends on it and on the counts of a neighborhood, not on the order of
            cells or genes or the batch size.
        scale
            As in :meth:`get_latent_representation`. Default: ``"neighborhood"``, and in
            :func:`~scjepa.tl.niche_confidence` the scale of the embedding that the niches come from.
        adata, encoder, genes, batch_size
            As in :meth:`get_latent_representation`.

        Yields
        ------
        numpy.ndarray
            ``(n_cells, n_latent)`` float32 for each mask, made when it is asked for. All at once:
            ``np.stack(list(model.get_masked_representations()))``.

        Raises
        ------
        ValueError
            If an option cannot be used, or no gene matches.
        """
        check_masks(n_masks, ratio)
        seed = seed_of(seed)
        if scale is not None and scale not in POOLING:
            raise ValueError(unknown_name("scale", scale, POOLING))
        check_batch_size(batch_size)
        self.module.encoder(encoder)
        self._warn_if_untrained()
        gene_ids = self._gene_ids(genes)
        scales = (scale,) if scale is not None else (NEIGHBORHOOD, *(name for name in POOLING if name != NEIGHBORHOOD))
        source = self._source(adata, gene_ids, scales[0])
        self._warn_of_empty(source, scales[0], adata, genes)
        check_embedding_memory(self.module, source, batch_size, 4 * source.n_cells * self.config.encoder.width)
        how: dict[str, Any] = {"encoder": encoder, "batch_size": batch_size}

        @cache
        def by_scale(name: str) -> TokenSource:  # the tables of all scales are one, but where neighborhoods are summed
            alike = name == scales[0] or not self.config.tokens.summed
            return source if alike else self._source(adata, gene_ids, name)

        return MaskedRepresentations(self.module, by_scale, scales, n_masks=n_masks, ratio=ratio, seed=seed, **how)

    def get_gene_representation(self, *, encoder: str = "target", batch_size: int | str = AUTO) -> np.ndarray:
        """Embed genes: the mean contextual token of each gene over the cells that express it.

        Parameters
        ----------
        encoder
            ``"target"`` or ``"context"``.
        batch_size
            Cells at a time, or ``"auto"``: as many as fit a share of the device's memory.

        Returns
        -------
        numpy.ndarray
            ``(n_vars, n_latent)`` float32 in the order of ``adata.var_names``, ready for ``adata.varm``. Genes that are
            among no cell's top tokens are NaN, and a warning tells how many.
        """
        self.module.encoder(encoder)
        check_batch_size(batch_size)
        self._warn_if_untrained()
        means, sizes = embed_genes(self.module, self._source(None), len(self.vocabulary), encoder, batch_size)
        ids = self.vocabulary.ids(self.adata.var_names)
        absent = sizes[ids] == 0
        if absent.any():
            warn(
                f"{absent.sum()} of {len(ids)} genes are among no cell's top {self.config.tokens.n_tokens} genes and "
                f"get NaN, such as {self.adata.var_names[absent.argmax()]!r}. A model with more tokens, "
                "tokens={'n_tokens': ...}, sees more of them."
            )
        return means[ids]

    def niches(
        self,
        adata: AnnData | None = None,
        n_niches: int | None = None,
        *,
        resolution: float = 1.0,
        use_rep: str | Sequence[str] | None = None,
        align: str = "auto",
        encoder: str = "target",
        batch_size: int | str = AUTO,
        progress_bar: bool = True,
        key_added: str = _keys.NICHE,
        random_state: int = 0,
    ) -> None:
        """Find niches: embed at all scales in one pass, read out cells and the rings around them, cluster.

        The same as :meth:`get_latent_representation` at both scales, :meth:`get_gene_representation`,
        :func:`scjepa.tl.niche_readout` and :func:`scjepa.tl.niches`, which take more options, one after another.

        Parameters
        ----------
        adata
            Other data with a spatial graph. Default: the model's own.
        n_niches
            Number of niches. Default: as many as Leiden finds at ``resolution``.
        resolution
            Leiden's resolution, where ``n_niches`` is not given.
        use_rep
            What the read-out reads: ``"X_stjepa_cell"`` for the embedding alone, ``"X"`` for the expression alone.
            Default: both.
        align
            What sections are made to have in common; see :func:`scjepa.tl.niche_readout`.
        encoder, batch_size
            As in :meth:`get_latent_representation`.
        progress_bar
            Show how far the pass of the encoder is.
        key_added
            Column of ``adata.obs`` for the niches.
        random_state
            Seed of the clustering.

        Returns
        -------
        None
            Writes ``adata.obsm["X_stjepa"]`` (neighborhoods), ``adata.obsm["X_stjepa_cell"]`` (cells in context),
            ``adata.varm["X_stjepa_gene"]`` (genes; NaN for those that are no token of any cell),
            ``adata.obsm["X_stjepa_niche"]`` (the read-out), ``adata.obs[key_added]``, and what
            :func:`scjepa.tl.niches` writes beside it.

        Raises
        ------
        KeyError, TypeError, ValueError
            As the functions named above; what is told by the arguments alone, before the encoder runs.

        Examples
        --------
        >>> model.train()
        >>> model.niches(n_niches=12)
        >>> scjepa.pl.niches(adata)
        """
        own = self.adata if adata is None else adata
        keys = self._keys_for(own)
        made = (_keys.EMBEDDING, _keys.EMBEDDING_CELL)
        check_niches(own, n_niches, use_rep=use_rep, align=align, key_added=key_added, made=made)
        self._embed_all(own, encoder, batch_size, progress_bar)
        niche_readout(
            own, use_rep, layer=keys.layer, library_key=keys.library_key, align=align, neighbors_key=keys.neighbors_key
        )
        find: dict[str, Any] = {"n_niches": n_niches, "resolution": resolution, "random_state": random_state}
        niches(own, _keys.EMBEDDING_NICHE, key_added=key_added, **find)

    def _embed_all(self, adata: AnnData, encoder: str, batch_size: int | str, progress_bar: bool) -> None:
        """Write the embeddings of neighborhoods, cells and genes, of one pass where one will do."""
        check_batch_size(batch_size)
        self.module.encoder(encoder)
        self._warn_if_untrained()
        source = self._source(adata)
        # Where a neighborhood's counts are summed no cells are told apart: a cell is a neighborhood of its own counts.
        scales = ["neighborhood"] if self.config.tokens.summed else list(POOLING)
        for scale in scales:
            self._warn_of_empty(source, scale, adata, None)
        result = 4 * self.config.encoder.width * (2 * source.n_cells + len(self.vocabulary))
        check_embedding_memory(self.module, source, batch_size, result)
        hidden = not progress_bar or source.n_cells <= CHUNK
        with tqdm(total=source.n_cells, desc="Embedding", unit=" cells", disable=hidden) as bar:
            found, (genes, _) = embed_scales(
                self.module,
                source,
                scales,
                len(self.vocabulary),
                encoder,
                batch_size,
                after_chunk=lambda done: bar.update(done - bar.n) and None,
            )
        if "cell" not in found:
            source = self._source(adata, scale="cell")
            self._warn_of_empty(source, "cell", adata, None)
            how: dict[str, Any] = {"scale": "cell", "encoder": encoder, "batch_size": batch_size}
            found["cell"] = embed_to(None, self.module, source, **how)
        adata.obsm[_keys.EMBEDDING], adata.obsm[_keys.EMBEDDING_CELL] = found["neighborhood"], found["cell"]
        ids = self.vocabulary.align(adata.var_names, source="adata.var_names").ids
        of_genes = np.full((adata.n_vars, self.config.encoder.width), np.nan, dtype=np.float32)
        of_genes[ids >= 0] = genes[ids[ids >= 0]]
        adata.varm[_keys.EMBEDDING_GENE] = of_genes

    def _gene_ids(self, genes: str | Sequence[str] | None) -> np.ndarray | None:
        """Return the vocabulary ids of ``genes``, ``None`` for all."""
        if genes is None:
            return None
        if isinstance(genes, str):
            if genes != SHARED:
                raise ValueError(f"genes must be 'shared', a list of gene names or None, found {genes!r}.")
            shared = self.panels.shared()
            if not len(shared):
                raise ValueError(
                    f"No gene was measured by all of {', '.join(self.panels.technologies)}. Pass genes=[...] or None."
                )
            return shared
        ids = self.vocabulary.align(list(genes), source="genes").ids
        if (ids < 0).any():
            unknown = [name for name, known in zip(genes, ids >= 0, strict=True) if not known]
            raise ValueError(f"The model does not know {len(unknown)} of the genes, such as {unknown[:5]}.")
        return ids

    def _warn_of_empty(
        self, source: TokenSource, scale: str, adata: AnnData | None, genes: str | Sequence[str] | None
    ) -> None:
        lengths = source.neighborhood_lengths() if scale == "neighborhood" else source.cell_lengths()
        empty = (lengths == 0).cpu().numpy()
        if not empty.any():
            return
        adata = self.adata if adata is None else adata
        without = "not of a gene the model knows: model.coverage(adata) tells which it knows."
        if genes is not None:
            without = "not of the genes that genes=... leaves: genes=None takes all that the model knows."
        why = why_empty(empty, adata.obs_names, self._counts_of(adata), without)
        warn(f"{empty.sum():,} cells have no token at the {scale} scale and get a zero embedding. {why}")
