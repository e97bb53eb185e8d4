"""ST-JEPA: embeddings of genes, cells and neighborhoods of spatial transcriptomics."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from scvi.data import AnnDataManager

from scjepa import _keys
from scjepa._config import (
    EncoderConfig,
    MaskingConfig,
    ObjectiveConfig,
    STJEPAConfig,
    TokenConfig,
    TrainConfig,
    resolve,
    unknown_name,
)
from scjepa.models._base import JEPAModel
from scjepa.models._data import CellData, normalizations_of, panels_of, tables_of
from scjepa.models._embed import AUTO, check_batch_size, embed, embed_genes
from scjepa.models._estimate import check_memory, embedding_bytes
from scjepa.models._fields import SECTION, TECHNOLOGY, CoordinatesField, GraphField, LabelField, PanelField
from scjepa.models._masked import check_masks, embed_masked
from scjepa.models._output import LatentFile, check_array, fingerprint
from scjepa.nn import POOLING, SpatialJEPA
from scjepa.tokens.batches import TokenSource
from scjepa.tokens.normalize import FittedNormalizations
from scjepa.tokens.vocabulary import Panels, Vocabulary

logger = logging.getLogger("scjepa")

SHARED = "shared"
"""``genes`` that names the genes all technologies measured."""


class STJEPA(JEPAModel):
    """Spatial-transcriptomics JEPA (GenBio 2026).

    Each cell and its nearest neighbors become a sequence of gene tokens. A context encoder sees the visible tokens,
    an EMA target encoder gives the representations of the masked ones, and a predictor is trained to predict them.

    Parameters
    ----------
    adata
        Data registered with :meth:`setup_anndata`.
    preset
        ``"demo"`` (a laptop, minutes), ``"base"``, ``"paper_ablation"`` or ``"paper"`` (768 wide, 5 layers; a GPU), or
        a whole :class:`~scjepa.STJEPAConfig`.
    tokens, encoder, masking, objective, training
        Changes to the preset: a mapping of options, ``encoder={"n_layers": 4}``, or the dataclass itself.
    seed
        Seed of the weights, the batches and the masks.

    Examples
    --------
    >>> sq.gr.spatial_neighbors(adata, n_neighs=10, coord_type="generic", library_key="section")
    >>> scjepa.STJEPA.setup_anndata(adata, library_key="section")
    >>> model = scjepa.STJEPA(adata, preset="demo")
    >>> model.train()
    >>> adata.obsm["X_stjepa"] = model.get_latent_representation()
    """

    def __init__(
        self,
        adata: AnnData,
        preset: str | STJEPAConfig = "base",
        *,
        tokens: TokenConfig | Mapping[str, Any] | None = None,
        encoder: EncoderConfig | Mapping[str, Any] | None = None,
        masking: MaskingConfig | Mapping[str, Any] | None = None,
        objective: ObjectiveConfig | Mapping[str, Any] | None = None,
        training: TrainConfig | Mapping[str, Any] | None = None,
        seed: int = 0,
    ):
        config = resolve(
            preset, tokens=tokens, encoder=encoder, masking=masking, objective=objective, training=training
        )
        super().__init__(adata)
        vocabulary = Vocabulary.from_panels([adata.var_names])
        panels = panels_of(adata, self.keys, vocabulary)
        if panels.inferred:
            logger.info("Panels inferred from the counts. %s", panels.describe(vocabulary))
        normalizations = normalizations_of(adata, self.keys, vocabulary, panels.technologies, config.tokens)
        self._build(config, vocabulary, panels, normalizations, seed)
        self.init_params_ = self._get_init_params(locals())

    def _build(
        self,
        config: STJEPAConfig,
        vocabulary: Vocabulary,
        panels: Panels,
        normalizations: FittedNormalizations,
        seed: int,
    ) -> None:
        self.config, self.vocabulary, self.panels, self.seed = config, vocabulary, panels, seed
        self.normalizations = normalizations
        self.n_steps_ = 0
        self._cached = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = SpatialJEPA(len(vocabulary), len(panels.technologies), config).eval()
        self._model_summary_string = self.summary()

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
            Cells × genes, with coordinates and the spatial graph of ``squidpy.gr.spatial_neighbors``.
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
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        if adata.is_view:
            raise ValueError("adata is a view of another AnnData object. Make it its own: adata = adata.copy().")
        fields = [
            PanelField(layer),
            LabelField(TECHNOLOGY, technology_key),
            LabelField(SECTION, library_key),
            CoordinatesField(spatial_key),
            GraphField(neighbors_key, library_key),
        ]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    def _tables(self, adata: AnnData, gene_ids: np.ndarray | None = None) -> CellData:
        if adata is not self.adata:
            alignment = self.vocabulary.align(adata.var_names, source="adata.var_names")
            if alignment.n_matched < alignment.n_names:
                warnings.warn(f"Genes the model does not know are left out. {alignment}", UserWarning, stacklevel=4)
        return tables_of(
            adata,
            self.keys,
            self.vocabulary,
            self.panels.technologies,
            self.config.tokens,
            self.normalizations,
            gene_ids,
        )

    # -- use ----------------------------------------------------------------------------------------------------

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        *,
        scale: str = "neighborhood",
        encoder: str = "target",
        genes: str | Sequence[str] | None = None,
        batch_size: int | str = AUTO,
        out: np.ndarray | str | Path | None = None,
        key_added: str | None = None,
    ) -> np.ndarray:
        """Embed cells: the mean over the contextual tokens of a neighborhood, or of its index cell.

        Parameters
        ----------
        adata
            Other data, with the columns named at set-up and a spatial graph; genes are aligned by name. Its counts are
            normalized with the model's statistics, those of its technology or, where the model does not know it, of
            all technologies. Default: the model's own.
        scale
            ``"neighborhood"`` (the cell with its neighbors: for niches) or ``"cell"`` (the index cell's tokens, seen
            in context).
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
            without any token at that scale are zero, and a warning names them.

        Raises
        ------
        ValueError, TypeError
            If ``scale``, ``encoder``, ``batch_size`` or ``out`` cannot be used, or no gene matches.
        FileExistsError
            If there is a file at ``out`` from another model or other data; it is not replaced.
        """
        if scale not in POOLING:
            raise ValueError(unknown_name("scale", scale, POOLING))
        check_batch_size(batch_size)
        tower = self.module.tower(encoder)
        self._warn_if_untrained()
        source = self._source(adata, self._gene_ids(genes))
        self._warn_of_empty(source, scale, adata)
        shape = (source.n_cells, self.config.encoder.width)
        self._check_embedding_memory(source, batch_size, 0 if out is not None else 4 * shape[0] * shape[1])
        how: dict[str, Any] = {"scale": scale, "encoder": encoder, "batch_size": batch_size}
        if isinstance(out, str | Path):
            file = LatentFile(out, shape, fingerprint(tower, source, scale))
            if file.done < source.n_cells:
                embed(self.module, source, file.array, first=file.done, after_chunk=file.keep, **how)
            embedding = file.finish()
        else:
            embedding = np.empty(shape, dtype=np.float32) if out is None else check_array(out, *shape)
            embed(self.module, source, embedding, **how)
        if key_added is not None:
            (self.adata if adata is None else adata).obsm[key_added] = embedding
        return embedding

    def get_masked_representations(
        self,
        adata: AnnData | None = None,
        *,
        n_masks: int = 8,
        ratio: float = 0.3,
        seed: int = 0,
        scale: str = "neighborhood",
        encoder: str = "target",
        genes: str | Sequence[str] | None = None,
        batch_size: int | str = AUTO,
    ) -> Iterator[np.ndarray]:
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
        adata, scale, encoder, genes, batch_size
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
        if scale not in POOLING:
            raise ValueError(unknown_name("scale", scale, POOLING))
        check_batch_size(batch_size)
        self.module.tower(encoder)
        self._warn_if_untrained()
        source = self._source(adata, self._gene_ids(genes))
        self._warn_of_empty(source, scale, adata)
        self._check_embedding_memory(source, batch_size, 4 * source.n_cells * self.config.encoder.width)
        how: dict[str, Any] = {"scale": scale, "encoder": encoder, "batch_size": batch_size}
        return embed_masked(self.module, source, n_masks=n_masks, ratio=ratio, seed=seed, **how)

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
        self.module.tower(encoder)
        check_batch_size(batch_size)
        self._warn_if_untrained()
        means, sizes = embed_genes(self.module, self._source(None), len(self.vocabulary), encoder, batch_size)
        ids = self.vocabulary.ids(self.adata.var_names)
        absent = sizes[ids] == 0
        if absent.any():
            warnings.warn(
                f"{absent.sum()} of {len(ids)} genes are among no cell's top {self.config.tokens.n_tokens} genes and "
                f"get NaN, such as {self.adata.var_names[absent.argmax()]!r}. A model with more tokens, "
                "tokens={'n_tokens': ...}, sees more of them.",
                UserWarning,
                stacklevel=2,
            )
        return means[ids]

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

    def _check_embedding_memory(self, source: TokenSource, batch_size: int | str, result_bytes: int) -> None:
        """Refuse what memory will not hold: a large result, or a large batch."""
        check_memory(
            result_bytes,
            torch.device("cpu"),
            f"The result, {source.n_cells:,} cells × {self.config.encoder.width},",
            "Let it be written to a file: get_latent_representation(out='latent.npy').",
        )
        check_memory(
            embedding_bytes(self.module, source, batch_size),
            source.device,
            f"Embedding with batch_size={batch_size!r}",
            "Lower it, or pass batch_size='auto'.",
        )

    def _warn_of_empty(self, source: TokenSource, scale: str, adata: AnnData | None) -> None:
        lengths = source.neighborhood_lengths() if scale == "neighborhood" else source.cell_lengths()
        empty = (lengths == 0).cpu().numpy()
        if empty.any():
            names = (self.adata if adata is None else adata).obs_names
            warnings.warn(
                f"{empty.sum()} cells have no token at the {scale} scale and get a zero embedding, first "
                f"{names[empty.argmax()]!r}. Drop cells without counts: sc.pp.filter_cells(adata, min_counts=1).",
                UserWarning,
                stacklevel=3,
            )

    # -- words --------------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """Return the model in a few lines: data, tokens, encoder, parameters, training."""
        tokens, encoder = self.config.tokens, self.config.encoder
        counts = self.module.parameter_counts()
        sections = 1 if self.keys.library_key is None else self.adata.obs[self.keys.library_key].nunique()
        state = f"trained for {self.n_steps_:,} steps" if self.is_trained_ else "not trained: call model.train()"
        return "\n".join(
            [
                f"STJEPA, {state}",
                f"  data      {self.adata.n_obs:,} cells, {len(self.vocabulary):,} genes, {sections} section(s), "
                f"technologies: {', '.join(self.panels.technologies)}",
                f"  tokens    top {tokens.n_tokens} genes of a cell and its {tokens.n_neighbors} nearest neighbors",
                f"  encoder   {encoder.n_layers} layers, width {encoder.width}, {encoder.n_heads} heads, "
                f"value {encoder.value!r}; objective {self.config.objective.name!r}",
                f"  weights   {counts['encoder']:,} in the encoder ({counts['encoder_without_genes']:,} without gene "
                f"vectors), {counts['total']:,} with predictor, heads and EMA copy",
            ]
        )

    def __repr__(self) -> str:
        return self.summary()

    # -- save and load ------------------------------------------------------------------------------------------

    def _facts(self) -> dict[str, Any]:
        return {
            **super()._facts(),
            "vocabulary": list(self.vocabulary.names),
            "panels": self.panels.to_dict(),
            "statistics": self.normalizations.to_arrays(),
        }

    @classmethod
    def _from_facts(cls, adata: AnnData, facts: Mapping[str, Any]) -> STJEPA:
        model = cls.__new__(cls)
        super(JEPAModel, model).__init__(adata)
        config = STJEPAConfig.from_dict(facts["config"])
        vocabulary, panels = Vocabulary(facts["vocabulary"]), Panels.from_dict(facts["panels"])
        normalizations = FittedNormalizations.from_arrays(
            config.tokens, facts["statistics"], len(vocabulary), len(panels.technologies)
        )
        model._build(config, vocabulary, panels, normalizations, facts["seed"])
        alignment = model.vocabulary.align(adata.var_names, source="adata.var_names")
        if alignment.n_matched < alignment.n_names:
            warnings.warn(f"Genes the model does not know are left out. {alignment}", UserWarning, stacklevel=4)
        model._restore(facts)
        model.init_params_ = {"kwargs": {}, "non_kwargs": {"preset": config, "seed": facts["seed"]}}
        return model

    @property
    def technologies(self) -> tuple[str, ...]:
        """Names of the technologies the model knows."""
        return self.panels.technologies
