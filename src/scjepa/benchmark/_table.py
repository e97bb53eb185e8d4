"""Tables of scores: embeddings by name, one row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scjepa._core.anndata import refuse_adata
from scjepa.metrics import clustering_scores
from scjepa.tl import standardize


def score_table(
    embeddings: Mapping[str, np.ndarray],
    labels: Any,
    *,
    sections: Any = None,
    seeds: Sequence[int] = (0, 1, 2),
    **options: Any,
) -> pd.DataFrame:
    """Score embeddings by their Leiden clusters' agreement with labels, all with the same read-out.

    Parameters
    ----------
    embeddings
        ``(n_cells, n_dims)`` arrays by name.
    labels
        Known label of each cell.
    sections
        Section of each cell: embeddings are then z-scored within sections and reduced to 30 components
        (:func:`scjepa.tl.readout`). Default: embeddings as they are.
    seeds
        Seeds of Leiden.
    **options
        Those of :func:`scjepa.metrics.clustering_scores`, such as ``resolutions``.

    Returns
    -------
    pandas.DataFrame
        One row for each embedding, in the order given: ``nmi`` and ``ari`` (means over resolutions and seeds), and
        ``nmi_matched`` and ``ari_matched`` (at the number of clusters that equals the number of labels).
    """
    refuse_adata(embeddings, "embeddings")
    refuse_adata(labels, "labels")
    rows = {}
    for name, embedding in embeddings.items():
        shown = embedding if sections is None else standardize(embedding, groups=sections)
        scores = clustering_scores(shown, labels, seeds=seeds, **options)
        means = scores.groupby("matched")[["nmi", "ari"]].mean()
        rows[name] = {
            **means.loc[False].to_dict(),
            **{f"{key}_matched": value for key, value in means.loc[True].items()},
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
