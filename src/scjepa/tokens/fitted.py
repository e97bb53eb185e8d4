"""The normalizations of a model, fitted once on its data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from scjepa._core.counts import CHUNK_SIZE, Advice, CountMatrix
from scjepa.tokens.config import TokenRule
from scjepa.tokens.counts import CountReader
from scjepa.tokens.normalize import NORMALIZATIONS, Normalization


@dataclass(frozen=True, eq=False)
class FittedNormalizations:
    """The normalizations of a model, with what they learned from its data (:func:`fit_normalizations`).

    Attributes
    ----------
    by_name
        Normalizations by name, those that need it fitted.
    n_genes
        Genes of the vocabulary; a gene's statistics are found by its id.
    n_groups
        Technologies, in the order of their codes; the code -1 stands for any other.
    """

    by_name: Mapping[str, Normalization]
    n_genes: int
    n_groups: int

    @classmethod
    def learned(cls, rule: TokenRule, reader: CountReader) -> FittedNormalizations:
        """Learn what ``rule`` needs in one pass over the counts, in none where there is nothing to learn."""
        by_name = {name: NORMALIZATIONS[name]() for name in (rule.values, rule.ranks)}
        learners = [each for each in by_name.values() if each.needs_fit]
        for learner in learners:
            learner.start(reader.n_vocabulary, reader.n_groups)
        for counts, groups in reader if learners else ():
            for learner in learners:
                learner.observe(counts, groups)
        for learner in learners:
            learner.finish()
        return cls(by_name, reader.n_vocabulary, reader.n_groups)

    def weigh(self, weights: np.ndarray) -> None:
        """Give the weights of genes, ``(n_genes,)``, to the normalizations that take them; in place."""
        for each in self.by_name.values():
            each.weigh(weights)

    def require(self, names: Iterable[str], n_genes: int, n_groups: int) -> None:
        """Refuse to be used for other normalizations, another vocabulary or other technologies.

        Raises
        ------
        ValueError
            If a name is not among these, or the numbers of genes or technologies differ.
        """
        absent = [name for name in names if name not in self.by_name]
        if absent:
            raise ValueError(
                f"The fitted normalizations are {', '.join(self.by_name)}, but the configuration asks for "
                f"{absent[0]!r}. Call fit_normalizations() with this configuration."
            )
        if (self.n_genes, self.n_groups) != (n_genes, n_groups):
            raise ValueError(
                f"The normalizations were fitted on {self.n_genes} genes and {self.n_groups} technologies, the counts "
                f"come with {n_genes} and {n_groups}. Align them with the vocabulary and technologies of the fit."
            )

    def transform(self, counts: sparse.csr_array, groups: np.ndarray) -> dict[str, np.ndarray]:
        """Return the values of each normalization for the entries of a chunk, float32, by name."""
        return {name: each.transform(counts, groups) for name, each in self.by_name.items()}

    def extended(self, further: FittedNormalizations, own: np.ndarray) -> FittedNormalizations:
        """Return these for more genes and technologies, whose statistics come from further data.

        What was learned stays: genes and technologies that were there keep their statistics, and so does the row of all
        technologies. New genes take those of the further data. A new technology takes its own of the further data
        for the genes that it has there, and the row of all technologies for the rest.

        Parameters
        ----------
        further
            The same normalizations fitted on the further data, by the ids of the extended vocabulary and the codes of
            the extended technologies (old ones first).
        own
            ``(n_groups, n_genes)`` bool, for the extended ones: where a new technology's own statistics are to be used.
            A statistic that is not one of a gene is used where any gene's is.

        Raises
        ------
        ValueError
            If the further data has other normalizations, or fewer genes or technologies.
        """
        if further.n_genes < self.n_genes or further.n_groups < self.n_groups:
            raise ValueError(
                f"The further statistics are for {further.n_genes} genes and {further.n_groups} technologies, fewer "
                f"than these, {self.n_genes} and {self.n_groups}."
            )
        further.require(self.by_name, further.n_genes, further.n_groups)
        n_new = further.n_groups - self.n_groups
        sources = [*range(self.n_groups), *[-1] * n_new, -1]  # the old row that stands for each new one
        is_new = np.array([False] * self.n_groups + [True] * n_new + [False])
        use = np.vstack([own, np.zeros_like(own[:1])]) & is_new[:, None]
        by_name = {name: NORMALIZATIONS[name]() for name in self.by_name}
        for name, each in by_name.items():
            if each.needs_fit:
                old, new = self.by_name[name].statistics[sources], further.by_name[name].statistics.copy()
                if new.ndim == 1:
                    new = np.where(use.any(axis=1), new, old)
                else:
                    known = slice(0, self.n_genes)
                    taken = use[:, known].reshape(*old.shape[:2], *[1] * (old.ndim - 2))
                    new[:, known] = np.where(taken, new[:, known], old)
                    for number in each.common:
                        new[:, known, number] = old[..., number]
                each.statistics = new
        return FittedNormalizations(by_name, further.n_genes, further.n_groups)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the float64 statistics by the name of their normalization; nothing where nothing was learned."""
        return {name: each.statistics for name, each in self.by_name.items() if each.needs_fit}

    @classmethod
    def from_arrays(
        cls, rule: TokenRule, arrays: Mapping[str, ArrayLike], n_genes: int, n_groups: int
    ) -> FittedNormalizations:
        """Build from what :meth:`to_arrays` gave.

        Raises
        ------
        ValueError
            If the statistics of a normalization are missing, or do not fit the genes and technologies.
        """
        by_name = {name: NORMALIZATIONS[name]() for name in (rule.values, rule.ranks)}
        for name, each in by_name.items():
            if not each.needs_fit:
                continue
            if name not in arrays:
                raise ValueError(
                    f"There are no statistics of the normalization {name!r}, which has to be fitted. A saved model has "
                    "them beside its weights; if the files are damaged, make the model anew from its data."
                )
            statistics = np.array(arrays[name], dtype=np.float64)
            if statistics.shape[:1] != (n_groups + 1,) or statistics.shape[1:2] not in ((), (n_genes,)):
                raise ValueError(
                    f"Statistics of the normalization {name!r} have the shape {statistics.shape}, which does not fit "
                    f"{n_groups} technologies (and a row for all) and {n_genes} genes."
                )
            each.statistics = statistics
        return cls(by_name, n_genes, n_groups)


def fit_normalizations(
    counts: CountMatrix,
    gene_ids: np.ndarray,
    n_vocabulary: int,
    rule: TokenRule,
    *,
    groups: np.ndarray | None = None,
    n_groups: int = 1,
    chunk_size: int = CHUNK_SIZE,
    cell_names: Sequence[str] | None = None,
    gene_names: Sequence[str] | None = None,
    advice: Advice | None = None,
) -> FittedNormalizations:
    """Learn the normalizations of ``rule`` from the data of a model, once and for all tables to come.

    Statistics are kept by technology code and vocabulary id. The counts are read once, however many normalizations
    learn from them, and not at all where none does.

    Parameters
    ----------
    counts, gene_ids, n_vocabulary, groups, n_groups, chunk_size, cell_names, gene_names, advice
        As in :func:`scjepa.tokens.build_token_table`.
    rule
        Names the normalizations: ``rule.values`` and ``rule.ranks``.

    Raises
    ------
    ValueError
        If a value is negative or not finite, there are no cells, shapes, ids or codes do not fit, or a normalization is
        not known.
    """
    reader = CountReader(
        counts,
        gene_ids,
        n_vocabulary,
        groups,
        n_groups,
        chunk_size=chunk_size,
        cell_names=cell_names,
        gene_names=gene_names,
        advice=advice,
    )
    return FittedNormalizations.learned(rule, reader)
