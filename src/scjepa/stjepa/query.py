"""Query models: a trained model taken to new sections, panels and technologies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from anndata import AnnData
from torch import Tensor

from scjepa.models import store as _store
from scjepa.models.base import JEPAModel
from scjepa.models.reference import ReferenceMixin
from scjepa.models.rows import rows_like, rows_of_mean, train_new_rows_only
from scjepa.stjepa.config import STJEPAConfig
from scjepa.stjepa.data import DataKeys, codes_of, counts_of, names_of, normalizations_of, panels_of
from scjepa.stjepa.fields import keys_for, keys_to_load
from scjepa.stjepa.module import STJEPAModule
from scjepa.tokens.counts import iter_rows
from scjepa.tokens.fitted import FittedNormalizations
from scjepa.tokens.vocabulary import Panels, Vocabulary

_ENOUGH_CELLS = 100
"""Cells with counts from which on a new technology is normalized with statistics of its own."""

_GENES, _TECHNOLOGIES = "embedding.gene.weight", "embedding.technology.weight"
_ENCODERS = ("context.", "target.")


class QueryMixin(ReferenceMixin):
    """``load_query_data``, and what a query model has to be careful about."""

    config: STJEPAConfig
    module: STJEPAModule
    panels: Panels

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
        """Take a trained model to new data: other sections, genes in any order, other panels, other technologies.

        The new model has the genes and technologies of the reference, with their weights, and those of ``adata``
        besides. It embeds at once (zero-shot), and :meth:`train` fine-tunes it on ``adata``. The reference stays as it
        is. Nothing is written to ``adata`` but scvi-tools' bookkeeping.

        What is new begins like this, depending on ``seed`` and names alone:

        - the vector of a gene is drawn from the Gaussian with the mean and covariance of the reference's gene vectors;
        - the token of a technology is the mean of the reference's;
        - normalizations that learn (all but ``counts``) learn a new gene, and a new technology with 100 cells or
          more, from ``adata``; a smaller one takes the reference's statistics of all technologies.

        Parameters
        ----------
        adata
            Raw counts, coordinates and a spatial graph. Where they are found is what ``setup_anndata`` was told of
            this object, else what it was told of the reference's.
        reference_model
            A model, a folder that :meth:`save` or :meth:`save_pretrained` wrote, or the name of a checkpoint
            (:func:`scjepa.pretrained.locate`).
        freeze
            What stays as it is in training: ``"none"``; or ``"encoder"``, then only the vectors of new genes and
            technologies are trained, and data without new genes keeps its embeddings bit for bit. With ``"encoder"``
            the context encoder begins as a copy of the target encoder.
        seed
            Seed of new vectors and of training. Default: the reference's.
        accelerator, device
            Where the weights go.

        Returns
        -------
        STJEPA
            A model on ``adata``, of the reference's configuration.

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
        return cls._taken_to(adata, reference_model, freeze, seed, accelerator, device)

    @classmethod
    def _query_keys(cls, adata: AnnData, setup: Mapping[str, Any]) -> DataKeys:
        return keys_for(adata, cls._registered_keys(adata), DataKeys(**setup))

    @classmethod
    def _setup_for(cls, adata: AnnData, setup: Mapping[str, Any]) -> dict[str, Any]:
        return keys_to_load(adata, cls._registered_keys(adata), DataKeys(**setup)).to_dict()

    @classmethod
    def _extended(
        cls, facts: dict[str, Any], weights: dict[str, Tensor], adata: AnnData, keys: DataKeys
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return extended(facts, weights, adata, keys)

    def _freeze(self) -> None:
        """Leave what the reference gave out of training, where that was asked for."""
        if self.reference is not None and self.reference.freeze == "encoder":
            embedding = self.module.context.embedding
            known = [
                (embedding.gene, self.reference.n_genes),
                (embedding.technology, self.reference.n_technologies),
            ]
            train_new_rows_only(self.module, known)

    def _check_trainable(self) -> None:
        """Refuse to train on technologies that have no token, or where nothing may change."""
        metatoken = self.config.encoder.metatoken
        unknown = set(names_of(self.adata, self.keys.technology_key)).difference(self.panels.technologies)
        if unknown and (metatoken or self.module.objective.needs_technology):
            raise ValueError(
                f"The model does not know the technology {min(unknown)!r} (known: "
                f"{', '.join(self.panels.technologies)}), so it cannot train on it. Make it known: "
                f"{type(self).__name__}.load_query_data(adata, model)."
            )
        if self.reference is None or self.reference.freeze != "encoder":
            return
        new_genes = len(self.vocabulary) > self.reference.n_genes
        if not new_genes and not (metatoken and len(self.panels.technologies) > self.reference.n_technologies):
            raise ValueError(
                "With freeze='encoder' only new genes and technologies train, and this data has none that the "
                "reference did not know. Pass freeze='none' to load_query_data, or use the model as it is."
            )


def extended(
    facts: Mapping[str, Any], weights: Mapping[str, Tensor], adata: AnnData, keys: DataKeys
) -> tuple[dict[str, Any], dict[str, Tensor]]:
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
    filled = np.concatenate([np.diff(rows.indptr) > 0 for _, rows in iter_rows(counts_of(adata, keys))])
    return np.bincount(codes[filled], minlength=len(technologies))
