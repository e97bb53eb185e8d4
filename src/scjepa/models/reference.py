"""What a model takes over from another, and how what is new in its data begins: vectors of genes and technologies."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor, nn

from scjepa import pretrained
from scjepa._core.anndata import require_anndata
from scjepa._core.features import warn_of_no_genes
from scjepa._core.options import unknown_name
from scjepa._core.plain import seed_of
from scjepa._core.warn import warn
from scjepa.models import store as _store
from scjepa.models.run import one_device
from scjepa.models.setup import SET_UPS, Keys
from scjepa.models.store import Facts, Weights
from scjepa.tokens.vocabulary import Alignment, Vocabulary

if TYPE_CHECKING:
    from scjepa.models.base import JEPAModel

logger = logging.getLogger("scjepa")

ModelT = TypeVar("ModelT", bound="JEPAModel")
Extend = Callable[[Facts, Weights, AnnData, Any], tuple[Facts, Weights]]
"""Gives facts and weights of a reference with what is new in data, which it reads by their keys."""

FREEZE = ("none", "encoder")
"""What may stay as it is when a query model trains."""


@dataclass(frozen=True)
class Reference:
    """What a model took over from the one it came from, and is known to be trained.

    Attributes
    ----------
    n_genes, n_technologies
        Genes and technologies of that model; they come first in the vocabulary and among the codes. Dissociated cells
        have no technologies.
    n_steps
        Steps that model was trained for.
    freeze
        What stays as it is in training.
    """

    n_genes: int
    n_technologies: int
    n_steps: int
    freeze: str = "none"

    @classmethod
    def of(cls, facts: Facts, freeze: str = "none") -> Reference:
        """Return what a model with these facts can give to another."""
        technologies = facts.get("panels", {}).get("technologies", ())
        return cls(len(facts["vocabulary"]), len(technologies), facts["n_steps"], freeze)

    def to_dict(self) -> Facts:
        """Return plain values, ready for JSON."""
        return asdict(self)


def taken_to(
    cls: type[ModelT],
    adata: AnnData,
    reference_model: JEPAModel | str | os.PathLike[str],
    extend: Extend,
    *,
    freeze: str,
    seed: int | None,
    accelerator: str,
    device: int | str,
) -> ModelT:
    """Return a model on ``adata`` that has what another has, and what is new in ``adata`` besides.

    Parameters
    ----------
    reference_model
        The other: a model of the class, a folder or the name of a checkpoint.
    extend
        How the class takes in what is new.
    freeze, seed, accelerator, device
        As ``load_query_data`` says.
    """
    where = one_device(accelerator, device)
    require_anndata(adata)
    if freeze not in FREEZE:
        raise ValueError(unknown_name("choice of freeze", freeze, FREEZE))
    facts, weights, source = _facts_of(cls, reference_model)
    usual: Keys = cls.keys_of(facts["setup"])
    keys = usual.for_query(adata, SET_UPS.of(cls, adata), usual)
    alignment = Vocabulary(facts["vocabulary"]).align(adata.var_names, source="adata.var_names", columns=adata.var)
    cls._set_up(adata, keys)
    if seed is not None:
        facts["seed"] = seed_of(seed)
    reference = Reference.of(facts, freeze)
    facts, weights = extend(facts, weights, adata, keys)
    if len(facts["vocabulary"]) - reference.n_genes == alignment.n_names - alignment.n_matched:
        _tell(alignment)  # and not where new genes stay out
        if alignment.n_matched < alignment.n_names:
            warn_of_no_genes(adata)
    if freeze == "encoder":  # the context encoder begins as a copy of the target encoder
        twins = {f"context.{n.removeprefix('target.')}": w for n, w in weights.items() if n.startswith("target.")}
        weights = {**weights, **twins}
    return cls._assemble(adata, {**facts, "reference": reference.to_dict()}, weights, source, where)


def _facts_of(cls: type[ModelT], model: JEPAModel | str | os.PathLike[str]) -> tuple[Facts, Weights, str]:
    """Return facts and weights of a model, in memory or on disk, and what it is called."""
    if isinstance(model, str | os.PathLike):
        folder = pretrained.locate(model)
        facts, weights = _store.read_model(folder, cls.__name__)
        return facts, _store.with_both_encoders(weights), str(folder)
    if not isinstance(model, cls):
        raise TypeError(
            f"reference_model must be a {cls.__name__} model, a folder or the name of a checkpoint, found "
            f"{type(model).__name__}."
        )
    return *_store.copied(model), "the reference model"


def _tell(alignment: Alignment) -> None:
    """Tell how many genes of new data are the reference's, and warn of those that differ in case only."""
    n_new = alignment.n_names - alignment.n_matched
    logger.info(
        f"{alignment.n_matched:,} of {alignment.n_names:,} genes are among the reference's {alignment.n_vocabulary:,}; "
        f"{n_new:,} are new."
    )
    if alignment.case_only:
        found, known = alignment.case_only[0]
        warn(
            f"{len(alignment.case_only):,} genes count as new whose names differ from the reference's in case only, "
            f"e.g. {found!r} (reference: {known!r}); rename them in adata.var_names if they are the same genes."
        )
    if alignment.version_only:
        found, known = alignment.version_only[0]
        warn(
            f"{len(alignment.version_only):,} genes count as new whose Ensembl ids differ from the reference's in the "
            f"version only, e.g. {found!r} (reference: {known!r}). To take them for the same: adata.var_names = "
            "reference.vocabulary.renamed(adata.var_names), with scjepa.pretrained.vocabulary(folder) for "
            "reference.vocabulary where the reference is a saved one."
        )


# -- rows of embedding tables ----------------------------------------------------------------------------------------

_MOST_KNOWN = 2048
"""Known rows that a new one is mixed from, at most: more would not change their mean and covariance much."""


def rows_like(known: Sequence[Tensor], names: Sequence[str], seed: int) -> list[Tensor]:
    """Return vectors for new names, drawn from the Gaussian with the mean and the covariance of the known vectors.

    A draw is the mean of the known rows plus a random combination of their deviations from it, with standard normal
    coefficients over √(n - 1): it has exactly their covariance, whatever the number of rows. The coefficients of a
    name come from the seed and the name alone, so a gene's vector does not depend on its column or on the other new
    genes.

    Parameters
    ----------
    known
        Tables ``(n_known, width)`` of the same rows, such as those of context and target encoder. A new row has the
        same coefficients in each, so what belongs together stays together.
    names
        New names.
    seed
        Seed of the coefficients.

    Returns
    -------
    list
        For each table, ``(n_known + len(names), width)``: the known rows, untouched, and the new ones.
    """
    n_known = len(known[0])
    chosen = np.unique(np.linspace(0, n_known - 1, min(n_known, _MOST_KNOWN)).round().astype(np.int64))
    rows = [table[torch.from_numpy(chosen)].double().cpu() for table in known]
    means = [table.mean(dim=0) for table in rows]
    spread = [(table - mean) / max(len(chosen) - 1, 1) ** 0.5 for table, mean in zip(rows, means, strict=True)]
    drawn: list[list[Tensor]] = [[] for _ in known]
    for name in names:
        weights = torch.from_numpy(_generator(seed, name).standard_normal(len(chosen)))
        for new, mean, deviations in zip(drawn, means, spread, strict=True):
            new.append(mean + weights @ deviations)
    return [
        torch.cat([table, torch.stack(new).to(table)]) if new else table.clone()
        for table, new in zip(known, drawn, strict=True)
    ]


def _generator(seed: int, name: str) -> np.random.Generator:
    key = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=32).digest()
    return np.random.default_rng(np.frombuffer(key, dtype=np.uint32))


def rows_of_mean(known: Sequence[Tensor], n_new: int) -> list[Tensor]:
    """Return each table with ``n_new`` rows more, all of them the mean of the known ones."""
    return [torch.cat([table, table.mean(dim=0, keepdim=True).expand(n_new, -1)]) for table in known]


def train_new_rows_only(module: nn.Module, tables: Sequence[tuple[nn.Embedding, int]]) -> None:
    """Freeze a module but for the rows of embedding tables from a number on.

    The optimizer has no weight decay on embeddings (:func:`scjepa.training.parameter_groups`), so a row without a
    gradient stays the same bit for bit.

    Parameters
    ----------
    tables
        Embedding tables, each with the number of its known rows.
    """
    module.requires_grad_(False)
    for table, n_known in tables:
        table.weight.requires_grad_(True)
        table.weight.register_hook(partial(_without_known, n_known=n_known))


def _without_known(gradient: Tensor, n_known: int) -> Tensor:
    gradient = gradient.clone()
    gradient[:n_known] = 0
    return gradient


def freeze_known(module: nn.Module, reference: Reference | None, tables: Mapping[str, nn.Embedding]) -> None:
    """Leave what the reference gave out of training, where that was asked for.

    Parameters
    ----------
    tables
        By ``"n_genes"`` and ``"n_technologies"``, the tables of which only rows beyond the reference's are trained.
    """
    if reference is not None and reference.freeze == "encoder":
        train_new_rows_only(module, [(table, getattr(reference, name)) for name, table in tables.items()])
