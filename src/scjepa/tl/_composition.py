"""What niches are made of: cells of each type, section or other label."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.anndata import categories_of, niches_of
from scjepa._core.matching import contingency

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


class Composition(NamedTuple):
    """Cells of each niche by label: data frames with niches in rows, labels in columns.

    Attributes
    ----------
    counts
        Number of cells, int64.
    shares
        Share of the niche's cells, float64; every row sums to 1.
    """

    counts: pd.DataFrame
    shares: pd.DataFrame


def niche_composition(adata: AnnData, niche_key: str = _keys.NICHE, *, by: str = _keys.CELL_TYPE) -> Composition:
    """Count the cells of each niche by cell type, section or any other column.

    Swap the two columns for the reverse, such as the niches of each section:
    ``niche_composition(adata, "section", by="niche")``.

    Parameters
    ----------
    adata
        Annotated data; nothing is written to it.
    niche_key
        Column of ``adata.obs`` with niches. Cells without a niche are left out.
    by
        Column of ``adata.obs`` with labels. Cells without a label (NaN or ``"unlabelled"``) are counted in a last
        column ``"unlabelled"``, which is there only if it is needed.

    Returns
    -------
    Composition
        ``counts`` and ``shares``. Niches and labels stand in the order of their categories; labels without any cell
        are left out.

    Raises
    ------
    KeyError
        If a column is not there.
    ValueError
        If no cell has a niche.

    Examples
    --------
    >>> counts, shares = scjepa.tl.niche_composition(adata, by="cell_type")
    """
    import pandas as pd

    found, labels = niches_of(adata, niche_key), categories_of(adata, by)
    names = [*labels.categories, _keys.UNLABELLED[0]]
    codes = np.where(labels.codes < 0, len(names) - 1, labels.codes)
    counts = pd.DataFrame(
        contingency(found.codes, codes, (len(found.categories), len(names))),
        index=pd.Index(found.categories, name=niche_key),
        columns=pd.Index(names, name=by),
    )
    counts = counts.loc[:, (counts > 0).any()]
    return Composition(counts, counts.div(counts.sum(axis=1), axis=0))
