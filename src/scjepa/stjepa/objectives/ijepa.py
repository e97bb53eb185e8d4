"""The I-JEPA objective of ST-JEPA (v2 of the paper), with pooled objectives and guards beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scjepa._core.checks import NOT_NEGATIVE, POSITIVE, one_of
from scjepa._core.options import option
from scjepa.nn.losses import PooledHead, covariance_loss, mean_target_loss, pooled_loss, sigreg, variance_loss
from scjepa.nn.objective import TOKENS, ObjectiveOutput, Ratio
from scjepa.stjepa.batch import Batch
from scjepa.stjepa.config import ObjectiveConfig, STJEPAConfig
from scjepa.stjepa.masking import draw_mask
from scjepa.stjepa.objectives.base import NeighborhoodObjective
from scjepa.stjepa.pooling import POOLING, pool
from scjepa.stjepa.predictor import Predictor
from scjepa.tokens.config import TokenConfig

_PREDICTED = ("token_weight", "cell_weight", "neighborhood_weight", "nearby_weight")
"""Weights of what is predicted."""

_POOLED_AS = {"nearby": "neighborhood"}
"""Pooled objectives whose scale has another name."""


@dataclass(frozen=True)
class IJEPAConfig(ObjectiveConfig):
    """Options of ``"ijepa"`` (v2 of the paper): predict what a target encoder makes of masked tokens (Equations 1-3).

    Parameters
    ----------
    predictor_layers
        Transformer blocks of the predictor, of the encoder's width.
    query
        What a mask token knows of its gene: ``"gene"`` (identity, segment and rank) or ``"rank"`` (segment and rank).
    target_view
        ``"all"``: the target encoder sees the whole neighborhood and its outputs at masked tokens are gathered
        (I-JEPA); ``"masked"``: it sees the masked tokens alone (the paper's Equation 2 taken literally).
    target_norm
        ``"layer"``: targets pass a layer norm without parameters; ``"none"``.
    token_weight
        Weight of the token objective: L1 at masked tokens (the paper's loss).
    cell_weight, neighborhood_weight
        Weights of the pooled objectives: from the visible tokens predict the target encoder's pooled index cell and
        pooled neighborhood (smooth L1, targets standardized over the batch). 0 in the paper. Where counts are summed
        (``tokenizer="neighborhood"``) no index cell is told apart, and ``cell_weight`` has no part.
    nearby_weight
        Weight of a further pooled objective: predict the target encoder's pooled neighborhood of another cell, where a
        random walk of ``nearby_steps`` over the neighbors ends. What two places share is their niche. 0 in the paper.
    nearby_steps
        Steps of that walk.
    pooled
        How the pooled objectives compare: ``"predicted"``, an MLP of the student's pooled vector with the target, as
        above; ``"agreed"``, the student's pooled vector itself with the target as it is, by the mean squared
        difference. What places cannot agree in is then driven out of the embedding, and the guards below keep the rest
        from collapsing.
    variance_weight, covariance_weight
        Guards against collapse on pooled context embeddings: a hinge on the standard deviation of each dimension,
        and squared off-diagonal covariance (VICReg). 0 in the paper.
    sigreg_weight
        Weight of a further guard beside ``ijepa``: SIGReg of the pooled context embeddings, the distance from an
        isotropic Gaussian of standard deviation 1.
    sigreg_projections
        Random directions along which SIGReg looks, drawn anew at each step.
    """

    name: str = field(default="ijepa", init=False)
    predictor_layers: int = option(1, POSITIVE)
    query: str = option("gene", one_of("gene", "rank"))
    target_view: str = option("all", one_of("all", "masked"))
    target_norm: str = option("layer", one_of("layer", "none"))
    token_weight: float = option(1.0, NOT_NEGATIVE)
    cell_weight: float = option(
        1.0, NOT_NEGATIVE, idle=("tokens.tokenizer is 'neighborhood'", lambda own, config: config.tokens.summed)
    )
    neighborhood_weight: float = option(1.0, NOT_NEGATIVE)
    nearby_weight: float = option(1.0, NOT_NEGATIVE)
    nearby_steps: int = option(
        3, POSITIVE, idle=("objective.nearby_weight is 0", lambda own, config: own.nearby_weight == 0)
    )
    pooled: str = option("predicted", one_of("predicted", "agreed"))
    variance_weight: float = option(1.0, NOT_NEGATIVE)
    covariance_weight: float = option(1.0, NOT_NEGATIVE)
    sigreg_weight: float = option(0.0, NOT_NEGATIVE)
    sigreg_projections: int = option(
        256, POSITIVE, idle=("objective.sigreg_weight is 0", lambda own, config: own.sigreg_weight == 0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.predicts:
            raise ValueError(f"IJEPAConfig predicts nothing: make one of {', '.join(_PREDICTED)} positive.")

    @property
    def predicts(self) -> list[str]:
        """Names of the weights that are not 0, of what is predicted."""
        return [name for name in _PREDICTED if getattr(self, name) > 0]

    def check_tokens(self, tokens: TokenConfig) -> None:
        """Raise where only the index cell is predicted and the tokens do not tell it apart."""
        if tokens.summed and self.predicts == ["cell_weight"]:
            raise ValueError(
                f"IJEPAConfig.cell_weight alone predicts the index cell, and {tokens.apart}: pass "
                "objective={'neighborhood_weight': 1.0}."
            )


class IJEPA(NeighborhoodObjective):
    """Predict the target encoder's representations of masked tokens from the visible ones (Equations 1-3).

    loss = w_token · L1(predictor(context(visible)), norm(target(all)) at masked tokens)
    + Σ over scales w_scale · smooth L1(head(pool(context(visible))), standardized pool(target(all)))
    + w_nearby · the same for the neighborhood of the batch's partner, a few steps away (with ``pooled="agreed"``, all
    three are the squared difference of pool(context(visible)) itself from pool(target(all)))
    + w_variance · variance hinge + w_covariance · covariance + w_sigreg · SIGReg, on the pooled context embeddings.

    The paper's own loss is the first term; the others are off in the ``paper`` presets.
    """

    options = IJEPAConfig
    ratios: ClassVar = {
        "loss": TOKENS,
        "cell": Ratio("loss at cells {:.2f} times that of predicting the mean cell", "cells"),
        "neighborhood": Ratio(
            "loss at neighborhoods {:.2f} times that of predicting the mean neighborhood", "neighborhoods"
        ),
        "nearby": Ratio("loss at nearby neighborhoods {:.2f} times that of predicting the mean neighborhood", "nearby"),
    }

    def __init__(self, config: STJEPAConfig, n_technologies: int = 1):
        super().__init__(config, n_technologies)
        self.config = cast(IJEPAConfig, config.objective)
        self.partner_steps = self.config.nearby_steps if self.config.nearby_weight > 0 else 0
        self.masking = config.masking
        self.predictor = Predictor(config.encoder, self.config.predictor_layers, self.config.query == "gene")
        self.weights = {
            "cell": self.config.cell_weight,
            "neighborhood": self.config.neighborhood_weight,
            "nearby": self.config.nearby_weight,
        }
        if config.tokens.summed:  # nobody's tokens are told apart, so the cell would be the neighborhood once more
            del self.weights["cell"]
        predicted = [name for name, weight in self.weights.items() if weight > 0]
        self.agreed = self.config.pooled == "agreed"
        width = config.encoder.width
        self.heads = nn.ModuleDict({name: nn.Identity() if self.agreed else PooledHead(width) for name in predicted})

    def forward(
        self, context: nn.Module, target: nn.Module, batch: Batch, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Return the loss of ``batch``; masks are drawn from ``generator``."""
        repeated = batch.repeat(self.masking.n_masks)
        masked = draw_mask(repeated, self.masking.scheme, self.masking.ratio, generator)
        targets, pooled_targets = self._targets(target, batch, repeated, masked)
        queried = self._queried(masked, generator)
        visible = repeated.select((~masked).nonzero()[:, 0])
        encoded = context(visible)

        terms: dict[str, Tensor] = {}
        output = ObjectiveOutput(loss=encoded.sum() * 0.0, terms=terms)
        if self.config.token_weight > 0 and len(queried):
            queries = repeated.select(queried)
            prediction = self.predictor(encoded, visible, queries, context.embedding)
            wanted = targets(queried)
            terms["token_loss"] = F.l1_loss(prediction.float(), wanted)
            output.loss = output.loss + self.config.token_weight * terms["token_loss"]
            output.predictions, output.targets, output.genes = prediction.detach(), wanted, queries.genes
        pooled = self._add_pooled(output, encoded, visible, pooled_targets)
        if self.config.sigreg_weight > 0:
            n_projections = self.config.sigreg_projections
            terms["sigreg_loss"] = torch.stack([sigreg(x, n_projections, generator) for x in pooled]).mean()
            output.loss = output.loss + self.config.sigreg_weight * terms["sigreg_loss"]
        output.terms = {name: value.detach() for name, value in terms.items()}
        return output

    @torch.no_grad()
    def _targets(self, target: nn.Module, batch: Batch, repeated: Batch, masked: Tensor):
        """Return a function from token rows of ``repeated`` to targets, and pooled targets by scale.

        With the view ``"all"`` the masks of a batch share one pass of the target encoder.
        """
        if self.config.target_view == "all":
            encoded, seen = target(batch), batch
            lookup = torch.arange(repeated.n_tokens, device=masked.device) % batch.n_tokens
        else:
            rows = (masked | repeated.is_metatoken).nonzero()[:, 0]
            seen = repeated.select(rows)
            encoded = target(seen)
            lookup = torch.zeros(repeated.n_tokens, dtype=torch.long, device=masked.device)
            lookup[rows] = torch.arange(len(rows), device=masked.device)
        times = repeated.n_sequences // seen.n_sequences
        scales = {_POOLED_AS.get(name, name) for name in self.heads}
        pooled = {scale: pool(encoded.float(), seen, scale).repeat(times, 1) for scale in scales}

        def at(rows: Tensor) -> Tensor:
            wanted = encoded[lookup[rows]].float()
            return F.layer_norm(wanted, wanted.shape[-1:]) if self.config.target_norm == "layer" else wanted

        return at, pooled

    def _queried(self, masked: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the sorted rows of the masked tokens that the predictor is asked for."""
        rows = masked.nonzero()[:, 0]
        if self.masking.query_fraction == 1.0 or not len(rows):
            return rows
        n_kept = max(1, round(self.masking.query_fraction * len(rows)))
        keys = torch.rand(len(rows), device=rows.device, generator=generator)
        return rows[keys.topk(n_kept, largest=False).indices.sort().values]

    def _compared(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of pooled vectors, and that of the mean target."""
        if self.agreed:
            return F.mse_loss(prediction, target), (target - target.mean(0)).pow(2).mean().clamp_min(1e-12)
        return pooled_loss(prediction, target), mean_target_loss(target)

    def _add_pooled(
        self, output: ObjectiveOutput, encoded: Tensor, visible: Batch, wanted: dict[str, Tensor]
    ) -> list[Tensor]:
        """Add the pooled objectives and the guards of moments; return the pooled context embeddings."""
        guarded = self.config.variance_weight > 0 or self.config.covariance_weight > 0
        also = {"neighborhood"} if guarded or self.config.sigreg_weight > 0 else set()
        scales = {_POOLED_AS.get(name, name) for name in self.heads} | also
        pooled = {scale: pool(encoded.float(), visible, scale) for scale in POOLING if scale in scales}
        for name, head in self.heads.items():
            scale = _POOLED_AS.get(name, name)
            targets = wanted[scale]
            if name == "nearby":
                if visible.partners is None:  # the monitor's batches have none
                    continue
                targets = targets[visible.partners]
            term, of_mean = self._compared(head(pooled[scale]), targets)
            output.terms[f"{name}_loss"] = term
            output.ratios[name] = term.detach() / of_mean
            output.loss = output.loss + self.weights[name] * term
        vectors = list(pooled.values())
        if not guarded:
            return vectors
        variance = torch.stack([variance_loss(x) for x in vectors]).mean()
        covariance = torch.stack([covariance_loss(x) for x in vectors]).mean()
        output.terms.update(variance_loss=variance, covariance_loss=covariance)
        output.loss = output.loss + self.config.variance_weight * variance + self.config.covariance_weight * covariance
        return vectors
