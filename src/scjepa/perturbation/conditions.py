"""Conditions as GEARS writes them: ``"ctrl"``, ``"A+ctrl"`` (or ``"A"``), ``"A+B"``; others are named and converted."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from scjepa._core.anndata import column_of, means_none, refuse_adata, require_anndata
from scjepa._core.keys import UNLABELLED
from scjepa.perturbation.names import GeneNames, renamer

CONTROL = "ctrl"
"""How a cell that was not perturbed is called."""

_CONTROL_WORDS = frozenset(
    "control controls ctl ctr non-targeting nontargeting non_targeting nt ntc neg negctrl negative safe-targeting "
    "scramble scrambled unperturbed untreated vehicle dmso wt mock none nan".split()
)
"""Other words for control, in lower case."""

_SEPARATORS = re.compile(r"[|;,&/:_\s]")
"""What other grammars put between genes. A dot or a hyphen is no sign of one: genes are called HLA-A and RP11-34.1."""

_CALL = "scjepa.perturbation.convert_conditions(adata.obs[{key!r}]{options})"


def parse_condition(text: str, known_genes: Collection[str] = (), key: str = "condition") -> tuple[str, ...]:
    """Return the perturbed genes of a condition in the grammar of GEARS.

    Parameters
    ----------
    text
        ``"ctrl"``, ``"A"``, ``"A+ctrl"``, ``"ctrl+A"`` or ``"A+B"`` (more genes too).
    known_genes
        Names that are genes though they look like another grammar, such as ``"A_B"``.
    key
        Column of ``obs`` to name in errors.

    Returns
    -------
    tuple
        Distinct genes, sorted, for ``"A+B"`` and ``"B+A"`` are one condition; empty for control.

    Raises
    ------
    ValueError
        If the condition is written in another grammar; the message has the call that converts it.
    """
    parts = str(text).split("+")
    genes = [part for part in parts if part != CONTROL]
    if any(not part.strip() for part in parts):
        raise ValueError(f"The condition {text!r} has an empty part. A condition is 'ctrl', 'A+ctrl' or 'A+B'.")
    for gene in genes:
        if gene not in known_genes:
            _refuse_other_grammars(text, gene, key)
    if len(parts) - len(genes) > 1 or (len(genes) > 1 and len(genes) < len(parts)):
        raise ValueError(f"The condition {text!r} names 'ctrl' beside more than one part. Write 'A+ctrl' or 'A+B'.")
    if len(set(genes)) < len(genes):
        raise ValueError(f"The condition {text!r} names a gene twice. Write '{genes[0]}+ctrl'.")
    return tuple(sorted(genes))


def _refuse_other_grammars(text: str, part: str, key: str) -> None:
    found = _SEPARATORS.search(part.strip())
    if part.strip() != part and found is None:
        word = f", control={part.strip()!r}" if part.strip().lower() in _CONTROL_WORDS else ""
        options, what = f", separator='+'{word}", "genes with spaces around them"
    elif part.lower() in _CONTROL_WORDS:
        options, what = f", control={part!r}", "another word for control"
    elif found is not None:
        options, what = f", separator={found[0]!r}, control='...'", f"genes separated by {found[0]!r}"
    else:
        return
    call = _CALL.format(key=key, options=options)
    raise ValueError(
        f"The condition {text!r} is not in the grammar of GEARS ('ctrl', 'A+ctrl', 'A+B'): it looks like {what}. "
        f"Convert the column first: adata.obs[{key!r}] = {call}."
    )


def condition_name(genes: Iterable[str]) -> str:
    """Return the one name of the condition in which ``genes`` are perturbed: ``"ctrl"``, ``"A+ctrl"``, ``"A+B"``."""
    names = sorted(genes)
    if len(names) > 1:
        return "+".join(names)
    return f"{names[0]}+{CONTROL}" if names else CONTROL


def convert_conditions(
    values: pd.Series,
    *,
    control: str | Sequence[str] | None = None,
    separator: str | None = None,
    genes: GeneNames | None = None,
) -> pd.Series:
    """Write conditions in the grammar of GEARS, and perturbed genes as the data call them.

    Parameters
    ----------
    values
        Each cell's condition, such as ``adata.obs["perturbation"]``.
    control
        What stands for control, alone or beside a gene: ``"non-targeting"``, or several such words. A word may hold the
        separator. Default: ``"ctrl"``.
    separator
        What stands between genes; spaces around it do not count. Default: ``"+"``.
    genes
        What the data call the genes, where conditions call them otherwise. Names, such as ``adata.var_names``: those
        that differ in case or in the version of an Ensembl id only become these. A Series whose index has the data's
        names and whose values those of the conditions, such as ``adata.var["gene_symbols"]``; or a mapping from the
        latter to the former. A gene that is not found keeps its name. Default: all keep theirs.

    Returns
    -------
    pandas.Series
        Categorical: ``"ctrl"``, ``"A+ctrl"``, ``"A+B"`` (genes sorted), with the index of ``values``.

    Raises
    ------
    ValueError
        If cells have no condition, a condition has an empty part, the word for control does not occur, or a name is
        that of several genes.
    TypeError
        If ``values`` is AnnData.

    Examples
    --------
    >>> adata.obs["condition"] = scjepa.perturbation.convert_conditions(
    ...     adata.obs["guides"], separator="_", control=["NT", "NegCtrl0"]
    ... )

    Where ``var_names`` has Ensembl ids, and conditions have symbols:

    >>> adata.obs["condition"] = scjepa.perturbation.convert_conditions(
    ...     adata.obs["condition"], genes=adata.var["gene_symbols"]
    ... )
    """
    refuse_adata(values, "values")
    words = {CONTROL, *([control] if isinstance(control, str) else control or ())}
    values = pd.Series(values)
    _refuse_missing(values, str(values.name), words)
    distinct = [str(value) for value in values.unique()]
    split = {value: _parts(value, separator or "+", words) for value in distinct}
    named = {value: [part for part in parts if part not in words] for value, parts in split.items()}
    if control is not None and not any(part in words for parts in split.values() for part in parts):
        raise ValueError(
            f"None of {sorted(words)} occurs as a condition. Found {', '.join(map(repr, sorted(distinct)[:5]))}, ... "
            "Name the word for control: convert_conditions(..., control=...)."
        )
    rename = renamer(genes) if genes is not None else str
    names = {value: condition_name({rename(part) for part in parts}) for value, parts in named.items()}
    return values.astype(str).map(names).astype("category")


def _parts(text: str, separator: str, words: Collection[str]) -> list[str]:
    """Return what stands between separators; a word that holds a separator itself is one part."""
    parts = [part.strip() for part in text.split(separator)]
    for word in sorted(words, key=len, reverse=True):
        pieces = word.split(separator)
        n = len(pieces)
        for start in range(len(parts) - n, -1, -1) if n > 1 else ():
            if parts[start : start + n] == pieces:
                parts[start : start + n] = [word]
    if not all(parts):
        raise ValueError(
            f"The condition {text!r} has an empty part where {separator!r} is what stands between genes. Correct it, "
            "or name what does: convert_conditions(..., separator=...)."
        )
    return parts


def _refuse_missing(values: pd.Series, key: str, known_genes: Collection[str] = ()) -> None:
    missing = values.isna().to_numpy()
    if missing.any():
        raise ValueError(
            f"{missing.sum()} cells have no condition in {key!r}, first {values.index[int(missing.argmax())]!r}. "
            f"Drop them: adata = adata[adata.obs[{key!r}].notna()].copy()."
        )
    for word in map(str, values.unique()):
        if word not in known_genes and _says_nothing(word):
            cells = values.astype(str) == word
            raise ValueError(
                f"{cells.sum()} cells have the condition {word!r} in {key!r}, first {values.index[cells.argmax()]!r}, "
                f"which says none and is no gene. Drop them: adata = adata[adata.obs[{key!r}] != {word!r}].copy()."
            )


def _says_nothing(word: str) -> bool:
    """Return whether a word is no condition, and none of control that is to be converted."""
    said = bool(word.strip()) and word.casefold() not in _CONTROL_WORDS
    return said and (word in UNLABELLED or means_none(word))


@dataclass(frozen=True)
class Conditions:
    """The conditions of some cells.

    Attributes
    ----------
    names
        Distinct conditions as :func:`condition_name` writes them, sorted, ``"ctrl"`` among them.
    genes
        The perturbed genes of each.
    codes
        ``(n_cells,)`` int64 place of each cell's condition in ``names``.
    """

    names: tuple[str, ...]
    genes: tuple[tuple[str, ...], ...]
    codes: np.ndarray

    @classmethod
    def of(cls, values: pd.Series, known_genes: Collection[str] = (), key: str = "condition") -> Conditions:
        """Read a column of conditions.

        Raises
        ------
        ValueError
            If a cell has none, the grammar is another, or no cell is control.
        """
        values = pd.Series(values)
        _refuse_missing(values, key, known_genes)
        distinct, inverse = np.unique(values.astype(str).to_numpy(dtype=str), return_inverse=True)
        parsed = [parse_condition(str(text), known_genes, key) for text in distinct]
        names = tuple(sorted({condition_name(genes) for genes in parsed}))
        if CONTROL not in names:
            call = _CALL.format(key=key, options=", control='...'")
            raise ValueError(
                f"No cell has the condition 'ctrl' in {key!r}; found {', '.join(map(repr, names[:5]))}"
                f"{', ...' if len(names) > 5 else ''}. Changes are measured from control cells. If they are called "
                f"otherwise, name them: adata.obs[{key!r}] = {call}."
            )
        place = {name: code for code, name in enumerate(names)}
        codes = np.array([place[condition_name(genes)] for genes in parsed], dtype=np.int64)[inverse]
        return cls(names, tuple(parse_condition(name, known_genes) if name != CONTROL else () for name in names), codes)

    @classmethod
    def of_adata(cls, adata: AnnData, key: str = "condition") -> Conditions:
        """Read ``adata.obs[key]``; genes of the panel count as genes however they look."""
        require_anndata(adata)
        column = column_of(adata, key, "Name the column of conditions with condition_key=...")
        return cls.of(column, set(adata.var_names), key)

    @property
    def control(self) -> int:
        """Code of control."""
        return self.names.index(CONTROL)

    @property
    def perturbed_genes(self) -> tuple[str, ...]:
        """All genes that a condition perturbs, sorted."""
        return tuple(sorted({gene for genes in self.genes for gene in genes}))

    def cells(self, names: Iterable[str]) -> np.ndarray:
        """Return the sorted numbers of the cells of the conditions ``names``, written in any order of their genes."""
        wanted = {canonical(name) for name in names}
        return np.flatnonzero(np.isin(self.codes, [c for c, name in enumerate(self.names) if name in wanted]))


def canonical(text: str) -> str:
    """Return the one name of a condition in the grammar of GEARS; no other grammar is looked for."""
    return condition_name(part for part in str(text).split("+") if part != CONTROL)
