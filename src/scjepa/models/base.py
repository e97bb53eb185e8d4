"""What every model of this package shares: training, history, diagnosis, save and load."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, cast

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from anndata import AnnData, read_h5ad
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass

from scjepa._core.anndata import require_anndata
from scjepa._core.plain import plain
from scjepa._core.warn import warn
from scjepa.celljepa.config import CellJEPAConfig
from scjepa.models import store as _store
from scjepa.models.device import check_device, device_of, one_device
from scjepa.models.estimate import Estimate, check_memory, estimate, training_bytes
from scjepa.models.history import extend, frame
from scjepa.models.run_options import changed, check_effects, check_trainer_arguments, marks_of
from scjepa.models.setups import SET_UPS, whole
from scjepa.nn import JEPAModule
from scjepa.stjepa.config import STJEPAConfig
from scjepa.stjepa.data import DataKeys, counts_of, fingerprint
from scjepa.stjepa.fields import keys_for
from scjepa.stjepa.source import TokenSource
from scjepa.tokens.choice import SAME_BY_COUNT, TokenSpread
from scjepa.tokens.source import TableSource
from scjepa.tokens.vocabulary import Vocabulary
from scjepa.training import Diagnosis, JEPATrainingPlan, RunOptions, diagnose, hold_out, run
from scjepa.training.config import TrainConfig
from scjepa.training.history import History


@dataclass(frozen=True)
class Task:
    """What a run trains: a module on a source of batches, section codes, and the cells to train on and held out."""

    module: JEPAModule
    source: TableSource
    sections: np.ndarray | None
    train_cells: np.ndarray
    held_out: np.ndarray


_MONITOR_CELLS = 512
"""Cells the monitor reads: enough for an effective rank, few enough to cost a few percent of a run."""


class JEPAModel(BaseModelClass):
    """Base of the models: an AnnData object, a configuration, a torch module and their verbs.

    A subclass says how its module is built (:meth:`_build`) and how AnnData becomes tables (:meth:`_tables`). What is
    said here of tables, sources and splits is for neighborhoods; a model of something else says it anew.
    """

    config: STJEPAConfig | CellJEPAConfig
    module: Any
    vocabulary: Vocabulary
    seed: int
    n_steps_: int
    history_: dict[str, pd.DataFrame] | None
    _cached: tuple[tuple, Any] | None
    _keys_class: ClassVar[type] = DataKeys
    _plan_class: ClassVar[type[JEPATrainingPlan]] = JEPATrainingPlan
    _embeds: ClassVar[str] = "neighborhoods"
    _untrained_message: ClassVar[str] = (
        "This model is not trained: the embeddings come from its random initial weights. Call model.train() first."
    )

    # -- data ---------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.module.parameters()).device

    @property
    def keys(self) -> Any:
        """Where the model finds what it reads, as given to ``setup_anndata``."""
        return self._keys_of(self.adata_manager)

    @classmethod
    def _keys_of(cls, manager: AnnDataManager) -> Any:
        arguments = manager.registry["setup_args"]
        known = [f.name for f in fields(cls._keys_class)]
        return cls._keys_class(**{name: arguments[name] for name in known if name in arguments})

    @classmethod
    def _registered_keys(cls, adata: AnnData) -> Any:
        """Return what ``setup_anndata`` was told of ``adata`` itself in this session, ``None`` if it was told nothing.

        What it was told of another object, of which ``adata`` may be a copy, is not asked.
        """
        return SET_UPS.of(cls, adata)

    @classmethod
    def register_manager(cls, adata_manager: AnnDataManager) -> None:
        """Take up what ``setup_anndata`` was told of an AnnData object."""
        super().register_manager(adata_manager)
        SET_UPS.note(cls, adata_manager.adata, cls._keys_of(adata_manager))

    def _keys_for(self, adata: AnnData) -> Any:
        """Return where to look in ``adata``, which need not be the model's own."""
        require_anndata(adata)
        if self._is_own(adata):
            return self.keys
        return keys_for(adata, self._registered_keys(adata), self.keys)

    def _is_own(self, adata: AnnData) -> bool:
        """Return whether ``adata`` is the model's own, or a view of it."""
        return whole(adata) is self.adata

    def _counts_of(self, adata: AnnData) -> Any:
        """Return the matrix of raw counts of ``adata``."""
        keys = self.keys if self._is_own(adata) else self._registered_keys(adata) or self.keys
        return counts_of(adata, keys)

    def _tables(self, adata: AnnData, gene_ids: np.ndarray | None = None) -> Any:
        raise TypeError(f"{type(self).__name__} does not say how AnnData becomes tables.")

    def _fingerprint(self) -> tuple:
        """Return a checksum of what the tables of the model's AnnData are made from."""
        return fingerprint(self.adata, self.keys)

    def _own_tables(self) -> Any:
        """Return the tables of the model's AnnData, made once and made anew when what they are made from changes."""
        mark = self._fingerprint()
        if self._cached is None or self._cached[0] != mark:
            self._cached = (mark, self._tables(self.adata))
        return self._cached[1]

    def _source_of(self, data: Any, device: torch.device | str = "cpu") -> Any:
        """Return the source of batches of tables."""
        tables = (data.tokens, data.neighbors, data.technologies)
        return TokenSource(*tables, device, summed=data.summed, places=data.places)

    def _split(self, data: Any, size: float, by: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the cells to train on and those held out."""
        return hold_out(data.coordinates, data.sections, size, by=by or "block", seed=self.seed)

    def _source(self, adata: AnnData | None, gene_ids: np.ndarray | None = None, scale: str = "") -> Any:
        """Return the token source of ``adata`` (default: the model's own) on the model's device.

        ``scale`` is what the source is for, where that makes a difference to its tables.
        """
        if adata is None or adata is self.adata:
            data = self._own_tables() if gene_ids is None else self._tables(self.adata, gene_ids)
        else:
            data = self._tables(self._checked(adata), gene_ids)
        return self._source_of(data, self.device)

    def _checked(self, adata: AnnData) -> AnnData:
        """Return ``adata``, which is not the model's own, once it is known to be usable."""
        return self._validate_anndata(adata)

    # -- training -----------------------------------------------------------------------------------------------

    def _check_trainable(self) -> None:
        """Raise where the model cannot train on its data."""

    def _check_batches(self, config: TrainConfig) -> None:
        """Raise where the data cannot be put into batches as the configuration says."""

    def train(
        self,
        max_epochs: int | None = None,
        *,
        max_steps: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = 1,
        batch_size: int | None = None,
        validation_size: float | None = None,
        validation: str | None = None,
        early_stopping: bool = False,
        plan_kwargs: Mapping[str, Any] | None = None,
        checkpoint_dir: str | Path | None = None,
        ckpt_path: str | Path | None = None,
        **trainer_kwargs: Any,
    ) -> None:
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
            for all, are trained on by Lightning's ``"ddp"``, which runs the calling script once for each.
        batch_size
            Neighborhoods (cells) a step.
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
            Options of :class:`~scjepa.TrainConfig` by name, such as ``{"learning_rate": 3e-4}``.
        checkpoint_dir
            Folder in which the state of training is kept, ``last.ckpt``, every ``checkpoint_every`` (100) steps.
        ckpt_path
            Resume exactly from this checkpoint; ``"last"``: the latest in ``checkpoint_dir``, a fresh start where
            there is none. It must be the state of the same cells, counts and genes, and of a model with the same seed
            and options; ``max_steps`` and ``max_epochs`` may be others.
        **trainer_kwargs
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
        self._fit(
            self.config.training,
            max_epochs,
            max_steps=max_steps,
            accelerator=accelerator,
            devices=devices,
            batch_size=batch_size,
            validation_size=validation_size,
            validation=validation,
            early_stopping=early_stopping,
            plan_kwargs=plan_kwargs,
            checkpoint_dir=checkpoint_dir,
            ckpt_path=ckpt_path,
            **trainer_kwargs,
        )

    def _fit(
        self,
        base: TrainConfig,
        max_epochs: int | None = None,
        *,
        max_steps: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = 1,
        batch_size: int | None = None,
        validation_size: float | None = None,
        validation: str | None = None,
        early_stopping: bool = False,
        plan_kwargs: Mapping[str, Any] | None = None,
        checkpoint_dir: str | Path | None = None,
        ckpt_path: str | Path | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train as ``base`` says, where the further arguments, those of :meth:`train`, do not say otherwise."""
        check_device(accelerator, plain(devices, arrays=True))
        self._check_trainable()
        config = changed(base, max_epochs, max_steps, batch_size, validation_size, plan_kwargs)
        trainer_kwargs, devices = plain(trainer_kwargs), plain(devices, arrays=True)
        option_names = {f.name for f in fields(RunOptions)}
        chosen = {name: trainer_kwargs.pop(name) for name in list(trainer_kwargs) if name in option_names}
        check_effects(chosen, early_stopping, checkpoint_dir)
        options = RunOptions(
            accelerator=accelerator,
            devices=devices,
            early_stopping=early_stopping,
            checkpoint_dir=checkpoint_dir,
            ckpt_path=ckpt_path,
            **chosen,
        )
        check_trainer_arguments(trainer_kwargs, option_names)
        if early_stopping and config.validation_size == 0:
            raise ValueError("early_stopping needs held-out cells: pass validation_size=0.1 or so.")
        if validation is not None and config.validation_size == 0:
            raise ValueError(f"validation={validation!r} says what is held out, and validation_size=0 is nothing.")
        self._check_batches(config)
        task = self._task(config.validation_size, validation)
        module, source, train_cells, held_out = task.module, task.source, task.train_cells, task.held_out
        monitor = held_out if len(held_out) else train_cells
        if len(monitor) > _MONITOR_CELLS:
            monitor = np.sort(np.random.default_rng(self.seed).choice(monitor, _MONITOR_CELLS, replace=False))
        check_memory(
            training_bytes(module, source, config, self.seed),
            device_of(accelerator),
            f"Training with batch_size={config.batch_size}",
            f"Lower it, train(batch_size={max(1, config.batch_size // 4)}), or take a smaller preset.",
        )
        plan = self._plan_class(
            module,
            source,
            config,
            train_cells,
            monitor,
            seed=self.seed,
            sections=task.sections,
            marks=lambda: marks_of(self.vocabulary, self.seed, task, config, self._options_of_run()),
            steps_before=self.n_steps_,
        )
        try:
            trainer, history = run(plan, options, **trainer_kwargs)
        except MisconfigurationException as error:
            raise ValueError(f"Lightning cannot train like that: {error}") from error
        finally:
            module.eval()
        self._after_training(trainer, history, train_cells, held_out)
        if trainer.interrupted:
            raise KeyboardInterrupt(
                f"Training was interrupted after {trainer.global_step} steps; the model keeps what it has learned."
            )

    def _task(self, validation_size: float, validation: str | None) -> Task:
        """Return what is to be trained, and on which cells."""
        data = self._own_tables()
        return Task(self.module, self._source_of(data), data.sections, *self._split(data, validation_size, validation))

    def _options_of_run(self) -> dict[str, Any]:
        """Return the options that a run depends on, those of its optimization left out."""
        return {name: part for name, part in self.config.to_dict().items() if name != "training"}

    def _after_training(
        self, trainer: pl.Trainer, history: History, train_cells: np.ndarray, held_out: np.ndarray
    ) -> None:
        """Keep what scvi-tools' models keep of a run."""
        self.trainer = trainer
        self.train_indices_, self.validation_indices_ = train_cells, held_out
        self.module.to(trainer.strategy.root_device)
        # A state that was taken up may have begun before what this model has been trained for since.
        before = cast(JEPATrainingPlan, trainer.lightning_module).steps_before
        self.history_ = extend(self.history_, history, before)
        self.n_steps_ = before + trainer.global_step
        self.is_trained_ = True

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
            warn(self._untrained_message)

    # -- save and load ------------------------------------------------------------------------------------------

    def _facts(self) -> dict[str, Any]:
        """Return everything but weights that a loaded model needs: what JSON can hold, and arrays in "statistics"."""
        from scjepa import __version__

        return {
            "model": type(self).__name__,
            "scjepa_version": __version__,
            "torch_version": torch.__version__,
            "config": self.config.to_dict(),
            "setup": self.keys.to_dict(),
            "seed": self.seed,
            "is_trained": self.is_trained_,
            "n_steps": self.n_steps_,
            "history": {
                name: {"step": frame.index.tolist(), "value": frame[name].tolist()}
                for name, frame in (self.history_ or {}).items()
            },
        }

    def _weights(self) -> dict[str, torch.Tensor]:
        """Return all tensors that are saved."""
        return self.module.state_dict()

    def _load_weights(self, weights: Mapping[str, torch.Tensor], source: str) -> None:
        """Take up what :meth:`_weights` gave; ``source`` names it in errors."""
        _store.load_weights(self.module, weights, source)

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
        _store.write_model(dir_path, self._facts(), self._weights(), adata, overwrite=overwrite)

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | None = None,
        *,
        accelerator: str = "auto",
        device: int | str = "auto",
    ):
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
        require_anndata(adata)
        cls._set_up(adata, cls._setup_for(adata, facts["setup"]))
        return cls._assemble(adata, facts, weights, str(dir_path), accelerator, device)

    @classmethod
    def _set_up(cls, adata: AnnData, setup: Mapping[str, Any]) -> None:
        """Register data for a model that is there: how its cells become tokens is decided."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=SAME_BY_COUNT)
            cls.setup_anndata(adata, **setup)

    @classmethod
    def _setup_for(cls, adata: AnnData, setup: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of ``setup_anndata`` for ``adata`` where a model was saved with ``setup``."""
        return dict(setup)

    @classmethod
    def _assemble(
        cls,
        adata: AnnData,
        facts: Mapping[str, Any],
        weights: Mapping[str, torch.Tensor],
        source: str,
        accelerator: str,
        device: int | str,
    ):
        """Return a model on ``adata``, which is registered, from facts and weights; ``source`` names them in errors."""
        model = cls._from_facts(adata, facts)
        model._load_weights(_store.with_both_encoders(weights), source)
        model.to_device(one_device(accelerator, device))
        return model

    @classmethod
    def _from_facts(cls, adata: AnnData, facts: Mapping[str, Any]):
        raise TypeError(f"{cls.__name__} does not say how it is built from what was saved.")

    def _restore(self, facts: Mapping[str, Any]) -> None:
        """Take up the state of training that was saved."""
        self.is_trained_ = facts["is_trained"]
        self.n_steps_ = facts["n_steps"]
        self.history_ = {
            name: frame(name, entry["step"], entry["value"]) for name, entry in facts["history"].items()
        } or None
