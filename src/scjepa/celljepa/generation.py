"""Generating values of genes from known ones, a share at a time (the baseline's inference, the paper's Appendix C)."""

from __future__ import annotations

import torch
from torch import Tensor

from scjepa.celljepa.batch import CellBatch
from scjepa.celljepa.encoder import CellEncoder
from scjepa.celljepa.objective import CellObjective
from scjepa.nn.groups import rank_in_group
from scjepa.nn.precision import float32_default


@torch.inference_mode()
@float32_default()
def generate(
    encoder: CellEncoder, objective: CellObjective, batch: CellBatch, unknown: Tensor, n_iterations: int = 4
) -> Tensor:
    """Predict the values of unknown genes; after each iteration the surest of them count as known.

    An iteration predicts each unknown gene twice: from the known genes (gene prompt), and from the cell's embedding
    alone (cell prompt). The nearer the two, the surer the prediction. Of the genes that are left, an equal share of
    each cell's becomes known in each iteration, with the gene prompt's prediction, rounded to a bin, as value.

    Parameters
    ----------
    encoder
        The encoder.
    objective
        Its heads; trained with ``reconstruction_weight`` and, for the cell prompt to mean something, with
        ``cell_prompt_weight``.
    batch
        Known and unknown genes of each cell, each once; the values of unknown ones are not read.
    unknown
        ``(T,)`` bool.
    n_iterations
        1: all at once.

    Returns
    -------
    Tensor
        ``(T,)`` bins: what was predicted where unknown, not rounded, and what was given elsewhere.
    """
    if "value" not in objective.heads:
        raise ValueError("The model has no head that predicts values: train it with reconstruction_weight > 0.")
    head = objective.heads["value"]
    highest = encoder.embedding.highest
    left, given = unknown.clone(), batch.values.masked_fill(unknown, 0.0)
    result = given.clone()
    for remaining in range(n_iterations, 0, -1):
        if not left.any():
            break
        current = CellBatch(batch.genes, given, batch.sequences, batch.labels)
        cells, tokens = encoder(current, left)
        predicted = head(tokens).clamp(0, highest)
        result[left] = predicted
        if remaining == 1:
            break
        prompted = head(encoder(current, torch.ones_like(left), cells)[1]).clamp(0, highest)
        rows = batch.sequences[left]
        sizes = torch.bincount(rows, minlength=batch.n_sequences)
        n_known = torch.ceil(sizes / remaining).long()
        sure = rank_in_group(rows, (predicted - prompted[left]).abs()) < n_known[rows]
        places = left.nonzero()[:, 0][sure]
        given[places] = predicted[sure].round()
        left[places] = False
    return result


def with_unknown(batch: CellBatch, genes: Tensor) -> tuple[CellBatch, Tensor]:
    """Return ``batch`` with ``genes`` unknown in each cell, whether the cell expresses them or not.

    Parameters
    ----------
    batch
        The cells.
    genes
        ``(G,)`` distinct vocabulary ids.

    Returns
    -------
    tuple
        The cells' other genes and, behind them in each cell, ``genes`` in their order; and ``(T,)`` bool, true at the
        latter.
    """
    n, device = batch.n_sequences, batch.genes.device
    known = batch.select(~torch.isin(batch.genes, genes))
    rows = torch.arange(n, device=device).repeat_interleave(len(genes))
    order = torch.argsort(torch.cat([known.sequences, rows]), stable=True)
    unknown = torch.cat([torch.zeros_like(known.genes, dtype=torch.bool), torch.ones_like(rows, dtype=torch.bool)])
    joined = CellBatch(
        genes=torch.cat([known.genes, genes.repeat(n)])[order],
        values=torch.cat([known.values, torch.zeros_like(rows, dtype=known.values.dtype)])[order],
        sequences=torch.cat([known.sequences, rows])[order],
        labels=batch.labels,
    )
    return joined, unknown[order]
