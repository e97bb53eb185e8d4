"""The ECS term on cell embeddings: the paper's supervised contrast, and the two forms of scGPT.

Each takes embeddings ``(n, width)``, label codes ``(n,)`` with -1 for none, and the options, and returns a scalar that
is 0 where there is no pair to look at.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from scjepa._core.options import unknown_name
from scjepa.celljepa.config import CellObjectiveConfig


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


CONTRASTS: dict[str, Callable[[Tensor, Tensor, CellObjectiveConfig], Tensor]] = {
    "supervised": supervised,
    "original": original,
    "scgpt": scgpt,
}
"""Forms of the ECS term by name."""


def contrast(x: Tensor, labels: Tensor, config: CellObjectiveConfig) -> Tensor:
    """Return the ECS term in the form that ``config.contrast`` names."""
    if config.contrast not in CONTRASTS:
        raise ValueError(unknown_name("contrast", config.contrast, CONTRASTS))
    return CONTRASTS[config.contrast](x, labels, config)
