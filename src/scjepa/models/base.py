"""What every model of this package shares: tables, training, diagnosis, save and load. It knows no model."""

from __future__ import annotations

import functools
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, Unpack, cast

import lightning.pytorch as pl
import numpy as np
import torch
from anndata import AnnData, read_h5ad
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass

from scjepa._core.anndata import counts_of, require_anndata
from scjepa._core.counts import CountMatrix
from scjepa._core.features import warn_of_no_genes
from scjepa._core.options import unknown_name
from scjepa._core.plain import Facts, seed_of
from scjepa._core.renamed import told
from scjepa._core.warn import warn
from scjepa.models import store as _store
from scjepa.models.estimate import Estimate, check_training_memory, estimate
from scjepa.models.reference import FREEZE, Coverage, Reference, coverage, facts_of, tell_new, with_new_genes
from scjepa.models.setup import SET_UPS, Keys, refuse_unknown, require_own, whole
from scjepa.models.store import Weights
from scjepa.nn.jepa import AnyModule
from scjepa.pretrained import Card
from scjepa.tokens.choice import SAME_BY_COUNT, TokenSpread
from scjepa.tokens.source import TableSource
from scjepa.tokens.vocabulary import Alignment, Vocabulary
from scjepa.training import Diagnosis, JEPATrainingPlan, diagnose
from scjepa.training import fit as _fit
from scjepa.training.fit import Curves, Run, RunArguments, Task, check_device, device_of, one_device
from scjepa.training.plan import History

KeysT = TypeVar("KeysT", bound=Keys)
DataT = TypeVar("DataT")
SourceT = TypeVar("SourceT", bound=TableSource)


class JEPAModel(BaseModelClass, ABC, Generic[KeysT, DataT, SourceT]):
    """Base of the models: an AnnData object, a configuration, a torch module and their verbs.

    A model says five things of its data and its state: where in AnnData it looks (:meth:`keys_of`), the tables that
    come of it (:meth:`tables`), the source of batches (:meth:`source`), which cells are held out (:meth:`split`), and
    what is saved with the weights (:meth:`facts`, the way back is :meth:`from_facts`); and ``_new_module`` makes its
    module. Training, estimates, saving, loading and query data follow from these. Beyond that a model has its verbs:
    ``setup_anndata``, ``get_latent_representation``.
    """

    config: Any
    module: AnyModule
    vocabulary: Vocabulary
    seed: int
    n_steps_: int
    history_: Curves | None
    reference: Reference | None = None
    """What the model took over from a reference or a checkpoint; ``None``: nothing."""
    card: Card | None = None
    """The card of the checkpoint that the model came from."""
    _further: dict[str, torch.nn.Module]
    """Modules beside the model's own, saved with it, by the prefix of their weights' names."""
    _cached: tuple[tuple, DataT] | None
    _embeds: ClassVar[str] = "neighborhoods"
    _scale: ClassVar[str]
    """Scale of ``get_latent_representation`` where none is named."""
    _kept_home: ClassVar[tuple[str, ...]] = ()
    """Entries of :meth:`facts` that stay with the model's data and go into no checkpoint."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Let every public method refuse keywords that it does not have with the one that is meant."""
        super().__init_subclass__(**kwargs)
        for name, thing in list(vars(cls).items()):
            if name == "__init__" or not name.startswith("_"):
                setattr(cls, name, told(thing))

    # -- what a model says ----------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def keys_of(cls, setup: Facts) -> KeysT:
        """Return where the model looks in AnnData, from the arguments of ``setup_anndata``; it may hold others."""

    @abstractmethod
    def tables(self, adata: AnnData, keys: KeysT, genes: np.ndarray | None = None) -> DataT:
        """Return the tables of ``adata``, its genes aligned by name.

        Parameters
        ----------
        keys
            Where to look in ``adata``, which is the model's own or was checked.
        genes
            Genes that may become tokens; ``None``: all.
        """

    @abstractmethod
    def source(self, data: DataT, device: torch.device | str = "cpu") -> SourceT:
        """Return the source of batches of tables, on ``device``."""

    @abstractmethod
    def split(self, data: DataT, size: float, by: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the cells to train on and those held out.

        Parameters
        ----------
        size
            Share of cells to hold out.
        by
            What is held out, as ``train(validation=...)`` names it; ``None``: the model's default.
        """

    def facts(self) -> Facts:
        """Return what a loaded model needs beside weights: what JSON can hold, and arrays under ``"statistics"``.

        A model that has more to keep adds it to what this method of the base gives.
        """
        from scjepa import __version__

        return {
            "model": type(self).__name__,
            "scjepa_version": __version__,
            "torch_version": torch.__version__,
            "config": self.config.to_dict(),
            "setup": self.keys.to_dict(),
            "vocabulary": list(self.vocabulary.names),
            "seed": self.seed,
            "is_trained": self.is_trained_,
            "n_steps": self.n_steps_,
            "history": _fit.curves_to_dict(self.history_),
            "reference": None if self.reference is None else self.reference.to_dict(),
            "card": None if self.card is None else self.card.to_dict(),
        }

    @classmethod
    @abstractmethod
    def from_facts(cls, adata: AnnData, facts: Facts, weights: Weights) -> Self:
        """Return a model on ``adata``, which is registered, from what :meth:`facts` gave.

        Its weights are whatever they are at first: ``weights``, whose names and shapes it has, are loaded into it.
        """

    @classmethod
    def _extended(cls, facts: Facts, weights: Weights, adata: AnnData, keys: KeysT) -> tuple[Facts, Weights]:
        """Return facts and weights of a model, with what is new in ``adata`` taken in: vectors of new genes."""
        known = Vocabulary(facts["vocabulary"])
        genes = list(known.extended(adata.var_names).names)
        return {**facts, "vocabulary": genes}, with_new_genes(weights, genes[len(known) :], facts["seed"])

    def _words(self) -> dict[str, str]:
        """Return what the summary says of this kind of model, behind what it says of all: by the name of its line."""
        return {"tokens": f"up to {self._n_read} genes of a cell"}

    def summary(self) -> str:
        """Return the model in a few lines: data, tokens, encoder, parameters, training."""
        encoder, counts = self.config.encoder, self.module.parameter_counts()
        without = f"{counts['encoder_without_genes']:,} without gene vectors"
        blocks = f"{encoder.n_layers} layers, width {encoder.width}, {encoder.n_heads} heads"
        state = f"trained for {self.n_steps_:,} steps" if self.is_trained_ else "not trained: call model.train()"
        origin = "" if self.reference is None else f", of them {self.reference.n_genes:,} of the reference"
        of_all = {
            "data": f"{self.adata.n_obs:,} cells, {len(self.vocabulary):,} genes{origin}",
            "tokens": "",
            "encoder": f"{blocks}, value {encoder.value!r}",
            "weights": f"{counts['encoder']:,} in the encoder ({without})",
        }
        own = self._words()
        lines = [f"  {name:<10}{text}{own.get(name, '')}" for name, text in of_all.items()]
        return "\n".join([f"{type(self).__name__}, {state}{own.get('state', '')}", *lines])

    def __repr__(self) -> str:
        return self.summary()

    # -- data -----------------------------------------------------------------------------------------------------

    @classmethod
    def _data_of(cls, data: AnnData) -> AnnData:
        """Return the annotated data that a call was given; a model that takes other things makes such of them."""
        return data

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.module.parameters()).device

    @property
    def keys(self) -> KeysT:
        """Where the model finds what it reads, as given to ``setup_anndata``."""
        return self.keys_of(self.adata_manager.registry["setup_args"])

    @classmethod
    def register_manager(cls, adata_manager: AnnDataManager) -> None:
        """Take up what ``setup_anndata`` was told of an AnnData object."""
        super().register_manager(adata_manager)
        SET_UPS.note(cls, adata_manager.adata, cls.keys_of(adata_manager.registry["setup_args"]))

    @classmethod
    def _register(cls, adata: AnnData, keys: KeysT, setup: Facts, registry: Mapping[str, object]) -> None:
        """Register ``adata`` by what ``setup_anndata`` was told: its arguments, and scvi-tools' own."""
        refuse_unknown(cls.setup_anndata, registry)
        require_own(adata)
        manager = AnnDataManager(fields=keys.fields(), setup_method_args=setup)
        manager.register_fields(adata, **registry)
        cls.register_manager(manager)

    def _keys_for(self, adata: AnnData) -> KeysT:
        """Return where to look in ``adata``, which need not be the model's own."""
        require_anndata(adata)
        if whole(adata) is self.adata:
            return self.keys
        usual = self.keys
        return usual.for_query(adata, SET_UPS.of(type(self), adata), usual)

    def _own_tables(self) -> DataT:
        """Return the tables of the model's AnnData, made anew when what they are made from has changed.

        Whether it has is asked here, and that reads all counts in memory: a public call asks once and passes them on.
        """
        keys = self.keys
        mark = keys.mark(self.adata)
        if self._cached is None or self._cached[0] != mark:
            self._cached = (mark, self.tables(self.adata, keys))
        return self._cached[1]

    def _tables_of(self, adata: AnnData | None = None, genes: np.ndarray | None = None, **how: Any) -> DataT:
        """Return the tables of ``adata`` (default: the model's own), once it is known to be usable."""
        own = adata is None or adata is self.adata
        if own and genes is None and not how:
            return self._own_tables()
        adata = self.adata if adata is None else adata
        keys = self._keys_for(adata)
        if not own:
            keys.validate(adata)
        return self.tables(adata, keys, genes, **how)

    def _source(self, adata: AnnData | None = None, genes: np.ndarray | None = None) -> SourceT:
        """Return the source of batches of ``adata`` (default: the model's own) on the model's device."""
        return self.source(self._tables_of(adata, genes), self.device)

    @property
    def _n_read(self) -> int:
        """Tokens of a cell that are read when it is embedded, at most."""
        return int(self.config.tokens.n_tokens)

    def _source_at(self, adata: AnnData | None, scale: str) -> SourceT:
        """Return the source of batches that are embedded at ``scale``."""
        return self._source(adata)

    def _counts_of(self, adata: AnnData) -> CountMatrix:
        """Return the matrix of raw counts of ``adata``."""
        registered = None if whole(adata) is self.adata else SET_UPS.of(type(self), adata)
        return counts_of(adata, (registered or self.keys).layer)

    def _warn_of_unknown(self, alignment: Alignment, then: str | None = None) -> None:
        """Warn of genes that the model leaves out, and tell the call that takes them in."""
        if alignment.n_matched < alignment.n_names:
            call = "" if then is None else f" To take them in: {then}."
            warn(f"Genes the model does not know are left out. {alignment}{call}")

    # -- training -------------------------------------------------------------------------------------------------

    def train(self, max_epochs: int | None = None, **arguments: Unpack[RunArguments]) -> None:
        """Train the model; what is not given comes from the model's ``config.training``.

        Parameters
        ----------
        max_epochs
            Passes over the training cells. Wins over the preset's ``max_steps``.
        max_steps
            Optimizer steps. Default: the configuration's.
        accelerator
            Lightning's, ``"auto"`` by default: the best kind of device there is.
        devices
            How many devices, or which. Default: one, also where there are several. More, ``devices=2`` or ``"auto"``
            for all, are trained on by Lightning's ``"ddp"``, which runs the calling script once for each: they share
            the batches and end with one model. See :doc:`/user_guide/devices`.
        batch_size
            Neighborhoods (cells) a step, of each device.
        validation_size
            Share of cells held out for the monitor; 0: none, the monitor then reads training cells.
        validation
            What is held out. Of neighborhoods ``"block"`` (compact blocks of each section, the default) or
            ``"section"`` (whole sections); of dissociated cells ``"cell"`` (at random, the default) or ``"batch"``
            (whole batches).
        early_stopping
            Stop when ``validation_loss`` stops falling. A JEPA's loss can fall while features die, so look at
            :meth:`diagnose` as well.
        plan_kwargs
            Options of :class:`~scjepa.config.TrainConfig` by name, such as ``{"learning_rate": 3e-4}``.
        checkpoint_dir
            Folder in which the state of training is kept, ``last.ckpt``, every ``checkpoint_every`` (100) steps.
        ckpt_path
            Resume exactly from this checkpoint; ``"last"``: the latest in ``checkpoint_dir``, a fresh start where
            there is none. It must be the state of the same cells, counts and genes, and of a model with the same seed
            and options; ``max_steps`` and ``max_epochs`` may be others.
        **arguments
            ``monitor_every``, ``checkpoint_every``, ``patience``, ``progress_bar`` of
            :class:`~scjepa.training.RunOptions`, and Lightning's :class:`~lightning.pytorch.Trainer` arguments.

        Raises
        ------
        ValueError, TypeError
            If an option is unknown, out of range or without effect, a device is not there or its memory will not do, or
            a checkpoint is the state of other data, genes, seeds or options. Nothing has been trained then.

        Warns
        -----
        UserWarning
            If memory is likely to run out.
        """
        run = Run.of(self.config.training, max_epochs, arguments)
        self.fit(self._task(run), run)

    def _task(self, run: Run) -> Task:
        """Return the task of :meth:`train`."""
        return self._task_of(self._own_tables(), run)

    def _task_of(self, data: DataT, run: Run) -> Task:
        """Return the task of training the model's own module on ``data``."""
        cells = self.split(data, run.config.validation_size, run.validation)
        options = {name: part for name, part in self.config.to_dict().items() if name != "training"}
        options, keep = {**self._options_of_reference(), **options}, functools.partial(self._keep, cells)
        return Task(self.module, self.source(data), *cells, getattr(data, "sections", None), keep, options)

    def _options_of_reference(self) -> Facts:
        """Return what a run depends on of the model that this one came from."""
        options = {} if self.reference is None else {"reference": self.reference.to_dict()}
        return options if self.card is None else {**options, "checkpoint": self.card.name}

    def fit(self, task: Task, run: Run) -> None:
        """Train a task to its end: the one way that all kinds of training go.

        Parameters
        ----------
        task
            What is trained, on which cells, and what is kept of it.
        run
            How: its optimization, where, and the options of the trainer.

        Raises
        ------
        ValueError
            If memory will not do, or Lightning cannot train like that.
        KeyboardInterrupt
            If training was interrupted; what was learned until then is kept.
        """
        check_training_memory(task.module, task.source, run.config, device_of(run.options.accelerator))
        trainer, history = _fit.fit(task, run, self.vocabulary.names, self.seed, self.n_steps_)
        self.trainer = trainer
        self.to_device(trainer.strategy.root_device)
        task.module.to(trainer.strategy.root_device)
        task.keep(trainer, history)
        if trainer.interrupted:
            raise KeyboardInterrupt(
                f"Training was interrupted after {trainer.global_step} steps; the model keeps what it has learned."
            )

    def _keep(self, cells: tuple[np.ndarray, np.ndarray], trainer: pl.Trainer, history: History) -> None:
        """Keep what scvi-tools' models keep of a run."""
        self.train_indices_, self.validation_indices_ = cells
        # A state that was taken up may have begun before what this model has been trained for since.
        before = cast(JEPATrainingPlan, trainer.lightning_module).steps_before
        self.history_ = _fit.extended_curves(self.history_, history, before)
        self.n_steps_ = before + trainer.global_step
        self.is_trained_ = True

    def coverage(
        self,
        adata: AnnData | None = None,
        *,
        cost: bool = False,
        reference: AnnData | None = None,
        scale: str | None = None,
        n_cells: int = 1000,
        seed: int = 0,
    ) -> Coverage:
        """Report how much of a data set the model was trained to read.

        Genes count as matched if the model was *trained* on them: those that :meth:`load_query_data` took in do
        only once the query model has been trained itself.

        Parameters
        ----------
        adata
            Data to be embedded. Default: the model's own, which is of interest for query models.
        cost
            Also measure what such coverage costs: the model's own data is embedded with all its genes, and with those
            alone that ``adata`` has too, and the two are compared. Takes about as long as embedding ``2 * n_cells``
            cells, after the tables are made.
        reference
            The data to measure the cost on. Default: the model's own, if the model was trained on it.
        scale
            Scale of the embeddings that are compared, as ``get_latent_representation`` names them. Default: its own.
        n_cells
            Cells to compare, at most.
        seed
            Seed of their choice.

        Returns
        -------
        Coverage
            ``print(model.coverage(adata))`` reads well.

        Raises
        ------
        ValueError
            If no gene matches, or the cost is asked for and the model's training data is not at hand.

        Examples
        --------
        >>> print(model.coverage(new, cost=True))
        """
        return coverage(self, adata, cost, reference, scale or self._scale, n_cells, seed)

    def estimate(self, adata: AnnData | None = None) -> Estimate:
        """Tell what training and embedding will take, before either is started.

        Runs a few small steps on a copy of the weights, for at most five seconds once tables are made; weights and
        random state stay as they are.

        Parameters
        ----------
        adata
            Other data to embed or train on. Default: the model's own.

        Returns
        -------
        Estimate
            Parameters and table sizes exactly, peaks of memory within 30%, times within a factor of 2;
            ``print(model.estimate())`` reads well.
        """
        return estimate(self.module, self._source(adata), self.config.training, self.seed)

    def diagnose(self) -> Diagnosis:
        """Tell in words whether training is healthy or features have collapsed, and what to try.

        Returns
        -------
        Diagnosis
            ``print(model.diagnose())`` reads well; ``.verdict`` is ``"healthy"``, ``"shrinking"``,
            ``"not learning"``, ``"collapsed"``, ``"same tokens"`` or ``"untrained"``.
        """
        history = {name: frame[name].tolist() for name, frame in (self.history_ or {}).items()}
        spread, objective = self._token_spread(), self.module.objective
        return diagnose(history, self.config.encoder.width, self._embeds, self.config, spread, objective)

    def _token_spread(self) -> TokenSpread | None:
        """Return over how many genes the tokens of the model's cells spread, where cells have top genes for tokens."""
        return None

    def _warn_if_untrained(self) -> None:
        if not self.is_trained_:
            warn("This model is not trained: the embeddings come from its random weights. Call model.train() first.")

    def _check_freeze(self, what: str, n_new: int) -> None:
        """Refuse to train where the encoder is frozen and there is nothing new, of ``what`` trains beside it."""
        if self.reference is not None and self.reference.freeze == "encoder" and n_new == 0:
            raise ValueError(
                f"With freeze='encoder' only {what} train, and this data has none that the reference did not know. "
                "Pass freeze='none' to load_query_data, or use the model as it is."
            )

    @property
    def _n_new_genes(self) -> int:
        return 0 if self.reference is None else len(self.vocabulary) - self.reference.n_genes

    @property
    def _knows_own_data(self) -> bool:
        """Whether the model was trained on its own AnnData, and not only on that of a reference or a checkpoint."""
        return self.is_trained_ and (self.reference is None or self.n_steps_ > self.reference.n_steps)

    # -- save and load --------------------------------------------------------------------------------------------

    def to_device(self, device: torch.device | str | int) -> None:
        """Move the weights to ``device``."""
        super().to_device(device)
        for module in self._further.values():
            module.to(self.device)

    def _weights(self) -> Weights:
        """Return all tensors that are saved."""
        further = ((f"{prefix}{name}", w) for prefix, m in self._further.items() for name, w in m.state_dict().items())
        return {**self.module.state_dict(), **dict(further)}

    def save(self, dir_path: str | Path, *, overwrite: bool = False, save_anndata: bool = False) -> None:
        """Write the model to a folder: ``model.json`` and ``weights.safetensors``, no pickle.

        Parameters
        ----------
        dir_path
            Folder to make.
        overwrite
            Replace a saved model that is there; any other folder is refused.
        save_anndata
            Also write the model's AnnData, so that :meth:`load` needs none.

        Raises
        ------
        FileExistsError
            If the folder exists and may not be replaced. Nothing is written then.
        """
        adata = self.adata if save_anndata else None
        _store.write_model(dir_path, self.facts(), self._weights(), adata, overwrite=overwrite)

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | None = None,
        *,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> Self:
        """Load a model that :meth:`save` wrote.

        Parameters
        ----------
        dir_path
            The folder.
        adata
            Data with what was named at set-up, or else what ``setup_anndata`` was told of them (without sections or
            technologies: of one, with a warning); genes are aligned by name. Default: the data saved with the model.
        accelerator, device
            Where the weights go.

        Raises
        ------
        FileNotFoundError, ValueError
            If files are missing, damaged, foreign or newer than this version, or a device is not there.
        """
        check_device(accelerator)
        facts, weights = _store.read_model(dir_path, cls.__name__)
        if adata is None:
            path = Path(dir_path) / _store.ADATA_FILE
            if not path.is_file():
                raise ValueError(
                    f"{dir_path} was saved without data. Pass adata: {cls.__name__}.load(dir_path, adata)."
                )
            adata = read_h5ad(path)
        return cls._on(adata, facts, weights, str(dir_path), one_device(accelerator, device))

    def on(self, adata: AnnData) -> Self:
        """Return a copy of the model whose data is ``adata``, as if it were saved and loaded on it.

        Genes that the model does not know are left out with a warning; :meth:`load_query_data` takes them in.

        Parameters
        ----------
        adata
            As in :meth:`load`.

        Examples
        --------
        >>> model.on(labelled_cells).finetune()
        """
        facts, weights = _store.copied(self)
        return self._on(adata, facts, weights, "the model", self.device)

    @classmethod
    def _on(cls, adata: AnnData, facts: Facts, weights: Weights, source: str, device: torch.device) -> Self:
        """Register ``adata`` as the data of a saved model, and return the model on it."""
        adata = cls._data_of(adata)
        require_anndata(adata)
        saved = cls.keys_of(facts["setup"])
        cls._set_up(adata, saved.to_load(adata, SET_UPS.of(cls, adata), saved))
        return cls._assemble(adata, facts, weights, source, device)

    @classmethod
    def _set_up(cls, adata: AnnData, keys: KeysT) -> None:
        """Register data for a model that is there: how its cells become tokens is decided."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=SAME_BY_COUNT)
            cls.setup_anndata(adata, **keys.to_dict())

    @classmethod
    def _assemble(cls, adata: AnnData, facts: Facts, weights: Weights, source: str, device: torch.device) -> Self:
        """Return a model on ``adata``, which is registered, from facts and weights; ``source`` names them in errors."""
        weights = _store.with_both_encoders(weights)
        model = cls.from_facts(adata, facts, weights)
        for prefix, module in model._further.items():
            own = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
            _store.load_weights(module, own, source)
            weights = {name: w for name, w in weights.items() if not name.startswith(prefix)}
        _store.load_weights(model.module, weights, source)
        model.to_device(device)
        return model

    @classmethod
    def _bare(cls, adata: AnnData) -> Self:
        """Return a model on ``adata`` that has nothing else yet."""
        model = cls.__new__(cls)
        BaseModelClass.__init__(model, adata)
        return model

    @abstractmethod
    def _new_module(self) -> AnyModule:
        """Return the module of the model's configuration, of random weights."""

    def _start(self, config: Any, vocabulary: Vocabulary, seed: int, **own: object) -> None:
        """Take up what a model begins with, the class's own by name, and make its module."""
        vars(self).update(own, config=config, vocabulary=vocabulary, seed=seed, n_steps_=0, _cached=None, _further={})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = self._new_module().eval()
        self._model_summary_string = self.summary()

    def _restore(self, facts: Facts) -> None:
        """Take up the state of training that was saved."""
        self.is_trained_, self.n_steps_ = facts["is_trained"], facts["n_steps"]
        self.history_ = _fit.curves_from_dict(facts["history"]) or None
        self.reference = Reference(**facts["reference"]) if facts.get("reference") else None
        self.card = Card.from_any(facts["card"], "") if facts.get("card") else None
        self._model_summary_string = self.summary()
        self.init_params_ = {"kwargs": {}, "non_kwargs": {"preset": self.config, "seed": self.seed}}

    def save_pretrained(
        self,
        path: str | os.PathLike[str],
        card: Card | Mapping[str, object] | None = None,
        *,
        dtype: str = "float32",
        overwrite: bool = False,
    ) -> None:
        """Write a checkpoint for others: ``model.json``, ``weights.safetensors`` and ``README.md``, no pickle.

        It holds the target encoder, which gives the embeddings; the predictor and heads, with which fine-tuning goes
        on; configuration, vocabulary, panels, statistics of normalizations, versions, the monitor's readings, the card,
        and checksums. It does not hold the context encoder (fine-tuning begins with a copy of the target encoder), the
        state of the optimizer or any cell. Of a model of width 64 and two layers with 2,000 genes that is 1.2 MB.
        To stop and go on with the very same training, use :meth:`save` and ``checkpoint_dir``.

        Parameters
        ----------
        path
            Folder to make; its name is the checkpoint's where the card has none.
        card
            A :class:`scjepa.pretrained.Card` or a mapping of its fields. Default: the card of the checkpoint that the
            model came from, if any. A date is filled in.
        dtype
            ``"float32"``: embeddings of the loaded model are the same bit for bit. ``"float16"``: half the size, and
            embeddings differ by about one part in a thousand.
        overwrite
            Replace a saved model that is there; any other folder is refused.

        Raises
        ------
        FileExistsError
            If the folder exists and may not be replaced. Nothing is written then.
        ValueError
            If a field of the card is not known, or a weight is too large for ``"float16"``.

        Examples
        --------
        >>> model.save_pretrained("my-tissue", card={"description": "...", "license": "CC-BY-4.0"})
        """
        _store.write_checkpoint(self, Path(path), card, dtype, overwrite)

    @classmethod
    def load_query_data(
        cls,
        adata: AnnData,
        reference_model: JEPAModel | str | os.PathLike[str],
        *,
        freeze: str = "none",
        seed: int | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> Self:
        """Take a trained model to new data: other cells, genes in any order, other panels, other technologies.

        The new model has the genes and technologies of the reference, with their weights, and those of ``adata``
        besides. It embeds at once (zero-shot), and :meth:`train` goes on with training on ``adata``, as do
        :meth:`~scjepa.CellJEPA.finetune` and :meth:`~scjepa.CellJEPA.train_perturbation` with its labels and
        conditions. The reference stays as it is. Nothing is written to ``adata`` but scvi-tools' bookkeeping.

        What is new begins like this, depending on ``seed`` and names alone:

        - the vector of a gene is drawn from the Gaussian with the mean and covariance of the reference's gene vectors
          (:meth:`load` and ``get_latent_representation(adata)`` leave such genes out instead). Of dissociated cells new
          genes take part once they are trained, and not before: embeddings do not depend on vectors that are drawn.
          Where gene modules are tokens, new genes are of no module and stay out;
        - the token of a technology is the mean of the reference's;
        - normalizations that learn (all but ``counts``) learn a new gene, and a new technology with 100 cells or
          more, from ``adata``; a smaller one takes the reference's statistics of all technologies.

        What a reference learned of perturbations is not taken over; the labelled cells that it keeps are, until the
        model is trained.

        Parameters
        ----------
        adata
            Raw counts, and for neighborhoods coordinates and a spatial graph. Where they are found is what
            ``setup_anndata`` was told of this object, else what it was told of the reference's.
        reference_model
            A model, a folder that :meth:`save` or :meth:`save_pretrained` wrote, or the name of a checkpoint
            (:func:`scjepa.pretrained.locate`).
        freeze
            What stays as it is in training: ``"none"``; or ``"encoder"``, then only the vectors of new genes and
            technologies, and heads that fine-tuning adds, are trained, and data without new genes keeps its embeddings
            bit for bit. With ``"encoder"`` the context encoder begins as a copy of the target encoder.
        seed
            Seed of new vectors and of training. Default: the reference's.
        accelerator, device
            Where the weights go.

        Returns
        -------
        STJEPA, CellJEPA
            A model of this class on ``adata``, of the reference's configuration.

        Raises
        ------
        ValueError
            If no gene is the reference's (the message names some of both and the likely cause), or the data, the
            folder or an option cannot be used.
        FileNotFoundError
            If there is no such checkpoint.

        Warns
        -----
        UserWarning
            If genes count as new whose names differ from the reference's in case only.

        Examples
        --------
        >>> query = scjepa.STJEPA.load_query_data(new_section, model)
        >>> new_section.obsm["X_stjepa"] = query.get_latent_representation()  # zero-shot
        >>> query.train(max_steps=300)  # fine-tuned
        """
        where = one_device(accelerator, device)
        adata = cls._data_of(adata)
        require_anndata(adata)
        if freeze not in FREEZE:
            raise ValueError(unknown_name("choice of freeze", freeze, FREEZE))
        facts, weights, source = facts_of(cls, reference_model)
        usual = cls.keys_of(facts["setup"])
        keys = usual.for_query(adata, SET_UPS.of(cls, adata), usual)
        alignment = Vocabulary(facts["vocabulary"]).align(adata.var_names, source="adata.var_names", columns=adata.var)
        cls._set_up(adata, keys)
        if seed is not None:
            facts["seed"] = seed_of(seed)
        reference = Reference.of(facts, freeze)
        facts, weights = cls._extended(facts, weights, adata, keys)
        if len(facts["vocabulary"]) - reference.n_genes == alignment.n_names - alignment.n_matched:
            tell_new(alignment)  # and not where new genes stay out
            if alignment.n_matched < alignment.n_names:
                warn_of_no_genes(adata)
        if freeze == "encoder":  # the context encoder begins as a copy of the target encoder
            twins = {f"context.{n.removeprefix('target.')}": w for n, w in weights.items() if n.startswith("target.")}
            weights = {**weights, **twins}
        return cls._assemble(adata, {**facts, "reference": reference.to_dict()}, weights, source, where)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        adata: AnnData,
        *,
        freeze: str = "none",
        seed: int | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> Self:
        """Return a pretrained model on ``adata``, ready to embed it or to be fine-tuned on it.

        The same as :meth:`load_query_data` with the checkpoint as reference: genes and technologies that the checkpoint
        does not know are taken in.

        Parameters
        ----------
        name
            A folder that :meth:`save_pretrained` or :meth:`save` wrote; a checkpoint that comes with the package
            (:func:`scjepa.pretrained.available`); or ``"organization/name"`` on the Hugging Face hub, which takes
            ``huggingface_hub`` and, the first time, a network.
        adata, freeze, seed, accelerator, device
            As in :meth:`load_query_data`.

        Returns
        -------
        STJEPA
            The model; ``model.card`` says what it was trained on.

        Raises
        ------
        FileNotFoundError
            If there is no such checkpoint.
        ImportError
            If the name is one of the hub's and ``huggingface_hub`` is not installed.
        ValueError
            If the files are damaged, truncated, foreign or newer than this version, no gene is the checkpoint's, or the
            data cannot be used.

        Examples
        --------
        >>> sq.gr.spatial_neighbors_knn(adata, n_neighs=10)
        >>> model = scjepa.STJEPA.from_pretrained("mouse-brain-small", adata)
        >>> adata.obsm["X_stjepa"] = model.get_latent_representation()
        """
        return cls.load_query_data(adata, name, freeze=freeze, seed=seed, accelerator=accelerator, device=device)
