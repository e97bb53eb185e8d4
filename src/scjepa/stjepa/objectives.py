"""Objectives: what is hidden from the context encoder, what is predicted, and how the error is measured.

A new objective is a class here, and its options and a line in :data:`scjepa.stjepa.config.OBJECTIVES`; a new masking
scheme is a function and a line in :data:`MASKING_SCHEMES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scjepa._core.options import Registry
from scjepa.nn import losses
from scjepa.nn.attention import Packing, count_by_group, rank_in_group
from scjepa.nn.config import TransformerConfig
from scjepa.nn.encoder import Transformer
from scjepa.nn.jepa import ADVICE, SHORTER, SLOWER, SLOWER_OR_EMA, TOKENS, VIEWS, Advice, ObjectiveOutput, Ratio
from scjepa.nn.losses import gathered, mean_over_processes, n_processes
from scjepa.stjepa.config import IJEPAConfig, LeJEPAConfig, STJEPAConfig
from scjepa.stjepa.module import POOLING, NeighborhoodObjective, TokenEmbedding, pool
from scjepa.stjepa.source import Batch

# -- masking -----------------------------------------------------------------------------------------------------------


def _mask_share(groups: Tensor, n_groups: int, keys: Tensor, ratio: float) -> Tensor:
    """Mask round(ratio · n) tokens of each group, those of the smallest keys."""
    n_masked = torch.round(ratio * count_by_group(groups, n_groups)).long()
    return rank_in_group(groups, keys) < n_masked[groups]


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(len(like), device=like.device, generator=generator)


def stratified(batch: Batch, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Mask round(ratio · n) tokens of each cell: the paper's block masking with a cell as the block."""
    return _mask_share(batch.blocks, batch.n_blocks, _uniform(batch.genes, generator), ratio)


def uniform(batch: Batch, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Mask round(ratio · n) tokens of each neighborhood, wherever they are."""
    return _mask_share(batch.sequences, batch.n_sequences, _uniform(batch.genes, generator), ratio)


def target_cell(batch: Batch, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Mask round(ratio · n) tokens of one cell, drawn for each neighborhood (Figure 1c)."""
    _, chosen = _draw_cells(batch, generator, n_cells=1)
    return stratified(batch, ratio, generator) & chosen


def whole_cell(batch: Batch, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Mask all tokens of round(ratio · cells) cells of each neighborhood, at least one and never all."""
    n_cells, _ = _draw_cells(batch, None, n_cells=0)
    _, chosen = _draw_cells(batch, generator, n_cells=torch.round(ratio * n_cells).clamp_min(1))
    return chosen


def rank_span(batch: Batch, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Mask a run of round(ratio · n) neighboring ranks of each cell, wrapping around its end."""
    sizes = torch.bincount(batch.blocks)
    start = torch.rand(len(sizes), device=sizes.device, generator=generator) * sizes
    place = rank_in_group(batch.blocks, batch.ranks.float())
    keys = (place - start.long()[batch.blocks]) % sizes[batch.blocks]
    return _mask_share(batch.blocks, batch.n_blocks, keys, ratio)


def mixture(batch: Batch, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Mask whole cells in about half of the neighborhoods, and a share of each cell in the others."""
    whole = torch.rand(batch.n_sequences, device=batch.genes.device, generator=generator) < 0.5
    by_cell, by_token = whole_cell(batch, ratio, generator), stratified(batch, ratio, generator)
    return torch.where(whole[batch.sequences], by_cell, by_token)


def _draw_cells(batch: Batch, generator: torch.Generator | None, n_cells: int | Tensor) -> tuple[Tensor, Tensor]:
    """Return the cells with tokens in each sequence, and the tokens of ``n_cells`` of them, drawn at random."""
    occupied = count_by_group(batch.blocks, batch.n_blocks) > 0
    occupied = occupied.view(batch.n_sequences, -1)[:, :-1]  # the last column is the metatoken's
    count = occupied.sum(1)
    keys = torch.rand(occupied.shape, device=occupied.device, generator=generator).masked_fill(~occupied, 2.0)
    place = keys.argsort(1).argsort(1)
    limit = torch.minimum(torch.as_tensor(n_cells, device=count.device).expand_as(count), (count - 1).clamp_min(0))
    chosen = torch.zeros(batch.n_sequences, batch.n_segments + 1, dtype=torch.bool, device=count.device)
    chosen[:, :-1] = (place < limit[:, None]) & occupied
    return count, chosen.view(-1)[batch.blocks]


class MaskingScheme(NamedTuple):
    """A way to mask.

    Attributes
    ----------
    draw
        From a batch, the share of masked tokens and a generator: which tokens are masked.
    of_cells
        Whether it chooses among the cells of a neighborhood.
    """

    draw: Callable[[Batch, float, torch.Generator | None], Tensor]
    of_cells: bool = False


MASKING_SCHEMES: Registry[MaskingScheme] = Registry(
    "masking scheme",
    {
        "stratified": MaskingScheme(stratified),
        "uniform": MaskingScheme(uniform),
        "target_cell": MaskingScheme(target_cell, of_cells=True),
        "whole_cell": MaskingScheme(whole_cell, of_cells=True),
        "rank_span": MaskingScheme(rank_span),
        "mixture": MaskingScheme(mixture, of_cells=True),
    },
)
"""Masking schemes by name."""


def draw_mask(batch: Batch, scheme: str, ratio: float, generator: torch.Generator | None = None) -> Tensor:
    """Return ``(T,)`` bool, true where masked.

    A sequence left without a visible (or without a masked) token has one of its tokens shown (or masked), so that
    there is always something to predict and something to predict it from; a sequence of one token stays visible.
    """
    cells = ~batch.is_metatoken
    masked = MASKING_SCHEMES[scheme].draw(batch, ratio, generator) & cells
    place = rank_in_group(batch.sequences, _uniform(batch.genes, generator) + 2.0 * batch.is_metatoken)
    n_cells = count_by_group(batch.sequences, batch.n_sequences, cells)
    n_masked = count_by_group(batch.sequences, batch.n_sequences, masked)
    first = (place == 0) & cells
    show_one = ((n_masked == n_cells) & (n_cells > 0))[batch.sequences] & first
    mask_one = ((n_masked == 0) & (n_cells > 1))[batch.sequences] & first
    return (masked & ~show_one) | mask_one


# -- prediction --------------------------------------------------------------------------------------------------------

_POOLED_AS = {"nearby": "neighborhood"}
"""Pooled objectives whose scale has another name."""


class Predictor(nn.Module):
    """A small transformer over visible tokens and mask tokens; outputs at mask tokens only.

    Parameters
    ----------
    encoder
        Width, heads and MLP ratio are the encoder's.
    n_layers
        Blocks.
    knows_gene
        Whether a mask token has the identity of its gene, beside segment and rank.
    """

    def __init__(self, encoder: TransformerConfig, n_layers: int, knows_gene: bool):
        super().__init__()
        width = encoder.width
        self.mask_token = nn.Parameter(torch.zeros(width))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.transformer = Transformer(encoder, n_layers)
        self.knows_gene = knows_gene
        self.out = nn.Linear(width, width)
        nn.init.trunc_normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def forward(self, visible: Tensor, context: Batch, queries: Batch, embedding: TokenEmbedding) -> Tensor:
        """Predict the representations of ``queries``, ``(n_query_tokens, width)``.

        Parameters
        ----------
        visible
            ``(n_visible_tokens, width)`` outputs of the context encoder.
        context
            The visible tokens.
        queries
            The masked tokens that are asked for; of these only place and, where the configuration says so, gene
            identity are used, never the value.
        embedding
            The context encoder's embedding, for the queries' genes and places.
        """
        mask_tokens = self.mask_token + embedding.position(queries.ranks, queries.segments, queries.places)
        if self.knows_gene:
            mask_tokens = mask_tokens + embedding.gene(queries.genes)
        sequences = torch.cat([context.sequences, queries.sequences])
        order = torch.argsort(sequences, stable=True)
        tokens = torch.cat([visible, mask_tokens.to(visible.dtype)])[order]
        rows = (order >= len(visible)).nonzero()[:, 0]
        packing = Packing(context.lengths + queries.lengths)
        return self.out(self.transformer(tokens, packing, rows, Packing(queries.lengths)))


class IJEPA(NeighborhoodObjective):
    """Predict the target encoder's representations of masked tokens from the visible ones (Equations 1-3).

    loss = w_token · L1(predictor(context(visible)), norm(target(all)) at masked tokens)
    + Σ over scales w_scale · smooth L1(head(pool(context(visible))), standardized pool(target(all)))
    + w_nearby · the same for the neighborhood of the batch's partner, a few steps away (with ``pooled="agreed"``, all
    three are the squared difference of pool(context(visible)) itself from pool(target(all)))
    + w_variance · variance hinge + w_covariance · covariance + w_sigreg · SIGReg, on the pooled context embeddings.

    The paper's own loss is the first term; the others are off in the ``paper`` presets.
    """

    ratios: ClassVar = {
        "loss": TOKENS,
        "cell": Ratio("loss at cells {:.2f} times that of predicting the mean cell", "cells"),
        "neighborhood": Ratio(
            "loss at neighborhoods {:.2f} times that of predicting the mean neighborhood", "neighborhoods"
        ),
        "nearby": Ratio("loss at nearby neighborhoods {:.2f} times that of predicting the mean neighborhood", "nearby"),
    }

    advice: ClassVar = {
        **ADVICE,
        "collapsed": (
            Advice(
                "turn on the guards: objective={'variance_weight': 1.0, 'covariance_weight': 1.0}",
                (("objective", "variance_weight", 1.0), ("objective", "covariance_weight", 1.0)),
            ),
            SLOWER_OR_EMA,
            Advice("masking={'ratio': 0.6}: a low mask ratio makes the task too easy", (("masking", "ratio", 0.6),)),
        ),
        "shrinking": (
            Advice(
                "add or raise the guards: objective={'variance_weight': 1.0, 'covariance_weight': 4.0}",
                (("objective", "variance_weight", 1.0), ("objective", "covariance_weight", 4.0)),
            ),
            SHORTER,
        ),
    }

    def __init__(self, config: STJEPAConfig, n_technologies: int = 1):
        super().__init__(config, n_technologies)
        self.config = cast(IJEPAConfig, config.objective)
        self.partner_steps = self.config.nearby_steps if self.config.nearby_weight > 0 else 0
        self.masking = config.masking
        seen, asked = 1 - self.masking.ratio, self.masking.ratio * self.masking.query_fraction
        by_predictor = self.config.predictor_layers / config.encoder.n_layers * (seen + asked)
        self.passes = self.masking.n_masks * (seen + (by_predictor if self.config.token_weight > 0 else 0.0))
        self.predictor = Predictor(config.encoder, self.config.predictor_layers, self.config.query == "gene")
        self.weights = {name: getattr(self.config, f"{name}_weight") for name in ("cell", "neighborhood", "nearby")}
        if config.tokens.summed:  # nobody's tokens are told apart, so the cell would be the neighborhood once more
            del self.weights["cell"]
        predicted = [name for name, weight in self.weights.items() if weight > 0]
        self.agreed = self.config.pooled == "agreed"
        width = config.encoder.width
        self.heads = nn.ModuleDict(
            {name: nn.Identity() if self.agreed else losses.PooledHead(width) for name in predicted}
        )

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
        if self.config.token_weight > 0 and (len(queried) or n_processes() > 1):
            error = output.loss
            if len(queried):
                queries = repeated.select(queried)
                prediction = self.predictor(encoded, visible, queries, context.embedding)
                wanted = targets(queried)
                error = F.l1_loss(prediction.float(), wanted)
                output.predictions, output.targets, output.genes = prediction.detach(), wanted, queries.genes
            terms["token_loss"] = mean_over_processes(error, len(queried))
            output.loss = output.loss + self.config.token_weight * terms["token_loss"]
        if not self.training and self.config.target_view == "all":
            output.student = pool(encoded.float(), visible, "neighborhood")[: batch.n_sequences]
            output.teacher = pooled_targets["neighborhood"][: batch.n_sequences]
        pooled = self._add_pooled(output, encoded, visible, pooled_targets)
        if self.config.sigreg_weight > 0:
            n_projections = self.config.sigreg_projections
            terms["sigreg_loss"] = torch.stack([losses.sigreg(x, n_projections, generator) for x in pooled]).mean()
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
        read = set() if self.training else {"neighborhood"}  # by the monitor
        scales = {_POOLED_AS.get(name, name) for name in self.heads} | read
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
        return losses.pooled_loss(prediction, target), losses.mean_target_loss(target)

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
            term, of_mean = self._compared(gathered(head(pooled[scale])), gathered(targets))
            output.terms[f"{name}_loss"] = term
            output.ratios[name] = term.detach() / of_mean
            output.loss = output.loss + self.weights[name] * term
        vectors = [gathered(x) for x in pooled.values()] if also else []
        if not guarded:
            return vectors
        variance = torch.stack([losses.variance_loss(x) for x in vectors]).mean()
        covariance = torch.stack([losses.covariance_loss(x) for x in vectors]).mean()
        output.terms.update(variance_loss=variance, covariance_loss=covariance)
        output.loss = output.loss + self.config.variance_weight * variance + self.config.covariance_weight * covariance
        return vectors


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
        self.projector = losses.PooledHead(config.encoder.width)
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
        pooled = gathered(pooled, self.config.n_views)
        views = self.projector(losses.standardize_over_batch(pooled)).view(self.config.n_views, -1, pooled.shape[1])
        share = self.config.sigreg_share
        terms = {
            "invariance_loss": (views - views.mean(0)).square().mean(),
            "sigreg_loss": losses.sigreg(views, self.config.sigreg_projections, generator),
        }
        loss = (1 - share) * terms["invariance_loss"] + share * terms["sigreg_loss"]
        if self.adversary is not None:
            terms["technology_loss"] = self.adversary(pooled, gathered(batch.technologies).repeat(self.config.n_views))
            loss = loss + terms["technology_loss"]
        terms = {name: value.detach() for name, value in terms.items()}
        return ObjectiveOutput(loss=loss, terms=terms, ratios={"views": _views_ratio(views.detach())})


def _views_ratio(views: Tensor) -> Tensor:
    """Return the spread of views about their neighborhood's mean over that of views drawn from all neighborhoods."""
    n_views = len(views)
    within = (views - views.mean(0)).square().mean() * n_views / (n_views - 1)
    return within / (views - views.mean((0, 1))).square().mean()
