"""The genes of a panel, without what else readers of instruments leave in ``var``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scjepa._features import no_genes, types_of

if TYPE_CHECKING:
    from anndata import AnnData


def only_genes(adata: AnnData) -> AnnData:
    """Return the cells with the features that are genes: without control probes, spike-ins and antibodies.

    Probes that match nothing (``NegPrb``, ``NegControlProbe_``, ``BLANK_``, ``Blank-``, ``FalseCode``, ...) are there
    to measure noise, and counts of antibodies are far above those of genes: as tokens either would take the place of
    genes.

    Parameters
    ----------
    adata
        Cells × features; it is not changed.

    Returns
    -------
    AnnData
        A copy of those features that ``var["feature_types"]`` (or ``"feature_type"``), where it is there, calls
        ``"Gene Expression"`` and whose names are not those of control probes, spike-ins or antibodies.

    Raises
    ------
    ValueError
        If no feature is left.

    Examples
    --------
    >>> adata = scjepa.datasets.only_genes(adata)
    """
    others = no_genes(adata.var_names, types_of(adata.var)).values()
    kept = ~np.any([np.zeros(adata.n_vars, dtype=bool), *others], axis=0)
    if not kept.any():
        raise ValueError(f"None of the {adata.n_vars:,} features is a gene, such as {str(adata.var_names[0])!r}.")
    return adata[:, kept].copy()
