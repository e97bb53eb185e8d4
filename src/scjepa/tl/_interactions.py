"""Which niches touch: squidpy's neighborhood enrichment, and the shares it is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.anndata import groups_of, niches_of, record, refuse_users
from scjepa._core.graph import section_key_of, spatial_graph_of
from scjepa._core.matching import border_shares
from scjepa._core.squidpy import squidpy

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


class Interactions(NamedTuple):
    """How often cells of one niche are neighbors of cells of another: data frames, niches in rows and columns.

    Attributes
    ----------
    z_scores
        Standard deviations by which ``counts`` exceeds its mean over shuffled niches (squidpy's ``zscore``); NaN
        where shuffling never changes the count. It grows with the number of cells.
    counts
        Edges of the spatial graph from cells of the row's niche to cells of the column's.
    shares
        ``counts`` as shares of the edges that leave the row's niche, its own left out: the sides on which it borders
        others. A row sums to 1, or is NaN where a niche touches no other.
    """

    z_scores: pd.DataFrame
    counts: pd.DataFrame
    shares: pd.DataFrame


def niche_interactions(
    adata: AnnData,
    niche_key: str = _keys.NICHE,
    *,
    neighbors_key: str = _keys.SPATIAL,
    library_key: str | None = None,
    n_permutations: int = 1000,
    random_state: int = 0,
) -> Interactions:
    """Tell which niches lie side by side, by :func:`squidpy.gr.nhood_enrichment`.

    Niches are patches of tissue, so that they touch themselves most and nearly all others less than shuffled cells
    would; the ``shares`` tell which borders a niche has.

    Parameters
    ----------
    adata
        Annotated data with niches and squidpy's spatial graph.
    niche_key
        Column of ``adata.obs`` with niches. Cells without a niche are left out.
    neighbors_key
        squidpy's ``key_added``: the graph is ``obsp[f"{neighbors_key}_connectivities"]``.
    library_key
        Column of ``adata.obs`` that tells sections apart: niches are shuffled within each. ``None``: ``"section"`` if
        there is such a column, else all cells are one section.
    n_permutations
        Times to shuffle.
    random_state
        Seed of the shuffling.

    Returns
    -------
    Interactions
        ``z_scores``, ``counts`` and ``shares``. Also written, so that ``squidpy.pl.nhood_enrichment`` can draw it:
        ``adata.uns[f"{niche_key}_nhood_enrichment"]``, with a note in ``adata.uns["scjepa"]``.

    Raises
    ------
    KeyError
        If the niches, the graph or ``library_key`` are not there.
    ValueError
        If there are fewer than two niches, an edge joins two sections, or ``uns`` has an enrichment that scjepa did
        not write.
    """
    import pandas as pd
    from anndata import AnnData

    key = _keys.as_key(f"{niche_key}{_keys.ENRICHMENT_SUFFIX}")
    refuse_users(adata, "uns", key)
    found = niches_of(adata, niche_key)
    names = found.categories
    if len(names) < 2:
        raise ValueError(f"adata.obs[{niche_key!r}] has one niche, {names[0]!r}; two or more are needed.")
    if n_permutations < 2:
        raise ValueError(f"n_permutations must be 2 or more, found {n_permutations}.")
    section_key = section_key_of(adata, library_key)
    graph = spatial_graph_of(adata, neighbors_key, library_key)
    sections = groups_of(adata, section_key)
    rows = np.flatnonzero(found.codes >= 0)
    holder = AnnData(
        obs=pd.DataFrame(
            {
                "niche": found[rows],
                "section": pd.Categorical(np.zeros(len(rows)) if sections is None else sections[rows]),
            },
            index=adata.obs_names[rows],
        ),
        obsp={"spatial_connectivities": graph[rows][:, rows]},
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        result = squidpy().gr.nhood_enrichment(
            holder,
            "niche",
            library_key="section",
            n_perms=n_permutations,
            seed=random_state,
            copy=True,
            n_jobs=1,
            show_progress_bar=False,
        )
    z_scores = np.where(np.isfinite(result.zscore), result.zscore, np.nan)
    counts = np.asarray(result.counts).astype(np.int64)
    adata.uns[key] = {"zscore": z_scores, "count": counts}
    record(
        adata,
        key,
        slot="uns",
        niches=list(names),
        neighbors_key=neighbors_key,
        library_key=section_key,
        n_permutations=n_permutations,
        random_state=random_state,
    )
    shares = border_shares(counts)
    return Interactions(*(_square(values, names, niche_key) for values in (z_scores, counts, shares)))


def _square(values: np.ndarray, names: pd.Index, niche_key: str) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(values, index=pd.Index(names, name=niche_key), columns=pd.Index(names, name=niche_key))
