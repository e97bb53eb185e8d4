"""Conditions as GEARS writes them: ``"ctrl"``, ``"A+ctrl"`` (or ``"A"``), ``"A+B"``; others are named and converted.

Perturbed genes that conditions call otherwise than the data (another case, another version, symbols for ids) are told,
and conditions are split into training, validation and test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData

from scjepa._core.anndata import column_of, means_none, refuse_adata, require_anndata
from scjepa._core.checks import above
from scjepa._core.keys import UNLABELLED
from scjepa._core.plain import plain
from scjepa.tokens.vocabulary import plain_name

GeneNames: TypeAlias = "Sequence[str] | pd.Index | pd.Series | Mapping[str, str]"
"""What the data call the genes: their names; a Series from what conditions call them (its values) to that (its index);
or a mapping from the one to the other."""

CATEGORIES = ("single", "combo_seen0", "combo_seen1", "combo_seen2")
"""Categories of test conditions in the split ``simulation``."""


CONTROL = "ctrl"
"""How a cell that was not perturbed is called."""

_CONTROL_WORDS = frozenset(
    "ctrl control controls ctl ctr non-targeting nontargeting non_targeting nt ntc neg negctrl negative safe-targeting "
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
    if "+" in str(text) and text in known_genes:
        raise ValueError(f"{text!r} is the name of a gene, and '+' stands between genes. Rename the gene: var_names.")
    parts = str(text).split("+")
    genes = [part for part in parts if part != CONTROL]
    if any(not part.strip() for part in parts):
        raise ValueError(f"The condition {text!r} has an empty part. A condition is 'ctrl', 'A+ctrl' or 'A+B'.")
    for gene in genes:
        if gene not in known_genes:
            _refuse_other_grammars(text, gene, key)
    if len(parts) - len(genes) > 1 or (len(genes) > 1 and len(genes) < len(parts)):
        raise ValueError(f"The condition {text!r} names 'ctrl' with more than one part. Write 'A+ctrl' or 'A+B'.")
    if len(set(genes)) < len(genes):
        raise ValueError(f"The condition {text!r} names a gene twice. Write '{genes[0]}+ctrl'.")
    return tuple(sorted(genes))


def parse_wanted(conditions: Sequence[str], known_genes: Collection[str] = ()) -> list[tuple[str, ...]]:
    """Return :func:`parse_condition` of each of the conditions that are to be predicted.

    Raises
    ------
    TypeError, ValueError
        If they are no list of texts, one is named twice, or one is in another grammar.
    """
    if conditions is None or isinstance(conditions, str) or not len(conditions):
        raise ValueError(f"conditions must be a list such as ['A', 'A+B'], found {conditions!r}.")
    names = list(conditions)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"conditions must be texts such as 'A+B', found {name!r}.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"The condition {twice!r} is named {names.count(twice)} times. Name each once: "
            "list(dict.fromkeys(conditions))."
        )
    return [parse_condition(name, known_genes) for name in names]


def _refuse_other_grammars(text: str, part: str, key: str) -> None:
    found = _SEPARATORS.search(part.strip())
    if part.strip() != part and found is None:
        word = f", control={part.strip()!r}" if part.strip().lower() in _CONTROL_WORDS - {CONTROL} else ""
        options, what = f", separator='+'{word}", "genes with spaces around them"
    elif part.lower() in _CONTROL_WORDS:
        options, what = f", control={part!r}", "another word for control"
    elif found is not None:
        word = _control_among([part, *part.split(found[0])]) or "..."
        options, what = f", separator={found[0]!r}, control={word!r}", f"genes separated by {found[0]!r}"
    else:
        return
    call = _CALL.format(key=key, options=options)
    raise ValueError(
        f"The condition {text!r} is not in the grammar of GEARS ('ctrl', 'A+ctrl', 'A+B'): it looks like {what}. "
        f"Convert the column first: adata.obs[{key!r}] = {call}."
    )


def _control_among(words: Iterable[str]) -> str | None:
    """Return the first word for control, which a number may follow, as in ``"NTC_1"``."""
    for word in words:
        bare = re.sub(r"[\W_]*\d+$", "", word).lower()
        if word.lower() in _CONTROL_WORDS or (len(bare) > 2 and bare in _CONTROL_WORDS):
            return word
    return None


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
        What stands for control, alone or with a gene: ``"non-targeting"``, or several such words. A word may hold the
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
    rename = _renamer(genes) if genes is not None else str
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
        if not len(values):
            raise ValueError(f"There are no cells, and so no condition in {key!r}. Look at what selected them.")
        _refuse_missing(values, key, known_genes)
        distinct, inverse = np.unique(values.astype(str).to_numpy(dtype=str), return_inverse=True)
        parsed = [parse_condition(str(text), known_genes, key) for text in distinct]
        names = tuple(sorted({condition_name(genes) for genes in parsed}))
        if CONTROL not in names:
            likely = _control_among(dict.fromkeys(gene for genes in parsed for gene in genes))
            call = _CALL.format(key=key, options=f", control={likely or '...'!r}")
            looks = (
                f"{likely!r} looks like them; if it is, convert it"
                if likely
                else "If they are called otherwise, name them"
            )
            raise ValueError(
                f"No cell has the condition 'ctrl' in {key!r}; found {', '.join(map(repr, names[:5]))}"
                f"{', ...' if len(names) > 5 else ''}. Changes are measured from control cells. {looks}: "
                f"adata.obs[{key!r}] = {call}."
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


def _renamer(genes: GeneNames) -> Callable[[str], str]:
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
    columns = {} if var is None else {str(key): set(map(plain_name, var[key].dropna().astype(str))) for key in var}
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


@dataclass(frozen=True)
class PerturbationSplit:
    """Which conditions are trained on and which are kept for the test. Control is always trained on.

    Attributes
    ----------
    train, validation
        Names of conditions, as :func:`condition_name` writes them, sorted; without control.
    test
        Names of test conditions by category.
    kind
        How it was made.
    options
        With what: the arguments of :func:`simulation_split`.
    train_genes
        Genes that the split drew as seen; empty where no genes were drawn.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kind: str = "own"
    options: Mapping[str, object] = field(default_factory=dict)
    train_genes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("train", "validation"):
            object.__setattr__(self, name, _names(getattr(self, name)))
        object.__setattr__(self, "test", {str(c): _names(names) for c, names in self.test.items()})
        object.__setattr__(self, "train_genes", tuple(self.train_genes))
        object.__setattr__(self, "options", dict(self.options))
        places: dict[str, str] = {}
        for part, names in self.parts().items():
            for name in names:
                if name in places:
                    raise ValueError(f"The condition {name!r} is in {places[name]!r} and in {part!r} of the split.")
                places[name] = part
        if not self.train:
            raise ValueError("The split has no perturbation to train on. Give it more conditions or a larger share.")

    def parts(self) -> dict[str, tuple[str, ...]]:
        """Return the conditions of ``"train"``, ``"validation"`` and each category of the test."""
        return {"train": self.train, "validation": self.validation, **self.test}

    @property
    def test_conditions(self) -> tuple[str, ...]:
        """All conditions of the test, sorted."""
        return tuple(sorted(name for names in self.test.values() for name in names))

    def part_of(self, condition: str) -> str | None:
        """Return the part that a condition is in, ``None`` where it is in none; control is in ``"train"``."""
        name = canonical(condition)
        if name == CONTROL:
            return "train"
        return next((part for part, names in self.parts().items() if name in names), None)

    def n_singles_seen(self, condition: str) -> int:
        """Return how many of the condition's genes were perturbed alone in a condition that is trained on."""
        genes = [part for part in canonical(condition).split("+") if part != CONTROL]
        return sum(canonical(gene) in self.train for gene in genes)

    def to_dict(self) -> dict[str, object]:
        """Return what JSON can hold."""
        return plain(asdict(self), arrays=True)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build it from what :meth:`to_dict` gave."""
        return cls(**values)

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote."""
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))


def _names(conditions: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({canonical(name) for name in conditions} - {CONTROL}))


def simulation_split(
    conditions: Iterable[str],
    seed: int = 1,
    *,
    train_gene_size: float = 0.75,
    combo_size: float = 0.75,
    validation: bool = True,
) -> PerturbationSplit:
    """Split conditions as GEARS' ``simulation`` does.

    Of all perturbed genes a share is drawn as *seen*. Trained on are the singles of seen genes, and a share of the
    combos of which both genes are seen. The rest is the test, by category: ``"single"``, singles of unseen genes;
    ``"combo_seen0"``, ``"combo_seen1"``, ``"combo_seen2"``, combos of which none, one or both genes are seen. So a seen
    gene's single is in training wherever there is one; a gene that occurs in combos alone has none
    (:meth:`PerturbationSplit.n_singles_seen` counts).

    Validation is the test of the same split made once more of the training conditions, with a share of 0.9, as in
    GEARS; there too categories of the test are those of the first split.

    Parameters
    ----------
    conditions
        Conditions, of cells or distinct ones, in the grammar of GEARS.
    seed
        Which genes and combos. 1 is GEARS' default.
    train_gene_size, combo_size
        Shares of seen genes, and of combos of two seen genes that are trained on.
    validation
        Whether conditions are held out for validation.

    Returns
    -------
    PerturbationSplit
        Every perturbation in exactly one part.

    Raises
    ------
    ValueError
        If a share is not in (0, 1], a condition perturbs more than two genes, or nothing is left to train on.
    """
    shares = {"train_gene_size": train_gene_size, "combo_size": combo_size}
    for name, share in shares.items():
        above(0, 1)(name, share)
    names = _names(conditions)
    many = [name for name in names if name.count("+") > 1]
    if many:
        raise ValueError(f"The split 'simulation' is of one and two genes; {many[0]!r} perturbs more.")
    train, test, seen = _draw(names, train_gene_size, combo_size, seed)
    held: list[str] = []
    if validation:
        train, inner, _ = _draw(tuple(train), 0.9, 0.9, seed)
        held = [name for part in inner.values() for name in part]
    options = {"seed": seed, **shares, "validation": validation}
    return PerturbationSplit(tuple(train), tuple(held), test, "simulation", options, seen)


def _draw(
    names: tuple[str, ...], gene_share: float, combo_share: float, seed: int
) -> tuple[list[str], dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Return training conditions, test conditions by category, and the genes drawn as seen."""
    genes_of = {name: [part for part in name.split("+") if part != CONTROL] for name in names}
    genes = np.array(sorted({gene for each in genes_of.values() for gene in each}))
    # The old generator, seeded before each draw: so does GEARS.
    known: set[str] = set()
    if len(genes):
        drawn = np.random.RandomState(seed).choice(genes, int(len(genes) * gene_share), replace=False)
        known = set(map(str, drawn))
    by_category: dict[str, list[str]] = {category: [] for category in CATEGORIES}
    train = []
    for name in names:
        n_seen = sum(gene in known for gene in genes_of[name])
        if len(genes_of[name]) == 2:
            by_category[f"combo_seen{n_seen}"].append(name)
        elif n_seen:
            train.append(name)
        else:
            by_category["single"].append(name)
    both = by_category["combo_seen2"]
    if both:
        kept = np.random.RandomState(seed).choice(np.array(both), int(len(both) * combo_share), replace=False)
        train += sorted(map(str, kept))
        by_category["combo_seen2"] = sorted(set(both) - set(map(str, kept)))
    return train, {category: tuple(each) for category, each in by_category.items()}, tuple(sorted(known))
