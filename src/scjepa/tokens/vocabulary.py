"""Gene names to ids: the union of panels, aligned by name, and what each technology measured."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scjepa._core.counts import CHUNK_SIZE, CountMatrix, check_codes, iter_rows, shape_of
from scjepa._core.plain import Facts

_N_EXAMPLES = 5
_RENAME = (
    "adata.var_names = model.vocabulary.renamed(adata.var_names), with scjepa.pretrained.vocabulary(folder) for "
    "model.vocabulary where the model is a saved one."
)
"""The call that gives genes the names that a model has for them."""

_ENSEMBL = re.compile(r"(ENS[A-Z]*G)\d{6,}(\.\d+)?")


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where the genes of a data set are in a vocabulary. ``str()`` of it is a report.

    Attributes
    ----------
    ids
        ``(n_names,)`` int64 vocabulary id of each name, -1 for those not in it.
    n_matched
        Names that are in the vocabulary.
    n_names
        Names in the data.
    n_vocabulary
        Genes in the vocabulary.
    source
        What the data is called in the report.
    case_only
        Pairs (name in the data, gene of the vocabulary) that are not matched and differ in upper and lower case only.
    version_only
        The same of Ensembl ids that differ in their version only, as ``"ENSG00000141510.18"`` and ``".17"`` or none.
    """

    ids: np.ndarray
    n_matched: int
    n_names: int
    n_vocabulary: int
    source: str = "the data"
    case_only: tuple[tuple[str, str], ...] = ()
    version_only: tuple[tuple[str, str], ...] = ()

    @property
    def coverage(self) -> float:
        """Share of the data's genes that are in the vocabulary."""
        return self.n_matched / self.n_names

    def __str__(self) -> str:
        text = (
            f"{self.n_matched:,} of {self.n_names:,} genes of {self.source} ({self.coverage:.1%}) are among the "
            f"{self.n_vocabulary:,} genes of the vocabulary"
        )
        text += "." if self.n_matched == self.n_names else f"; {self.n_names - self.n_matched:,} are ignored."
        return " ".join([text, *spelled_otherwise(self.case_only, self.version_only, "vocabulary")])


def spelled_otherwise(
    case_only: Sequence[tuple[str, str]], version_only: Sequence[tuple[str, str]], known: str
) -> list[str]:
    """Return sentences about genes that ``known`` has under other spellings, of pairs of a name and the known one."""
    ways = (
        (case_only, "in case only", "rename them in adata.var_names if they are the same genes."),
        (version_only, "in the version of their Ensembl id only", f"to take them for the same: {_RENAME}"),
    )
    return [
        f"{len(pairs):,} of those differ {how}, e.g. {pairs[0][0]!r} ({known}: {pairs[0][1]!r}); {then}"
        for pairs, how, then in ways
        if pairs
    ]


class Vocabulary:
    """Gene names in a fixed order; a gene's place is its id. Immutable.

    Parameters
    ----------
    names
        Gene names, in the order of their ids.

    Raises
    ------
    ValueError
        If there is no name, or a name occurs twice.
    """

    def __init__(self, names: Sequence[str]):
        self._names = check_names(names, "the vocabulary")
        self._ids = {name: i for i, name in enumerate(self._names)}

    @classmethod
    def from_panels(cls, panels: Iterable[Sequence[str]]) -> Vocabulary:
        """Return the sorted union of gene panels, so that the order of their columns never matters.

        Raises
        ------
        ValueError
            If there is no name, or a panel has a name twice.
        """
        checked = [check_names(panel, f"panel {number}") for number, panel in enumerate(panels)]
        return cls(sorted(set().union(*checked)))

    @property
    def names(self) -> tuple[str, ...]:
        """Gene names in the order of their ids."""
        return self._names

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._ids

    def __eq__(self, other: object) -> bool:
        return self._names == other._names if isinstance(other, Vocabulary) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._names)

    def __repr__(self) -> str:
        return f"Vocabulary of {len(self):,} genes: {_examples(self._names)}"

    def extended(self, names: Sequence[str]) -> Vocabulary:
        """Return a vocabulary that has ``names`` too: ids of old genes unchanged, new genes after them, sorted.

        Raises
        ------
        ValueError
            If there is no name, or a name occurs twice.
        """
        new = set(check_names(names, "the new genes")).difference(self._ids)
        return Vocabulary([*self._names, *sorted(new)])

    def ids(self, names: Sequence[str]) -> np.ndarray:
        """Return the ``(len(names),)`` int64 ids of ``names``, -1 for those not in the vocabulary."""
        return np.fromiter((self._ids.get(str(name), -1) for name in names), dtype=np.int64, count=len(names))

    def align(
        self, names: Sequence[str], source: str = "the data", columns: Mapping[str, Sequence[str]] | None = None
    ) -> Alignment:
        """Find the genes of a data set in the vocabulary, by name.

        Parameters
        ----------
        names
            Gene names in the order of the data's columns.
        source
            What to call the data in the report and in errors.
        columns
            ``adata.var``, or other names of the same genes by what they are called: if none of ``names`` is in the
            vocabulary and some of these are, the error says so.

        Raises
        ------
        ValueError
            If a name occurs twice, or none is in the vocabulary; the likely cause is named.
        """
        names = check_names(names, source)
        ids = self.ids(names)
        n_matched = int(np.count_nonzero(ids >= 0))
        if n_matched == 0:
            raise ValueError(
                f"No gene of {source} ({_examples(names)}) is in the vocabulary ({_examples(self._names)}). "
                f"{self._of_column({} if columns is None else columns) or likely_cause(names, self._names)}"
            )
        case, version = (self._alike(names, ids, form) for form in (str.casefold, _without_version))
        return Alignment(ids, n_matched, len(names), len(self), source, case, version)

    def _of_column(self, columns: Mapping[str, Sequence[str]]) -> str:
        """Return the call that takes gene names from a column that has the vocabulary's, empty where none has."""
        found = {key: sum(str(name) in self._ids for name in columns[key]) for key in columns}
        best = max(found, key=lambda key: found[key], default=None)
        if best is None or not found[best]:
            return ""
        column = f"adata.var[{str(best)!r}]"
        return (
            f"{column} has {found[best]:,} names that are: adata.var_names = {column}.astype(str); "
            "adata.var_names_make_unique()."
        )

    def renamed(self, names: Sequence[str]) -> list[str]:
        """Return ``names`` with those that are no gene here, but differ from one in case or version only, as it is.

        A gene that one of the names already is, or several lead to, is left alone.

        Parameters
        ----------
        names
            Gene names, such as ``adata.var_names``.

        Examples
        --------
        >>> Vocabulary(["TP53", "ENSG00000141510"]).renamed(["Tp53", "ENSG00000141510.18", "GAD1"])
        ['TP53', 'ENSG00000141510', 'GAD1']
        """
        names = tuple(map(str, names))
        pairs = dict(self._alike(names, self.ids(names), plain_name))
        times = Counter(pairs.values())
        return [pairs[name] if name in pairs and times[pairs[name]] == 1 else name for name in names]

    def _alike(
        self, names: tuple[str, ...], ids: np.ndarray, form: Callable[[str], str]
    ) -> tuple[tuple[str, str], ...]:
        """Return pairs of a name that is not matched and a gene that is not, which have one form."""
        matched = set(ids.tolist())
        free = {form(name): name for i, name in enumerate(self._names) if i not in matched}
        unmatched = (name for name, i in zip(names, ids, strict=True) if i < 0)
        return tuple((name, free[form(name)]) for name in unmatched if form(name) in free)


def check_names(names: Sequence[str], source: str) -> tuple[str, ...]:
    """Return gene names as strings after checking that there are some and that each is there once.

    Parameters
    ----------
    names
        Gene names.
    source
        What to call the data in errors.

    Raises
    ------
    TypeError, ValueError
        If it is one string; if there is no name, or one occurs twice.
    """
    if isinstance(names, str):
        raise TypeError(f"Expected a sequence of gene names for {source}, found one string, {names!r}.")
    names = tuple(map(str, names))
    if not names:
        raise ValueError(f"There are no gene names in {source}.")
    if len(set(names)) < len(names):
        twice = [name for name, times in Counter(names).items() if times > 1]
        raise ValueError(
            f"Gene names must be unique; {len(twice):,} of {source} occur more than once: {_examples(twice)}. "
            "Call adata.var_names_make_unique(), or sum the columns of one gene."
        )
    return names


def _examples(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_N_EXAMPLES]))
    return f"{shown}, ..." if len(names) > _N_EXAMPLES else shown


def likely_cause(
    names: Sequence[str], others: Sequence[str], source: str = "the data", other: str = "the vocabulary"
) -> str:
    """Say why two sets of gene names may have nothing in common, and what to do next.

    Parameters
    ----------
    names, others
        Gene names.
    source, other
        What to call the two.
    """
    if _n_common(names, others, str.casefold):
        styles: dict[str, Callable[[str], str]] = {n: getattr(str, n) for n in ("upper", "capitalize", "lower")}
        style = max(styles, key=lambda name: len(set(map(styles[name], names)) & set(others)))
        return (
            f"They differ in case: adata.var_names = adata.var_names.str.{style}() makes those of {source} match. "
            "Where the species differ (mouse 'Gad1', human 'GAD1'), map orthologs instead."
        )
    if _n_common(names, others, _without_version):
        return (
            f"They differ in Ensembl version suffixes. Take those of {other}, where it is a model's: {_RENAME} Or drop "
            f"them in both: adata.var_names = adata.var_names.str.replace(r'\\.\\d+$', '', regex=True)."
        )
    found, known = _ensembl_prefix(names), _ensembl_prefix(others)
    if found and known and found != known:
        return f"They are Ensembl ids of two species ({found}..., {known}...): map orthologs first."
    if bool(found) != bool(known):
        ids, symbols = (source, other) if found else (other, source)
        column = "gene_symbols" if found else "gene_ids"
        return (
            f"Ensembl ids in {ids}, gene symbols in {symbols}: set adata.var_names of {source} to the column of "
            f"adata.var that has the other kind of name, e.g. adata.var_names = adata.var[{column!r}].astype(str)."
        )
    return f"Check that adata.var_names holds gene names, and that species and panel are those of {other}."


def _n_common(one: Sequence[str], other: Sequence[str], form: Callable[[str], str]) -> int:
    return len(set(map(form, one)) & set(map(form, other)))


def _without_version(name: str) -> str:
    return name.split(".")[0] if _ENSEMBL.fullmatch(name) else name


def plain_name(name: str) -> str:
    """Return what a gene's name is without regard to case and to the version of an Ensembl id."""
    return _without_version(name.upper()).casefold()


def _ensembl_prefix(names: Sequence[str]) -> str:
    """Return the commonest Ensembl prefix, e.g. ``ENSMUSG``, if most names have one, else an empty string."""
    matches = [match.group(1) for match in map(_ENSEMBL.fullmatch, names) if match]
    return Counter(matches).most_common(1)[0][0] if len(matches) > len(names) / 2 else ""


@dataclass(frozen=True, eq=False)
class Panels:
    """Which genes of a vocabulary each technology measured, so that "not measured" is never "zero".

    Attributes
    ----------
    technologies
        Names, in the order of their codes.
    measured
        ``(n_technologies, n_vocabulary)`` bool.
    inferred
        Whether ``measured`` was read off the counts (:meth:`infer`) rather than given.

    Raises
    ------
    ValueError
        If ``measured`` has not one row per technology.
    """

    technologies: tuple[str, ...]
    measured: np.ndarray
    inferred: bool

    def __post_init__(self) -> None:
        if self.measured.ndim != 2 or len(self.measured) != len(self.technologies):
            raise ValueError(
                f"Panels.measured must have one row for each of {len(self.technologies)} technologies, "
                f"found shape {self.measured.shape}."
            )

    @classmethod
    def infer(
        cls,
        counts: CountMatrix,
        gene_ids: np.ndarray,
        technology_codes: np.ndarray,
        technologies: Sequence[str],
        n_vocabulary: int,
        chunk_size: int = CHUNK_SIZE,
    ) -> Panels:
        """Read the panels off the counts: a technology measures the genes that any of its cells has.

        A gene that was measured and found in no cell at all is taken as not measured.

        Parameters
        ----------
        counts
            Cells × genes, in any form that :func:`scjepa.tokens.build_token_table` takes.
        gene_ids
            ``(n_genes,)`` vocabulary id of each column, -1: ignored.
        technology_codes
            ``(n_cells,)`` codes.
        technologies
            Names, in the order of their codes.
        n_vocabulary
            Genes in the vocabulary.
        chunk_size
            Cells read at once, at most.

        Raises
        ------
        ValueError
            If a cell has no technology, or a technology no cell: nothing tells what it measured, and to take it for
            nothing would leave no gene that all measured.
        """
        codes = check_codes(technology_codes, shape_of(counts)[0], len(technologies), "technology")
        absent = np.flatnonzero(np.bincount(codes, minlength=len(technologies)) == 0)
        if len(absent):
            raise ValueError(
                f"The technology {str(technologies[absent[0]])!r} has no cell, so the genes it measured cannot be "
                "inferred. Leave it out, e.g. adata.obs[key] = adata.obs[key].cat.remove_unused_categories(), or give "
                "the panels."
            )
        gene_ids = np.asarray(gene_ids, dtype=np.int64)
        measured = np.zeros((len(technologies), n_vocabulary), dtype=bool)
        for start, rows in iter_rows(counts, chunk_size):
            technology = np.repeat(codes[start : start + rows.shape[0]], np.diff(rows.indptr))
            genes = gene_ids[rows.indices]
            measured[technology[genes >= 0], genes[genes >= 0]] = True
        return cls(tuple(map(str, technologies)), measured, inferred=True)

    def extended(self, further: Panels) -> Panels:
        """Return the panels of this data and of further data.

        Technologies keep their codes; new ones follow, sorted. Of a technology that both have, a gene was measured if
        it was measured in both: else a cell of one of them would lack it for another reason than being without it.

        Parameters
        ----------
        further
            Panels of the further data, over an extended vocabulary (:meth:`Vocabulary.extended`).

        Raises
        ------
        ValueError
            If the further vocabulary is smaller.
        """
        n_old, n_genes = self.measured.shape[1], further.measured.shape[1]
        if n_genes < n_old:
            raise ValueError(f"The further panels are over {n_genes} genes, fewer than these over {n_old}.")
        technologies = (*self.technologies, *sorted(set(further.technologies).difference(self.technologies)))
        measured = np.zeros((len(technologies), n_genes), dtype=bool)
        measured[: len(self.technologies), :n_old] = self.measured
        for technology, genes in zip(further.technologies, further.measured, strict=True):
            code = technologies.index(technology)
            measured[code] = genes & measured[code] if code < len(self.technologies) else genes
        return Panels(technologies, measured, self.inferred or further.inferred)

    def shared(self) -> np.ndarray:
        """Return the int64 ids of the genes that all technologies measured."""
        return np.flatnonzero(self.measured.all(axis=0))

    def strangers(self) -> list[str]:
        """Return the technologies that measured no gene that any other measured too; none where there is one."""
        if len(self.technologies) < 2:
            return []
        together = self.measured[:, self.measured.sum(axis=0) > 1]
        return [name for name, row in zip(self.technologies, together, strict=True) if not row.any()]

    def describe(self, vocabulary: Vocabulary) -> str:
        """Return a report: the genes of each technology, those it has alone, and those all share."""
        how = "inferred: a gene that some cell has was measured" if self.inferred else "given"
        alone = self.measured & (self.measured.sum(axis=0) == 1)
        lines = [f"Panels ({how})"]
        for technology, genes, own in zip(self.technologies, self.measured, alone, strict=True):
            text = f"  {technology}: {genes.sum():,} of {len(vocabulary):,} genes"
            lines.append(f"{text}, {own.sum():,} in no other technology" if len(self.technologies) > 1 else text)
        if len(self.technologies) > 1:
            shared = [vocabulary.names[i] for i in self.shared()]
            lines.append(f"  in all: {len(shared):,} genes" + (f": {_examples(shared)}" if shared else ""))
        return "\n".join(lines)

    def to_dict(self) -> Facts:
        """Return plain values, ready for JSON."""
        return {
            "technologies": list(self.technologies),
            "measured": [np.flatnonzero(row).tolist() for row in self.measured],
            "n_vocabulary": self.measured.shape[1],
            "inferred": self.inferred,
        }

    @classmethod
    def from_dict(cls, values: Facts) -> Panels:
        """Build panels from what :meth:`to_dict` gave."""
        measured = np.zeros((len(values["technologies"]), values["n_vocabulary"]), dtype=bool)
        for row, genes in zip(measured, values["measured"], strict=True):
            row[genes] = True
        return cls(tuple(values["technologies"]), measured, bool(values["inferred"]))
