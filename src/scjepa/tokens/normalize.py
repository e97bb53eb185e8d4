"""Normalizations of raw counts: what is learned of a model's data once, and applied to every cell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Unpack

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from scjepa._core.counts import CountMatrix, CountReader, Reading, rows_of, totals_of
from scjepa._core.options import Registry
from scjepa.tokens.config import TokenRule

OVERDISPERSION = 100.0
"""theta of the negative binomial that Pearson residuals assume (Lause et al. 2021); scanpy's default."""

SPAN = 0.3
"""Share of the genes that the trend of variances is fitted on at each mean; Seurat's and scanpy's."""

_FEWEST = 8
"""Genes that it is fitted on at least, where a panel has as many."""
_KNOTS = 300
"""Means at which the trend is computed, spread by rank and as many evenly; in between it is a line."""


class Normalization(ABC):
    """Base of the normalizations; a new one is a class with :meth:`transform` and a line in :data:`NORMALIZATIONS`.

    A chunk of counts is a CSR matrix, cells × vocabulary, of non-zero counts; ``groups`` are its cells' technology
    codes, ``(n_cells,)`` int64. No call changes the chunk.
    """

    needs_fit: ClassVar[bool] = False
    """Whether it learns statistics: :meth:`start`, :meth:`observe` for each chunk, :meth:`finish`."""
    signed: ClassVar[bool] = False
    """Whether values can be negative."""
    common: ClassVar[tuple[int, ...]] = ()
    """Of one that takes weights of genes, numbers on the third axis of its statistics that are the same in all
    technologies; until it has weights (:meth:`weigh`), all genes weigh the same."""

    statistics: np.ndarray = np.zeros(0)
    """``(n_groups + 1, ...)`` float64: what was learned of each technology and, in the last row, of all of them
    together. The code -1, a technology that was not there to learn from, so reads the last row. A second axis is the
    vocabulary, a third what is known of a gene."""

    def start(self, n_genes: int, n_groups: int) -> None:  # noqa: B027 - there may be nothing to learn
        """Make ready to learn."""

    def observe(self, counts: sparse.csr_array, groups: np.ndarray) -> None:  # noqa: B027
        """Learn from a chunk."""

    def finish(self) -> None:  # noqa: B027
        """Turn what was observed into :attr:`statistics`."""

    def weigh(self, weights: np.ndarray) -> None:  # noqa: B027
        """Take up the weights of genes, ``(n_genes,)`` float64."""

    @abstractmethod
    def transform(self, counts: sparse.csr_array, groups: np.ndarray) -> np.ndarray:
        """Return the normalized values of the entries of ``counts``, float32, aligned with ``counts.data``."""


class Counts(Normalization):
    """The counts themselves."""

    def transform(self, counts: sparse.csr_array, groups: np.ndarray) -> np.ndarray:
        """Return the counts as float32."""
        return counts.data.astype(np.float32)


class ShiftedLog(Normalization):
    """log(1 + count · target / total): each cell scaled to the median total count of its technology.

    Totals are over the genes of the vocabulary that the data has; cells without counts have no say in the median. A
    technology that was not there to learn from, or had no counts, takes the median over the cells of all technologies;
    without any counts at all the target is 1. A query with fewer genes has smaller totals, hence larger values.
    """

    needs_fit = True
    # statistics: (n_groups + 1,) targets

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


class NonzeroMean(Normalization):
    """Count over the gene's mean among the cells of the technology that express it.

    A gene that is high for this gene outranks one that is high in every cell; the idea is Geneformer's ranking, with
    a mean in place of its median. Where no cell of the technology expressed the gene, and for a technology that was
    not there to learn from, the mean is over the cells of all technologies; a gene that no cell at all expressed has
    the mean 1, the smallest that a non-zero count can have.
    """

    needs_fit = True
    # statistics: (n_groups + 1, n_genes) means

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
    # statistics: (n_groups + 1, n_genes, 2), means and weights

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


class _GeneSums(Normalization):
    """Sums of each gene's counts, and cells, by technology; ``powers`` of the counts are summed."""

    needs_fit = True
    signed = True
    powers: tuple[int, ...] = (1,)

    def start(self, n_genes: int, n_groups: int) -> None:
        """Forget what was observed before."""
        self._sums = np.zeros((len(self.powers), n_groups, n_genes))
        self._cells = np.zeros(n_groups, dtype=np.int64)

    def observe(self, counts: sparse.csr_array, groups: np.ndarray) -> None:
        """Add up each gene's counts, and the cells."""
        n_groups, n_genes = self._sums.shape[1:]
        place = groups[rows_of(counts)] * n_genes + counts.indices
        data = counts.data.astype(np.float64)
        for sums, power in zip(self._sums, self.powers, strict=True):
            sums += np.bincount(place, weights=data**power, minlength=sums.size).reshape(sums.shape)
        self._cells += np.bincount(groups, minlength=n_groups)

    def _taken(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums, ``(n_powers, n_groups + 1, n_genes)``, and the cells, those of all last; forget both."""
        sums = np.concatenate([self._sums, self._sums.sum(axis=1, keepdims=True)], axis=1)
        cells = np.append(self._cells, self._cells.sum())
        del self._sums, self._cells
        return sums, cells


def _limits(n_cells: np.ndarray) -> np.ndarray:
    """Return what values are cut at, the root of the number of cells: ``(n_groups + 1, 1)``."""
    return np.sqrt(np.where(n_cells > 0, n_cells, max(int(n_cells[-1]), 1)))[:, None]


class PearsonResiduals(_GeneSums):
    """(count - expected) / sd: analytic Pearson residuals under a negative binomial (Lause et al. 2021).

    Expected is the cell's total times the gene's share of all counts of the technology, the variance expected +
    expected² / 100; residuals are cut at the root of the technology's number of cells, as scanpy does. Where no cell of
    the technology expressed the gene, and for a technology that was not there to learn from, the share is that of the
    cells of all technologies; a gene that no cell at all expressed has the share of a single count. Totals are over the
    genes of the vocabulary that the data has: a query with fewer genes has smaller totals, hence larger residuals.
    """

    # statistics: (n_groups + 1, n_genes, 2), shares and where residuals are cut

    def finish(self) -> None:
        """Divide, with the gene's share in all technologies where its own has no count."""
        (sums,), cells = self._taken()
        total = np.maximum(sums.sum(axis=1, keepdims=True), 1.0)
        overall = np.where(sums[-1] > 0, sums[-1], 1.0) / total[-1]
        shares = np.where(sums > 0, sums / total, overall)
        self.statistics = np.stack([shares, np.broadcast_to(_limits(cells), shares.shape)], axis=2)

    def transform(self, counts: sparse.csr_array, groups: np.ndarray) -> np.ndarray:
        """Return the residuals as float32."""
        rows = rows_of(counts)
        share, limit = self.statistics[groups[rows], counts.indices].T
        expected = totals_of(counts)[rows] * share
        residuals = (counts.data - expected) / np.sqrt(expected + expected**2 / OVERDISPERSION)
        return np.clip(residuals, -limit, limit).astype(np.float32)


class SeuratV3(_GeneSums):
    """(count - mean) / sd, the sd read off the trend of variances over means (Stuart et al. 2019).

    The values whose variances Seurat v3 and scanpy (``flavor="seurat_v3"``) choose variable genes by: log10 variance is
    fitted over log10 mean by a local quadratic regression in each technology, and values are cut at the root of its
    number of cells. A gene whose counts do not vary in the technology, and a technology that was not there to learn
    from, takes what was learned of the cells of all technologies; a gene that varies in none keeps its counts.
    """

    powers = (1, 2)
    # statistics: (n_groups + 1, n_genes, 3), means, standard deviations of the trend, and where values are cut

    def finish(self) -> None:
        """Fit the trend of each technology, and that of all cells."""
        (sums, squares), cells = self._taken()
        n = np.maximum(cells, 1)[:, None]
        means = sums / n
        variances = (squares - n * means**2) / np.maximum(n - 1, 1)
        varies = (variances > 1e-12) & (means > 0)
        spread = np.ones_like(means)
        for row, known in enumerate(varies):
            if known.any():
                x, y = np.log10(means[row, known]), np.log10(variances[row, known])
                spread[row, known] = 10 ** (trend(x, y) / 2)
        means, spread = (
            np.where(varies, each, np.where(varies[-1], each[-1], plain))
            for each, plain in ((means, 0.0), (spread, 1.0))
        )
        self.statistics = np.stack([means, spread, np.broadcast_to(_limits(cells), means.shape)], axis=2)

    def transform(self, counts: sparse.csr_array, groups: np.ndarray) -> np.ndarray:
        """Return the standardized counts as float32."""
        mean, spread, limit = self.statistics[groups[rows_of(counts)], counts.indices].T
        return np.minimum((counts.data - mean) / spread, limit).astype(np.float32)


def trend(x: np.ndarray, y: np.ndarray, span: float = SPAN) -> np.ndarray:
    """Return ``y`` smoothed over ``x`` by loess: a quadratic on the nearest share ``span``, with tricube weights.

    scikit-misc, which scanpy uses for it, ends the process where there are few points; this takes any number.

    Parameters
    ----------
    x, y
        ``(n,)`` finite values.
    span
        Share of the points in each fit.

    Returns
    -------
    numpy.ndarray
        ``(n,)`` smoothed values.
    """
    n = len(x)
    order = np.argsort(x, kind="stable")
    x_sorted, y_sorted = x[order], y[order]
    n_near = min(n, max(int(span * n + 1e-5), _FEWEST))
    knots = x_sorted
    if n > 2 * _KNOTS:
        by_rank = x_sorted[np.linspace(0, n - 1, _KNOTS).round().astype(np.int64)]
        knots = np.concatenate([by_rank, np.linspace(x_sorted[0], x_sorted[-1], _KNOTS)])
    knots = np.unique(knots)
    fitted = np.array([_local(x_sorted, y_sorted, at, n_near) for at in knots])
    return np.interp(x, knots, fitted)


def _local(x: np.ndarray, y: np.ndarray, at: float, n_near: int) -> float:
    """Return the local quadratic fit at one place; ``x`` is sorted."""
    distance = np.abs(x - at)
    width = np.partition(distance, n_near - 1)[n_near - 1]
    near = distance <= width
    t = (x[near] - at) / width if width > 0 else np.zeros(np.count_nonzero(near))
    root = np.sqrt(np.maximum((1 - np.abs(t) ** 3) ** 3, 1e-12))
    design = np.stack([np.ones_like(t), t, t**2], axis=1)
    # By the least norm where the points do not decide: of points in one place that is their mean.
    return float(np.linalg.lstsq(design * root[:, None], y[near] * root, rcond=1e-6)[0][0])


NORMALIZATIONS: Registry[type[Normalization]] = Registry(
    "normalization",
    {
        "counts": Counts,
        "shifted_log": ShiftedLog,
        "nonzero_mean": NonzeroMean,
        "pearson_residuals": PearsonResiduals,
        "seurat_v3": SeuratV3,
        "spatial_ratio": SpatialRatio,
    },
)
"""Normalizations by name, for the ``values`` and ``ranks`` of :class:`scjepa.tokens.TokenConfig`."""


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
    **reading: Unpack[Reading],
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
    reader = CountReader(counts, gene_ids, n_vocabulary, groups, n_groups, **reading)
    return FittedNormalizations.learned(rule, reader)
