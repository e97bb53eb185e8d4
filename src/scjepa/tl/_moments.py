"""Means, scales, covariances and principal axes of cells × features, read chunk by chunk, and groups made alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scjepa._core.anndata import as_embedding, counts_of, refuse_adata, require_anndata
from scjepa._core.arrays import group_codes, members, positive, slices
from scjepa._core.counts import TARGET_SUM, CountCheck, check_of, iter_rows, log_normalized, shape_of
from scjepa._core.features import TRANSCRIPTS, kinds_of

if TYPE_CHECKING:
    from anndata import AnnData

    from scjepa._core.arrays import Labels


_CELLS = 16_384
"""Cells of a chunk at most."""

_VALUES = 2**23
"""Cells × features of a chunk at most: what is dense at one time, 32 MiB of float32."""

_CONSTANT = 1e-6
"""A feature whose standard deviation is below this share of its root mean square is rounding noise (float32)."""

EXACT_FEATURES = 2_500
"""Features up to which their whole covariance is made; beyond, its leading axes are iterated for."""

_PASSES, _SPARE = 8, 30
"""Passes of the iteration, and axes that it carries beside those that are wanted."""

ALIGNMENTS = ("scale", "covariance", "center", "none")
"""What groups are made to have in common: mean and variance of each feature; covariances as well; means; nothing."""

_SHRINKAGE = 0.1
"""Weight of the mean variance in a group's covariance, so that directions it hardly varies in are not blown up."""


class Features:
    """Cells × features, read chunk by chunk: an embedding, or counts that are log-normalized on the way.

    Counts are checked in the first reading: a negative or NaN one is refused, and of values that are not integers
    the user is told once.

    Parameters
    ----------
    values
        Embedding (array, data frame, sparse), or raw counts (in memory, backed or Dask), cells × features.
    target_sum
        Total to which the counts of each cell are scaled before log1p. ``None``: ``values`` are taken as they are.
    check
        Check of counts that knows the names of cells and genes, and what to do about a wrong value.
    names
        ``(n_features,)`` names; ``None``: those of a data frame's columns, else none.
    checked
        Counts that were checked before are not checked again, so that nothing is said twice.
    """

    def __init__(
        self,
        values: Any,
        target_sum: float | None = None,
        check: CountCheck | None = None,
        names: Sequence[str] | None = None,
        *,
        checked: bool = False,
    ) -> None:
        self.target_sum = target_sum
        self._check = None if target_sum is None or checked else check or CountCheck()
        self._columns: np.ndarray | None = None
        self._shown: np.ndarray | None = None
        if names is None and hasattr(values, "columns"):
            names = list(values.columns)
        if target_sum is None:
            self._values = as_embedding(values)
        else:
            refuse_adata(values, "counts")
            # Once, not in each reading: rows of any other format are slow to slice.
            self._values = values.tocsr() if sparse.issparse(values) else values
        self.n_cells, self.n_features = shape_of(self._values)
        self.names = None if names is None else np.array(list(map(str, names)), dtype=object)
        if self.names is not None and len(self.names) != self.n_features:
            raise ValueError(f"There are {len(self.names):,} names of {self.n_features:,} features.")
        if self.names is not None and len(set(self.names)) < len(self.names):
            self.names = None  # names that two features share find neither

    @classmethod
    def of(cls, values: object, target_sum: float | None = None, names: Sequence[str] | None = None) -> Features:
        """Return ``values`` to be read chunk by chunk; themselves where they are that already."""
        if isinstance(values, Features):
            return values
        if target_sum is not None and hasattr(values, "obs_names"):
            return cls.of_counts(values, None, target_sum)
        return cls(values, target_sum, names=names)

    @classmethod
    def of_counts(cls, adata: AnnData, layer: str | None, target_sum: float = TARGET_SUM) -> Features:
        """Return raw counts of genes, to be log-normalized, with errors that name cells and genes.

        Control probes and antibodies are left out, as tokens leave them out: their counts are of no gene.

        Raises
        ------
        KeyError, ValueError
            If there is no such layer, or no ``X``.
        """
        require_anndata(adata)
        found = cls(counts_of(adata, layer), target_sum, check_of(adata, layer), adata.var_names)
        genes = np.flatnonzero(np.isin(kinds_of(adata.var_names).astype(str), TRANSCRIPTS))
        return found if len(genes) in (0, adata.n_vars) else found.narrowed(genes)

    def taken(self, names: np.ndarray | None, n_features: int) -> Features:
        """Return the features of a fit: by their names where both have any, else as they are.

        Raises
        ------
        KeyError
            If a feature of the fit is not there.
        ValueError
            If there are no names, and another number of features than ``n_features``.
        """
        if names is None or self.names is None:
            if self.n_features != n_features:
                raise ValueError(
                    f"The fit was on {n_features:,} features, and these cells have {self.n_features:,}. Give them the "
                    "same features in the same order, adata[:, names], or their names: feature_names=adata.var_names."
                )
            return self
        if len(self.names) == len(names) and (self.names == names).all():
            return self
        place = {name: column for column, name in enumerate(self.names)}
        missing = [name for name in names if name not in place]
        if missing:
            raise KeyError(
                f"{len(missing):,} of the {len(names):,} features of the fit are not there: "
                f"{', '.join(map(repr, missing[:5]))}{', ...' if len(missing) > 5 else ''}. Fit anew on the features "
                "that both have."
            )
        return self.narrowed(np.array([place[name] for name in names]))

    def narrowed(self, columns: np.ndarray) -> Features:
        """Return some of the features, in this order; the others take no part in the size of a cell either."""
        found = copy(self)
        found._columns = columns if self._columns is None else self._columns[columns]
        found.n_features = len(columns)
        found.names = None if self.names is None else self.names[columns]
        return found

    def filled(self, names: np.ndarray | None) -> Features:
        """Return counts with the features ``names``, 0 in all cells where they are not there; others are left out."""
        if names is None or self.names is None or set(names) <= set(self.names):
            return self
        place = dict(zip(self.names, self.columns, strict=True))
        found = copy(self)
        found._columns = np.array([place.get(name, -1) for name in names])
        found.n_features, found.names = len(names), np.asarray(names, dtype=object)
        return found

    def showing(self, columns: np.ndarray) -> Features:
        """Return some of the features of log-normalized counts; the others still count in the size of a cell."""
        found = copy(self)
        found._shown = columns if self._shown is None else self._shown[columns]
        found.n_features = len(columns)
        found.names = None if self.names is None else self.names[columns]
        return found

    @property
    def columns(self) -> np.ndarray:
        """``(n_features,)`` columns of the values that are read."""
        return np.arange(self.n_features) if self._columns is None else self._columns

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and features."""
        return self.n_cells, self.n_features

    def chunks(self) -> Iterator[tuple[slice, Any]]:
        """Yield rows and their values: float32 csr of log-normalized counts, or an array, which may be the user's."""
        step = max(1, min(_CELLS, _VALUES // max(self.n_features, 1)))
        if self.target_sum is None:
            for rows in slices(self.n_cells, step):
                yield rows, self._values[rows] if self._columns is None else self._values[rows][:, self._columns]
            return
        for start, counts in iter_rows(self._values, step):
            if self._check is not None:
                self._check.see(counts, start)
            counts = counts if self._columns is None else _some_columns(counts, self._columns)
            logged = log_normalized(counts, self.target_sum)
            yield slice(start, start + counts.shape[0]), logged if self._shown is None else logged[:, self._shown]
        check, self._check = self._check, None  # what one reading has seen, the next need not look at
        if check is not None:
            check.tell()


def _some_columns(counts: Any, columns: np.ndarray) -> Any:
    """Return columns of csr counts; -1 is one of zeros."""
    if (columns >= 0).all():
        return counts[:, columns]
    empty = sparse.csr_array((counts.shape[0], 1), dtype=counts.dtype)
    return sparse.hstack([counts, empty], format="csr")[:, columns]


ALL_CELLS = "all"
"""Name of the group where no groups are told apart."""


def groups_in(groups: Labels | None, n_cells: int) -> tuple[list[str], np.ndarray]:
    """Return the names of groups as text, sorted, and each cell's position among them; ``None`` is one group of all."""
    if groups is None:
        return [ALL_CELLS], np.zeros(n_cells, dtype=np.int64)
    codes, names = group_codes(groups, n_cells, as_text=True)
    return names, codes


@dataclass
class Standardizer:
    """Mean and standard deviation of each feature in each group, and what is taken from a group that came later.

    Attributes
    ----------
    means, scales
        ``(n_groups + 1, n_features)`` float64; the last row is of all cells, and so is that of a group of one cell,
        which has no variance of its own. A scale of 0 marks a constant feature, which is 0 after :meth:`dense`.
    """

    means: np.ndarray
    scales: np.ndarray

    @classmethod
    def fit(cls, features: Features, codes: np.ndarray, n_groups: int, align: str) -> Standardizer:
        """Read all cells once; ``codes`` are their groups, ``(n_cells,)`` in 0 .. n_groups - 1."""
        size = np.bincount(codes, minlength=n_groups).astype(np.float64)
        return cls.of_sums(size, *_sums(features, codes, n_groups), align)

    @classmethod
    def of_sums(cls, size: np.ndarray, total: np.ndarray, square: np.ndarray, align: str) -> Standardizer:
        """Return it from the cells of each group, ``(n_groups,)``, and sums of their values and of squares.

        The sums are ``(n_groups, n_features)``.
        """
        share = size[:, None] / max(size.sum(), 1)
        alone = size < 2
        size = np.maximum(size, 1)[:, None]
        own_mean, own_square = total / size, square / size
        mean, mean_square = (share * own_mean).sum(axis=0), (share * own_square).sum(axis=0)
        scale = _scale(own_square - own_mean**2, own_square)
        overall = _scale(mean_square - mean**2, mean_square)
        if align == "center":
            overall = _scale((share * np.maximum(own_square - own_mean**2, 0)).sum(axis=0), mean_square)
            scale[:] = overall
        if align == "none":
            alone[:] = True
        own_mean[alone], scale[alone] = mean, overall
        return cls(np.vstack([own_mean, mean]), np.vstack([scale, overall]))

    def dense(self, chunk: Any, codes: np.ndarray) -> np.ndarray:
        """Return a chunk standardized, a float32 array of its own; a code of -1 reads the row of all cells."""
        inverse = np.divide(1.0, self.scales, out=np.zeros_like(self.scales), where=self.scales > 0)
        rows: Any = codes if len(np.unique(codes)) > 1 else codes[:1]
        if not sparse.issparse(chunk):  # an embedding may lie far from 0
            return ((chunk - self.means[rows]) * inverse[rows]).astype(np.float32)
        values = chunk.toarray()
        values -= self.means.astype(np.float32)[rows]
        values *= inverse.astype(np.float32)[rows]
        return values


def _sums(features: Features, codes: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of the values of each group, and that of their squares, ``(n_groups, n_features)``."""
    total = np.zeros((n_groups, features.n_features))
    square = np.zeros_like(total)
    for rows, chunk in features.chunks():
        own = codes[rows]
        member = members(own, n_groups)
        # In float64: a mean of squares less the square of the mean loses half of the digits.
        wide = chunk.astype(np.float64)
        total += _array(member @ wide)
        square += _array(member @ (wide.power(2) if sparse.issparse(wide) else np.square(wide)))
    return total, square


def _array(product: Any) -> np.ndarray:
    return product.toarray() if sparse.issparse(product) else np.asarray(product)


def _scale(variance: np.ndarray, mean_square: np.ndarray) -> np.ndarray:
    """Return standard deviations, 0 where a feature is constant but for rounding."""
    return np.where(variance > _CONSTANT**2 * mean_square, np.sqrt(np.maximum(variance, 0)), 0.0)


def principal_axes_of(features: Features, standardizer: Standardizer, codes: np.ndarray, n_axes: int) -> np.ndarray:
    """Return the leading principal axes of the standardized features, (n_features, at most n_axes), float64.

    Of few features the covariance is made whole. Of many, a block of vectors is multiplied by it, pass by pass
    (subspace iteration), from a start that does not depend on the order of the genes. Axes without variance are left
    out. The largest loading of each is positive.
    """
    n_axes = min(n_axes, features.n_features)
    if features.n_features <= EXACT_FEATURES:
        return leading_axes(_product(features, standardizer, codes), n_axes)
    return _with_variance(*_iterated(features, standardizer, codes, n_axes))


def leading_axes(product: np.ndarray, n_axes: int) -> np.ndarray:
    """Return the leading axes of a sum of squares and products, as :func:`principal_axes_of` does."""
    variances, axes = np.linalg.eigh(product)
    return _with_variance(variances[::-1][:n_axes], axes[:, ::-1][:, :n_axes])


def _with_variance(variances: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return positive(axes[:, variances > 1e-7 * max(variances[0], np.finfo(np.float64).tiny)])


def _product(features: Features, standardizer: Standardizer, codes: np.ndarray) -> np.ndarray:
    """Return the sum of squares and products of the standardized features, ``(n_features, n_features)``."""
    product = np.zeros((features.n_features, features.n_features))
    for rows, chunk in features.chunks():
        values = standardizer.dense(chunk, codes[rows])
        product += values.T @ values
    return product


def _iterated(
    features: Features, standardizer: Standardizer, codes: np.ndarray, n_axes: int
) -> tuple[np.ndarray, np.ndarray]:
    width = min(n_axes + _SPARE, features.n_features, features.n_cells)
    # A gene's start follows its mean and scale, so that the order of the genes changes nothing.
    order = np.lexsort((standardizer.scales[-1], standardizer.means[-1]))
    block = np.empty((features.n_features, width))
    block[order] = np.random.default_rng(0).standard_normal(block.shape)
    product = block
    for _ in range(_PASSES):
        block = np.linalg.qr(product)[0]
        product = np.zeros_like(block)
        narrow = block.astype(np.float32)
        for rows, chunk in features.chunks():
            values = standardizer.dense(chunk, codes[rows])
            product += values.T @ (values @ narrow)
    variances, rotation = np.linalg.eigh(block.T @ product)
    keep = slice(None, -n_axes - 1, -1)
    return variances[keep], block @ rotation[:, keep]


@dataclass(frozen=True, eq=False)
class SectionMoments:
    """What the linear method needs of the features of one section, so that its cells need not be read again.

    Attributes
    ----------
    n_cells
        Cells.
    total, square
        ``(n_features,)`` float64 sums of the values, and of their squares.
    product
        ``(n_features, n_features)`` sums of squares and products of the values, z-scored within the section; ``None``
        beyond 2,500 features, whose axes are iterated for.
    """

    n_cells: int
    total: np.ndarray
    square: np.ndarray
    product: np.ndarray | None

    @classmethod
    def of(cls, features: Features) -> SectionMoments:
        """Read the cells of a section, twice."""
        codes = np.zeros(features.n_cells, dtype=np.int64)
        total, square = _sums(features, codes, 1)
        product = None
        if features.n_features <= EXACT_FEATURES:
            own = Standardizer.of_sums(np.array([float(features.n_cells)]), total, square, "scale")
            product = _product(features, own, codes).astype(np.float32)
        return cls(features.n_cells, total[0], square[0], product)

    @property
    def scale(self) -> np.ndarray:
        """``(n_features,)`` standard deviations within the section."""
        size = max(self.n_cells, 1)
        return _scale(self.square / size - (self.total / size) ** 2, self.square / size)


def add_product(
    product: np.ndarray, moments: SectionMoments, columns: np.ndarray, mean: np.ndarray, scale: np.ndarray
) -> None:
    """Add the sum of squares and products of a section, standardized by ``mean`` and ``scale``, to ``product``.

    Parameters
    ----------
    product
        ``(n_features, n_features)``; is changed.
    moments
        Of the section's own features.
    columns
        ``(n_own,)`` which of the features these are; values of the others are 0.
    mean, scale
        ``(n_features,)`` by which the section is standardized; a scale of 0 makes 0 of a feature.
    """
    if moments.product is None:
        raise ValueError(f"Moments of {len(columns):,} features have no products.")
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    factor = moments.scale * inverse[columns]
    product[np.ix_(columns, columns)] += moments.product * np.outer(factor, factor)
    shift = np.zeros_like(mean)
    shift[columns] = moments.total / moments.n_cells
    shift = (shift - mean) * inverse
    if shift.any():
        product += moments.n_cells * np.outer(shift, shift)


# -- covariances of groups made alike (CORAL; Sun, Feng and Saenko 2016) -----------------------------------------------


def power(covariance: np.ndarray, exponent: float) -> np.ndarray:
    """Return a power of a symmetric positive definite matrix."""
    variances, axes = np.linalg.eigh(covariance)
    # Rounding can make the smallest negative.
    variances = np.maximum(variances, np.finfo(np.float64).eps * max(variances[-1], np.finfo(np.float32).tiny))
    found: np.ndarray = (axes * variances**exponent) @ axes.T
    return found


def covariances_of(scores: np.ndarray, codes: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the covariance of each group, shrunk, ``(n_groups, n_dims, n_dims)``; 0 for a group of one cell."""
    n_dims = scores.shape[1]
    found = np.zeros((n_groups, n_dims, n_dims))
    for code in range(n_groups):
        values = scores[codes == code].astype(np.float64)
        own = np.cov(values.T, bias=True).reshape(n_dims, n_dims) if len(values) > 1 else np.zeros((n_dims, n_dims))
        found[code] = shrunk(own)
    return found


def shrunk(covariance: np.ndarray) -> np.ndarray:
    """Return a covariance shrunk towards a multiple of the identity."""
    n_dims = len(covariance)
    found: np.ndarray = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.trace(covariance) / n_dims * np.eye(n_dims)
    return found


def mean_covariance(covariances: np.ndarray) -> np.ndarray:
    """Return the mean of those that vary."""
    varied = np.trace(covariances, axis1=1, axis2=2) > 0
    found: np.ndarray = covariances[varied].mean(axis=0) if varied.any() else covariances[0]
    return found


def map_to(common: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the linear map after which a group with covariance ``own`` has ``common``; one without variance stays."""
    if not np.trace(own) > 0:
        return np.eye(len(own))
    return power(own, -0.5) @ power(common, 0.5)


def mapped(scores: np.ndarray, maps: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the scores of each group after its map, in the type of the scores."""
    found = scores.copy()
    for code in np.unique(codes):
        found[codes == code] = scores[codes == code] @ maps[code].astype(scores.dtype)
    return found
