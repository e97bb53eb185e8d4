"""Training on a perturbation screen, and predicting cells that were not seen perturbed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Self

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from scjepa._core.anndata import counts_of
from scjepa._core.counts import told_of
from scjepa._core.plain import Facts
from scjepa._core.warn import warn
from scjepa.celljepa.data import CellKeys, binned, build_count_table
from scjepa.celljepa.perturb.module import PerturbationJEPAModule, PerturbedSource
from scjepa.celljepa.training import CellTrainingPlan, hold_out_cells
from scjepa.models.store import Weights
from scjepa.nn import float32_default
from scjepa.perturbation import (
    CONTROL,
    ConditionProfiles,
    Conditions,
    PerturbationSplit,
    PerturbationStack,
    parse_condition,
    simulation_split,
)
from scjepa.perturbation.conditions import named_otherwise, parse_wanted
from scjepa.perturbation.expression import cell_sizes, log_scaled, target_size
from scjepa.tokens.table import TokenTable
from scjepa.tokens.vocabulary import Vocabulary
from scjepa.training.fit import Run, Task, curves_from_dict, curves_to_dict, extended_curves
from scjepa.training.plan import History

if TYPE_CHECKING:
    from scjepa.celljepa.model import CellJEPA


PREFIX = "perturbation."
"""Of the names of saved weights, and of the arrays of closed-form models."""

_MOST_VALIDATED = 20
"""Validation conditions that the network's share is found on, at most."""

OUTSIDE = ("error", "token")
"""What becomes of perturbed genes that the data did not measure: an error, or tokens with vectors of their own."""


@dataclass(frozen=True)
class PerturbationRun:
    """What :meth:`scjepa.CellJEPA.train_perturbation` was told and did; saved with the model.

    Attributes
    ----------
    split
        Which conditions were trained on, and which are the test.
    conditions
        Conditions of cells that were trained on, control among them.
    genes
        Measured genes, which are predicted, in the order of the data.
    outside
        Perturbed genes that were not measured; each has a vector of its own.
    condition_key, size_key, target_sum
        Where conditions and sizes of cells are, and the size that expression is normalized to.
    delta_aware
        Whether the change had a loss of its own.
    n_steps
        Optimizer steps.
    history
        Curves by name, indexed by step.
    n_controls
        Control cells that were trained on.
    network_weight
        Share of the network in ``method="stack"``, between 0 and 1: what it adds on validation conditions of the split,
        as if five more, on which it adds nothing, had been among them. 0 without such conditions.
    stack
        The closed-form models, fitted on the same cells; ``None`` of a model saved before there were any.
    """

    split: PerturbationSplit
    conditions: tuple[str, ...]
    genes: tuple[str, ...]
    outside: tuple[str, ...]
    condition_key: str
    size_key: str | None
    target_sum: float
    delta_aware: bool
    n_steps: int = 0
    history: Mapping[str, pd.DataFrame] | None = None
    n_controls: int = 0
    network_weight: float = 0.0
    stack: PerturbationStack | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of its closed-form models, by the names they are saved under."""
        return {} if self.stack is None else {f"{PREFIX}{name}": array for name, array in self.stack.arrays().items()}

    def to_dict(self) -> Facts:
        """Return what JSON can hold; :meth:`arrays` has the rest."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "stack"}
        return {**values, "split": self.split.to_dict(), "history": curves_to_dict(self.history)}

    @classmethod
    def from_dict(cls, values: Facts, arrays: Mapping[str, np.ndarray]) -> Self:
        """Build it from what :meth:`to_dict` gave, and arrays with those of :meth:`arrays` among them."""
        own = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)}
        stack = PerturbationStack.from_arrays(own) if own else None
        lists = {name: tuple(values[name]) for name in ("conditions", "genes", "outside")}
        split, history = PerturbationSplit.from_dict(values["split"]), curves_from_dict(values["history"])
        return cls(**{**values, **lists, "split": split, "history": history, "stack": stack})


def split_of(split: PerturbationSplit | str | None, conditions: Conditions) -> PerturbationSplit:
    """Return the split that is meant.

    Raises
    ------
    ValueError
        If it is not known, leaves a condition without a place, or trains on none that is there.
    """
    if split is None:
        split = PerturbationSplit(train=conditions.names, kind="all")
    elif isinstance(split, str):
        if split != "simulation":
            raise ValueError(f"split must be 'simulation', a PerturbationSplit or None, found {split!r}.")
        split = simulation_split(conditions.names)
    placeless = [name for name in conditions.names if split.part_of(name) is None]
    if placeless:
        raise ValueError(
            f"The split has no place for {len(placeless)} conditions of the data, first {placeless[0]!r}. Add them to "
            "a part of it, or leave their cells out."
        )
    if not set(split.train) & set(conditions.names):
        raise ValueError(f"No condition that the split trains on is in the data; it names {split.train[0]!r}.")
    return split


def outside_of(
    genes: Sequence[str],
    measured: Sequence[str],
    outside: str,
    known: Sequence[str] = (),
    why: Callable[[Sequence[str]], str] = lambda _: "",
) -> list[str]:
    """Return the perturbed genes that were not measured, sorted.

    Parameters
    ----------
    genes
        Perturbed genes.
    measured
        Measured genes.
    outside
        ``"error"``: there must be none beside ``known``.
    known
        Genes not measured that have vectors.
    why
        Tells of genes that are not measured how the data call them, and the next call; nothing where that is not seen.

    Raises
    ------
    ValueError
        If there are such genes and that is an error.

    Warns
    -----
    UserWarning
        If that is none, and the data seem to have them by another name.
    """
    if outside not in OUTSIDE:
        raise ValueError(f"outside must be 'error' or 'token', found {outside!r}.")
    found = sorted(set(genes) - set(measured))
    new = sorted(set(found) - set(known))
    if not new:
        return found
    names = ", ".join(map(repr, new[:5]))
    more = f" and {len(new) - 5} more" if len(new) > 5 else ""
    told = f"The perturbed genes {names}{more} are not among the {len(measured):,} genes of the panel."
    reason = why(new)
    if outside == "error":
        raise ValueError(
            f"{told} {f'{reason} Or leave' if reason else 'Leave'} their conditions out, or train with "
            "outside='token', which gives each a vector of its own: it learns from the conditions that perturb the "
            "gene, and knows nothing of a gene that none of them does."
        )
    if reason:
        warn(f"{told} They are trained as genes that were not measured. {reason}")
    return found


@dataclass(frozen=True)
class Screen:
    """Cells of a perturbation screen, tokenized.

    Attributes
    ----------
    tokens
        Expressed genes of every cell, with bins.
    expression
        ``(n_tokens,)`` float32 log-normalized expression of these.
    panel
        ``(n_measured,)`` vocabulary ids of measured genes, in the order of the data.
    target_sum
        Size that expression is normalized to.
    """

    tokens: TokenTable
    expression: np.ndarray
    panel: np.ndarray
    target_sum: float

    @classmethod
    def of(
        cls,
        adata: AnnData,
        keys: CellKeys,
        vocabulary: Vocabulary,
        n_bins: int,
        size_key: str | None,
        target_sum: float | None,
        used: np.ndarray | None = None,
    ) -> Screen:
        """Tokenize ``adata``; without ``target_sum`` it is the median size of the cells ``used``."""
        ids = vocabulary.ids(list(adata.var_names))
        counts = counts_of(adata, keys.layer)
        table = build_count_table(counts, ids, len(vocabulary), **told_of(adata, keys.layer))
        sizes = cell_sizes(adata, keys.layer, size_key)
        total = target_size(sizes if used is None else sizes[used], target_sum)
        expression = log_scaled(table.values, np.repeat(sizes, table.lengths), total)
        return cls(binned(table, n_bins), expression, ids[ids >= 0].astype(np.int64), total)

    @property
    def matrix(self) -> sparse.csr_array:
        """``(n_cells, n_vocabulary)`` float32 log-normalized expression."""
        shape = (self.tokens.n_cells, self.tokens.n_vocabulary)
        return sparse.csr_array((self.expression, self.tokens.genes.astype(np.int64), self.tokens.offsets), shape=shape)

    def means(self, codes: np.ndarray, cells: np.ndarray, n_codes: int) -> np.ndarray:
        """Return ``(n_codes, n_vocabulary)`` mean expression of those of ``cells`` that have each code; 0 for none."""
        one = sparse.csr_array((np.ones(len(cells)), (codes[cells], np.arange(len(cells)))), (n_codes, len(cells)))
        sizes = np.bincount(codes[cells], minlength=n_codes)[:, None]
        return (one @ self.matrix[cells]).toarray() / np.maximum(sizes, 1)


def gene_ids_of(conditions: Sequence[Sequence[str]], vocabulary: Vocabulary, outside: Sequence[str]) -> np.ndarray:
    """Return ``(n_conditions, K)`` ids of perturbed genes, padded with -1; those outside follow the vocabulary's."""
    place = {gene: len(vocabulary) + i for i, gene in enumerate(outside)}
    width = max(1, *(len(genes) for genes in conditions))
    ids = np.full((len(conditions), width), -1, dtype=np.int64)
    for row, genes in enumerate(conditions):
        known = vocabulary.ids(list(genes))
        ids[row, : len(genes)] = [place.get(gene, int(i)) for gene, i in zip(genes, known, strict=True)]
    return ids


def changes_of(means: np.ndarray, conditions: Conditions) -> np.ndarray:
    """Return mean changes from control; 0 for control and for conditions without cells."""
    changes = means - means[conditions.control]
    changes[[i for i, name in enumerate(conditions.names) if name == CONTROL or not means[i].any()]] = 0.0
    return changes.astype(np.float32)


def perturbation_task(
    model: CellJEPA,
    run: Run,
    condition_key: str,
    split: PerturbationSplit | str | None,
    delta_aware: bool,
    outside: str,
    size_key: str | None,
    target_sum: float | None,
    vectors: pd.DataFrame | None,
    *,
    sized: bool,
) -> Task:
    """Return what :meth:`scjepa.CellJEPA.train_perturbation` trains.

    Parameters
    ----------
    sized
        Whether the call names a share of cells to hold out.
    """
    if run.config.batches == "section":
        raise ValueError("Cells of a perturbation screen are batched by chance: leave batches at 'mixed'.")
    if run.validation is not None:
        raise ValueError("Name validation conditions in the split instead of passing validation=...")
    conditions = Conditions.of_adata(model.adata, condition_key)
    chosen = split_of(split, conditions)
    if chosen.validation and sized:
        raise ValueError("The split has validation conditions, which are held out: leave validation_size out.")
    named = [name for names in chosen.parts().values() for name in names]
    genes = {gene for name in (*named, *conditions.names) for gene in parse_condition(name, model.adata.var_names)}
    measured = [name for name in model.adata.var_names if name in model.vocabulary]
    why = partial(_why_outside, measured=measured, key=condition_key, var=model.adata.var)
    extra = outside_of(sorted(genes), measured, outside, why=why)
    train = conditions.cells([*chosen.train, CONTROL])
    n_bins = model.config.tokens.n_bins
    screen = Screen.of(model.adata, model.keys, model.vocabulary, n_bins, size_key, target_sum, train)
    usable = screen.tokens.lengths > 0
    train = train[usable[train]]
    if chosen.validation:
        held = conditions.cells(chosen.validation)
        held = held[usable[held]]
    else:
        train, held = hold_out_cells(train, run.config.validation_size, None, model.seed)
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
    module = new_module(model, len(extra), control, delta_aware)
    tables = (screen.tokens, screen.expression, conditions.codes)
    perturbed = gene_ids_of(conditions.genes, model.vocabulary, extra)
    n_tokens = model.config.perturbation.n_tokens
    source = PerturbedSource(*tables, perturbed, screen.panel, controls, changes, n_tokens)
    trained = tuple(conditions.names[code] for code in np.unique(conditions.codes[train]))
    panel = tuple(model.vocabulary.names[i] for i in screen.panel)
    how = (condition_key, size_key, screen.target_sum, delta_aware)
    about = PerturbationRun(chosen, trained, panel, tuple(extra), *how, n_controls=len(controls))
    codes = np.unique(conditions.codes[held]) if chosen.validation else np.zeros(0, np.int64)
    validated = pd.DataFrame(of_held[codes][:, screen.panel], [conditions.names[code] for code in codes])

    def keep(trainer: pl.Trainer, history: History) -> None:
        stack = closed_form(screen, conditions, train, panel, vectors)
        curves = extended_curves(None, history, 0)
        model._further = {PREFIX: module}
        model.perturbation_ = replace(about, n_steps=trainer.global_step, history=curves, stack=stack)
        share = network_share(model, validated) if len(validated) else 0.0
        model.perturbation_ = replace(model.perturbation_, network_weight=share)

    options = model._options_of_run("perturbation", model.config.perturbation)
    return Task(module, source, train, held, None, keep, options, CellTrainingPlan)


def closed_form(
    screen: Screen, conditions: Conditions, cells: np.ndarray, panel: Sequence[str], vectors: pd.DataFrame | None
) -> PerturbationStack | None:
    """Return closed-form models of the cells' conditions, ``None`` where all are control."""
    expression = screen.matrix[cells][:, screen.panel]
    profiles = ConditionProfiles.of(expression, conditions.codes[cells], conditions.names, panel, screen.target_sum)
    if not len(profiles.means):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of genes by other names was told before training
        return PerturbationStack().fit(profiles.means, profiles.control, profiles.noise, vectors=vectors)


def network_share(model: CellJEPA, means: pd.DataFrame) -> float:
    """Return how much of its difference from the stack the network has right on conditions that neither learned from.

    The share of least squared error, conditions weighted by one over the length of their change, between 0 and 1. Five
    conditions more count as ones on which the network is as far from the stack and adds nothing.
    """
    chosen = np.linspace(0, len(means) - 1, min(len(means), _MOST_VALIDATED)).round().astype(int)
    names, measured = list(means.index[chosen]), means.to_numpy()[chosen]
    if model.perturbation_ is None or model.perturbation_.stack is None:
        return 0.0
    found = predict_perturbation(model, names, "network", None, None, 64, 64)
    stack = predict_perturbation(model, names, "stack", None, None, 64, 64)
    changes = measured - stack.layers["control"]
    weights = 1 / np.maximum(np.linalg.norm(changes, axis=1), 1e-6)
    apart, left = found.X - stack.X, measured - stack.X
    size = float((weights * (apart**2).sum(axis=1)).sum())
    right = float((weights * (apart * left).sum(axis=1)).sum())
    return min(1.0, max(0.0, right / (size * (1 + 5 / len(names))))) if size > 0 else 0.0


def new_module(model: CellJEPA, n_outside: int, control: torch.Tensor, delta_aware: bool) -> PerturbationJEPAModule:
    """Return a module that begins as the encoder that embeds; what it has beside it comes from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed + 2)
        pretrained = copy.deepcopy(model.module.target).cpu()
        module = PerturbationJEPAModule(pretrained, n_outside, model.config, control, delta_aware)
    return module.to(model.device).eval()


def restored_module(model: CellJEPA, run: PerturbationRun) -> PerturbationJEPAModule:
    """Return a module of the sizes that a saved run has."""
    return new_module(model, len(run.outside), torch.zeros(len(model.vocabulary)), run.delta_aware)


def predict_perturbation(
    model: CellJEPA,
    conditions: Sequence[str],
    method: str,
    n_cells: int | None,
    controls: AnnData | None,
    n_controls: int,
    batch_size: int,
) -> AnnData:
    """Return predicted expression, as :meth:`scjepa.CellJEPA.predict_perturbation` says."""
    run, module = model.perturbation_, model._further.get(PREFIX)
    if run is None or not isinstance(module, PerturbationJEPAModule):
        raise ValueError("The model was not trained on perturbations. Call model.train_perturbation() first.")
    genes = parse_wanted(conditions, (*run.genes, *run.outside))
    if batch_size < 1 or n_controls < 1 or (n_cells is not None and n_cells < 1):
        raise ValueError("n_cells, n_controls and batch_size must be positive.")
    why = partial(_why_outside, measured=run.genes)
    outside_of([gene for each in genes for gene in each], run.genes, "error", run.outside, why)
    usual = module.objective.control.cpu().numpy()[model.vocabulary.ids(list(run.genes))]
    changes, errors = (None, None) if method == "network" else _closed_changes(run, conditions, method)
    of_network = run.network_weight if method == "stack" else float(method == "network")
    if of_network:
        _warn_of_untrained_genes(genes, run)
    data = None
    if of_network or n_cells or controls is not None:
        data, screen, cells = _controls(model, controls, run, one_by_one=n_cells is not None)
        wanted = n_cells or min(n_controls, len(cells))
        if wanted > len(cells):
            raise ValueError(f"n_cells={n_cells} control cells were asked for, and there are {len(cells)}.")
        drawn = np.sort(np.random.default_rng(model.seed).choice(cells, wanted, replace=False))
        known = screen.matrix[drawn][:, model.vocabulary.ids(list(run.genes))].toarray()
    start = known if n_cells else usual[None, :]
    profiles = np.repeat(start[None], len(conditions), axis=0).astype(np.float64)
    if changes is not None:
        profiles += changes[:, None, :]
    if of_network:
        found = _of_network(model, run, module, genes, screen, drawn, batch_size, one_by_one=bool(n_cells))
        profiles += of_network * (found - profiles)
    repeats = n_cells or 1
    obs = pd.DataFrame(
        {"condition": np.repeat(np.asarray(list(conditions), dtype=object), repeats)},
        index=[f"{name}_{i}" if n_cells else f"{name}" for name in conditions for i in range(repeats)],
    )
    obs["condition"] = obs["condition"].astype("category")
    obs["n_controls"] = 1 if n_cells else wanted if of_network else run.n_controls
    if n_cells and data is not None:
        obs["control_cell"] = np.tile(data.obs_names[drawn].to_numpy(), len(conditions))
    predicted = AnnData(np.concatenate(profiles).astype(np.float32), obs=obs, var=pd.DataFrame(index=list(run.genes)))
    predicted.layers["control"] = np.tile(start, (len(conditions), 1)).astype(np.float32)
    if errors is not None and not n_cells:
        predicted.layers["error"] = errors.astype(np.float32)
    return predicted


def _closed_changes(
    run: PerturbationRun, conditions: Sequence[str], method: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the changes that closed-form models predict, and the stack's errors."""
    if run.stack is None:
        raise ValueError(
            f"The model knows no closed-form models, method={method!r}: it was saved before there were any, or trained "
            "on control alone. Call model.train_perturbation() again, or pass method='network'."
        )
    methods = ("network", "stack", "no_change", *(name for name in run.stack.weights_ if name != "own"))
    if method not in methods:
        raise ValueError(f"method must be one of {', '.join(map(repr, methods))}, found {method!r}.")
    control = run.stack.predict([CONTROL]).to_numpy()
    if method != "stack":
        return run.stack.predict(conditions, method=method).to_numpy() - control, None
    found, errors = run.stack.predict(conditions, return_std=True)
    return found.to_numpy() - control, errors.to_numpy()


def _of_network(
    model: CellJEPA,
    run: PerturbationRun,
    module: PerturbationJEPAModule,
    genes: Sequence[Sequence[str]],
    screen: Screen,
    drawn: np.ndarray,
    batch_size: int,
    *,
    one_by_one: bool,
) -> np.ndarray:
    """Return ``(n_conditions, n_cells or 1, n_genes)`` expression that the network predicts from the cells drawn."""
    ids = gene_ids_of(genes, model.vocabulary, run.outside)
    panel = model.vocabulary.ids(list(run.genes))
    # No cell is trained on: conditions, what they perturb and what that changes are nothing.
    nothing = np.zeros((1, len(model.vocabulary)), np.float32)
    tables = (screen.tokens, screen.expression, np.zeros(screen.tokens.n_cells, np.int64))
    n_tokens, unperturbed = model.config.perturbation.n_tokens, np.full((1, max(ids.shape[1], 2)), -1)
    source = PerturbedSource(*tables, unperturbed, panel, drawn, nothing, n_tokens, model.device)
    profiles = []
    for row in ids:
        found = _predict(module, source, drawn, row[row >= 0], batch_size)[:, panel]
        profiles.append(found if one_by_one else found.mean(axis=0, keepdims=True, dtype=np.float64))
    return np.stack(profiles)


def _warn_of_untrained_genes(genes: Sequence[Sequence[str]], run: PerturbationRun) -> None:
    trained = {gene for name in run.conditions for gene in parse_condition(name, (*run.genes, *run.outside))}
    blank = sorted({gene for each in genes for gene in each if gene in run.outside} - trained)
    if blank:
        warn(
            f"{', '.join(map(repr, blank[:5]))} ({len(blank)} genes) are outside the panel and no condition that "
            "was trained on perturbs them: their vectors are random, so nothing that was learned tells them apart."
        )


def _controls(
    model: CellJEPA, adata: AnnData | None, run: PerturbationRun, *, one_by_one: bool
) -> tuple[AnnData, Screen, np.ndarray]:
    """Return the data of control cells, tokenized, and which of its cells are control."""
    own = adata is None or adata is model.adata
    adata = model.adata if adata is None else adata
    keys = model._keys_for(adata)
    if not own:
        keys.validate(adata)
    model.check_genes(adata, convertible=False)
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
    screen = Screen.of(adata, keys, model.vocabulary, model.config.tokens.n_bins, sizes, run.target_sum)
    usable = np.flatnonzero(screen.tokens.lengths > 0)
    if not len(usable):
        raise ValueError("No control cell has counts of genes that the model knows.")
    return adata, screen, usable


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


def without_perturbation(facts: Facts, weights: Weights) -> tuple[Facts, Weights]:
    """Return a model's facts and weights without what it learned of perturbations."""
    kept = {name: value for name, value in facts.items() if name != "perturbation"}
    if "statistics" in kept:
        kept["statistics"] = {name: a for name, a in kept["statistics"].items() if not name.startswith(PREFIX)}
    return (
        kept,
        {name: weight for name, weight in weights.items() if not name.startswith(PREFIX)},
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
