"""ST-JEPA: embeddings of genes, cells and neighborhoods of spatial transcriptomics."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from scvi.data import AnnDataManager

from scjepa._core import keys as _keys
from scjepa._core.anndata import require_anndata
from scjepa._core.features import warn_of_no_genes
from scjepa._core.plain import seed_of
from scjepa._core.warn import warn
from scjepa.models.base import JEPAModel, Task
from scjepa.models.hub import PretrainedMixin
from scjepa.stjepa.config import EncoderConfig, MaskingConfig, ObjectiveConfig, STJEPAConfig, resolve
from scjepa.stjepa.coverage import CoverageMixin
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
from scjepa.stjepa.fields import fields_of, refuse_unknown, validate
from scjepa.stjepa.latent import LatentMixin
from scjepa.stjepa.module import STJEPAModule
from scjepa.tokens.choice import TokenSpread, describe_tokens
from scjepa.tokens.config import TokenConfig
from scjepa.tokens.fitted import FittedNormalizations
from scjepa.tokens.vocabulary import Panels, Vocabulary, likely_cause
from scjepa.training.collapse import same_tokens_advice
from scjepa.training.config import TrainConfig

logger = logging.getLogger("scjepa")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


class STJEPA(LatentMixin, CoverageMixin, PretrainedMixin):
    """Spatial-transcriptomics JEPA (GenBio 2026).

    Each cell and its nearest neighbors become a sequence of gene tokens. A context encoder sees the visible tokens,
    an EMA target encoder gives the representations of the masked ones, and a predictor is trained to predict them.

    Parameters
    ----------
    adata
        Data registered with :meth:`setup_anndata`.
    preset
        ``"demo"`` (a laptop, minutes), ``"base"``, ``"technologies"`` (sections of several technologies),
        ``"paper_ablation"`` or ``"paper"`` (768 wide, 5 layers; a GPU), or a :class:`~scjepa.config.STJEPAConfig`.
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

    def __init__(
        self,
        adata: AnnData,
        preset: str | STJEPAConfig = "base",
        *,
        tokens: TokenConfig | Mapping[str, Any] | None = None,
        encoder: EncoderConfig | Mapping[str, Any] | None = None,
        masking: MaskingConfig | Mapping[str, Any] | None = None,
        objective: ObjectiveConfig | Mapping[str, Any] | str | None = None,
        training: TrainConfig | Mapping[str, Any] | None = None,
        seed: int = 0,
    ):
        config = resolve(
            preset, tokens=tokens, encoder=encoder, masking=masking, objective=objective, training=training
        )
        seed = seed_of(seed)
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
            self.module = STJEPAModule(len(vocabulary), len(panels.technologies), config).eval()
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
        setup_method_args = cls._get_setup_method_args(**locals())
        refuse_unknown(cls.setup_anndata, kwargs)
        require_anndata(adata)
        if adata.is_view:
            raise ValueError("adata is a view of another AnnData object. Make it its own: adata = adata.copy().")
        keys = DataKeys(layer, technology_key, library_key, spatial_key, neighbors_key, panel_key)
        manager = AnnDataManager(fields=fields_of(keys), setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)
        warn_of_same_tokens(adata, keys)

    def _checked(self, adata: AnnData) -> AnnData:
        require_anndata(adata)
        return adata  # _tables checks the rest by its own keys, without writing to it or holding on to it

    def _source(self, adata: AnnData | None, gene_ids: np.ndarray | None = None, scale: str = "") -> Any:
        if scale != "cell" or not self.config.tokens.summed:
            return super()._source(adata, gene_ids, scale)
        one = self.adata if adata is None else self._checked(adata)
        return self._source_of(self._tables(one, gene_ids, alone=True), self.device)

    def _tables(self, adata: AnnData, gene_ids: np.ndarray | None = None, *, alone: bool = False) -> CellData:
        keys = self._keys_for(adata)
        if adata is not self.adata:
            validate(adata, keys)
            alignment = self.vocabulary.align(adata.var_names, source="adata.var_names", columns=adata.var)
            if alignment.n_matched < alignment.n_names:
                warn(
                    f"Genes the model does not know are left out. {alignment} To take them in: query = "
                    f"{type(self).__name__}.load_query_data(adata, model)."
                )
        return tables_of(
            adata,
            keys,
            self.vocabulary,
            self.panels.technologies,
            self.config.tokens,
            self.normalizations,
            gene_ids,
            alone=alone,
            with_places=self.config.encoder.needs_places,
        )

    def _options_of_run(self) -> dict[str, Any]:
        return {**self._options_of_reference(), **super()._options_of_run()}

    def _token_spread(self) -> TokenSpread:
        n_genes = n_measured(self.adata, self.keys, self.vocabulary, self.config.tokens)
        return TokenSpread.of(self._own_tables().tokens, n_genes)

    def _task(self, validation_size: float, validation: str | None) -> Task:
        task = super()._task(validation_size, validation)
        spread = self._token_spread()
        if spread.same:
            warn(
                f"The tokens of all cells are nearly the same genes: {spread}. Niches can hardly be told from them. "
                f"{_sentence(same_tokens_advice(self.config.tokens))}"
            )
        return task

    def _table_of_card(self, facts: Mapping[str, Any], dtype: str) -> dict[str, Any]:
        table = super()._table_of_card(facts, dtype)
        first = {name: table.pop(name) for name in ("class", "genes")}
        return {**first, "technologies": ", ".join(self.panels.technologies), **table}

    # -- words --------------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """Return the model in a few lines: data, tokens, encoder, parameters, training."""
        tokens, encoder = self.config.tokens, self.config.encoder
        counts = self.module.parameter_counts()
        sections = 1 if self.keys.library_key is None else self.adata.obs[self.keys.library_key].nunique()
        origin = "" if self.reference is None else f", of them {self.reference.n_genes:,} of the reference"
        state = f"trained for {self.n_steps_:,} steps" if self.is_trained_ else "not trained: call model.train()"
        return "\n".join(
            [
                f"STJEPA, {state}",
                f"  data      {self.adata.n_obs:,} cells, {len(self.vocabulary):,} genes{origin}, "
                f"{sections} section(s), technologies: {', '.join(self.panels.technologies)}",
                f"  tokens    {tokens}, {describe_tokens(tokens, self.vocabulary.names)}",
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
        alignment = model.vocabulary.align(adata.var_names, source="adata.var_names", columns=adata.var)
        if alignment.n_matched < alignment.n_names:
            warn(f"Genes the model does not know are left out. {alignment}")
        model._restore(facts)
        model._model_summary_string = model.summary()
        model.init_params_ = {"kwargs": {}, "non_kwargs": {"preset": config, "seed": facts["seed"]}}
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
