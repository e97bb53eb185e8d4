"""Normalizations that set a count against what is expected of it: by the cell's total, or by the gene's spread.

Both are defined for every entry of a matrix, zeros included, and nearly none of a residual matrix is 0. Only genes with
counts become tokens, so only their residuals are computed, from sums of each cell and each gene: nothing is dense.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from scjepa.tokens.counts import rows_of, totals_of

OVERDISPERSION = 100.0
"""theta of the negative binomial that Pearson residuals assume (Lause et al. 2021); scanpy's default."""

SPAN = 0.3
"""Share of the genes that the trend of variances is fitted on at each mean; Seurat's and scanpy's."""

_FEWEST = 8
"""Genes that it is fitted on at least, where a panel has as many."""
_KNOTS = 300
"""Means at which the trend is computed, spread by rank and as many evenly; in between it is a line."""


class _GeneSums:
    """Sums of each gene's counts, and cells, by technology; ``powers`` of the counts are summed."""

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

    needs_fit = True
    statistics: np.ndarray
    """``(n_groups + 1, n_genes, 2)``: shares, and where residuals are cut."""

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

    needs_fit = True
    powers = (1, 2)
    statistics: np.ndarray
    """``(n_groups + 1, n_genes, 3)``: means, standard deviations of the trend, and where values are cut."""

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
