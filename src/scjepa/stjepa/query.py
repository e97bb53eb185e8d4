"""What a query model of tissues begins with, and what it can train on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from scjepa._core.anndata import counts_of
from scjepa._core.counts import iter_rows
from scjepa.models import store as _store
from scjepa.models.reference import rows_like, rows_of_mean
from scjepa.models.setup import codes_of, names_of
from scjepa.models.store import Facts, Weights
from scjepa.stjepa.config import STJEPAConfig
from scjepa.stjepa.data import DataKeys, normalizations_of, panels_of
from scjepa.tokens.normalize import FittedNormalizations
from scjepa.tokens.vocabulary import Panels, Vocabulary

if TYPE_CHECKING:
    from scjepa.stjepa.model import STJEPA

_ENOUGH_CELLS = 100
"""Cells with counts from which on a new technology is normalized with statistics of its own."""

_GENES, _TECHNOLOGIES = "embedding.gene.weight", "embedding.technology.weight"
_ENCODERS = ("context.", "target.")


def check_trainable(model: STJEPA) -> None:
    """Refuse to train on technologies that have no token, or where nothing may change."""
    metatoken = model.config.encoder.metatoken
    unknown = set(names_of(model.adata, model.keys.technology_key)).difference(model.panels.technologies)
    if unknown and (metatoken or model.module.objective.needs_technology):
        raise ValueError(
            f"The model does not know the technology {min(unknown)!r} (known: "
            f"{', '.join(model.panels.technologies)}), so it cannot train on it. Make it known: "
            f"{type(model).__name__}.load_query_data(adata, model)."
        )
    if model.reference is None or model.reference.freeze != "encoder":
        return
    new_genes = len(model.vocabulary) > model.reference.n_genes
    if not new_genes and not (metatoken and len(model.panels.technologies) > model.reference.n_technologies):
        raise ValueError(
            "With freeze='encoder' only new genes and technologies train, and this data has none that the "
            "reference did not know. Pass freeze='none' to load_query_data, or use the model as it is."
        )


def extended(facts: Facts, weights: Weights, adata: AnnData, keys: DataKeys) -> tuple[Facts, Weights]:
    """Return a model's facts and weights with the genes and technologies of ``adata`` besides its own."""
    vocabulary, panels = Vocabulary(facts["vocabulary"]), Panels.from_dict(facts["panels"])
    config = STJEPAConfig.from_dict(facts["config"])
    genes = vocabulary.extended(adata.var_names)
    all_panels = panels.extended(panels_of(adata, keys, genes))
    learned = FittedNormalizations.from_arrays(
        config.tokens, facts[_store.STATISTICS], len(vocabulary), len(panels.technologies)
    )
    if learned.to_arrays():
        further = normalizations_of(adata, keys, genes, all_panels.technologies, config.tokens)
        enough = _cells_with_counts(adata, keys, all_panels.technologies) >= _ENOUGH_CELLS
        learned = learned.extended(further, all_panels.measured & enough[:, None])

    weights = dict(weights)
    gene_tables, technology_tables = ([f"{encoder}{name}" for encoder in _ENCODERS] for name in (_GENES, _TECHNOLOGIES))
    new_genes = genes.names[len(vocabulary) :]
    rows = rows_like([weights[name] for name in gene_tables], new_genes, facts["seed"])
    weights |= dict(zip(gene_tables, rows, strict=True))
    own = (f"objective.{name}" for name in config.objective.objective_class().technology_tables)
    technology_tables += [name for name in own if name in weights]
    n_new = len(all_panels.technologies) - len(panels.technologies)
    rows = rows_of_mean([weights[name] for name in technology_tables], n_new)
    weights |= dict(zip(technology_tables, rows, strict=True))
    return {
        **facts,
        "vocabulary": list(genes.names),
        "panels": all_panels.to_dict(),
        _store.STATISTICS: learned.to_arrays(),
    }, weights


def _cells_with_counts(adata: AnnData, keys: DataKeys, technologies: tuple[str, ...]) -> np.ndarray:
    """Return ``(n_technologies,)`` cells of each technology that have a count."""
    codes = codes_of(names_of(adata, keys.technology_key), technologies)
    filled = np.concatenate([np.diff(rows.indptr) > 0 for _, rows in iter_rows(counts_of(adata, keys.layer))])
    return np.bincount(codes[filled], minlength=len(technologies))
