"""Heads and terms of Cell-JEPA's objectives: values read off vectors, distances from the teacher, and contrasts.

A contrast (the ECS term) is the paper's supervised one or one of scGPT's two forms. Each takes embeddings
``(n, width)``, label codes ``(n,)`` with -1 for none, and the options, and returns a scalar that is 0 where there is no
pair to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scjepa._core.options import Registry
from scjepa.celljepa.config import CellObjectiveConfig
from scjepa.nn.losses import covariance_loss, standardize_over_batch, variance_loss
from scjepa.nn.objective import ADVICE, SHORTER, SLOWER_OR_EMA, TOKENS, Advice, Objective, ObjectiveOutput


class ValueHead(nn.Module):
    """A hidden gene's value from its token: an MLP of three layers.

    Parameters
    ----------
    width
        Token width.
    highest
        The highest bin. The MLP is asked for shares of it, the head gives bins.
    """

    def __init__(self, width: int, highest: int):
        super().__init__()
        self.highest = highest
        first, second, last = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 1)
        nn.init.constant_(last.bias, 0.5)  # begin at the middle bin, not at zero
        self.mlp = nn.Sequential(first, nn.GELU(), second, nn.GELU(), last)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return bins, ``(tokens,)`` float32."""
        return self.highest * self.mlp(tokens)[:, 0].float()


class CellValueHead(nn.Module):
    """A gene's value from its cell's vector: (W σ(Linear(gene))) · cell (scGPT's MVC, the paper's GEPC).

    Parameters
    ----------
    width
        Width of gene and cell vectors.
    highest
        The highest bin.
    """

    def __init__(self, width: int, highest: int):
        super().__init__()
        self.highest = highest
        self.query = nn.Linear(width, width)
        self.weight = nn.Linear(width, width, bias=False)

    def forward(self, genes: Tensor, cells: Tensor) -> Tensor:
        """Return bins, ``(tokens,)`` float32, of gene and cell vectors ``(tokens, width)``."""
        # Divided by the root of the width, so that the first predictions do not grow with it.
        product = (self.weight(torch.sigmoid(self.query(genes))) * cells).sum(1) / cells.shape[1] ** 0.5
        return self.highest * product.float()


def as_target(vectors: Tensor, config: CellObjectiveConfig) -> Tensor:
    """Return the teacher's vectors as ``config.target_norm`` has them compared, float32; cells come first."""
    vectors = vectors.float()
    return standardize_over_batch(vectors) if config.target_norm == "batch" else vectors


def cosine_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean over cells of 1 - cosine, for vectors ``(B, width)``."""
    return (1 - F.cosine_similarity(prediction, target, dim=1)).mean()


JEPA_DISTANCES: Registry[Callable[[Tensor, Tensor], Tensor]] = Registry(
    "distance", {"cosine": cosine_distance, "squared": F.mse_loss}
)
"""Distances of predictions from the teacher's vectors, both ``(B, width)``, by name."""


def _cosines(x: Tensor, self_pairs: bool) -> tuple[Tensor, Tensor]:
    """Return all cosines ``(n, n)`` and which of them count."""
    unit = F.normalize(x.float(), dim=1)
    counts = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device)
    return unit @ unit.T, counts if self_pairs else counts.fill_diagonal_(False)


def supervised(x: Tensor, labels: Tensor, config: CellObjectiveConfig) -> Tensor:
    """Supervised contrast: pull cells of one label together, push all others away (the paper's).

    The mean, over cells with a positive, of the mean over positives p of -log(exp(cos_p / temperature) / sum over all
    others a of exp(cos_a / temperature)). Cells without a label take no part.
    """
    x, labels = x[labels >= 0], labels[labels >= 0]
    cosines, counts = _cosines(x, config.self_pairs)
    positive = (labels[:, None] == labels[None, :]) & counts
    anchors = positive.any(1)
    if not anchors.any():
        return x.sum() * 0.0
    log_share = F.log_softmax((cosines / config.temperature).masked_fill(~counts, float("-inf")), dim=1)
    total = log_share.masked_fill(~positive, 0.0).sum(1)[anchors]
    return -(total / positive.sum(1)[anchors]).mean()


def original(x: Tensor, labels: Tensor, config: CellObjectiveConfig) -> Tensor:
    """Mean over pairs of (cosine - similarity)²: no pair is to be far from that similarity (as scGPT prints it)."""
    cosines, counts = _cosines(x, config.self_pairs)
    return (cosines[counts] - config.similarity).square().mean() if counts.any() else x.sum() * 0.0


def scgpt(x: Tensor, labels: Tensor, config: CellObjectiveConfig) -> Tensor:
    """Mean over pairs of 1 - (relu(cosine) - similarity)²: pairs are driven away from it (as scGPT's code has it)."""
    cosines, counts = _cosines(x, config.self_pairs)
    return (1 - (F.relu(cosines[counts]) - config.similarity).square()).mean() if counts.any() else x.sum() * 0.0


CONTRASTS: Registry[Callable[[Tensor, Tensor, CellObjectiveConfig], Tensor]] = Registry(
    "contrast", {"supervised": supervised, "original": original, "scgpt": scgpt}
)
"""Forms of the ECS term by name."""


def contrast(x: Tensor, labels: Tensor, config: CellObjectiveConfig) -> Tensor:
    """Return the ECS term in the form that ``config.contrast`` names."""
    return CONTRASTS[config.contrast](x, labels, config)


def guards(cells: Tensor, config: CellObjectiveConfig) -> dict[str, Tensor]:
    """Return the guards against collapse that have a weight, by name."""
    terms = {}
    if config.variance_weight > 0:
        terms["variance"] = variance_loss(cells)
    if config.covariance_weight > 0:
        terms["covariance"] = covariance_loss(cells)
    return terms


def add_weighted(output: ObjectiveOutput, terms: Mapping[str, Tensor], config: CellObjectiveConfig) -> None:
    """Add terms to the output's loss, each with the weight that is named after it."""
    for name, term in terms.items():
        output.loss = output.loss + getattr(config, f"{name}_weight") * term
        output.terms[f"{name}_loss"] = term.detach()


_GUARDS = Advice(
    "turn on the guards, or raise them, up to the size of what they guard: objective={'variance_weight': ..., "
    "'covariance_weight': ...}; model.config.objective has the weights of this run"
)


class ObjectiveOfCells(Objective):
    """Base of the objectives of dissociated cells: their presets have guards of other sizes, and no SIGReg."""

    ratios: ClassVar = {"loss": TOKENS}
    advice: ClassVar = {
        **ADVICE,
        "collapsed": (
            _GUARDS,
            SLOWER_OR_EMA,
            Advice("masking={'ratio': 0.5}: a low mask ratio makes the task too easy", (("masking", "ratio", 0.5),)),
        ),
        "shrinking": (_GUARDS, SHORTER),
    }
