"""A model meets other data: how far it knows their genes, and how it takes them in."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor, nn

from scjepa import pretrained
from scjepa._core.anndata import counts_of
from scjepa._core.counts import iter_rows, rows_of
from scjepa._core.html import as_html
from scjepa._core.plain import Facts
from scjepa._core.warn import warn
from scjepa.models import store as _store
from scjepa.models.embed import batches
from scjepa.models.estimate import AUTO, token_budget
from scjepa.models.store import Weights
from scjepa.tokens.source import TableSource
from scjepa.tokens.vocabulary import Alignment, Vocabulary, spelled_otherwise

if TYPE_CHECKING:
    from scjepa.models.base import JEPAModel


logger = logging.getLogger("scjepa")

ModelT = TypeVar("ModelT", bound="JEPAModel")
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


def facts_of(cls: type[ModelT], model: JEPAModel | str | os.PathLike[str]) -> tuple[Facts, Weights, str]:
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


def tell_new(alignment: Alignment) -> None:
    """Tell how many genes of new data are the reference's, and warn of those that differ in case only."""
    n_new = alignment.n_names - alignment.n_matched
    logger.info(
        f"{alignment.n_matched:,} of {alignment.n_names:,} genes are among the reference's {alignment.n_vocabulary:,}; "
        f"{n_new:,} are new."
    )
    for sentence in spelled_otherwise(alignment.case_only, alignment.version_only, "reference"):
        warn(f"{n_new:,} genes count as new. {sentence}")


# -- rows of embedding tables ----------------------------------------------------------------------------------------

_GENE_TABLES = tuple(f"{encoder}.embedding.gene.weight" for encoder in ("context", "target"))
"""Weights that have a row for each gene."""

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


def with_new_genes(weights: Weights, names: Sequence[str], seed: int) -> Weights:
    """Return weights whose tables have a vector for each of some new genes, too."""
    rows = rows_like([weights[name] for name in _GENE_TABLES], names, seed)
    return {**weights, **dict(zip(_GENE_TABLES, rows, strict=True))}


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


_NEIGHBORS = 15
_EXAMPLES = 5


@dataclass(frozen=True)
class CoverageCost:
    """What becomes of the model's own cells when they keep the matched genes only.

    Attributes
    ----------
    n_cells
        Cells that were compared.
    n_genes, n_kept
        Genes of the model's data, and those among them that the other data has too.
    cosine
        Median cosine similarity between a cell's embedding with all genes and with the kept ones. It says whether both
        can be laid side by side.
    cosine_of_strangers
        Median cosine similarity between the embeddings of two cells drawn at random, all genes kept: what ``cosine`` is
        to be compared with.
    cosine_centered
        The same as ``cosine`` after the mean over cells is taken from each of the two; 0 for unrelated cells. It says
        whether what sets cells apart stays, which is what clusters are made of.
    neighbors
        Mean share of a cell's 15 nearest neighbors among the compared cells that stay its nearest neighbors.
    neighbors_by_chance
        That share if neighbors were drawn at random.
    scale
        Scale of the embeddings.
    """

    n_cells: int
    n_genes: int
    n_kept: int
    cosine: float
    cosine_of_strangers: float
    cosine_centered: float
    neighbors: float
    neighbors_by_chance: float
    scale: str

    _repr_html_ = as_html

    def __str__(self) -> str:
        lines = (
            f"{self.n_cells:,} of the model's own cells, embedded ({self.scale}) with {self.n_kept:,} and with all "
            f"{self.n_genes:,} of their genes:",
            f"  {self.neighbors:.0%} of a cell's {_NEIGHBORS} nearest neighbors stay (by chance "
            f"{self.neighbors_by_chance:.0%})",
            f"  median cosine {self.cosine_centered:.2f} between the two, centered (unrelated cells 0)",
            f"  median cosine {self.cosine:.2f} as they are (two cells at random {self.cosine_of_strangers:.2f})",
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class Coverage:
    """What a model can read of a data set; ``str()`` of it is a report.

    Attributes
    ----------
    n_matched
        Genes that the model was trained on and the data has.
    n_query
        Genes of the data.
    n_model
        Genes that the model was trained on.
    share_of_counts
        Share of the data's counts that lie in matched genes.
    tokens_per_cell
        Median number of tokens of a cell, made of matched genes.
    n_tokens
        The most that a cell can have.
    empty
        Share of cells without a count in a matched gene.
    missing
        Some genes of the data that are not matched, those with the most counts first.
    case_only
        Pairs (name in the data, gene of the model) that differ in upper and lower case only.
    version_only
        The same of Ensembl ids that differ in their version only.
    cost
        What such coverage costs, where that was asked for.
    """

    n_matched: int
    n_query: int
    n_model: int
    share_of_counts: float
    tokens_per_cell: float
    n_tokens: int
    empty: float
    missing: tuple[str, ...] = ()
    case_only: tuple[tuple[str, str], ...] = ()
    version_only: tuple[tuple[str, str], ...] = ()
    cost: CoverageCost | None = None

    _repr_html_ = as_html

    def __str__(self) -> str:
        lines = [
            f"{self.n_matched:,} genes matched: {self.n_matched / self.n_query:.0%} of the data's {self.n_query:,}, "
            f"{self.n_matched / self.n_model:.0%} of the model's {self.n_model:,}",
            f"{self.share_of_counts:.0%} of the data's counts are in them",
            f"median {self.tokens_per_cell:.0f} tokens a cell, {self.n_tokens} at most",
        ]
        if self.empty:
            lines.append(f"{self.empty:.1%} of cells have none")
        if self.missing:
            n_missing = self.n_query - self.n_matched
            more = ", ..." if n_missing > len(self.missing) else ""
            lines.append(f"not matched: {n_missing:,} genes, by counts {', '.join(self.missing)}{more}")
        lines += spelled_otherwise(self.case_only, self.version_only, "model")
        if self.cost is None:
            lines.append("what that costs: model.coverage(adata, cost=True) measures it")
        else:
            lines += ["what that costs:", *(f"  {line}" for line in str(self.cost).splitlines())]
        return "\n".join(["Coverage", *(f"  {line}" for line in lines)])


def coverage(
    model: JEPAModel, adata: AnnData | None, cost: bool, reference: AnnData | None, scale: str, n_cells: int, seed: int
) -> Coverage:
    """Return how much of a data set a model can read, as :meth:`scjepa.STJEPA.coverage` says.

    Parameters
    ----------
    n_tokens
        Tokens that a cell has at most.
    """
    if reference is not None and not cost:
        raise ValueError("reference is what the cost is measured on: coverage(adata, cost=True, reference=...).")
    adata = model.adata if adata is None else adata
    keys = model._keys_for(adata)
    keys.validate(adata)
    known = trained_vocabulary(model)
    alignment = known.align(adata.var_names, source="adata.var_names", columns=adata.var)
    matched = alignment.ids >= 0
    per_gene, lengths = np.zeros(len(matched)), []
    for _, rows in iter_rows(counts_of(adata, keys.layer)):
        per_gene += np.asarray(rows.sum(axis=0)).ravel()
        lengths.append(np.bincount(rows_of(rows)[matched[rows.indices]], minlength=rows.shape[0]))
    tokens = np.minimum(np.concatenate(lengths), model._n_read)
    missing = [i for i in np.argsort(-per_gene, kind="stable") if not matched[i]][:_EXAMPLES]
    return Coverage(
        n_matched=alignment.n_matched,
        n_query=alignment.n_names,
        n_model=len(known),
        share_of_counts=float(per_gene[matched].sum() / max(per_gene.sum(), 1e-12)),
        tokens_per_cell=float(np.median(tokens)),
        n_tokens=model._n_read,
        empty=float((tokens == 0).mean()),
        missing=tuple(str(adata.var_names[i]) for i in missing),
        case_only=alignment.case_only,
        version_only=alignment.version_only,
        cost=_cost(model, adata, reference, scale, n_cells, seed) if cost else None,
    )


def trained_vocabulary(model: JEPAModel) -> Vocabulary:
    """Return the genes that the model was trained on, the first of its vocabulary."""
    reference = model.reference
    if reference is None or not model._n_new_genes or model._knows_own_data:
        return model.vocabulary
    return Vocabulary(model.vocabulary.names[: reference.n_genes])


def _cost(
    model: JEPAModel, adata: AnnData, reference: AnnData | None, scale: str, n_cells: int, seed: int
) -> CoverageCost:
    if reference is None:
        if not model._knows_own_data or adata is model.adata:
            raise ValueError(
                "The cost is measured on the data that the model was trained on, which is not at hand here. Pass "
                "it: coverage(adata, cost=True, reference=training_adata)."
            )
        reference = model.adata
    kept = np.isin(reference.var_names, adata.var_names) & (model.vocabulary.ids(reference.var_names) >= 0)
    if not kept.any():
        raise ValueError("None of the matched genes is in reference, so there is nothing to measure on it.")
    cells = np.arange(reference.n_obs)
    if len(cells) > n_cells:
        cells = np.sort(np.random.default_rng(seed).choice(cells, n_cells, replace=False))
    every, few = (
        _embed_some(model, model._source_at(data, scale), cells, scale) for data in (reference, reference[:, kept])
    )
    return _compared(every, few, reference.n_vars, int(kept.sum()), scale, seed)


@torch.inference_mode()
def _embed_some(model: JEPAModel, source: TableSource, cells: np.ndarray, scale: str) -> np.ndarray:
    """Return embeddings of some cells, in their order."""
    out = np.empty((len(cells), model.config.encoder.width), dtype=np.float32)
    for taken, batch in batches(source, cells, AUTO, token_budget(model.config.encoder, source.device)):
        out[np.searchsorted(cells, taken)] = model.module.embed(batch, "target", scale).cpu().numpy()
    return out


def _compared(every: np.ndarray, few: np.ndarray, n_genes: int, n_kept: int, scale: str, seed: int) -> CoverageCost:
    """Compare the embeddings of the same cells with all genes and with few."""
    n_cells = len(every)
    k = min(_NEIGHBORS, n_cells - 1)
    strangers = np.random.default_rng(seed).permutation(n_cells)
    near, near_with_few = _neighbors(every, k), _neighbors(few, k)
    stay = [len(np.intersect1d(a, b)) / k for a, b in zip(near, near_with_few, strict=True)] if k else [1.0]
    return CoverageCost(
        n_cells=n_cells,
        n_genes=n_genes,
        n_kept=n_kept,
        cosine=float(np.median(_cosine(every, few))),
        cosine_of_strangers=float(np.median(_cosine(every, every[strangers]))),
        cosine_centered=float(np.median(_cosine(every - every.mean(axis=0), few - few.mean(axis=0)))),
        neighbors=float(np.mean(stay)),
        neighbors_by_chance=k / max(n_cells - 1, 1),
        scale=scale,
    )


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.einsum("ij,ij->i", a, b) / np.maximum(norms, 1e-12)


def _neighbors(embedding: np.ndarray, k: int) -> np.ndarray:
    """Return the ``(n_cells, k)`` nearest other cells."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=max(k, 1)).fit(embedding).kneighbors(return_distance=False)
