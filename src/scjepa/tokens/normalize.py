"""Normalizations: counts to the numbers that order a cell's genes (ranks) or that its tokens carry (values).

A normalization sees non-zero counts only and keeps their places: a zero stays a gene without a token. What it has to
learn it learns once, from the data a model is made for; from then on the statistics belong to the model, so that a
cell has the same tokens whatever else is read beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from scipy import sparse

from scjepa._core.counts import Advice
from scjepa._core.options import unknown_name
from scjepa.tokens.config import TokenConfig
from scjepa.tokens.counts import CHUNK_SIZE, CountReader, rows_of, totals_of
from scjepa.tokens.residuals import PearsonResiduals, SeuratV3


class Normalization(Protocol):
    """What every normalization can do; a new one is a class with these and a line in :data:`NORMALIZATIONS`.

    A chunk of counts is a CSR matrix, cells × vocabulary, of non-zero counts; ``groups`` are its cells' technology
    codes, ``(n_cells,)`` int64. No call changes the chunk. A normalization with nothing to learn needs ``needs_fit``
    and :meth:`transform` alone.
    """

    needs_fit: bool
    """Whether it learns statistics: :meth:`start`, :meth:`observe` for each chunk, :meth:`finish`."""

    statistics: np.ndarray
    """``(n_groups + 1, ...)`` float64: what was learned of each technology and, in the last row, of all of them
    together. The code -1, a technology that was not there to learn from, so reads the last row. A second axis is the
    vocabulary, a third what is known of a gene."""

    def start(self, n_genes: int, n_groups: int) -> None:
        """Make ready to learn."""

    def observe(self, counts: sparse.csr_array, groups: np.ndarray) -> None:
        """Learn from a chunk."""

    def finish(self) -> None:
        """Turn what was observed into :attr:`statistics`."""

    def transform(self, counts: sparse.csr_array, groups: np.ndarray) -> np.ndarray:
        """Return the normalized values of the entries of ``counts``, float32, aligned with ``counts.data``."""


class Weighed(Protocol):
    """What a normalization that takes weights of genes can do besides; until it has some, all weigh the same."""

    common: tuple[int, ...]
    """Numbers on the third axis of its statistics that are a gene's own, the same in all technologies."""

    def weigh(self, weights: np.ndarray) -> None:
        """Take up the weights of genes, ``(n_genes,)`` float64."""


def takes_weights(name: str) -> bool:
    """Return whether a normalization is a :class:`Weighed` one."""
    return hasattr(NORMALIZATIONS.get(name), "weigh")


class Counts:
    """The counts themselves."""

    needs_fit = False
    statistics = np.zeros(0)

    def start(self, n_genes: int, n_groups: int) -> None:
        """Nothing to learn."""

    def observe(self, counts: sparse.csr_array, groups: np.ndarray) -> None:
        """Nothing to learn."""

    def finish(self) -> None:
        """Nothing to learn."""

    def transform(self, counts: sparse.csr_array, groups: np.ndarray) -> np.ndarray:
        """Return the counts as float32."""
        return counts.data.astype(np.float32)


class ShiftedLog:
    """log(1 + count · target / total): each cell scaled to the median total count of its technology.

    Totals are over the genes of the vocabulary that the data has; cells without counts have no say in the median. A
    technology that was not there to learn from, or had no counts, takes the median over the cells of all technologies;
    without any counts at all the target is 1. A query with fewer genes has smaller totals, hence larger values.
    """

    needs_fit = True
    statistics: np.ndarray
    """``(n_groups + 1,)`` targets."""

    def start(self, n_genes: int, n_groups: int) -> None:
        """Forget what was observed before."""
        self._n_groups = n_groups
        self._totals = [np.zeros(0)]
        self._groups = [np.zeros(0, dtype=np.int64)]

    def observe(self, counts: sparse.csr_array, groups: np.ndarray) -> None:
        """Note the total count of each cell that has one."""
        totals = totals_of(counts)
        self._totals.append(totals[totals > 0])
        self._groups.append(groups[totals > 0])

    def finish(self) -> None:
        """Take each technology's median, and that of all cells."""
        totals, groups = np.concatenate(self._totals), np.concatenate(self._groups)
        overall = np.median(totals) if len(totals) else 1.0
        own = [totals[groups == group] for group in range(self._n_groups)]
        self.statistics = np.array([*(np.median(of) if len(of) else overall for of in own), overall])
        del self._totals, self._groups

    def transform(self, counts: sparse.csr_array, groups: np.ndarray) -> np.ndarray:
        """Return the shifted logarithms as float32."""
        scale = self.statistics[groups] / np.maximum(totals_of(counts), np.finfo(np.float32).tiny)
        return np.log1p(counts.data * scale[rows_of(counts)]).astype(np.float32)


class NonzeroMean:
    """Count over the gene's mean among the cells of the technology that express it.

    A gene that is high for this gene outranks one that is high in every cell; the idea is Geneformer's ranking, with
    a mean in place of its median. Where no cell of the technology expressed the gene, and for a technology that was
    not there to learn from, the mean is over the cells of all technologies; a gene that no cell at all expressed has
    the mean 1, the smallest that a non-zero count can have.
    """

    needs_fit = True
    statistics: np.ndarray
    """``(n_groups + 1, n_genes)`` means."""

    def start(self, n_genes: int, n_groups: int) -> None:
        """Forget what was observed before."""
        self._total = np.zeros((n_groups, n_genes))
        self._cells = np.zeros((n_groups, n_genes))

    def observe(self, counts: sparse.csr_array, groups: np.ndarray) -> None:
        """Add up each gene's counts, and the cells that have some."""
        place = groups[rows_of(counts)] * counts.shape[1] + counts.indices
        size, shape = self._total.size, self._total.shape
        self._total += np.bincount(place, weights=counts.data, minlength=size).reshape(shape)
        self._cells += np.bincount(place, minlength=size).reshape(shape)

    def finish(self) -> None:
        """Divide, with the gene's mean over all technologies where its own has no cell."""
        total = np.vstack([self._total, self._total.sum(axis=0)])
        cells = np.vstack([self._cells, self._cells.sum(axis=0)])
        overall = np.divide(total[-1], cells[-1], out=np.ones_like(total[-1]), where=cells[-1] > 0)
        self.statistics = np.divide(total, cells, out=np.tile(overall, (len(total), 1)), where=cells > 0)
        del self._total, self._cells

    def transform(self, counts: sparse.csr_array, groups: np.ndarray) -> np.ndarray:
        """Return the ratios as float32."""
        return (counts.data / self.statistics[groups[rows_of(counts)], counts.indices]).astype(np.float32)


class SpatialRatio(NonzeroMean):
    """Count over the gene's mean, as :class:`NonzeroMean`, times how far the gene agrees between neighbors.

    What is high for its gene, of genes that tell of a cell's surroundings: a gene that every cell has in plenty does
    not fill the ranks of all cells, and neither does one that is rare and lies anywhere. The weight of a gene is that
    of :func:`scjepa.tokens.gene_weights`, one for all technologies.
    """

    common = (1,)
    statistics: np.ndarray
    """``(n_groups + 1, n_genes, 2)``: means, and weights."""

    def finish(self) -> None:
        """Take the means; weights are 1 so far."""
        super().finish()
        self.statistics = np.stack([self.statistics, np.ones_like(self.statistics)], axis=2)

    def weigh(self, weights: np.ndarray) -> None:
        """Take up the weights of genes, ``(n_genes,)``."""
        self.statistics[:, :, 1] = weights

    def transform(self, counts: sparse.csr_array, groups: np.ndarray) -> np.ndarray:
        """Return the weighted ratios as float32."""
        mean, weight = self.statistics[groups[rows_of(counts)], counts.indices].T
        return (weight * (counts.data / mean)).astype(np.float32)


NORMALIZATIONS: dict[str, type[Normalization]] = {
    "counts": Counts,
    "shifted_log": ShiftedLog,
    "nonzero_mean": NonzeroMean,
    "pearson_residuals": PearsonResiduals,
    "seurat_v3": SeuratV3,
    "spatial_ratio": SpatialRatio,
}
"""Normalizations by name, for :class:`scjepa.stjepa.config.TokenConfig`'s ``values`` and ``ranks``."""


def get_normalization(name: str) -> Normalization:
    """Return a new normalization by its name in :data:`NORMALIZATIONS`.

    Raises
    ------
    ValueError
        If the name is not known; the known ones are listed.
    """
    if name not in NORMALIZATIONS:
        raise ValueError(unknown_name("normalization", name, NORMALIZATIONS))
    return NORMALIZATIONS[name]()


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
    def learned(cls, config: TokenConfig, reader: CountReader) -> FittedNormalizations:
        """Learn what ``config`` needs in one pass over the counts, in none where there is nothing to learn."""
        by_name = {name: get_normalization(name) for name in (config.values, config.ranks)}
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
        for name, each in self.by_name.items():
            if takes_weights(name):
                cast(Weighed, each).weigh(weights)

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
        by_name = {name: get_normalization(name) for name in self.by_name}
        for name, each in by_name.items():
            if each.needs_fit:
                old, new = self.by_name[name].statistics[sources], further.by_name[name].statistics.copy()
                if new.ndim == 1:
                    new = np.where(use.any(axis=1), new, old)
                else:
                    known = slice(0, self.n_genes)
                    taken = use[:, known].reshape(*old.shape[:2], *[1] * (old.ndim - 2))
                    new[:, known] = np.where(taken, new[:, known], old)
                    for number in cast(Weighed, each).common if takes_weights(name) else ():
                        new[:, known, number] = old[..., number]
                each.statistics = new
        return FittedNormalizations(by_name, further.n_genes, further.n_groups)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the float64 statistics by the name of their normalization; nothing where nothing was learned."""
        return {name: each.statistics for name, each in self.by_name.items() if each.needs_fit}

    @classmethod
    def from_arrays(
        cls, config: TokenConfig, arrays: Mapping[str, Any], n_genes: int, n_groups: int
    ) -> FittedNormalizations:
        """Build from what :meth:`to_arrays` gave.

        Raises
        ------
        ValueError
            If the statistics of a normalization are missing, or do not fit the genes and technologies.
        """
        by_name = {name: get_normalization(name) for name in (config.values, config.ranks)}
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
    counts: Any,
    gene_ids: np.ndarray,
    n_vocabulary: int,
    config: TokenConfig,
    *,
    groups: np.ndarray | None = None,
    n_groups: int = 1,
    chunk_size: int = CHUNK_SIZE,
    cell_names: Sequence[str] | None = None,
    gene_names: Sequence[str] | None = None,
    advice: Advice | None = None,
) -> FittedNormalizations:
    """Learn the normalizations of ``config`` from the data of a model, once and for all tables to come.

    Statistics are kept by technology code and vocabulary id. The counts are read once, however many normalizations
    learn from them, and not at all where none does.

    Parameters
    ----------
    counts, gene_ids, n_vocabulary, groups, n_groups, chunk_size, cell_names, gene_names, advice
        As in :func:`scjepa.tokens.build_token_table`.
    config
        Names the normalizations: ``config.values`` and ``config.ranks``.

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
    return FittedNormalizations.learned(config, reader)
