"""What a model took over from another: from a model in memory, a folder or a checkpoint."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from anndata import AnnData
from torch import Tensor

from scjepa import pretrained
from scjepa._core.anndata import require_anndata
from scjepa._core.features import warn_of_no_genes
from scjepa._core.options import unknown_name
from scjepa._core.plain import seed_of
from scjepa._core.warn import warn
from scjepa.models import store as _store
from scjepa.models.base import JEPAModel
from scjepa.models.device import check_device
from scjepa.pretrained import Card
from scjepa.tokens.vocabulary import Alignment, Vocabulary

logger = logging.getLogger("scjepa")

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
    def of(cls, facts: Mapping[str, Any], freeze: str = "none") -> Reference:
        """Return what a model with these facts can give to another."""
        technologies = facts.get("panels", {}).get("technologies", ())
        return cls(len(facts["vocabulary"]), len(technologies), facts["n_steps"], freeze)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


class ReferenceMixin(JEPAModel):
    """Where a model comes from, saved with it."""

    vocabulary: Vocabulary
    reference: Reference | None = None
    """What the model took over from a reference or a checkpoint; ``None``: nothing."""
    card: Card | None = None
    """The card of the checkpoint that the model came from."""

    @classmethod
    def _taken_to(
        cls,
        adata: AnnData,
        reference_model: Any,
        freeze: str,
        seed: int | None,
        accelerator: str,
        device: int | str,
    ) -> Self:
        """Return a model on ``adata`` that has what another has, and what is new in ``adata`` besides."""
        check_device(accelerator)
        require_anndata(adata)
        if freeze not in FREEZE:
            raise ValueError(unknown_name("choice of freeze", freeze, FREEZE))
        facts, weights, source = cls._facts_of(reference_model)
        keys = cls._query_keys(adata, facts["setup"])
        alignment = Vocabulary(facts["vocabulary"]).align(adata.var_names, source="adata.var_names", columns=adata.var)
        cls._set_up(adata, keys.to_dict())
        if seed is not None:
            facts["seed"] = seed_of(seed)
        reference = Reference.of(facts, freeze)
        facts, weights = cls._extended(facts, weights, adata, keys)
        if len(facts["vocabulary"]) - reference.n_genes == alignment.n_names - alignment.n_matched:
            _tell(alignment)  # and not where new genes stay out
            if alignment.n_matched < alignment.n_names:
                warn_of_no_genes(adata)
        if freeze == "encoder":  # the context encoder begins as a copy of the target encoder
            twins = {f"context.{n.removeprefix('target.')}": w for n, w in weights.items() if n.startswith("target.")}
            weights = {**weights, **twins}
        return cls._assemble(adata, {**facts, "reference": reference.to_dict()}, weights, source, accelerator, device)

    @classmethod
    def _query_keys(cls, adata: AnnData, setup: Mapping[str, Any]) -> Any:
        """Return where to look in ``adata``; ``setup`` is what the reference was told of its own data."""
        raise TypeError(f"{cls.__name__} does not say where it looks in new data.")

    @classmethod
    def _extended(
        cls, facts: dict[str, Any], weights: dict[str, Tensor], adata: AnnData, keys: Any
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return a reference's facts and weights with what is new in ``adata``."""
        raise TypeError(f"{cls.__name__} does not say how it takes in what is new.")

    @classmethod
    def _facts_of(cls, model: Any) -> tuple[dict[str, Any], dict[str, Tensor], str]:
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
        facts = copy.deepcopy(model._facts())
        weights = {name: w.detach().cpu().clone() for name, w in model.module.state_dict().items()}
        return facts, weights, "the reference model"

    def _options_of_reference(self) -> dict[str, Any]:
        """Return what a run depends on of the model that this one came from."""
        told = {} if self.reference is None else {"reference": self.reference.to_dict()}
        return told if self.card is None else {**told, "checkpoint": self.card.name}

    def _freeze(self) -> None:
        """Leave what the reference gave out of training, where that was asked for."""

    def _facts(self) -> dict[str, Any]:
        return {
            **super()._facts(),
            "vocabulary": list(self.vocabulary.names),
            "reference": None if self.reference is None else self.reference.to_dict(),
            "card": None if self.card is None else self.card.to_dict(),
        }

    def _restore(self, facts: Mapping[str, Any]) -> None:
        super()._restore(facts)
        self.reference = Reference(**facts["reference"]) if facts.get("reference") else None
        self.card = Card.from_any(facts["card"], "") if facts.get("card") else None
        self._freeze()

    @property
    def _knows_own_data(self) -> bool:
        """Whether the model was trained on its own AnnData, and not only on that of a reference or a checkpoint."""
        return self.is_trained_ and (self.reference is None or self.n_steps_ > self.reference.n_steps)


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
