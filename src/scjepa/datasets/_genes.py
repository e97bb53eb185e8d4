"""The genes of a panel, and what else readers of instruments leave in ``var``: control probes and antibodies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scjepa._core.anndata import text_of
from scjepa._core.warn import warn
from scjepa.tokens.features import ANTIBODY, CONTROL, kinds_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

TYPES = ("feature_types", "feature_type")
"""Columns of ``var`` in which readers of 10x and Xenium outputs say what a feature is."""

_GENE = "Gene Expression"

_WORDS = {CONTROL: "control probes", ANTIBODY: "antibodies"}


def types_of(var: pd.DataFrame) -> pd.Series | None:
    """Return what each feature is said to be, ``None`` where nothing says so."""
    return next((var[key] for key in TYPES if key in var), None)


def no_genes(names: Sequence[str], types: pd.Series | None = None) -> dict[str, np.ndarray]:
    """Return which features are no genes, ``(n_vars,)`` bool by what they are; nothing where all may be genes.

    Parameters
    ----------
    names
        ``var_names``.
    types
        What :func:`types_of` gave. Where no feature is said to be a gene, as in a panel of proteins, names alone count.
    """
    told_apart = types is not None and bool((types == _GENE).any())
    said = text_of(types) if types is not None and told_apart else np.full(len(names), None, dtype=object)
    kinds = kinds_of(names, list(said))
    found = {words: kinds == kind for kind, words in _WORDS.items()}
    rest = ~np.any(list(found.values()), axis=0)
    for other in sorted({name for name in said[rest] if name not in (None, _GENE)}):
        found[f"{other!r}"] = rest & (said == other)
    return {what: which for what, which in found.items() if which.any()}


def told(names: Sequence[str], types: pd.Series | None = None) -> str | None:
    """Return the sentence about features that are no genes, and the call that leaves them out; ``None``: all are."""
    found = no_genes(names, types)
    if not found:
        return None
    parts = []
    for what, which in found.items():
        some = [str(names[i]) for i in np.flatnonzero(which)[:3]]
        parts.append(f"{which.sum():,} {what} ({', '.join(map(repr, some))}{', ...' if which.sum() > 3 else ''})")
    return (
        f"Among the {len(names):,} features are {' and '.join(parts)}, which count as genes. To leave them out: "
        "adata = scjepa.datasets.only_genes(adata)."
    )


def warn_of_no_genes(adata: AnnData) -> None:
    """Warn of features of ``adata`` that are no genes."""
    sentence = told(adata.var_names, types_of(adata.var))
    if sentence:
        warn(sentence)


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
