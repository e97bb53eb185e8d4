"""How many of the L tokens of a cell there are genes for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._core.anndata import refuse_adata
from scjepa._core.counts import iter_rows

if TYPE_CHECKING:
    import pandas as pd

LENGTHS = (16, 32, 64, 128, 256, 512)


def expressed_genes(counts: Any) -> np.ndarray:
    """Return the number of genes that each cell expresses, ``(n_cells,)`` int64."""
    return np.concatenate([np.diff(rows.indptr).astype(np.int64) for _, rows in iter_rows(counts)])


def occupancy(counts: Any, groups: Any = None, *, lengths: Sequence[int] = LENGTHS) -> pd.DataFrame:
    """Return how far cells fill the L tokens that a configuration gives them.

    A longer L than cells express genes changes nothing: read an ablation of ``tokens.n_tokens`` beside this.

    Parameters
    ----------
    counts
        ``(n_cells, n_genes)``, sparse or dense.
    groups
        Group of each cell, such as its technology; ``None``: all cells are one, ``"all"``.
    lengths
        Values of ``tokens.n_tokens``.

    Returns
    -------
    pandas.DataFrame
        A row for each group and length: ``group``, ``n_tokens``, ``share_full`` (share of cells that express as many
        genes or more), ``mean_fill`` (mean share of the tokens that are there), ``median_genes`` (expressed by a cell)
        and ``n_cells``.

    Raises
    ------
    ValueError
        If a length is not positive or ``groups`` has another length.

    Examples
    --------
    >>> scjepa.benchmark.occupancy(adata.X, adata.obs["technology"])  # doctest: +SKIP
    """
    import pandas as pd

    refuse_adata(counts, "counts")
    expressed = expressed_genes(counts)
    named = np.full(len(expressed), "all") if groups is None else np.asarray(groups).astype(str)
    if len(named) != len(expressed):
        raise ValueError(f"groups has {len(named)} entries, counts {len(expressed)} cells.")
    if not all(length > 0 for length in lengths):
        raise ValueError(f"lengths must be positive, found {list(lengths)}.")
    rows = [
        {
            "group": group,
            "n_tokens": int(length),
            "share_full": float((own >= length).mean()),
            "mean_fill": float(np.minimum(own, length).mean() / length),
            "median_genes": float(np.median(own)),
            "n_cells": len(own),
        }
        for group in np.unique(named)
        for own in [expressed[named == group]]
        for length in lengths
    ]
    return pd.DataFrame(rows)
