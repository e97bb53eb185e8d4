"""The LeJEPA objective (v1 of the paper): one encoder, views, and a Gaussian in place of a teacher."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scjepa.nn.losses import PooledHead, sigreg, standardize_over_batch
from scjepa.nn.objective import ADVICE, SHORTER, SLOWER, VIEWS, Advice, ObjectiveOutput
from scjepa.stjepa.batch import Batch
from scjepa.stjepa.config import LeJEPAConfig, STJEPAConfig
from scjepa.stjepa.masking import draw_mask
from scjepa.stjepa.objectives.base import NeighborhoodObjective
from scjepa.stjepa.pooling import pool

# On V1 more of SIGReg keeps more dimensions and loses niches, 0.1 NMI at 0.2 (docs/results.md): it comes last.
_MORE_SIGREG = Advice(
    "give SIGReg a larger share, objective={'sigreg_share': 0.2}: more dimensions, but score the niches again",
    (("objective", "sigreg_share", 0.2),),
)


class TechnologyAdversary(nn.Module):
    """Tells technologies from pooled embeddings, while the reversed gradient teaches the encoder not to let it.

    Parameters
    ----------
    width
        Of the embeddings.
    n_technologies
        How many there are; with one there is nothing to tell.
    weight
        Of the reversed gradient. The classifier itself learns at full strength.
    """

    def __init__(self, width: int, n_technologies: int, weight: float):
        super().__init__()
        self.weight = weight
        self.hidden = nn.Linear(width, width)
        # Without a bias: a technology that a query brings begins as the mean of the rows.
        self.technology = nn.Linear(width, n_technologies, bias=False)

    def forward(self, pooled: Tensor, technologies: Tensor) -> Tensor:
        """Return the cross-entropy of ``technologies``, ``(n,)``, given ``pooled``, ``(n, width)``."""
        # The value is that of pooled, the gradient is -weight times as large.
        reversed_ = (1 + self.weight) * pooled.detach() - self.weight * pooled
        return F.cross_entropy(self.technology(F.gelu(self.hidden(reversed_))), technologies)


class LeJEPA(NeighborhoodObjective):
    """Views of a neighborhood shall have one embedding, and the embeddings of a batch shall be Gaussian.

    loss = (1 - λ) · invariance + λ · SIGReg (+ technology adversary), of ``n_views`` maskings of the batch. Invariance
    is the mean squared distance of the views from their mean. Both are measured behind a projector, a small MLP on the
    pooled neighborhoods, standardized over the batch: the mean of normed tokens cannot be Gaussian of variance 1 unless
    all of them are alike. There is no predictor, and no teacher: the target encoder is a copy of the one encoder, up to
    date after each step.
    """

    has_teacher = False
    technology_tables = ("adversary.technology.weight",)
    ratios: ClassVar = {"views": VIEWS}
    advice: ClassVar = {
        **ADVICE,
        "collapsed": (
            Advice(
                "score the niches first: SIGReg works behind the projector, and few dimensions before may hold them all"
            ),
            SLOWER,
            Advice(
                "take larger batches, train(batch_size=128): SIGReg compares a batch with a Gaussian",
                (("training", "batch_size", 128),),
            ),
            _MORE_SIGREG,
        ),
        "shrinking": (SHORTER, _MORE_SIGREG),
    }

    def __init__(self, config: STJEPAConfig, n_technologies: int = 1):
        super().__init__(config, n_technologies)
        self.config = cast(LeJEPAConfig, config.objective)
        self.masking = config.masking
        self.passes = self.config.n_views * (1 - self.masking.ratio)
        self.projector = PooledHead(config.encoder.width)
        self.adversary = None
        self.needs_technology = self.config.adversarial_weight > 0
        if self.needs_technology:
            self.adversary = TechnologyAdversary(config.encoder.width, n_technologies, self.config.adversarial_weight)

    def forward(
        self, context: nn.Module, target: nn.Module, batch: Batch, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Return the loss of ``batch``; views are drawn from ``generator``, ``target`` takes no part."""
        repeated = batch.repeat(self.config.n_views)
        masked = draw_mask(repeated, self.masking.scheme, self.masking.ratio, generator)
        visible = repeated.select((~masked).nonzero()[:, 0])
        pooled = pool(context(visible).float(), visible, "neighborhood")
        views = self.projector(standardize_over_batch(pooled)).view(self.config.n_views, batch.n_sequences, -1)
        share = self.config.sigreg_share
        terms = {
            "invariance_loss": (views - views.mean(0)).square().mean(),
            "sigreg_loss": sigreg(views, self.config.sigreg_projections, generator),
        }
        loss = (1 - share) * terms["invariance_loss"] + share * terms["sigreg_loss"]
        if self.adversary is not None:
            terms["technology_loss"] = self.adversary(pooled, visible.technologies)
            loss = loss + terms["technology_loss"]
        terms = {name: value.detach() for name, value in terms.items()}
        return ObjectiveOutput(loss=loss, terms=terms, ratios={"views": _views_ratio(views.detach())})


def _views_ratio(views: Tensor) -> Tensor:
    """Return the spread of views about their neighborhood's mean over that of views drawn from all neighborhoods."""
    n_views = len(views)
    within = (views - views.mean(0)).square().mean() * n_views / (n_views - 1)
    return within / (views - views.mean((0, 1))).square().mean()
