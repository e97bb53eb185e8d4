"""Cell-JEPA on perturbation screens: training on conditions, and predicting conditions that were not measured."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from scjepa._core.warn import warn
from scjepa.celljepa.config import CellJEPAConfig
from scjepa.celljepa.data import fields_of
from scjepa.celljepa.module import CellJEPAModule
from scjepa.celljepa.perturb.data import PerturbationRun, Screen, changes_of, gene_ids_of, outside_of, split_of
from scjepa.celljepa.perturb.module import PerturbationJEPAModule
from scjepa.celljepa.perturb.source import PerturbedSource
from scjepa.celljepa.training import hold_out_cells
from scjepa.models.base import JEPAModel, Task
from scjepa.models.history import extend
from scjepa.models.run_options import changed
from scjepa.models.store import load_weights
from scjepa.nn import float32_default
from scjepa.perturbation import CONTROL, Conditions, PerturbationSplit, parse_condition
from scjepa.perturbation.names import named_otherwise
from scjepa.tokens.vocabulary import Vocabulary

_PREFIX = "perturbation."
"""Of the names of saved weights."""


class PerturbationMixin(JEPAModel):
    """``train_perturbation`` and ``predict_perturbation``."""

    config: CellJEPAConfig
    module: CellJEPAModule
    vocabulary: Vocabulary
    perturbation_: PerturbationRun | None = None
    """The last run of :meth:`train_perturbation`: its split, its conditions and its curves."""
    _perturbed: PerturbationJEPAModule | None = None
    _perturbation_task: tuple[Task, PerturbationRun] | None = None

    def train_perturbation(
        self,
        condition_key: str = "condition",
        *,
        split: PerturbationSplit | str | None = None,
        delta_aware: bool = False,
        outside: str = "error",
        size_key: str | None = None,
        target_sum: float | None = None,
        max_epochs: int | None = None,
        **options: Any,
    ) -> None:
        """Train on a perturbation screen, as ``config.perturbation`` says, from the weights the model has now.

        Each perturbed cell is paired with a control cell drawn at random. The control cell's genes, with the perturbed
        ones marked, are the input; the perturbed cell's log-normalized expression, and its embedding by a frozen copy
        of the encoder, are the targets. The model's own encoder stays as it is, and with it its embeddings; training
        anew begins anew. What was done is in ``model.perturbation_`` and is saved with the model.

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
        max_epochs
            Passes over the cells that are trained on. Default: the configuration's.
        **options
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
        asked = (options.get(name) for name in ("max_steps", "batch_size", "validation_size", "plan_kwargs"))
        size = changed(self.config.perturbation.training, max_epochs, *asked).validation_size
        conditions = Conditions.of_adata(self.adata, condition_key)
        chosen = split_of(split, conditions)
        if chosen.validation and options.get("validation_size") is not None:
            raise ValueError("The split has validation conditions, which are held out: leave validation_size out.")
        named = [name for names in chosen.parts().values() for name in names]
        genes = {gene for name in (*named, *conditions.names) for gene in parse_condition(name, self.adata.var_names)}
        measured = [name for name in self.adata.var_names if name in self.vocabulary]
        why = partial(_why_outside, measured=measured, key=condition_key, var=self.adata.var)
        extra = outside_of(sorted(genes), measured, outside, why=why)
        train = conditions.cells([*chosen.train, CONTROL])
        screen = Screen.of(
            self.adata, self.keys, self.vocabulary, self.config.tokens.n_bins, size_key, target_sum, train
        )
        usable = screen.tokens.lengths > 0
        train = train[usable[train]]
        if chosen.validation:
            held = conditions.cells(chosen.validation)
            held = held[usable[held]]
        else:
            train, held = hold_out_cells(train, size, None, self.seed)
        controls = train[conditions.codes[train] == conditions.control]
        if not len(controls):
            raise ValueError(
                f"Of {len(conditions.cells([CONTROL]))} control cells none is left to train on: they have no counts of "
                "genes the model knows, or are held out. Pass validation_size=0, or bring more."
            )
        means = screen.means(conditions.codes, train, len(conditions.names))
        control = torch.from_numpy(means[conditions.control].astype(np.float32))
        of_held = screen.means(conditions.codes, held, len(conditions.names))
        changes = changes_of(np.where(means.any(axis=1, keepdims=True), means, of_held), conditions)
        module = self._new_module(len(extra), control, delta_aware)
        source = PerturbedSource(
            screen.tokens,
            screen.expression,
            conditions.codes,
            gene_ids_of(conditions.genes, self.vocabulary, extra),
            screen.panel,
            controls,
            changes,
            self.config.perturbation.n_tokens,
        )
        run = PerturbationRun(
            split=chosen,
            conditions=tuple(conditions.names[code] for code in np.unique(conditions.codes[train])),
            genes=tuple(self.vocabulary.names[i] for i in screen.panel),
            outside=tuple(extra),
            condition_key=condition_key,
            size_key=size_key,
            target_sum=screen.target_sum,
            delta_aware=delta_aware,
        )
        with self._training(Task(module, source, None, train, held), run):
            JEPAModel._fit(self, self.config.perturbation.training, max_epochs, **options)

    def _new_module(self, n_outside: int, control: torch.Tensor, delta_aware: bool) -> PerturbationJEPAModule:
        """Return a module that begins as the encoder that embeds; what it has beside it comes from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 2)
            pretrained = copy.deepcopy(self.module.target).cpu()
            module = PerturbationJEPAModule(pretrained, n_outside, self.config, control, delta_aware)
        return module.to(self.device).eval()

    @contextmanager
    def _training(self, task: Task, run: PerturbationRun) -> Iterator[None]:
        """Let what is trained in this block be ``task``."""
        self._perturbation_task = task, run
        try:
            yield
        finally:
            self._perturbation_task = None

    def _task(self, validation_size: float, validation: str | None) -> Task:
        if self._perturbation_task is None:
            return super()._task(validation_size, validation)
        if validation is not None:
            raise ValueError("Name validation conditions in the split instead of passing validation=...")
        return self._perturbation_task[0]

    def _after_training(self, trainer: Any, history: Any, train_cells: np.ndarray, held_out: np.ndarray) -> None:
        if self._perturbation_task is None:
            super()._after_training(trainer, history, train_cells, held_out)
            return
        task, run = self._perturbation_task
        self.trainer = trainer
        module: Any = task.module
        self._perturbed = module.to(trainer.strategy.root_device)
        self.module.to(trainer.strategy.root_device)
        self.perturbation_ = replace(run, n_steps=trainer.global_step, history=extend(None, history, 0))

    # -- predicting ---------------------------------------------------------------------------------------------

    def predict_perturbation(
        self,
        conditions: Sequence[str],
        *,
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
            trained on. ``obs``: ``"condition"`` as given, ``"n_controls"``, and with ``n_cells`` ``"control_cell"``.
            ``var``: the genes trained on.

        Raises
        ------
        ValueError
            If the model was not trained on perturbations, a condition is in another grammar or perturbs a gene that has
            no vector, or there are too few control cells.

        Warns
        -----
        UserWarning
            If a gene outside the panel was perturbed in no condition trained on: its vector says nothing.
        """
        run, module = self.perturbation_, self._perturbed
        if run is None or module is None:
            raise ValueError("The model was not trained on perturbations. Call model.train_perturbation() first.")
        if not len(conditions) or isinstance(conditions, str):
            raise ValueError(f"conditions must be a list such as ['A', 'A+B'], found {conditions!r}.")
        if batch_size < 1 or n_controls < 1 or (n_cells is not None and n_cells < 1):
            raise ValueError("n_cells, n_controls and batch_size must be positive.")
        genes = [parse_condition(name, (*run.genes, *run.outside)) for name in conditions]
        why = partial(_why_outside, measured=run.genes)
        outside_of([gene for each in genes for gene in each], run.genes, "error", run.outside, why)
        self._warn_of_untrained_genes(genes, run)
        data, screen, cells = self._controls(controls, run, one_by_one=n_cells is not None)
        wanted = n_cells or min(n_controls, len(cells))
        if wanted > len(cells):
            raise ValueError(f"n_cells={n_cells} control cells were asked for, and there are {len(cells)}.")
        drawn = np.sort(np.random.default_rng(self.seed).choice(cells, wanted, replace=False))
        ids = gene_ids_of(genes, self.vocabulary, run.outside)
        panel = self.vocabulary.ids(list(run.genes))
        nothing = np.zeros((1, len(self.vocabulary)), np.float32)
        source = PerturbedSource(
            screen.tokens,
            screen.expression,
            np.zeros(screen.tokens.n_cells, np.int64),
            np.full((1, max(ids.shape[1], 2)), -1),
            panel,
            drawn,
            nothing,
            self.config.perturbation.n_tokens,
            self.device,
        )
        profiles, controls_of = [], []
        known = screen.matrix[drawn][:, panel].toarray()
        usual = module.objective.control.cpu().numpy()[panel]
        for row in ids:
            found = _predict(module, source, drawn, row[row >= 0], batch_size)[:, panel]
            profiles.append(found if n_cells else found.mean(axis=0, keepdims=True, dtype=np.float64))
            controls_of.append(known if n_cells else usual[None, :])
        repeats = n_cells or 1
        obs = pd.DataFrame(
            {"condition": np.repeat(np.asarray(list(conditions), dtype=object), repeats)},
            index=[f"{name}_{i}" if n_cells else f"{name}" for name in conditions for i in range(repeats)],
        )
        obs["condition"] = obs["condition"].astype("category")
        obs["n_controls"] = 1 if n_cells else wanted
        if n_cells:
            obs["control_cell"] = np.tile(data.obs_names[drawn].to_numpy(), len(conditions))
        predicted = AnnData(
            np.concatenate(profiles).astype(np.float32), obs=obs, var=pd.DataFrame(index=list(run.genes))
        )
        predicted.layers["control"] = np.concatenate(controls_of).astype(np.float32)
        return predicted

    def _warn_of_untrained_genes(self, genes: Sequence[Sequence[str]], run: PerturbationRun) -> None:
        trained = {gene for name in run.conditions for gene in parse_condition(name, (*run.genes, *run.outside))}
        blank = sorted({gene for each in genes for gene in each if gene in run.outside} - trained)
        if blank:
            warn(
                f"{', '.join(map(repr, blank[:5]))} ({len(blank)} genes) are outside the panel and no condition that "
                "was trained on perturbs them: their vectors are random, so nothing that was learned tells them apart."
            )

    def _controls(
        self, adata: AnnData | None, run: PerturbationRun, *, one_by_one: bool
    ) -> tuple[AnnData, Screen, np.ndarray]:
        """Return the data of control cells, tokenized, and which of its cells are control."""
        own = adata is None or adata is self.adata
        adata = self.adata if adata is None else adata
        keys = self._keys_for(adata)
        if not own:
            fields_of(keys)[0].validate_field(adata)
        self._check_genes(adata, None, convertible=False)  # type: ignore[attr-defined]
        if run.condition_key in adata.obs:
            cells = Conditions.of_adata(adata, run.condition_key).cells([CONTROL])
        elif own:
            raise ValueError(
                f"The model's data has no column {run.condition_key!r}, so its control cells are not known. Pass them: "
                "predict_perturbation(..., controls=adata_of_control_cells)."
            )
        else:
            cells = np.arange(adata.n_obs)
        adata = adata[cells].to_memory()  # of backed data the control cells alone
        sizes = run.size_key
        if sizes is not None and sizes not in adata.obs:
            sizes = None
            if one_by_one:
                warn(
                    f"The control cells have no obs[{run.size_key!r}], by which expression was normalized in training: "
                    "their own, in layers['control'], is normalized by their counts over the genes they have instead. "
                    "Predictions do not depend on it."
                )
        screen = Screen.of(adata, keys, self.vocabulary, self.config.tokens.n_bins, sizes, run.target_sum)
        usable = np.flatnonzero(screen.tokens.lengths > 0)
        if not len(usable):
            raise ValueError("No control cell has counts of genes that the model knows.")
        return adata, screen, usable

    # -- save and load ------------------------------------------------------------------------------------------

    def to_device(self, device: Any) -> None:
        """Move the weights to ``device``."""
        super().to_device(device)
        if self._perturbed is not None:
            self._perturbed.to(self.device)

    def _facts(self) -> dict[str, Any]:
        facts = super()._facts()
        return facts if self.perturbation_ is None else {**facts, "perturbation": self.perturbation_.to_dict()}

    def _weights(self) -> dict[str, torch.Tensor]:
        own = {} if self._perturbed is None else self._perturbed.state_dict()
        return {**super()._weights(), **{f"{_PREFIX}{name}": tensor for name, tensor in own.items()}}

    def _load_weights(self, weights: Mapping[str, torch.Tensor], source: str) -> None:
        own = {name.removeprefix(_PREFIX): w for name, w in weights.items() if name.startswith(_PREFIX)}
        super()._load_weights({name: w for name, w in weights.items() if not name.startswith(_PREFIX)}, source)
        if self._perturbed is not None:
            load_weights(self._perturbed, own, source)

    def _restore(self, facts: Mapping[str, Any]) -> None:
        super()._restore(facts)
        if "perturbation" in facts:
            run = self.perturbation_ = PerturbationRun.from_dict(facts["perturbation"])
            self._perturbed = self._new_module(len(run.outside), torch.zeros(len(self.vocabulary)), run.delta_aware)


def _why_outside(
    genes: Sequence[str], measured: Sequence[str], key: str | None = None, var: pd.DataFrame | None = None
) -> str:
    """Return how the data, or the model, call perturbed genes, and the call that renames them in the conditions."""
    convert = "scjepa.perturbation.convert_conditions({values}, genes={{genes}})."
    if key is None:
        names, call = "model.perturbation_.genes", convert.format(values="conditions")
        return named_otherwise(genes, measured, f"conditions = {call}", names)
    column = f"adata.obs[{key!r}]"
    return named_otherwise(genes, measured, f"{column} = {convert.format(values=column)}", "adata.var_names", var)


def without_perturbation(
    facts: Mapping[str, Any], weights: Mapping[str, torch.Tensor]
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return a model's facts and weights without what it learned of perturbations."""
    return (
        {name: value for name, value in facts.items() if name != "perturbation"},
        {name: weight for name, weight in weights.items() if not name.startswith(_PREFIX)},
    )


@torch.inference_mode()
@float32_default()
def _predict(
    module: PerturbationJEPAModule, source: PerturbedSource, cells: np.ndarray, perturbed: np.ndarray, batch_size: int
) -> np.ndarray:
    """Return ``(n_cells, n_vocabulary)`` predicted expression; genes that were not measured are 0."""
    marks, n = torch.from_numpy(perturbed), source.n_vocabulary
    out = torch.zeros(len(cells), n)
    for group in source.gene_groups():
        inside = torch.zeros(n + 1, dtype=torch.bool)
        inside[group.cpu()] = True
        for start in range(0, len(cells), batch_size):
            batch = source.to_predict(torch.from_numpy(cells[start : start + batch_size]), marks, group)
            found, genes, rows = (x.cpu() for x in (module.predict(batch), batch.genes, batch.sequences))
            kept = inside[genes.clamp_max(n)]  # a perturbed gene is in every group and belongs to one
            out[start + rows[kept], genes[kept]] = found[kept]
    return out.numpy()
