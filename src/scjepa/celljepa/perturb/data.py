"""A perturbation screen as arrays, and what is kept of a run on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scjepa._core.anndata import counts_of
from scjepa._core.counts import advice_on
from scjepa._core.warn import warn
from scjepa.celljepa.data import CellKeys
from scjepa.celljepa.expression import binned, build_count_table
from scjepa.models.run import curves_from_dict, curves_to_dict
from scjepa.perturbation import CONTROL, Conditions, PerturbationSplit, simulation_split
from scjepa.perturbation.expression import cell_sizes, log_scaled, target_size
from scjepa.tokens.table import TokenTable
from scjepa.tokens.vocabulary import Vocabulary

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

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**values, "split": self.split.to_dict(), "history": curves_to_dict(self.history)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build it from what :meth:`to_dict` gave."""
        lists = {name: tuple(values[name]) for name in ("conditions", "genes", "outside")}
        split, history = PerturbationSplit.from_dict(values["split"]), curves_from_dict(values["history"])
        return cls(**{**values, **lists, "split": split, "history": history})


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
        names: dict[str, Any] = {"cell_names": adata.obs_names, "gene_names": adata.var_names}
        names["advice"] = advice_on(adata, keys.layer)
        table = build_count_table(counts, ids, len(vocabulary), **names)
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
