"""Cell-JEPA: embeddings of dissociated cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, Unpack, cast

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from scjepa._core.anndata import require_anndata
from scjepa._core.features import warn_of_no_genes
from scjepa._core.files import digest
from scjepa._core.plain import Facts, seed_of
from scjepa._core.renamed import renamed
from scjepa._core.warn import warn
from scjepa.celljepa import latent
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
from scjepa.celljepa.data import CellKeys, CellTables, GeneTable, converted_names, label_codes_of, tables_of
from scjepa.celljepa.gene_modules import GeneModuleJEPAModule, GeneModules, ModuleSource, modules_for
from scjepa.celljepa.module import CellJEPAModule
from scjepa.celljepa.perturb import model as perturb
from scjepa.celljepa.perturb.model import PerturbationRun
from scjepa.celljepa.source import CellSource
from scjepa.celljepa.stream import StreamedCells, StreamedSource, annbatch_data, corpus_of, monitored, streamed
from scjepa.celljepa.training import CellTrainingPlan, hold_out_cells
from scjepa.models.base import JEPAModel
from scjepa.models.embed import AUTO, Out, embed_each
from scjepa.models.reference import freeze_known, trained_vocabulary
from scjepa.models.setup import codes_of, names_of
from scjepa.models.store import Weights
from scjepa.perturbation import PerturbationSplit
from scjepa.tokens.table import TokenTable
from scjepa.tokens.vocabulary import Vocabulary
from scjepa.training.fit import Run, RunArguments, Task
from scjepa.training.plan import History


class CellJEPA(JEPAModel[CellKeys, CellTables, CellSource]):
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
        :class:`~scjepa.config.CellJEPAConfig`.
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

    _scale = "cls"
    config: CellJEPAConfig
    module: CellJEPAModule | GeneModuleJEPAModule
    modules: GeneModules | None
    perturbation_: PerturbationRun | None = None
    """The last run of :meth:`train_perturbation`: its split, its conditions and its curves."""
    _labelled: latent.Labelled | None = None
    is_finetuned_ = False
    _embeds: ClassVar[str] = "cells"
    _kept_home: ClassVar[tuple[str, ...]] = ("perturbation", "labels", "statistics")

    def __init__(
        self,
        adata: AnnData,
        preset: str | CellJEPAConfig = "base",
        *,
        tokens: CellTokenConfig | Mapping[str, object] | None = None,
        encoder: CellEncoderConfig | Mapping[str, object] | None = None,
        masking: CellMaskingConfig | Mapping[str, object] | None = None,
        objective: CellObjectiveConfig | Mapping[str, object] | None = None,
        training: CellTrainConfig | Mapping[str, object] | None = None,
        finetuning: FinetuneConfig | Mapping[str, object] | None = None,
        perturbation: PerturbationConfig | Mapping[str, object] | None = None,
        modules: ModuleSource | None = None,
        seed: int = 0,
    ):
        parts = {"tokens": tokens, "encoder": encoder, "masking": masking, "objective": objective}
        stages = {"training": training, "finetuning": finetuning, "perturbation": perturbation}
        config, seed = resolve_cells(preset, **{**parts, **stages}), seed_of(seed)
        require_anndata(adata)
        super().__init__(adata)
        warn_of_no_genes(adata)
        vocabulary = Vocabulary.from_panels([adata.var_names])
        self._start(config, vocabulary, seed, modules=modules_for(config, modules, adata, vocabulary))
        self.init_params_ = self._get_init_params(locals())

    def _new_module(self) -> CellJEPAModule:
        if self.modules is None:
            return CellJEPAModule(len(self.vocabulary), self.config)
        return GeneModuleJEPAModule(len(self.vocabulary), self.config, self.modules.genes)

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
        arguments = cls._get_setup_method_args(**locals())
        cls._register(adata, CellKeys(layer, batch_key, labels_key), arguments, kwargs)

    @classmethod
    def setup_annbatch(
        cls,
        collection_path: str | Path | None = None,
        paths: Sequence[str | Path] | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        layer: str | None = None,
        *,
        rebuild: bool = False,
        chunk_size: int = 256,
        preload_nchunks: int = 32,
        **options: Any,
    ) -> AnnData:
        """Register cells that stay on disk: a collection of annbatch, zarr stores or ``.h5ad`` files.

        Counts are read in chunks when a batch asks for them and become tokens then; no table of all cells is made. Each
        epoch goes through the chunks in an order of its own and shuffles the cells of ``preload_nchunks`` of them at a
        time, so cells that are stored in order want a collection, which is shuffled when it is made. What is held out
        for the monitor are whole chunks. Training and embedding are otherwise those of cells in memory; their names
        and the columns named here are in memory, and so is what each cell has stored.

        The arguments are scvi-tools' of the same name (1.5); what is returned is not a data module but an AnnData.

        Parameters
        ----------
        collection_path
            Folder of a collection. If it is not there yet, or ``rebuild`` is set, annbatch (Python 3.12) makes it of
            ``paths``. Default: none, ``paths`` are read where they are.
        paths
            Zarr stores or ``.h5ad`` files with counts stored by cells (CSR or dense). To be read as they are, all must
            have the same genes.
        batch_key, labels_key
            As in :meth:`setup_anndata`.
        layer
            Layer of raw counts in the stores, which is ``X`` of the result; default: ``X``.
        rebuild
            Make the collection anew.
        chunk_size
            Consecutive cells that are read at once.
        preload_nchunks
            Chunks that are shuffled together; twice as many are kept in memory.
        **options
            Further arguments of ``annbatch.DatasetCollection.add_adatas``, such as ``dataset_size`` or ``shuffle``.

        Returns
        -------
        AnnData
            To make a model of, ``CellJEPA(adata)``. Its ``X`` is a lazy Dask array; a copy of it, or a part, is an
            object like any other, whose cells are read into a table.

        Raises
        ------
        FileNotFoundError, KeyError, ValueError
            If a store is not there, lacks what is named, is stored by genes, or has other genes.
        ImportError
            If a collection is to be made and annbatch is not installed.

        Examples
        --------
        >>> adata = scjepa.CellJEPA.setup_annbatch(paths=["a.zarr", "b.zarr"])
        >>> model = scjepa.CellJEPA(adata, preset="demo")
        >>> model.train()
        >>> model.get_latent_representation(out="latent.npy")
        """
        sizes, columns = (chunk_size, preload_nchunks), (batch_key, labels_key)
        adata = annbatch_data(collection_path, paths, layer, columns, sizes, rebuild=rebuild, **options)
        cls.setup_anndata(adata, batch_key=batch_key, labels_key=labels_key)
        return adata

    @classmethod
    def keys_of(cls, setup: Facts) -> CellKeys:
        """Return where the model looks in AnnData, from the arguments of ``setup_anndata``."""
        return CellKeys.of(setup)

    def _own_tables(self, vocabulary: Vocabulary | None = None) -> CellTables:
        """Return the tables of the model's AnnData: of ``vocabulary``, by default of the genes that are embedded."""
        known = trained_vocabulary(self) if vocabulary is None else vocabulary
        mark = (*self.keys.mark(self.adata), len(known))
        if self._cached is None or self._cached[0] != mark:
            self._cached = (mark, self.tables(self.adata, self.keys, vocabulary=known))
        return self._cached[1]

    def tables(
        self,
        adata: AnnData,
        keys: CellKeys,
        genes: np.ndarray | None = None,
        *,
        gene_names: GeneTable | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> CellTables:
        """Return the table of expressed genes of ``adata``, labels and batches.

        Parameters
        ----------
        adata, keys
            Data, and where to look in them.
        genes
            Vocabulary ids of the genes that are read; ``None``: all.
        gene_names
            Leads from the data's gene names to the model's.
        vocabulary
            Genes that take part. Default: those that a training has seen.
        """
        known = trained_vocabulary(self) if vocabulary is None else vocabulary
        self.check_genes(adata, gene_names, known=known)
        corpus = corpus_of(adata)
        if corpus is not None and gene_names is None:
            about = (corpus, known.ids(list(adata.var_names)), len(known))
            cells = StreamedCells(*about, self.config.tokens.n_bins, corpus.lengths(), genes)
            sections = codes_of(names_of(adata, keys.batch_key))
            # What a table is asked for, of some cells at a time.
            return CellTables(cast(TokenTable, cells), *label_codes_of(adata, keys.labels_key), sections)
        return tables_of(adata, keys, known, self.config.tokens.n_bins, gene_names, genes)

    def check_genes(
        self,
        adata: AnnData,
        gene_names: GeneTable | None = None,
        *,
        convertible: bool = True,
        known: Vocabulary | None = None,
    ) -> None:
        """Raise if no gene is the model's, warn if some are not; ``convertible``: a table could have been given."""
        names = sorted(set(converted_names(adata, gene_names)))
        try:
            alignment = (known or self.vocabulary).align(names, source="adata.var_names", columns=adata.var)
        except ValueError as error:
            further = " Or pass gene_names=..., from these names to the model's."
            raise ValueError(f"{error}{further if convertible and gene_names is None else ''}") from error
        new = (self.vocabulary.ids(names) >= 0).all()  # there, with vectors that were drawn and never trained
        call = "model.train()" if new else f"{type(self).__name__}.load_query_data(adata, model)"
        self._warn_of_unknown(alignment, None if self.modules else call)

    def source(
        self,
        data: CellTables,
        device: torch.device | str = "cpu",
        *,
        n_tokens: int | None = None,
        kept: str | None = None,
    ) -> CellSource:
        """Return the source of cells of tables.

        Parameters
        ----------
        data, device
            Tables, and where the batches are wanted.
        n_tokens, kept
            How many genes of a cell are embedded at most, and which. Default: as the configuration says.
        """
        changes: dict[str, Any] = {"n_embedded": n_tokens, "kept": kept}
        tokens = replace(self.config.tokens, **{name: value for name, value in changes.items() if value is not None})
        on_disk = streamed(data)
        if on_disk is not None:
            return StreamedSource(on_disk, tokens.n_tokens, tokens.kept, data.labels, device, tokens.n_embedded)
        return CellSource(data.tokens, tokens.n_tokens, tokens.kept, data.labels, device, tokens.n_embedded)

    def split(self, data: CellTables, size: float, by: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Split the cells that have genes: each by itself (``"cell"``), or whole batches (``"batch"``)."""
        return self._split_of(data, size, by, data.tokens.lengths > 0)

    def _split_of(
        self, data: CellTables, size: float, by: str | None, usable: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        if by not in (None, "cell", "batch"):
            raise ValueError(f"Validation is by 'cell' or by 'batch', found {by!r}.")
        empty = data.tokens.lengths == 0
        if empty.any():
            warn(f"{latent.empty_cells(self, self.adata, empty)} They are not trained on.")
        cells, on_disk = np.flatnonzero(usable), streamed(data)
        groups = data.sections[cells] if by == "batch" else None
        if on_disk is not None and by != "batch":
            groups = on_disk.corpus.chunks_of(cells)  # what is read at once is held out at once
        return hold_out_cells(cells, size, groups, self.seed)

    # -- training -------------------------------------------------------------------------------------------------

    def _task(self, run: Run, stage: str = "pretraining") -> Task:
        """Return the task of :meth:`train`, or of :meth:`finetune`."""
        self._check_trainable(run)
        data = self._own_tables(self.vocabulary)
        finetuning = stage == "finetuning"
        if finetuning and len(data.label_names) < 2:
            raise ValueError(f"adata.obs[{self.keys.labels_key!r}] has fewer than two labels; ECS tells labels apart.")
        usable = (data.tokens.lengths > 0) & (data.labels >= 0 if finetuning else True)
        cells = self._split_of(data, run.config.validation_size, run.validation, usable)
        options = self._options_of_run(stage, self.config.finetuning if finetuning else self.config)
        keep = partial(self._keep_stage, finetuning, cells)
        train, held_out = cells
        on_disk = streamed(data)
        if on_disk is not None and len(held_out):
            held_out = monitored(on_disk.corpus, held_out, self.seed)
        task = Task(self.module, self.source(data), train, held_out, data.sections, keep, options, CellTrainingPlan)
        self._begin(stage)
        latent.forget(self, data)
        return task

    def _check_trainable(self, run: Run) -> None:
        """Refuse to train where nothing may change, or where batches are not named."""
        if run.config.batches == "section" and self.keys.batch_key is None:
            raise ValueError(
                "batches='section' makes batches of cells of one batch, and the data names none: "
                "setup_anndata(adata, batch_key=...) before the model is made, or batches='mixed'."
            )
        self._check_freeze("new genes", self._n_new_genes)

    def _keep_stage(
        self, finetuned: bool, cells: tuple[np.ndarray, np.ndarray], trainer: pl.Trainer, history: History
    ) -> None:
        self._keep(cells, trainer, history)
        self.is_finetuned_ |= finetuned  # also of an interrupted run, which has changed the weights as well

    def _options_of_run(self, stage: str, own: CellJEPAConfig | FinetuneConfig | PerturbationConfig) -> Facts:
        """Return the options that a run of a stage depends on, those of its optimization left out."""
        stages = ("training", "finetuning", "perturbation")
        parts: Facts = {"tokens": asdict(self.config.tokens), "encoder": asdict(self.config.encoder)}
        parts |= {name: part for name, part in asdict(own).items() if name not in stages}
        if self.modules is not None:
            parts["gene modules"] = digest(self.modules.facts())
        return {"stage": stage, **self._options_of_reference(), **parts}

    def _begin(self, stage: str) -> None:
        """Take up a stage; heads that it needs and that are not there yet come from the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 1)
            self.module.begin(stage)

    def finetune(self, max_epochs: int | None = None, **arguments: Unpack[RunArguments]) -> None:
        """Fine-tune on the labelled cells: GEP + GEPC + ECS + JEPA, as ``config.finetuning`` says.

        Reconstruction from tokens and from the cell's embedding, supervised contrast between labels, and the JEPA term
        go on together. Cells without a label take no part.

        Parameters
        ----------
        max_epochs
            Passes over the labelled cells. Default: the configuration's, 30.
        **arguments
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
        run = Run.of(self.config.finetuning.training, max_epochs, arguments)
        self.fit(self._task(run, "finetuning"), run)

    def train_perturbation(
        self,
        condition_key: str = "condition",
        *,
        split: PerturbationSplit | str | None = None,
        delta_aware: bool = False,
        outside: str = "error",
        size_key: str | None = None,
        target_sum: float | None = None,
        vectors: pd.DataFrame | None = None,
        max_epochs: int | None = None,
        **arguments: Unpack[RunArguments],
    ) -> None:
        """Train on a perturbation screen, as ``config.perturbation`` says, from the weights the model has now.

        Each perturbed cell is paired with a control cell drawn at random. The control cell's genes, with the perturbed
        ones marked, are the input; the perturbed cell's log-normalized expression, and its embedding by a frozen copy
        of the encoder, are the targets. The model's own encoder stays as it is, and with it its embeddings; training
        anew begins anew. What was done is in ``model.perturbation_`` and is saved with the model; so are closed-form
        models of the same cells (:class:`scjepa.perturbation.PerturbationStack`), ``model.perturbation_.stack``.

        Parameters
        ----------
        condition_key
            ``obs`` column of conditions: ``"ctrl"``, ``"A+ctrl"`` (or ``"A"``), ``"A+B"``.
        split
            Which conditions are trained on. ``"simulation"``: those of :func:`scjepa.perturbation.simulation_split`
            with its defaults; or a split of yours. Default: all. Cells of other conditions are not trained on.
        delta_aware
            Add a loss on the change from control: the mean over perturbed cells of sum_g (d'_g - d_g)² / sum_g d_g²,
            where d' is the predicted expression minus control's mean and d the mean change of the cell's condition.
        outside
            What becomes of perturbed genes that the data did not measure: ``"error"``, or ``"token"``, vectors of
            their own, learned from the conditions that perturb them.
        size_key
            ``obs`` column of what a cell's counts are divided by, such as its counts over all genes where the data has
            a panel of them. Default: its sum over the data's genes.
        target_sum
            Size that expression is normalized to before the logarithm. Default: the median of the cells trained on.
        vectors
            Vectors of genes, perturbed ones above all, genes × dimensions, for the closed-form models; such as
            :func:`scjepa.perturbation.gene_set_vectors`. Default: none.
        max_epochs
            Passes over the cells that are trained on. Default: the configuration's.
        **arguments
            As in :meth:`train`. If the split has validation conditions, their cells are the held-out cells.

        Raises
        ------
        KeyError
            If a column does not exist.
        ValueError
            If conditions are in another grammar, no cell is control, or a perturbed gene is outside the panel; the
            message has the next call to make.
        """
        if self.config.tokens.unit != "gene":
            raise ValueError("Perturbations are of genes: train_perturbation needs a model with genes as tokens.")
        if corpus_of(self.adata) is not None:
            raise ValueError(
                "train_perturbation pairs cells from all over the data, and these stay on disk: make the model on "
                "adata.to_memory()."
            )
        run = Run.of(self.config.perturbation.training, max_epochs, arguments)
        self._check_freeze("new genes", self._n_new_genes)
        sized = arguments.get("validation_size") is not None
        about = (condition_key, split, delta_aware, outside, size_key, target_sum, vectors)
        self.fit(perturb.perturbation_task(self, run, *about, sized=sized), run)

    # -- embedding ------------------------------------------------------------------------------------------------

    @renamed(pooling="scale=...", gene_table="gene_names=...")
    def get_latent_representation(
        self,
        adata: AnnData | Sequence[AnnData] | Mapping[str, AnnData] | None = None,
        *,
        scale: str = "cls",
        encoder: str = "target",
        genes: Sequence[str] | None = None,
        gene_names: GeneTable | None = None,
        n_tokens: int | None = None,
        kept: str | None = None,
        batch_size: int | str = AUTO,
        out: Out = None,
        key_added: str | None = None,
    ) -> Any:
        """Embed cells.

        Parameters
        ----------
        adata
            Other data, or a list or a mapping of such; genes are aligned by name, those the model does not know are
            left out with a warning, and it needs neither labels nor batches. Default: the model's own.
        scale
            How a cell becomes one vector: ``"cls"`` (the paper's) or ``"genes"`` (the mean of its genes' vectors).
        encoder
            ``"target"`` (the EMA teacher) or ``"context"`` (the student). Both see all values here.
        genes
            Names of the genes that are read; ``None``: all. A gene's value is the same in each case.
        gene_names
            Where the names of ``adata`` are not the model's, Ensembl ids and symbols say: what leads from the former to
            the latter, a mapping, a Series or the name of a column of ``adata.var``. Counts of genes with one name are
            added up.
        n_tokens, kept
            How many genes of a cell are read at most, and which, ``"top"`` or ``"spread"``. Default: ``n_embedded`` and
            ``kept`` of the model's :class:`~scjepa.config.CellTokenConfig`.
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
            genes; cells without counts are zero, and a warning names them. For a list of AnnData a list of such arrays,
            for a mapping a dictionary.

        Raises
        ------
        ValueError, TypeError
            If an option cannot be used, a value cannot be a count, or no gene matches.
        """
        reading = latent.Reading(genes, gene_names, n_tokens, kept)
        embed = partial(latent.latent, self, reading=reading, scale=scale, encoder=encoder, batch_size=batch_size)
        return embed_each(self.adata, adata, out, lambda one, to: embed(one, out=to), key_added)

    @renamed(gene_table="gene_names=...")
    def predict_labels(
        self,
        adata: AnnData | None = None,
        *,
        method: str = "neighbors",
        n_neighbors: int = 15,
        unknown: float | None = None,
        gene_names: GeneTable | None = None,
        batch_size: int | str = AUTO,
    ) -> pd.DataFrame:
        """Tell each cell's label by labelled cells, in the embedding.

        The labelled cells are the model's own, at most 50,000 of them, drawn at random. They are saved with a model
        that was fine-tuned or has predicted labels, so that it can be loaded on unlabelled data. Works with a
        pretrained model; :meth:`finetune` is to make it better.

        Parameters
        ----------
        adata
            Cells to label. Default: the model's own, none of which votes on itself.
        method
            ``"neighbors"``: the commonest label among the nearest labelled cells. ``"linear"``: linear discriminants of
            the labels (:class:`scjepa.tl.LabelClassifier`), whose confidence is calibrated.
        n_neighbors
            Cells that vote.
        unknown
            Share of cells of known labels that may be called ``"unknown"``: a cell is, if so small a share of held-out
            labelled cells lies as far from every label. Whole batches are held out where ``setup_anndata`` named them.
            Default: no cell is. Of cells that the labels came from, fewer are unknown than this says.
        gene_names, batch_size
            As in :meth:`get_latent_representation`.

        Returns
        -------
        pandas.DataFrame
            By cell ``"label"`` (categorical), ``"confidence"`` and, with ``unknown``, ``"p_value"``. The confidence of
            ``"neighbors"`` is the share of them that have the label, in (0, 1], and no probability of being right; a
            cell of a type that the reference lacks often has a high one. Cells without counts get no label, and 0, and
            so does the only labelled cell of the model's own data, which nobody votes on.

        Raises
        ------
        ValueError
            If the model has no labelled cells to compare with, or an option is out of its range.
        """
        how = latent.Labelling(method, n_neighbors, unknown)
        return latent.predict(self, adata, how, latent.Reading(gene_names=gene_names), batch_size)

    @renamed(gene_table="gene_names=...")
    def predict_expression(
        self,
        genes: Sequence[str],
        adata: AnnData | None = None,
        *,
        n_iterations: int = 4,
        gene_names: GeneTable | None = None,
        batch_size: int = 64,
    ) -> pd.DataFrame:
        """Generate the values of genes from the cells' other genes, a share at a time (Appendix C).

        For models trained with prompts (``objective={"cell_prompt_weight": 1.0}``); others generate too.

        Parameters
        ----------
        genes
            Names of genes the model knows. What a cell has of them is hidden first.
        adata, gene_names
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
        reading = latent.Reading(gene_names=gene_names)
        return latent.predicted_expression(self, genes, adata, n_iterations, reading, batch_size)

    def predict_perturbation(
        self,
        conditions: Sequence[str],
        *,
        method: str = "stack",
        n_cells: int | None = None,
        controls: AnnData | None = None,
        n_controls: int = 256,
        batch_size: int = 64,
    ) -> AnnData:
        """Predict the expression of cells under conditions, measured or not.

        Parameters
        ----------
        conditions
            ``"A"`` (or ``"A+ctrl"``), ``"A+B"``, ``"ctrl"``.
        method
            ``"stack"``: closed-form models weighed by cross-validation over training conditions
            (:class:`scjepa.perturbation.PerturbationStack`), and the network by what it adds on validation conditions
            of the split, nothing where there are none. ``"network"``: the network alone. ``"mean"``, ``"additive"``,
            ``"linear"``, ``"usual"``, ``"genes"``, with vectors ``"vectors"``: a column of the stack alone.
            ``"no_change"``: control.
        n_cells
            How many cells of each condition to predict, each from a control cell of its own. Default: one mean profile.
        controls
            Cells to start from: those that its column of conditions calls control, all where it has no such column.
            Default: the control cells of the model's data.
        n_controls
            Control cells whose predictions a mean profile is the mean of, at most; drawn by the model's seed.
        batch_size
            Cells at a time. The result does not depend on it, save for rounding.

        Returns
        -------
        anndata.AnnData
            ``X``: predicted log-normalized expression, float32, on the scale of
            ``scjepa.perturbation.log_normalized(adata, size_key=..., target_sum=model.perturbation_.target_sum)``; a
            value can be slightly below zero. ``layers["control"]``: what it started from, so that the difference is the
            predicted change: the cell's own expression with ``n_cells``, else the mean of control cells that were
            trained on. Closed-form changes are the same for each cell. ``layers["error"]``, with ``"stack"`` without
            ``n_cells``: what closed-form models were wrong by, root mean square, on training conditions of the same
            kind left out. ``obs``: ``"condition"`` as given, ``"n_controls"``, and with ``n_cells`` ``"control_cell"``.
            ``var``: the genes trained on.

        Raises
        ------
        ValueError
            If the model was not trained on perturbations, a condition is in another grammar or perturbs a gene that has
            no vector, the method is not known, or there are too few control cells.

        Warns
        -----
        UserWarning
            If a gene outside the panel was perturbed in no condition trained on: its vector says nothing.
        """
        return perturb.predict_perturbation(self, conditions, method, n_cells, controls, n_controls, batch_size)

    @property
    def _n_read(self) -> int:
        return self.config.tokens.n_embedded or self.config.tokens.n_tokens

    @classmethod
    def _extended(cls, facts: Facts, weights: Weights, adata: AnnData, keys: CellKeys) -> tuple[Facts, Weights]:
        """Return a reference's facts and weights with vectors of the genes that are new in ``adata``."""
        facts, weights = perturb.without_perturbation(facts, weights)
        if "modules" in facts:
            return facts, weights
        return super()._extended(facts, weights, adata, keys)

    # -- words, save and load -------------------------------------------------------------------------------------

    def _words(self) -> dict[str, str]:
        tokens, counts = self.config.tokens, self.module.parameter_counts()
        modules = f", in {len(self.modules.names)} modules" if self.modules else ""
        return {
            "state": ", fine-tuned" if self.is_finetuned_ else "",
            "tokens": f"up to {tokens.n_tokens} expressed genes of a cell, {tokens.n_bins} bins{modules}",
            "weights": f", {counts['trained']:,} with heads, {counts['total']:,} with heads and EMA copy",
        }

    def facts(self) -> Facts:
        """Return what a loaded model needs beside weights: modules, labelled cells and perturbations as well."""
        facts, statistics = {**super().facts(), "is_finetuned": self.is_finetuned_}, {}
        if self.perturbation_ is not None:
            facts["perturbation"], statistics = self.perturbation_.to_dict(), self.perturbation_.arrays()
        if self.modules is not None:
            facts["modules"] = self.modules.facts()
        reference = latent.kept_reference(self)
        if reference is not None:
            facts, statistics = {**facts, "labels": reference.facts()}, {**statistics, **reference.arrays()}
        return {**facts, "statistics": statistics} if statistics else facts

    @classmethod
    def from_facts(cls, adata: AnnData, facts: Facts, weights: Mapping[str, torch.Tensor]) -> Self:
        """Return a model on ``adata``, which is registered, from what :meth:`facts` gave."""
        model, config = cls._bare(adata), CellJEPAConfig.from_dict(facts["config"])
        modules = GeneModules.from_saved(facts["modules"]) if "modules" in facts else None
        model._start(config, Vocabulary(facts["vocabulary"]), facts["seed"], modules=modules)
        model.is_finetuned_ = facts["is_finetuned"]
        model.check_genes(adata, convertible=False)
        model._restore(facts)
        freeze_known(model.module, model.reference, {"n_genes": model.module.context.embedding.gene})
        if "labels" in facts:
            reference = latent.LabelReference.from_saved(facts["labels"], facts["statistics"])
            model._labelled = latent.Labelled(reference)
        if "perturbation" in facts:
            run = model.perturbation_ = PerturbationRun.from_dict(facts["perturbation"], facts.get("statistics", {}))
            model._further = {perturb.PREFIX: perturb.restored_module(model, run)}
        if weights.keys() - model._weights().keys():  # fine-tuning has heads that pretraining need not have
            model._begin("finetuning")
            model._begin("pretraining")
        return model
