"""Query models of dissociated cells: a trained model taken to other cells, with genes that it does not know."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Self

from anndata import AnnData
from torch import Tensor

from scjepa.celljepa.config import CellJEPAConfig
from scjepa.celljepa.data import CellKeys
from scjepa.celljepa.module import CellJEPAModule
from scjepa.celljepa.perturb.model import without_perturbation
from scjepa.models.base import JEPAModel
from scjepa.models.reference import ReferenceMixin
from scjepa.models.rows import rows_like, train_new_rows_only
from scjepa.tokens.vocabulary import Vocabulary

_GENES = ("context.embedding.gene.weight", "target.embedding.gene.weight")


class CellQueryMixin(ReferenceMixin):
    """``load_query_data``, and what a query model has to be careful about."""

    config: CellJEPAConfig
    module: CellJEPAModule

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
        """Take a trained model to other cells, and take in the genes that it does not know.

        The new model has the genes of the reference, with their vectors, and those of ``adata`` besides. It embeds at
        once (zero-shot), :meth:`train` goes on with pretraining on ``adata``, and :meth:`finetune` and
        :meth:`train_perturbation` take its labels and conditions. The reference stays as it is. Nothing is written to
        ``adata`` but scvi-tools' bookkeeping.

        The vector of a new gene is drawn from the Gaussian with the mean and covariance of the reference's gene
        vectors, by ``seed`` and name alone. :meth:`load` and
        ``get_latent_representation(adata)`` leave such genes out instead. Where gene modules are tokens, new genes are
        of no module and stay out here too. What the reference learned of perturbations is not taken over; the labelled
        cells that it keeps are, until the model is trained.

        Parameters
        ----------
        adata
            Raw counts. Where they are found, batches and labels is what ``setup_anndata`` was told of this object, else
            what it was told of the reference's.
        reference_model
            A model, a folder that :meth:`save` or :meth:`save_pretrained` wrote, or the name of a checkpoint
            (:func:`scjepa.pretrained.locate`).
        freeze
            What stays as it is in training: ``"none"``; or ``"encoder"``, then only the vectors of new genes, and heads
            that fine-tuning adds, are trained, and cells without new genes keep their embeddings bit for bit. With
            ``"encoder"`` the student begins as a copy of the teacher.
        seed
            Seed of new vectors and of training. Default: the reference's.
        accelerator, device
            Where the weights go.

        Returns
        -------
        CellJEPA
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
        >>> query = scjepa.CellJEPA.load_query_data(new_cells, model)
        >>> new_cells.obsm["X_celljepa"] = query.get_latent_representation()  # zero-shot
        >>> query.train(max_steps=100)  # goes on with pretraining
        """
        return cls._taken_to(adata, reference_model, freeze, seed, accelerator, device)

    @classmethod
    def _query_keys(cls, adata: AnnData, setup: Mapping[str, Any]) -> CellKeys:
        return CellKeys.for_query(adata, cls._registered_keys(adata), CellKeys(**setup))

    @classmethod
    def _extended(
        cls, facts: dict[str, Any], weights: dict[str, Tensor], adata: AnnData, keys: CellKeys
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        facts, weights = without_perturbation(facts, weights)
        if "modules" in facts:
            return facts, weights
        known = Vocabulary(facts["vocabulary"])
        genes = known.extended(adata.var_names)
        rows = rows_like([weights[name] for name in _GENES], genes.names[len(known) :], facts["seed"])
        return {**facts, "vocabulary": list(genes.names)}, {**weights, **dict(zip(_GENES, rows, strict=True))}

    def _freeze(self) -> None:
        """Leave what the reference gave out of training, where that was asked for."""
        if self.reference is not None and self.reference.freeze == "encoder":
            train_new_rows_only(self.module, [(self.module.context.embedding.gene, self.reference.n_genes)])

    def _check_trainable(self) -> None:
        """Refuse to train where nothing may change."""
        if self.reference is None or self.reference.freeze != "encoder":
            return
        if len(self.vocabulary) == self.reference.n_genes:
            raise ValueError(
                "With freeze='encoder' only new genes train, and this data has none that the reference did not know. "
                "Pass freeze='none' to load_query_data, or use the model as it is."
            )
