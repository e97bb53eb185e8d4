"""What every objective returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class ObjectiveOutput:
    """The loss of a batch and what it is made of.

    Attributes
    ----------
    loss
        Scalar to differentiate.
    terms
        Detached scalars by name: the unweighted terms of the loss.
    ratios
        Detached scalars by name: pooled objectives over the loss of predicting the mean target of the batch.
    predictions, targets, genes
        At the queried masked tokens: ``(Q, width)``, ``(Q, width)`` and ``(Q,)`` vocabulary ids, detached; for the
        monitor, which compares the loss with that of the mean target of each gene.
    """

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    ratios: dict[str, Tensor] = field(default_factory=dict)
    predictions: Tensor | None = None
    targets: Tensor | None = None
    genes: Tensor | None = None
