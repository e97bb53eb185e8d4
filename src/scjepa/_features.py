"""Features of a panel that are no genes: control probes, spike-ins and antibodies, by their names and kinds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scjepa._warn import warn

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("feature_types", "feature_type")
"""Columns of ``var`` in which readers of 10x and Xenium outputs say what a feature is."""

_GENE = "Gene Expression"

_BY_NAME: dict[str, re.Pattern[str]] = {
    "control probes": re.compile(
        r"neg(ative)?[ _.-]?(control|ctrl|probe|prb)|negative[ _.-]?\d|blank([ _.-]|\d|$)|falsecode|systemcontrol"
        r"|antisense_|(unassigned|deprecated)[ _.-]?codeword|intergenic[ _.-]?region|ercc-\d{5}",
        re.IGNORECASE,
    ),
    "antibodies": re.compile(r"(adt|hto|hashtag)([ _.-]|\d)|.*[ _.-]total(seq)?[_-]?[a-d]$", re.IGNORECASE),
}
"""What begins, or ends, like this is no gene. ``ERCC1``, ``NEGR1`` and ``HTRA1`` are genes."""


def kinds_of(var: pd.DataFrame) -> pd.Series | None:
    """Return what each feature is said to be, ``None`` where nothing says so."""
    return next((var[key] for key in KINDS if key in var), None)


def no_genes(names: Sequence[str], kinds: pd.Series | None = None) -> dict[str, np.ndarray]:
    """Return which features are no genes, ``(n_vars,)`` bool by what they are; nothing where all may be genes.

    Parameters
    ----------
    names
        ``var_names``.
    kinds
        What :func:`kinds_of` gave. Without a feature that is said to be a gene it says nothing.
    """
    text = np.array(list(map(str, names)), dtype=object)
    rest, found = np.ones(len(text), dtype=bool), dict[str, np.ndarray]()
    if kinds is not None and (kinds == _GENE).any():
        other = (kinds.notna() & (kinds != _GENE)).to_numpy(dtype=bool)
        for kind in dict.fromkeys(kinds[other].astype(str)):
            found[f"{kind!r} in var[{kinds.name!r}]"] = other & (kinds.astype(str) == kind).to_numpy(dtype=bool)
        rest = ~other
    for what, pattern in _BY_NAME.items():
        found[what] = rest & np.array([pattern.match(name) is not None for name in text], dtype=bool)
    return {what: which for what, which in found.items() if which.any()}


def told(names: Sequence[str], kinds: pd.Series | None = None) -> str | None:
    """Return the sentence about features that are no genes, and the call that leaves them out; ``None``: all are."""
    found = no_genes(names, kinds)
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


def warn_of_no_genes(adata: Any) -> None:
    """Warn of features of ``adata`` that are no genes."""
    sentence = told(adata.var_names, kinds_of(adata.var))
    if sentence:
        warn(sentence)
