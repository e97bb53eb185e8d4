"""ST-JEPA: embeddings of genes, cells and neighborhoods of spatial transcriptomics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from anndata import AnnData

from scjepa._core import keys as _keys
from scjepa._core.anndata import require_anndata
from scjepa._core.features import warn_of_no_genes
from scjepa._core.plain import Facts, seed_of
from scjepa._core.warn import warn
from scjepa.cohort import Collection
from scjepa.models.base import JEPAModel
from scjepa.models.embed import AUTO, Out, embed_each
from scjepa.models.reference import freeze_known
from scjepa.models.setup import SET_UPS, names_of
from scjepa.models.store import Weights
from scjepa.stjepa import explain, latent
from scjepa.stjepa.config import EncoderConfig, MaskingConfig, ObjectiveConfig, STJEPAConfig, TokenConfig, resolve
from scjepa.stjepa.data import (
    CellData,
    DataKeys,
    chosen_tokens,
    n_measured,
    normalizations_of,
    panels_of,
    tables_of,
    taken_in,
    tell_panels,
    warn_of_same_tokens,
    with_new_rows,
)
from scjepa.stjepa.latent import Genes
from scjepa.stjepa.module import STJEPAModule
from scjepa.stjepa.source import TokenSource
from scjepa.tl import check_niches, niche_readout, niches
from scjepa.tl.edits import EditedNeighborhoods
from scjepa.tokens.choice import TokenSpread, describe_tokens
from scjepa.tokens.normalize import FittedNormalizations
from scjepa.tokens.vocabulary import Panels, Vocabulary
from scjepa.training import hold_out
from scjepa.training.collapse import same_tokens_advice
from scjepa.training.config import TrainConfig
from scjepa.training.fit import Run, Task

if TYPE_CHECKING:
    import pandas as pd


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
    _spread: tuple[CellData, TokenSpread] | None = None

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
        tell_panels(panels, vocabulary)
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
        """Return over how many genes the tokens of the model's own tables spread."""
        if self._spread is None or self._spread[0] is not data:
            n_genes = n_measured(self.adata, self.keys, self.vocabulary, self.config.tokens)
            self._spread = (data, TokenSpread.of(data.tokens, n_genes))
        return self._spread[1]

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
        options: Facts = {"scale": scale, "encoder": encoder, "genes": genes, "contextual": contextual}
        one = partial(latent.latent, self, batch_size=batch_size, **options)
        return embed_each(self.adata, self._data_of(adata), out, one, key_added)

    def get_masked_representations(
        self,
        adata: AnnData | None = None,
        *,
        hide: str = "share",
        n_masks: int = 8,
        ratio: float = 0.3,
        seed: int = 0,
        scale: str | None = None,
        encoder: str = "target",
        genes: Genes = None,
        batch_size: int | str = AUTO,
    ) -> latent.MaskedRepresentations:
        """Embed cells several times, each time with other tokens hidden, for :func:`scjepa.tl.niche_confidence`.

        Parameters
        ----------
        hide
            ``"share"``, or ``"cell"``: the whole index cell, once, so that the embedding is that of its neighbors
            alone; the next three arguments then say nothing, and neighborhoods that are summed cannot be taken.
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
        masks = (n_masks, ratio, seed_of(seed))
        return latent.masked(self, adata, hide, masks, scale, encoder, genes, batch_size)

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
        latent.check(self, encoder, batch_size)
        _, means, sizes = latent.embed_scales(self, self._source(), (), encoder, batch_size)
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
        latent.embed_all(self, own, encoder, batch_size, progress_bar)
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
        about: Facts = {
            "by": by,
            "niches": niches,
            "use_rep": use_rep,
            "n_cells": n_cells,
            "random_state": random_state,
        }
        return explain.explained(self, adata, niche_key, genes=genes, n_permutations=n_permutations, **about)

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
        about: Facts = {
            "by": by,
            "niches": niches,
            "use_rep": use_rep,
            "n_cells": n_cells,
            "random_state": random_state,
        }
        return explain.edited(self, adata, niche_key, (remove, replace, add, n_added), **about)

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
        return explain.surprise(self, adata, cell_type_key, encoder, key_added)

    def _source_at(self, adata: AnnData | None, scale: str, genes: np.ndarray | None = None) -> TokenSource:
        """Return the source for a scale; where neighborhoods are summed, that of cells is of each cell's own counts."""
        alone = {"alone": True} if scale == "cell" and self.config.tokens.summed else {}
        return self.source(self._tables_of(adata, genes, **alone), self.device)

    @classmethod
    def _extended(cls, facts: Facts, weights: Weights, adata: AnnData, keys: DataKeys) -> tuple[Facts, Weights]:
        """Return a model's facts and weights with the genes and technologies of ``adata`` besides its own."""
        taken = taken_in(facts, adata, keys)
        return {**facts, **taken}, with_new_rows(facts, taken, weights)

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
