"""Cell-JEPA: embeddings of dissociated cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from scvi.data import AnnDataManager

from scjepa._core.anndata import require_anndata
from scjepa._core.features import warn_of_no_genes
from scjepa._core.plain import seed_of
from scjepa._core.warn import warn
from scjepa.celljepa.config import (
    CellEncoderConfig,
    CellJEPAConfig,
    CellMaskingConfig,
    CellObjectiveConfig,
    CellTokenConfig,
    CellTrainConfig,
    FinetuneConfig,
    PerturbationConfig,
    resolve_cells,
)
from scjepa.celljepa.data import CellKeys, CellTables, GeneTable, converted_names, fields_of, fingerprint, tables_of
from scjepa.celljepa.gene_modules import GeneModules, ModuleSource
from scjepa.celljepa.labels import LabelReference
from scjepa.celljepa.module import CellJEPAModule
from scjepa.celljepa.module_encoder import GeneModuleJEPAModule
from scjepa.celljepa.perturb.model import PerturbationMixin, without_perturbation
from scjepa.celljepa.query import CellQueryMixin
from scjepa.celljepa.source import CellSource
from scjepa.celljepa.training import CellTrainingPlan, hold_out_cells
from scjepa.celljepa.use import CellUseMixin
from scjepa.models.base import JEPAModel, Task
from scjepa.models.hub import PretrainedMixin
from scjepa.stjepa.fields import refuse_unknown
from scjepa.tokens.cache import digest
from scjepa.tokens.vocabulary import Vocabulary
from scjepa.training.config import TrainConfig


class CellJEPA(CellUseMixin, PerturbationMixin, CellQueryMixin, PretrainedMixin):
    """Cell-JEPA for dissociated cells (arXiv 2602.02093).

    A cell is its expressed genes, each with the quantile bin of its count. A student sees some of the values, a teacher
    that follows it by EMA sees all; the student reconstructs the hidden values and predicts the teacher's embedding of
    the whole cell.

    Parameters
    ----------
    adata
        Data registered with :meth:`setup_anndata`.
    preset
        ``"demo"`` (a laptop, minutes), ``"base"`` or ``"paper"`` (512 wide, 12 layers; a GPU), or a whole
        :class:`~scjepa.CellJEPAConfig`.
    tokens, encoder, masking, objective, training, finetuning, perturbation
        Changes to the preset: a mapping of options, ``objective={"jepa_weight": 0}``, or the dataclass itself.
    modules
        With the preset ``"modules"``, the gene modules: a ``.gmt`` file, a column of ``adata.var`` or several (one that
        :func:`scjepa.tl.gene_modules` wrote, boolean ones), or genes by module name. Saved with the model.
    seed
        Seed of the weights, the batches, the drawn genes and the masks.

    Examples
    --------
    >>> scjepa.CellJEPA.setup_anndata(adata, labels_key="cell_type")
    >>> model = scjepa.CellJEPA(adata, preset="demo")
    >>> model.train()
    >>> adata.obsm["X_celljepa"] = model.get_latent_representation()
    >>> model.finetune()
    >>> model.predict_labels(query)
    """

    _keys_class = CellKeys
    _plan_class = CellTrainingPlan

    def __init__(
        self,
        adata: AnnData,
        preset: str | CellJEPAConfig = "base",
        *,
        tokens: CellTokenConfig | Mapping[str, Any] | None = None,
        encoder: CellEncoderConfig | Mapping[str, Any] | None = None,
        masking: CellMaskingConfig | Mapping[str, Any] | None = None,
        objective: CellObjectiveConfig | Mapping[str, Any] | None = None,
        training: CellTrainConfig | Mapping[str, Any] | None = None,
        finetuning: FinetuneConfig | Mapping[str, Any] | None = None,
        perturbation: PerturbationConfig | Mapping[str, Any] | None = None,
        modules: ModuleSource | None = None,
        seed: int = 0,
    ):
        parts = {"tokens": tokens, "encoder": encoder, "masking": masking, "objective": objective}
        stages = {"training": training, "finetuning": finetuning, "perturbation": perturbation}
        config, seed = resolve_cells(preset, **parts, **stages), seed_of(seed)
        require_anndata(adata)
        super().__init__(adata)
        warn_of_no_genes(adata)
        vocabulary = Vocabulary.from_panels([adata.var_names])
        self._build(config, vocabulary, seed, _modules_for(config, modules, adata, vocabulary))
        self.init_params_ = self._get_init_params(locals())

    def _build(
        self, config: CellJEPAConfig, vocabulary: Vocabulary, seed: int, modules: GeneModules | None = None
    ) -> None:
        self.config, self.vocabulary, self.seed, self.modules = config, vocabulary, seed, modules
        self.n_steps_ = 0
        self.is_finetuned_ = False
        self._cached = None
        self._labelled: tuple[Any, LabelReference] | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if modules is None:
                self.module = CellJEPAModule(len(vocabulary), config).eval()
            else:
                self.module = GeneModuleJEPAModule(len(vocabulary), config, modules.genes).eval()
        self._model_summary_string = self.summary()

    # -- data ---------------------------------------------------------------------------------------------------

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register an AnnData object.

        Writes scvi-tools' bookkeeping (``uns["_scvi_uuid"]``, ``uns["_scvi_manager_uuid"]``) and nothing else.

        Parameters
        ----------
        adata
            Cells × genes.
        layer
            Layer of raw counts; default: ``X``.
        batch_key
            ``obs`` column of each cell's batch. The network never sees it: it serves ``train(validation="batch")`` and
            ``training={"batches": "section"}``.
        labels_key
            ``obs`` column of each cell's label, for :meth:`finetune` and :meth:`predict_labels`; missing values and
            ``"unlabelled"`` are cells without a label. Pretraining never sees it.
        **kwargs
            scvi-tools' own registry arguments.

        Raises
        ------
        KeyError
            If a key does not exist; the message names what does.
        ValueError
            If the data cannot be used: a view, duplicate gene names, missing batch names.

        Warns
        -----
        UserWarning
            If labels such as ``"nan"`` or ``"unknown"`` may mean none: they count as labels of their own.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        refuse_unknown(cls.setup_anndata, kwargs)
        require_anndata(adata)
        if adata.is_view:
            raise ValueError("adata is a view of another AnnData object. Make it its own: adata = adata.copy().")
        fields = fields_of(CellKeys(layer, batch_key, labels_key))
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    def _keys_for(self, adata: AnnData) -> CellKeys:
        require_anndata(adata)
        return self.keys if self._is_own(adata) else CellKeys.for_query(adata, self._registered_keys(adata), self.keys)

    def _checked(self, adata: AnnData) -> AnnData:
        return adata  # _tables checks it, without writing to it

    def _tables(
        self, adata: AnnData, gene_ids: np.ndarray | None = None, gene_table: GeneTable | None = None
    ) -> CellTables:
        keys = self._keys_for(adata)
        if adata is not self.adata:
            fields_of(keys)[0].validate_field(adata)
        self._check_genes(adata, gene_table)
        return tables_of(adata, keys, self.vocabulary, self.config.tokens.n_bins, gene_table)

    def _check_genes(self, adata: AnnData, gene_table: GeneTable | None, *, convertible: bool = True) -> None:
        """Raise if no gene is the model's, warn if some are not; ``convertible``: a table could have been given."""
        names = sorted(set(converted_names(adata, gene_table)))
        try:
            alignment = self.vocabulary.align(names, source="adata.var_names", columns=adata.var)
        except ValueError as error:
            further = " Or pass gene_table=..., from these names to the model's."
            raise ValueError(f"{error}{further if convertible and gene_table is None else ''}") from error
        if alignment.n_matched < alignment.n_names:
            warn(
                f"Genes the model does not know are left out. {alignment}"
                + ("" if self.modules else f" To take them in: {type(self).__name__}.load_query_data(adata, model).")
            )

    def _fingerprint(self) -> tuple:
        return fingerprint(self.adata, self.keys)

    def _source_of(self, data: CellTables, device: torch.device | str = "cpu") -> CellSource:
        tokens = self.config.tokens
        return CellSource(data.tokens, tokens.n_tokens, tokens.kept, data.labels, device, tokens.n_embedded)

    def _split(self, data: CellTables, size: float, by: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Split the cells that have genes; in fine-tuning those of them that have a label."""
        if by not in (None, "cell", "batch"):
            raise ValueError(f"Validation is by 'cell' or by 'batch', found {by!r}.")
        usable = data.tokens.lengths > 0
        if not usable.all():
            warn(f"{self._empty_cells(self.adata, ~usable)} They are not trained on.")
        if self._stage == "finetuning":
            usable &= data.labels >= 0
        cells = np.flatnonzero(usable)
        return hold_out_cells(cells, size, data.sections[cells] if by == "batch" else None, self.seed)

    # -- training -----------------------------------------------------------------------------------------------

    _stage = "pretraining"
    _embeds = "cells"

    def _task(self, validation_size: float, validation: str | None) -> Task:
        task = super()._task(validation_size, validation)
        if task.module is self.module:  # and not what predicts perturbations
            self._begin(self._stage)
            self._drop_reference()
        return task

    def _check_batches(self, config: TrainConfig) -> None:
        if config.batches != "section":
            return
        if self._perturbation_task is not None:
            raise ValueError("Cells of a perturbation screen are batched by chance: leave batches at 'mixed'.")
        if self.keys.batch_key is None:
            raise ValueError(
                "batches='section' makes batches of cells of one batch, and the data names none: "
                "setup_anndata(adata, batch_key=...) before the model is made, or batches='mixed'."
            )

    def _after_training(self, trainer: Any, history: Any, train_cells: np.ndarray, held_out: np.ndarray) -> None:
        super()._after_training(trainer, history, train_cells, held_out)
        if self._stage == "finetuning":  # said here, for an interrupted run has changed the weights as well
            self.is_finetuned_ = True

    def _options_of_run(self) -> dict[str, Any]:
        config = self.config.to_dict()
        parts: dict[str, Any] = {name: config[name] for name in ("tokens", "encoder")}
        if self._perturbation_task is not None:
            own, stage = config["perturbation"], "perturbation"
        else:
            own, stage = config if self._stage == "pretraining" else config["finetuning"], self._stage
        parts |= {name: part for name, part in own.items() if name not in ("training", "finetuning", "perturbation")}
        if self.modules is not None:
            parts["gene modules"] = digest(self.modules.facts())
        return {"stage": stage, **self._options_of_reference(), **parts}

    def _begin(self, stage: str) -> None:
        """Take up a stage; heads that it needs and that are not there yet come from the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 1)
            self.module.begin(stage)

    def finetune(self, max_epochs: int | None = None, **options: Any) -> None:
        """Fine-tune on the labelled cells: GEP + GEPC + ECS + JEPA, as ``config.finetuning`` says.

        Reconstruction from tokens and from the cell's embedding, supervised contrast between labels, and the JEPA term
        go on together. Cells without a label take no part.

        Parameters
        ----------
        max_epochs
            Passes over the labelled cells. Default: the configuration's, 30.
        **options
            As in :meth:`train`.

        Raises
        ------
        ValueError
            If no labels were named, or there are fewer than two.
        """
        if self.keys.labels_key is None:
            raise ValueError(
                "Fine-tuning needs labels: setup_anndata(adata, labels_key=...) before the model is made or loaded."
            )
        if len(self._own_tables().label_names) < 2:
            raise ValueError(f"adata.obs[{self.keys.labels_key!r}] has fewer than two labels; ECS tells labels apart.")
        self._stage = "finetuning"
        try:
            self._fit(self.config.finetuning.training, max_epochs, **options)
        finally:
            self._stage = "pretraining"

    # -- words, save and load -----------------------------------------------------------------------------------

    def summary(self) -> str:
        """Return the model in a few lines: data, tokens, encoder, parameters, training."""
        tokens, encoder, counts = self.config.tokens, self.config.encoder, self.module.parameter_counts()
        state = f"trained for {self.n_steps_:,} steps" if self.is_trained_ else "not trained: call model.train()"
        fine = ", fine-tuned" if self.is_finetuned_ else ""
        origin = "" if self.reference is None else f", of them {self.reference.n_genes:,} of the reference"
        return "\n".join(
            [
                f"CellJEPA, {state}{fine}",
                f"  data      {self.adata.n_obs:,} cells, {len(self.vocabulary):,} genes{origin}",
                f"  tokens    up to {tokens.n_tokens} expressed genes of a cell, {tokens.n_bins} bins"
                + (f", in {len(self.modules.names)} modules" if self.modules else ""),
                f"  encoder   {encoder.n_layers} layers, width {encoder.width}, {encoder.n_heads} heads, "
                f"value {encoder.value!r}",
                f"  weights   {counts['encoder']:,} in the encoder ({counts['encoder_without_genes']:,} without gene "
                f"vectors), {counts['trained']:,} with heads, {counts['total']:,} with heads and EMA copy",
            ]
        )

    def __repr__(self) -> str:
        return self.summary()

    def _facts(self) -> dict[str, Any]:
        facts = {**super()._facts(), "is_finetuned": self.is_finetuned_}
        if self.modules is not None:
            facts["modules"] = self.modules.facts()
        reference = self._kept_reference()
        if reference is None:
            return facts
        return {**facts, "labels": reference.facts(), "statistics": reference.arrays()}

    def _facts_to_share(self) -> dict[str, Any]:
        facts, _ = without_perturbation(self._facts(), {})
        return {name: value for name, value in facts.items() if name not in ("labels", "statistics")}

    def _load_weights(self, weights: Mapping[str, torch.Tensor], source: str) -> None:
        if weights.keys() - self._weights().keys():  # fine-tuning has heads that pretraining need not have
            self._begin("finetuning")
            self._begin("pretraining")
        super()._load_weights(weights, source)

    @classmethod
    def _setup_for(cls, adata: AnnData, setup: Mapping[str, Any]) -> dict[str, Any]:
        return CellKeys.to_load(adata, cls._registered_keys(adata), CellKeys(**setup)).to_dict()

    @classmethod
    def _from_facts(cls, adata: AnnData, facts: Mapping[str, Any]) -> CellJEPA:
        model = cls.__new__(cls)
        super(JEPAModel, model).__init__(adata)
        config = CellJEPAConfig.from_dict(facts["config"])
        modules = GeneModules.from_saved(facts["modules"]) if "modules" in facts else None
        model._build(config, Vocabulary(facts["vocabulary"]), facts["seed"], modules)
        model.is_finetuned_ = facts["is_finetuned"]
        model._check_genes(adata, None, convertible=False)
        model._restore(facts)
        if "labels" in facts:
            model._labelled = (None, LabelReference.from_saved(facts["labels"], facts["statistics"]))
        model._model_summary_string = model.summary()
        model.init_params_ = {"kwargs": {}, "non_kwargs": {"preset": config, "seed": facts["seed"]}}
        return model


def _modules_for(
    config: CellJEPAConfig, modules: ModuleSource | None, adata: AnnData, vocabulary: Vocabulary
) -> GeneModules | None:
    """Return the modules where they are tokens; raise where they are missing, or given for nothing."""
    wanted = config.tokens.unit == "module"
    if wanted == (modules is not None):
        return GeneModules.of(modules, adata, vocabulary) if modules is not None else None
    if wanted:
        raise ValueError(
            "Modules are to be tokens, and none were given: modules='hallmark.gmt', or a column of adata.var, such as "
            "scjepa.tl.gene_modules(adata) writes (modules='module')."
        )
    raise ValueError("modules were given, but genes are tokens here: take preset='modules'.")
