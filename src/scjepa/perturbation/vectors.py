"""Vectors of genes from what is known of them, for perturbed genes that no data measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd


def gene_set_vectors(sets: Mapping[str, Iterable[str]], genes: Iterable[str]) -> pd.DataFrame:
    """Return vectors of genes by the gene sets that have them, for ``PerturbationStack().fit(..., vectors=...)``.

    Genes of the same pathways tend to do alike when they are perturbed. A set counts by the logarithm of how rare it
    is, log(genes in any set / genes in the set).

    Parameters
    ----------
    sets
        Genes by the name of the set, such as :func:`scjepa.datasets.read_gmt` reads them.
    genes
        Perturbed genes, of training and of conditions to predict. Those in no set are like no other.

    Returns
    -------
    pandas.DataFrame
        Genes × sets that have at least one of them.

    Raises
    ------
    ValueError
        If no gene is in a set.
    """
    wanted = list(dict.fromkeys(map(str, genes)))
    members = {name: set(map(str, each)) for name, each in sets.items()}
    known = set().union(*members.values()) if members else set()
    if not known.intersection(wanted):
        of_sets = ", ".join(map(repr, sorted(known)[:3])) or "none"
        raise ValueError(
            f"None of {len(wanted)} genes, first {wanted[0] if wanted else None!r}, is in one of {len(members)} sets, "
            f"which name {of_sets}. Take sets that call genes as conditions do: symbols or Ensembl ids, of one species."
        )
    found = {
        name: np.array([gene in each for gene in wanted]) * np.log(len(known) / len(each))
        for name, each in members.items()
        if each.intersection(wanted)
    }
    return pd.DataFrame(found, index=wanted, dtype=np.float64)
