"""Two columns of niches side by side: how many cells they share, and which niche is which."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scjepa._core.anndata import niches_of
from scjepa._core.matching import best_matching, contingency

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


class NicheComparison(NamedTuple):
    """Two columns of niches compared.

    Attributes
    ----------
    counts
        Cells in each pair of niches: a data frame with the niches of ``a`` in rows, those of ``b`` in columns.
    matching
        The one-to-one matching that shares most cells, one row for each niche of ``a``: ``a``; ``b``, its partner
        (NaN where it has none); ``shared``, cells of both; ``of_a`` and ``of_b``, their share of the one and of the
        other; ``jaccard``, their share of the cells of either.
    agreement
        Share of the cells that lie in matched niches.
    nmi, ari
        Normalized mutual information and adjusted Rand index, which need no matching.
    n_cells
        Cells that have a niche in both columns; the others are left out.
    """

    counts: pd.DataFrame
    matching: pd.DataFrame
    agreement: float
    nmi: float
    ari: float
    n_cells: int


def compare_niches(adata: AnnData, a: str, b: str) -> NicheComparison:
    """Compare two columns of niches, such as those of two models, two seeds, or niches and annotated regions.

    Parameters
    ----------
    adata
        Annotated data; nothing is written to it.
    a, b
        Columns of ``adata.obs``. Cells without a value (NaN or ``"unlabelled"``) in either are left out.

    Returns
    -------
    NicheComparison
        ``counts``, ``matching``, ``agreement``, ``nmi``, ``ari`` and ``n_cells``.

    Raises
    ------
    KeyError
        If a column is not there.
    ValueError
        If no cell has a niche in both.

    Examples
    --------
    >>> scjepa.tl.niches(adata, key_added="niche_seed1", random_state=1)
    >>> scjepa.tl.compare_niches(adata, "niche", "niche_seed1").matching
    """
    import pandas as pd
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    first, second = niches_of(adata, a), niches_of(adata, b)
    both = (first.codes >= 0) & (second.codes >= 0)
    if not both.any():
        raise ValueError(f"No cell has a niche in both adata.obs[{a!r}] and adata.obs[{b!r}].")
    first, second = first[both].remove_unused_categories(), second[both].remove_unused_categories()
    counts = contingency(first.codes, second.codes, (len(first.categories), len(second.categories)))
    pairs = [pd.factorize(niches)[0] for niches in (first, second)]  # in the order of the cells, as in metrics
    return NicheComparison(
        counts=pd.DataFrame(
            counts, index=pd.Index(first.categories, name=a), columns=pd.Index(second.categories, name=b)
        ),
        matching=_matching_table(counts, first.categories, second.categories),
        agreement=float(sum(counts[pair] for pair in best_matching(counts).items()) / counts.sum()),
        nmi=float(normalized_mutual_info_score(*pairs)),
        ari=float(adjusted_rand_score(*pairs)),
        n_cells=int(both.sum()),
    )


def _matching_table(counts: np.ndarray, rows: pd.Index, columns: pd.Index) -> pd.DataFrame:
    import pandas as pd

    partner = best_matching(counts)
    in_row, in_column = counts.sum(axis=1), counts.sum(axis=0)
    table = []
    for row, name in enumerate(rows):
        column = partner.get(row)
        shared = 0 if column is None else counts[row, column]
        other = 0 if column is None else in_column[column]
        table.append(
            {
                "a": name,
                "b": np.nan if column is None else columns[column],
                "shared": shared,
                "of_a": shared / in_row[row],
                "of_b": shared / other if other else np.nan,
                "jaccard": shared / (in_row[row] + other - shared),
            }
        )
    return pd.DataFrame(table)
