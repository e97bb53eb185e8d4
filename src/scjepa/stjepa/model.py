"""ST-JEPA: embeddings of genes, cells and neighborhoods of spatial transcriptomics."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from scjepa._core import keys as _keys
from scjepa._core.anndata import counts_of, niches_of, require_anndata
from scjepa._core.counts import iter_rows
from scjepa._core.features import warn_of_no_genes
from scjepa._core.plain import Facts, seed_of
from scjepa._core.warn import warn
from scjepa.cohort import Collection
from scjepa.models import embed
from scjepa.models.base import JEPAModel
from scjepa.models.embed import AUTO, Out
from scjepa.models.reference import freeze_known, rows_like, rows_of_mean
from scjepa.models.setup import SET_UPS, codes_of, known_ids, names_of
from scjepa.models.store import STATISTICS, Weights
from scjepa.stjepa import explain
from scjepa.stjepa.config import EncoderConfig, MaskingConfig, ObjectiveConfig, STJEPAConfig, TokenConfig, resolve
from scjepa.stjepa.data import (
    CellData,
    DataKeys,
    chosen_tokens,
    n_measured,
    normalizations_of,
    panels_of,
    tables_of,
    warn_of_same_tokens,
)
from scjepa.stjepa.explain import Reader
from scjepa.stjepa.masking import MaskedRepresentations, check_masks
from scjepa.stjepa.module import POOLING, STJEPAModule, pool
from scjepa.stjepa.source import Batch, TokenSource
from scjepa.tl import check_niches, niche_readout, niches
from scjepa.tl.edits import Edit, EditedNeighborhoods, donors_of, edit_all, told
from scjepa.tl.evidence import (
    Null,
    Sampled,
    as_table,
    gene_rows,
    labels_in,
    mean_differences,
    named_niches,
    neighbor_rows,
)
from scjepa.tl.prediction import SURPRISE, Strata, joined_in, refuse_surprise, unexpectedness, write_surprise
from scjepa.tokens.choice import TokenSpread, describe_tokens
from scjepa.tokens.normalize import FittedNormalizations
from scjepa.tokens.vocabulary import Panels, Vocabulary, likely_cause
from scjepa.training import hold_out
from scjepa.training.collapse import same_tokens_advice
from scjepa.training.config import TrainConfig
from scjepa.training.fit import Run, Task

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("scjepa")

_ENOUGH_CELLS = 100
"""Cells with counts from which on a new technology is normalized with statistics of its own."""

Genes = str | Sequence[str] | None
"""Genes that may become tokens: ``"shared"``, names, or ``None`` for all."""


class STJEPA(JEPAModel[DataKeys, CellData, TokenSource]):
    """Spatial-transcriptomics JEPA (GenBio 2026).

    Each cell and its nearest neighbors become a sequence of gene tokens. A context encoder sees the visible tokens,
    an EMA target encoder gives the representations of the masked ones, and a predictor is trained to predict them.

    Parameters
    ----------
    adata
        Data registered with :meth:`setup_anndata`; or a prepared :class:`scjepa.Collection`, which needs none: its
        tables are made once, in its folder, and mapped.
    preset
        ``"demo"`` (a laptop, minutes), ``"base"``, ``"technologies"`` (sections of several technologies),
        ``"paper_ablation"`` or ``"paper"`` (768 wide, 5 layers; a GPU), or a whole
        :class:`~scjepa.config.STJEPAConfig`.
    tokens, encoder, masking, objective, training
        Changes to the preset: a mapping of options, ``encoder={"n_layers": 4}``, or the dataclass itself. Of an
        objective the name will do: ``objective="lejepa"``.
    seed
        Seed of the weights, the batches and the masks.

    Examples
    --------
    >>> sq.gr.spatial_neighbors_knn(adata, n_neighs=10, library_key="section")
    >>> scjepa.STJEPA.setup_anndata(adata, library_key="section")
    >>> model = scjepa.STJEPA(adata, preset="demo")
    >>> model.train()
    >>> adata.obsm["X_stjepa"] = model.get_latent_representation()
    """

    _scale = "neighborhood"
    config: STJEPAConfig
    module: STJEPAModule
    panels: Panels
    normalizations: FittedNormalizations

    def __init__(
        self,
        adata: AnnData | Collection,
        preset: str | STJEPAConfig = "base",
        *,
        tokens: TokenConfig | Mapping[str, object] | None = None,
        encoder: EncoderConfig | Mapping[str, object] | None = None,
        masking: MaskingConfig | Mapping[str, object] | None = None,
        objective: ObjectiveConfig | Mapping[str, object] | str | None = None,
        training: TrainConfig | Mapping[str, object] | None = None,
        seed: int = 0,
    ):
        config = resolve(
            preset, tokens=tokens, encoder=encoder, masking=masking, objective=objective, training=training
        )
        seed = seed_of(seed)
        adata = self._data_of(adata)
        require_anndata(adata)
        super().__init__(adata)
        warn_of_no_genes(adata)
        vocabulary = Vocabulary.from_panels([adata.var_names])
        panels = panels_of(adata, self.keys, vocabulary)
        if panels.inferred:
            logger.info("Panels inferred from the counts. %s", panels.describe(vocabulary))
        _warn_of_strangers(panels, vocabulary)
        about = (adata, self.keys, vocabulary, panels.technologies)
        config = replace(config, tokens=chosen_tokens(adata, self.keys, config.tokens))
        normalizations = normalizations_of(*about, config.tokens)
        self._start(config, vocabulary, seed, panels=panels, normalizations=normalizations)
        self.init_params_ = self._get_init_params(locals())

    def _new_module(self) -> STJEPAModule:
        return STJEPAModule(len(self.vocabulary), len(self.technologies), self.config)

    # -- data ---------------------------------------------------------------------------------------------------

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        technology_key: str | None = None,
        library_key: str | None = None,
        spatial_key: str = _keys.SPATIAL,
        neighbors_key: str = _keys.SPATIAL,
        panel_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register an AnnData object.

        Writes scvi-tools' bookkeeping (``uns["_scvi_uuid"]``, ``uns["_scvi_manager_uuid"]``) and nothing else.

        Parameters
        ----------
        adata
            Cells × genes, with coordinates and squidpy's spatial graph.
        layer
            Layer of raw counts; default: ``X``.
        technology_key
            ``obs`` column of each cell's technology; default: one technology.
        library_key
            ``obs`` column of each cell's section, as given to squidpy; default: one section.
        spatial_key
            ``obsm`` key of the coordinates.
        neighbors_key
            squidpy's ``key_added``: the graph is in ``obsp[f"{neighbors_key}_connectivities"]`` and ``_distances``.
        panel_key
            ``varm`` key of a DataFrame with a boolean column for each technology: which genes it measured. Default:
            inferred, a gene is measured by a technology if one of its cells has a count of it.
        **kwargs
            scvi-tools' own registry arguments.

        Raises
        ------
        KeyError
            If a key does not exist; the message names what does and the next call.
        ValueError
            If the data cannot be used: a view, duplicate gene names, missing section names, wrong shapes.

        Warns
        -----
        UserWarning
            If the top genes by count are nearly the same in all cells.
        """
        arguments = cls._get_setup_method_args(**locals())
        keys = DataKeys(layer, technology_key, library_key, spatial_key, neighbors_key, panel_key)
        cls._register(adata, keys, arguments, kwargs)
        warn_of_same_tokens(adata, keys)

    @classmethod
    def _data_of(cls, data: Any) -> Any:
        """Return annotated data as they are, and those of a collection, which tells itself what they are."""
        if not isinstance(data, Collection):
            return data
        if SET_UPS.of(cls, data.adata) is None:
            cls.setup_anndata(data.adata, **data.adata.setup)
        return data.adata

    @classmethod
    def keys_of(cls, setup: Facts) -> DataKeys:
        """Return where the model looks in AnnData, from the arguments of ``setup_anndata``."""
        return DataKeys.of(setup)

    def tables(
        self, adata: AnnData, keys: DataKeys, genes: np.ndarray | None = None, *, alone: bool = False
    ) -> CellData:
        """Return the token and neighbor tables of ``adata``.

        Parameters
        ----------
        adata, keys
            Data, and where to look in them.
        genes
            Vocabulary ids that may become tokens; ``None``: all.
        alone
            Where neighborhoods are summed: whether each cell is a neighborhood of its own.
        """
        if adata is not self.adata:
            alignment = self.vocabulary.align(adata.var_names, source="adata.var_names", columns=adata.var)
            self._warn_of_unknown(alignment, "query = STJEPA.load_query_data(adata, model)")
        return tables_of(self, adata, keys, genes, alone=alone)

    def source(self, data: CellData, device: torch.device | str = "cpu") -> TokenSource:
        """Return the source of neighborhoods of tables."""
        tables = (data.tokens, data.neighbors, data.technologies)
        return TokenSource(*tables, device, summed=data.summed, places=data.places)

    def split(self, data: CellData, size: float, by: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the cells to train on and those held out: blocks of each section, or whole sections."""
        return hold_out(data.coordinates, data.sections, size, by=by or "block", seed=self.seed)

    def _task(self, run: Run) -> Task:
        self._check_trainable()
        data = self._own_tables()
        task = self._task_of(data, run)
        spread = self._spread_of(data)
        if spread.same:
            advice = same_tokens_advice(self.config.tokens)
            warn(
                f"The tokens of all cells are nearly the same genes: {spread}. Niches can hardly be told from them. "
                f"{advice[0].upper()}{advice[1:]}."
            )
        return task

    def _check_trainable(self) -> None:
        """Refuse to train on technologies that have no token, or where nothing may change."""
        metatoken, known = self.config.encoder.metatoken, self.technologies
        unknown = set(names_of(self.adata, self.keys.technology_key)).difference(known)
        if unknown and (metatoken or self.module.objective.needs_technology):
            raise ValueError(
                f"The model does not know the technology {min(unknown)!r} (known: {', '.join(known)}), so it cannot "
                f"train on it. Make it known: {type(self).__name__}.load_query_data(adata, model)."
            )
        before = 0 if self.reference is None else self.reference.n_technologies
        n_new = self._n_new_genes + (len(known) - before if metatoken else 0)
        self._check_freeze("new genes and technologies", n_new)

    def _token_spread(self) -> TokenSpread:
        return self._spread_of(self._own_tables())

    def _spread_of(self, data: CellData) -> TokenSpread:
        return TokenSpread.of(data.tokens, n_measured(self.adata, self.keys, self.vocabulary, self.config.tokens))

    # -- embedding ------------------------------------------------------------------------------------------------

    def get_latent_representation(
        self,
        adata: AnnData | Collection | Sequence[AnnData] | Mapping[str, AnnData] | None = None,
        *,
        scale: str = "neighborhood",
        encoder: str = "target",
        genes: Genes = None,
        contextual: bool = True,
        batch_size: int | str = AUTO,
        out: Out = None,
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
            technology or, where the model does not know it, of all technologies. Of a :class:`scjepa.Collection` the
            sections follow each other. Default: the model's own.
        scale
            ``"neighborhood"`` (the cell with its neighbors: for niches) or ``"cell"`` (the index cell's tokens, seen
            in context; with ``tokenizer="neighborhood"``, which tells no cells apart, the cell as a neighborhood of
            its own counts alone).
        encoder
            ``"target"`` (the EMA encoder) or ``"context"``.
        genes
            Genes that may become tokens: ``"shared"`` (those all technologies measured), a list of names, or ``None``
            for all. A token's value is the same in each case.
        contextual
            False: pool tokens as they are given to the encoder's transformer, untouched by other tokens; a control.
        batch_size
            Cells at a time, or ``"auto"``: as many as fit a share of the device's memory. The result does not depend on
            it, save for rounding.
        out
            Where to write: a float32 array or memory map of shape ``(n_cells, n_latent)``, or the path of a ``.npy``
            file, for results larger than memory. A path can be resumed: it is written as ``<name>.part`` with a small
            ``<name>.json`` next to it, and the same call with the same weights and data goes on where a killed one
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

        def pooled_input(batch: Batch) -> Tensor:
            return pool(self.module.encoder(encoder).embedding(batch).float(), batch, scale)

        def embed_one(one: AnnData | None, to: Out) -> np.ndarray:
            source = self._checked_source(one, genes, encoder, batch_size, scale)
            mark, by = (scale, None) if contextual else (f"{scale}, as given to the encoder", pooled_input)
            as_told = partial(embed.embed_to, to, self.module, source, encoder=encoder, batch_size=batch_size)
            return as_told(scale=mark, embed_batch=by)

        return embed.embed_each(self.adata, self._data_of(adata), out, embed_one, key_added)

    def get_masked_representations(
        self,
        adata: AnnData | None = None,
        *,
        n_masks: int = 8,
        ratio: float = 0.3,
        seed: int = 0,
        scale: str | None = None,
        encoder: str = "target",
        genes: Genes = None,
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
        scales = (scale,) if scale is not None else (self._scale, *(name for name in POOLING if name != self._scale))
        source = self._checked_source(adata, genes, encoder, batch_size, *scales)
        embed.check_embedding_memory(self.module, source, batch_size, 4 * source.n_cells * self.config.encoder.width)

        @cache
        def by_scale(name: str) -> TokenSource:  # the tables of all scales are one, but where neighborhoods are summed
            alike = name == scales[0] or not self.config.tokens.summed
            return source if alike else self._source_at(adata, name, self._gene_ids(genes))

        return MaskedRepresentations(self.module, by_scale, scales, (n_masks, ratio, seed), encoder, batch_size)

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
        self._check_embedding(encoder, batch_size)
        _, means, sizes = self._embed_scales(self._source(), (), encoder, batch_size)
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
        method: str = AUTO,
        resolution: float = 1.0,
        use_rep: str | Sequence[str] | None = None,
        align: str = "auto",
        encoder: str = "target",
        batch_size: int | str = AUTO,
        progress_bar: bool | None = None,
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
        method
            How they are found; see :func:`scjepa.tl.niches`.
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
            Show how far the pass of the encoder is. Default: ``scjepa.settings.progress_bar``.
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
            :func:`scjepa.tl.niches` writes too.

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
        check_niches(own, n_niches, method=method, use_rep=use_rep, align=align, key_added=key_added, made=made)
        self._embed_all(own, encoder, batch_size, progress_bar)
        niche_readout(
            own, use_rep, layer=keys.layer, library_key=keys.library_key, align=align, neighbors_key=keys.neighbors_key
        )
        find = partial(niches, n_niches=n_niches, method=method, resolution=resolution, random_state=random_state)
        find(own, _keys.EMBEDDING_NICHE, key_added=key_added)

    # -- why ----------------------------------------------------------------------------------------------------

    def explain(
        self,
        adata: AnnData | None = None,
        niche_key: str = _keys.NICHE,
        *,
        by: str = _keys.CELL_TYPE,
        niches: Sequence[str] | None = None,
        use_rep: str = _keys.EMBEDDING,
        genes: bool = True,
        n_cells: int = 100,
        n_permutations: int = 500,
        random_state: int = 0,
    ) -> pd.DataFrame:
        """Tell which neighbors and which genes speak for each niche, by hiding them from the encoder.

        Of each niche some cells are drawn. One neighbor after another is hidden from a cell, all its tokens; then each
        gene, its tokens in the cell and its neighbors. How much the log-odds of the cell's niche fall is the effect;
        they are those of a linear discriminant of the niches in the embedding of neighborhoods, fitted on the other
        half of the tissue. Tokens were hidden in
        training as well, so that such inputs are none that the model has never met. The linear counterpart, without a
        model and in seconds, is :func:`scjepa.tl.niche_drivers`.

        Parameters
        ----------
        adata
            Data with niches and this model's embedding of neighborhoods (:meth:`niches` writes both). Default: the
            model's own. Nothing is written.
        niche_key, by, niches
            As in :func:`scjepa.tl.niche_drivers`.
        use_rep
            Key in ``adata.obsm`` of the embedding of neighborhoods that this model made.
        genes
            Whether to hide genes; about a hundred passes for each cell.
        n_cells
            Cells that stand for each niche, at most.
        n_permutations, random_state
            As in :func:`scjepa.tl.niche_drivers`.

        Returns
        -------
        pandas.DataFrame
            As :func:`scjepa.tl.niche_drivers` returns, with the same nulls. Rings: 0 the cell itself, 1 the nearer half
            of the neighbors that the model reads, 2 the farther half. A gene is hidden only from cells in whose
            neighborhood it is a token, ``n_cells``; its effect is the mean over all cells drawn, 0 for the others.

        Raises
        ------
        KeyError
            If niches, labels or the embedding are not there, with the next call.
        ValueError
            If the embedding is of another model or version, a niche is empty, or neighborhoods are summed
            (``tokenizer="neighborhood"``), so that none can be hidden.

        Examples
        --------
        >>> model.niches(n_niches=7)
        >>> scjepa.pl.niche_drivers(model.explain())
        """
        own, reader, values = self._read(adata, niche_key, use_rep, "explain")
        how, wanted = Null.of(n_permutations, random_state), named_niches(own, niche_key, niches)
        keys = self._keys_for(own)
        labels, names = labels_in(own, by)
        sampled = Sampled.of(own, niche_key, n_cells, None, keys.library_key, keys.spatial_key, random_state)
        evidence = sampled.evidence(values)
        hidden = explain.hide_neighbors(reader, sampled, evidence, values)
        rows = neighbor_rows(hidden, sampled, labels, names, how)
        if genes:
            found = explain.hide_genes(reader, sampled, evidence, values)
            ids = np.unique(found.gene)
            names = [self.vocabulary.names[id_] for id_ in ids]
            differences = mean_differences(own, sampled.codes, sampled.names, keys.layer)
            rows += gene_rows(partial(found.of, ids), sampled, names, differences, how)
        return as_table(rows, wanted, is_told=evidence.is_told)

    def edit_neighborhood(
        self,
        adata: AnnData | None = None,
        niche_key: str = _keys.NICHE,
        *,
        remove: str | None = None,
        replace: Mapping[str, str] | None = None,
        add: str | None = None,
        n_added: int = 1,
        by: str = _keys.CELL_TYPE,
        niches: Sequence[str] | None = None,
        use_rep: str = _keys.EMBEDDING,
        n_cells: int = 100,
        random_state: int = 0,
    ) -> EditedNeighborhoods:
        """Remove, replace or add neighbors of a kind, and tell how the embedding and the niches of cells move.

        As :func:`scjepa.tl.edit_neighborhood`, which says what may be concluded, by the encoder: the tokens of other
        cells of the same section stand where those of the neighbors stood. The model reads as many neighbors as it was
        made for; where there are as many, added cells take the place of the farthest.

        Parameters
        ----------
        adata
            Data with niches and this model's embedding of neighborhoods. Default: the model's own. Nothing is written.
        niche_key, remove, replace, add, n_added, by, niches, n_cells, random_state
            As in :func:`scjepa.tl.edit_neighborhood`.
        use_rep
            Key in ``adata.obsm`` of the embedding of neighborhoods that this model made.

        Returns
        -------
        scjepa.tl.EditedNeighborhoods
            ``cells``, ``before`` and ``after``.

        Raises
        ------
        KeyError, ValueError
            As :func:`scjepa.tl.edit_neighborhood` and :meth:`explain`.

        Examples
        --------
        >>> found = model.edit_neighborhood(replace={"Oligo": "eL6-2"})
        >>> found.cells[["shift", "control_shift"]].mean()
        """
        own, reader, values = self._read(adata, niche_key, use_rep, "edit_neighborhood")
        keys, (labels, names) = self._keys_for(own), labels_in(own, by)
        edit = Edit.of(remove, replace, add, n_added, names, by)
        sampled = Sampled.of(own, niche_key, n_cells, niches, keys.library_key, keys.spatial_key, random_state)
        near = reader.source.neighbors_of(sampled.cells)[:, 1:]
        donors = donors_of(own, labels, keys.library_key, random_state)
        found = edit_all(sampled.cells, near, edit, donors, partial(explain.embed_edited, reader))
        return told(own, sampled, sampled.evidence(values), values, found)

    def get_surprise(
        self,
        adata: AnnData | None = None,
        *,
        cell_type_key: str | None = _keys.CELL_TYPE,
        encoder: str = "target",
        key_added: str | None = None,
    ) -> pd.DataFrame:
        """Tell how little each cell is what its surroundings predict, in the embedding.

        The encoder embeds each cell alone, and its neighbors without it. By ridge regression the one is predicted from
        the other, on other parts of the tissue; the surprise is log p(own) - log p(own | neighbors), as in
        :func:`scjepa.tl.surprise`, its counterpart without a model.

        Parameters
        ----------
        adata
            Data with counts, coordinates and a spatial graph. Default: the model's own.
        cell_type_key
            Column of ``adata.obs`` with cell types, for the p-values. ``None``: by depth alone.
        encoder
            ``"target"`` or ``"context"``.
        key_added
            Also write ``adata.obs[key_added]`` and ``adata.obs[f"{key_added}_p_value"]``.

        Returns
        -------
        pandas.DataFrame
            Columns ``surprise``, nats, and ``surprise_p_value``, as :func:`scjepa.tl.surprise` writes them, a row for
            each cell. Cells without tokens, or without neighbors that have any, get NaN.

        Warns
        -----
        UserWarning
            If cells have no neighbors.

        Raises
        ------
        KeyError
            If cell types are not there, with the next call.
        ValueError
            If fewer than 100 cells have neighbors, neighborhoods are summed, or there is a column that scjepa did not
            write.

        Examples
        --------
        >>> model.get_surprise().nsmallest(20, "surprise_p_value")
        """
        import pandas as pd

        own = self.adata if adata is None else adata
        explain.refuse_summed(self.config, "get_surprise")
        if key_added is not None:
            refuse_surprise(own, key_added)
        reader = self._reader(own, encoder)
        keys = self._keys_for(own)
        strata = Strata.of(own, keys.layer, cell_type_key, keys.library_key, keys.spatial_key)
        alone, around, there = explain.own_and_context(reader)
        joined = joined_in(there, own)
        score = unexpectedness(alone, around, joined, strata.folds)
        if key_added is not None:
            write_surprise(own, score, strata, key_added, cell_type_key=cell_type_key, encoder=encoder)
        columns = {SURPRISE: score, f"{SURPRISE}_p_value": strata.p_values(score)}
        return pd.DataFrame(columns, index=own.obs_names)

    def _reader(self, adata: AnnData, encoder: str = "target") -> Reader:
        source = self._checked_source(adata, None, encoder, AUTO, self._scale)
        return Reader(self.module, source, encoder)

    def _read(
        self, adata: AnnData | None, niche_key: str, use_rep: str, what: str
    ) -> tuple[AnnData, Reader, np.ndarray]:
        """Return the data, what embeds it, and its embedding of neighborhoods, known to be this model's."""
        own = self.adata if adata is None else adata
        explain.refuse_summed(self.config, what)
        niches_of(own, niche_key)
        reader = self._reader(own)
        return own, reader, explain.own_embedding(reader, own, use_rep)

    def _embed_all(self, adata: AnnData, encoder: str, batch_size: int | str, progress_bar: bool | None) -> None:
        """Write the embeddings of neighborhoods, cells and genes, of one pass where one will do."""
        self._check_embedding(encoder, batch_size)
        source = self._source(adata)
        # Where a neighborhood's counts are summed no cells are told apart: a cell is a neighborhood of its own counts.
        scales = [self._scale] if self.config.tokens.summed else list(POOLING)
        for scale in scales:
            self._warn_of_empty(source, scale, adata, None)
        width = self.config.encoder.width
        n_rows = 2 * source.n_cells + len(self.vocabulary)
        embed.check_embedding_memory(self.module, source, batch_size, 4 * width * n_rows)
        found, genes, _ = self._embed_scales(source, scales, encoder, batch_size, progress_bar)
        if "cell" not in found:
            source = self._source_at(adata, "cell")
            self._warn_of_empty(source, "cell", adata, None)
            found["cell"] = embed.embed_to(
                None, self.module, source, scale="cell", encoder=encoder, batch_size=batch_size
            )
        adata.obsm[_keys.EMBEDDING], adata.obsm[_keys.EMBEDDING_CELL] = found[self._scale], found["cell"]
        ids = self.vocabulary.align(adata.var_names, source="adata.var_names").ids
        of_genes = np.full((adata.n_vars, width), np.nan, dtype=np.float32)
        of_genes[ids >= 0] = genes[ids[ids >= 0]]
        adata.varm[_keys.EMBEDDING_GENE] = of_genes

    @torch.inference_mode()
    def _embed_scales(
        self,
        source: TokenSource,
        scales: Sequence[str],
        encoder: str,
        batch_size: int | str,
        progress_bar: bool | None = None,
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """Return all that one pass gives: embeddings of cells by scale; means and numbers of each gene's tokens.

        The tokens of a gene are those of index cells; without any its mean, float32 of shape (n_genes, width), is NaN.
        """
        n_genes, width = len(self.vocabulary), self.config.encoder.width
        embeddings = {scale: np.empty((source.n_cells, width), dtype=np.float32) for scale in scales}
        total = torch.zeros(n_genes, width, dtype=torch.float64, device=source.device)
        size = torch.zeros(n_genes, dtype=torch.int64, device=source.device)
        for _, chunk in embed.chunks(source, self.module, batch_size, progress_bar=progress_bar):
            for cells, batch in chunk:
                tokens = self.module(batch, encoder).float()
                for scale, out in embeddings.items():
                    out[cells] = pool(tokens, batch, scale).cpu().numpy()
                index = (batch.segments == 0).nonzero()[:, 0]
                total.index_add_(0, batch.genes[index], tokens[index].double())
                size += torch.bincount(batch.genes[index], minlength=n_genes)
        return embeddings, (total / size[:, None]).float().cpu().numpy(), size.cpu().numpy()

    def _check_embedding(self, encoder: str, batch_size: int | str, *scales: str) -> None:
        """Refuse options of embedding that are not known, and warn where the model is not trained."""
        for scale in scales:
            _ = POOLING[scale]
        embed.check_batch_size(batch_size)
        self.module.encoder(encoder)
        self._warn_if_untrained()

    def _checked_source(
        self, adata: AnnData | None, genes: Genes, encoder: str, batch_size: int | str, *scales: str
    ) -> TokenSource:
        """Return the source for the first of ``scales``, once all options are known to be usable."""
        self._check_embedding(encoder, batch_size, *scales)
        source = self._source_at(adata, scales[0], self._gene_ids(genes))
        self._warn_of_empty(source, scales[0], adata, genes)
        return source

    def _source_at(self, adata: AnnData | None, scale: str, genes: np.ndarray | None = None) -> TokenSource:
        """Return the source for a scale; where neighborhoods are summed, that of cells is of each cell's own counts."""
        alone = {"alone": True} if scale == "cell" and self.config.tokens.summed else {}
        return self.source(self._tables_of(adata, genes, **alone), self.device)

    def _gene_ids(self, genes: Genes) -> np.ndarray | None:
        """Return the vocabulary ids of ``genes``, ``None`` for all."""
        if genes is None:
            return None
        if not isinstance(genes, str):
            return known_ids(self.vocabulary, genes)
        if genes != "shared":
            raise ValueError(f"genes must be 'shared', a list of gene names or None, found {genes!r}.")
        shared = self.panels.shared()
        if not len(shared):
            raise ValueError(
                f"No gene was measured by all of {', '.join(self.technologies)}. Pass genes=[...] or None."
            )
        return shared

    def _warn_of_empty(self, source: TokenSource, scale: str, adata: AnnData | None, genes: Genes) -> None:
        """Warn of cells that have no token at a scale, and tell why."""
        lengths = source.neighborhood_lengths() if scale == self._scale else source.cell_lengths()
        empty = (lengths == 0).cpu().numpy()
        if not empty.any():
            return
        adata = self.adata if adata is None else adata
        without = "not of a gene the model knows: model.coverage(adata) tells which it knows."
        if genes is not None:
            without = "not of the genes that genes=... leaves: genes=None takes all that the model knows."
        why = embed.why_empty(empty, adata.obs_names, self._counts_of(adata), without)
        warn(f"{empty.sum():,} cells have no token at the {scale} scale and get a zero embedding. {why}")

    @classmethod
    def _extended(cls, facts: Facts, weights: Weights, adata: AnnData, keys: DataKeys) -> tuple[Facts, Weights]:
        """Return a model's facts and weights with the genes and technologies of ``adata`` besides its own."""
        vocabulary, panels = Vocabulary(facts["vocabulary"]), Panels.from_dict(facts["panels"])
        config = STJEPAConfig.from_dict(facts["config"])
        genes = vocabulary.extended(adata.var_names)
        all_panels = panels.extended(panels_of(adata, keys, genes))
        learned = FittedNormalizations.from_arrays(
            config.tokens, facts[STATISTICS], len(vocabulary), len(panels.technologies)
        )
        if learned.to_arrays():
            further = normalizations_of(adata, keys, genes, all_panels.technologies, config.tokens)
            codes = codes_of(names_of(adata, keys.technology_key), all_panels.technologies)
            filled = np.concatenate([np.diff(rows.indptr) > 0 for _, rows in iter_rows(counts_of(adata, keys.layer))])
            enough = np.bincount(codes[filled], minlength=len(all_panels.technologies)) >= _ENOUGH_CELLS
            learned = learned.extended(further, all_panels.measured & enough[:, None])

        weights = dict(weights)
        tables = [f"{encoder}.embedding.{{}}.weight" for encoder in ("context", "target")]
        gene_tables, technology_tables = ([each.format(name) for each in tables] for name in ("gene", "technology"))
        new_genes = genes.names[len(vocabulary) :]
        rows = rows_like([weights[name] for name in gene_tables], new_genes, facts["seed"])
        weights |= dict(zip(gene_tables, rows, strict=True))
        own = (f"objective.{name}" for name in config.objective.objective_class().technology_tables)
        technology_tables += [name for name in own if name in weights]
        n_new = len(all_panels.technologies) - len(panels.technologies)
        rows = rows_of_mean([weights[name] for name in technology_tables], n_new)
        weights |= dict(zip(technology_tables, rows, strict=True))
        taken = {"vocabulary": list(genes.names), "panels": all_panels.to_dict(), STATISTICS: learned.to_arrays()}
        return {**facts, **taken}, weights

    # -- words --------------------------------------------------------------------------------------------------

    def _words(self) -> dict[str, str]:
        tokens, total = self.config.tokens, self.module.parameter_counts()["total"]
        sections = 1 if self.keys.library_key is None else self.adata.obs[self.keys.library_key].nunique()
        return {
            "data": f", {sections} section(s), technologies: {', '.join(self.technologies)}",
            "tokens": f"{tokens}, {describe_tokens(tokens, self.vocabulary.names)}",
            "encoder": f"; objective {self.config.objective.name!r}",
            "weights": f", {total:,} with predictor, heads and EMA copy",
        }

    # -- save and load --------------------------------------------------------------------------------------------

    def facts(self) -> Facts:
        """Return what a loaded model needs besides weights: panels and statistics of normalizations as well."""
        return {**super().facts(), "panels": self.panels.to_dict(), "statistics": self.normalizations.to_arrays()}

    @classmethod
    def from_facts(cls, adata: AnnData, facts: Facts, weights: Mapping[str, torch.Tensor]) -> Self:
        """Return a model on ``adata``, which is registered, from what :meth:`facts` gave."""
        model, config = cls._bare(adata), STJEPAConfig.from_dict(facts["config"])
        vocabulary, panels = Vocabulary(facts["vocabulary"]), Panels.from_dict(facts["panels"])
        sizes = len(vocabulary), len(panels.technologies)
        normalizations = FittedNormalizations.from_arrays(config.tokens, facts["statistics"], *sizes)
        model._start(config, vocabulary, facts["seed"], panels=panels, normalizations=normalizations)
        model._warn_of_unknown(vocabulary.align(adata.var_names, source="adata.var_names", columns=adata.var))
        model._restore(facts)
        embedding = model.module.context.embedding
        tables = {"n_genes": embedding.gene, "n_technologies": embedding.technology}
        freeze_known(model.module, model.reference, tables)
        return model

    @property
    def technologies(self) -> tuple[str, ...]:
        """Names of the technologies the model knows."""
        return self.panels.technologies


def _warn_of_strangers(panels: Panels, vocabulary: Vocabulary) -> None:
    """Warn of a technology that has no gene in common with any other: nothing learned of one is of use to the other."""
    strangers = panels.strangers()
    if not strangers:
        return
    other = next(name for name in panels.technologies if name != strangers[0])
    names, others = (
        [vocabulary.names[i] for i in np.flatnonzero(panels.measured[panels.technologies.index(name)])]
        for name in (strangers[0], other)
    )
    warn(
        f"The technology {strangers[0]!r} ({', '.join(map(repr, names[:3])) or 'no gene'}, ...) has no gene in common "
        f"with any other, such as {other!r} ({', '.join(map(repr, others[:3])) or 'no gene'}, ...): the model learns "
        f"each by itself. {likely_cause(names, others, repr(strangers[0]), repr(other))}"
    )
