"""Perturbed genes that conditions call otherwise than the data: another case, another version, symbols for ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import pandas as pd

from scjepa.tokens.vocabulary import plain_name

GeneNames: TypeAlias = "Sequence[str] | pd.Index | pd.Series | Mapping[str, str]"
"""What the data call the genes: their names; a Series from what conditions call them (its values) to that (its index);
or a mapping from the one to the other."""


def renamer(genes: GeneNames) -> Callable[[str], str]:
    """Return what turns a gene's name in conditions into its name in the data; a name that is not found stays.

    Names of the data stay as they are. Others are looked for as they are, then without regard to case and Ensembl
    version.

    Raises
    ------
    ValueError
        When it is called: if a name is that of several genes.
    """
    if isinstance(genes, Mapping):
        pairs = [(str(old), str(new)) for old, new in genes.items()]
    elif isinstance(genes, pd.Series):
        known = genes.dropna()
        pairs = list(zip(known.astype(str), known.index.astype(str), strict=True))
    else:
        pairs = [(str(name), str(name)) for name in genes]
    own = {new for _, new in pairs}
    exact: dict[str, set[str]] = {}
    alike: dict[str, set[str]] = {}
    for old, new in pairs:
        exact.setdefault(old, set()).add(new)
        alike.setdefault(plain_name(old), set()).add(new)

    def rename(name: str) -> str:
        if name in own:
            return name
        found = exact.get(name) or alike.get(plain_name(name)) or {name}
        if len(found) > 1:
            raise ValueError(
                f"{name!r} is the name of {len(found)} genes, {', '.join(map(repr, sorted(found)[:3]))}. Say which is "
                f"meant: genes={{{name!r}: ...}}."
            )
        return next(iter(found))

    return rename


def named_otherwise(
    outside: Sequence[str], measured: Sequence[str], call: str, names: str, var: pd.DataFrame | None = None
) -> str:
    """Return how perturbed genes that were not measured are called in the data, and the call that renames them.

    Parameters
    ----------
    outside
        Perturbed genes that are not among the measured ones.
    measured
        Measured genes.
    call
        The call, with ``{genes}`` for what it is to be told.
    names
        A Python expression that gives the measured genes, to be told.
    var
        ``adata.var``, whose columns may hold the other names; ``None``: there is none.

    Returns
    -------
    str
        A sentence, empty where no such reason is seen.
    """
    alike = {plain_name(name): name for name in measured}
    same = [(name, alike[plain_name(name)]) for name in outside if plain_name(name) in alike]
    columns = {} if var is None else {str(key): _plain_names(var[key]) for key in var}
    there = {key: [name for name in outside if plain_name(name) in names] for key, names in columns.items()}
    best = max(there, key=lambda key: len(there[key]), default=None)
    if best is not None and len(there[best]) > len(same):
        return (
            f"adata.var[{best!r}] has {len(there[best]):,} of them, {there[best][0]!r} for one. Take the data's names: "
            + call.format(genes=f"adata.var[{best!r}]")
        )
    if same:
        return (
            f"{len(same):,} of them are there by a name that differs in case or Ensembl version, such as "
            f"{same[0][0]!r} by {same[0][1]!r}. Take the data's names: " + call.format(genes=names)
        )
    ids = [sum(name.startswith("ENS") for name in names) > len(names) / 2 for names in (outside, measured)]
    if ids[0] != ids[1]:
        kinds = ("Ensembl ids", "gene symbols") if ids[0] else ("gene symbols", "Ensembl ids")
        return f"Conditions have {kinds[0]}, the data {kinds[1]}. Say which is which: " + call.format(
            genes=f"{{{outside[0]!r}: '(its name in the data)', ...}}"
        )
    return ""


def _plain_names(column: pd.Series) -> set[str]:
    return set(map(plain_name, column.dropna().astype(str)))
