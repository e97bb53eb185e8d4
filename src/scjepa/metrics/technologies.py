"""Scores by technology, weighted by cells, as the paper's tables give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scjepa._core.keys import UNLABELLED
from scjepa.metrics.clustering import clustering_scores

if TYPE_CHECKING:
    import pandas as pd

_SCORES = ("nmi", "ari")


def weighted_scores(
    embeddings: Any,
    labels: Any,
    technologies: Any,
    *,
    resolutions: Sequence[float] = (0.6, 0.8, 1.0, 1.2, 1.4),
    n_neighbors: int = 15,
    seeds: Sequence[int] = (0,),
    ignore: str | Sequence[Any] = UNLABELLED,
) -> pd.DataFrame:
    """Score joint clusters within each technology, and weight by its labelled cells (the paper's weighted NMI, ARI).

    All cells are clustered together (:func:`clustering_scores`); NMI and ARI are those of each technology's cells. How
    far a score moves is told for each cause apart: a spread over resolutions is no spread over seeds.

    Parameters
    ----------
    embeddings
        Array of shape (n_cells, n_dims), or a list of such arrays, one for each seed of the model.
    labels
        Known label of each cell.
    technologies
        Technology (or section) of each cell.
    resolutions
        Leiden's resolutions.
    n_neighbors
        Neighbors of each cell in the graph, itself included.
    seeds
        Seeds of Leiden.
    ignore
        Labels that mean "no label"; cells with them or NaN are clustered and not scored.

    Returns
    -------
    pandas.DataFrame
        One row for each technology that has labelled cells, and the row ``"weighted"``: their mean weighted by
        ``n_cells`` (labelled cells). ``nmi`` and ``ari`` are means over embeddings, Leiden's seeds and resolutions.
        ``nmi_std_resolutions``, ``nmi_std_seeds`` and ``nmi_std_leiden`` (likewise for ``ari``) are the standard
        deviations (n - 1) over resolutions, over embeddings and over Leiden's seeds of the means over the other two;
        NaN where there is one only.

    Raises
    ------
    ValueError
        As :func:`clustering_scores`; also if no embedding is given or a technology is called ``"weighted"``.
    """
    import pandas as pd

    given = [embeddings] if hasattr(embeddings, "shape") else list(embeddings)
    if not given:
        raise ValueError("embeddings is empty: give an array of shape (n_cells, n_dims), or a list of such arrays.")
    options: dict[str, Any] = {"resolutions": resolutions, "n_neighbors": n_neighbors, "seeds": seeds, "ignore": ignore}
    rows = pd.concat(
        [
            clustering_scores(embedding, labels, groups=technologies, matched=False, **options).assign(embedding=i)
            for i, embedding in enumerate(given)
        ],
        ignore_index=True,
    )
    if (rows["group"] == "weighted").any():
        raise ValueError("A technology is called 'weighted', which is the name of the mean's row. Rename it.")
    return _with_spread(pd.concat([rows, _weighted(rows)], ignore_index=True))


def _weighted(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of the technologies, weighted by cells, for each clustering."""
    shares = rows["n_cells"] / rows.groupby(["embedding", "seed", "resolution"])["n_cells"].transform("sum")
    parts = rows[list(_SCORES)].mul(shares, axis=0).assign(**rows[["embedding", "seed", "resolution", "n_cells"]])
    return parts.groupby(["embedding", "seed", "resolution"], as_index=False).sum().assign(group="weighted")


def _with_spread(rows: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    spread = {"resolutions": "resolution", "seeds": "embedding", "leiden": "seed"}
    groups = rows.groupby("group", sort=False)
    table = {"n_cells": groups["n_cells"].first()}
    for score in _SCORES:
        table[score] = groups[score].mean()
        for name, column in spread.items():
            means = rows.groupby(["group", column], sort=False)[score].mean()
            table[f"{score}_std_{name}"] = means.groupby("group", sort=False).std()
    return pd.DataFrame(table).rename_axis("technology")
