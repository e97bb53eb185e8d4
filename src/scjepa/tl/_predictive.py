"""Predictive components: what a cell shares with its surroundings, in closed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from scjepa._core import keys as _keys
from scjepa._core.anndata import Note, embedding_of, refuse_users
from scjepa._core.arrays import positive
from scjepa._core.checks import between
from scjepa._core.counts import TARGET_SUM
from scjepa._core.graph import edges_of, sections_of
from scjepa._core.options import unknown_name
from scjepa._core.plain import whole
from scjepa._core.renamed import renamed
from scjepa.tl._aggregate import iter_hops
from scjepa.tl._kept import Kept
from scjepa.tl._moments import (
    ALIGNMENTS,
    Features,
    Standardizer,
    covariances_of,
    groups_in,
    map_to,
    mapped,
    mean_covariance,
    power,
    principal_axes_of,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scjepa._core.arrays import Labels

_CELLS_PER_AXIS = 20
"""Cells for each principal axis at least: with fewer, chance alone correlates cells and surroundings."""

_DEALS, _DEALT_CELLS = 5, 20_000
"""Times that cells are dealt out at random to tell what chance gives, and cells that are dealt out so at most in all
(one time at least)."""


class PredictiveComponents(Kept, TransformerMixin, BaseEstimator):
    r"""Components of cells that predict, and are predicted by, the cells around them.

    Let :math:`x` be the principal components of a cell's standardized features and :math:`y` the mean of :math:`x`
    over the rings around the cell (each ring weighs the same; the cell itself takes no part). With the covariances
    :math:`C_{xx}, C_{xy}, C_{yy}`, the singular value decomposition

    .. math::

        (C_{xx} + \epsilon_x I)^{-1/2}\, C_{xy}\, (C_{yy} + \epsilon_y I)^{-1/2} = U\, \mathrm{diag}(\rho)\, V^\top

    gives the directions :math:`w_j`, the columns of :math:`(C_{xx} + \epsilon_x I)^{-1/2} U`, in which a cell and its
    surroundings correlate most (canonical correlation; Hotelling 1936). Component :math:`j` of a cell is
    :math:`\rho_j\, w_j^\top x`: the less its surroundings tell of it, the smaller it is.

    This is a joint-embedding predictive architecture in its linear limit. The context is the cell, the target the
    representation of its surroundings, the predictor a linear map, and whitening (:math:`C^{-1/2}`) the guard against
    collapse. Relatives are maximum autocorrelation factors (Switzer and Green 1984), MULTISPATI (Dray et al. 2008) and
    SpatialPCA (Shang and Zhou 2022).

    Parameters
    ----------
    n_components
        Components to keep, at most as many as there are principal components.
    n_pcs
        Principal components of the features that are looked at; at most a twentieth of the number of cells that have
        neighbors (and 2 at least), for of few cells chance alone makes high correlations (:attr:`chance_`).
    n_rings
        Rings around a cell that make up its surroundings. Ring 1 are its neighbors in the graph, ring 2 theirs.
    ridge
        :math:`\epsilon` as a share of the mean variance.
    align
        What groups (sections) are made to have in common before: ``"scale"``, mean and variance of each feature;
        ``"covariance"``, covariances as well (CORAL; Sun, Feng and Saenko 2016), which presumes that groups consist of
        the same kinds of cells; ``"center"``, means alone; ``"none"``.
    target_sum
        ``fit`` and ``transform`` are given raw counts: those of a cell are scaled to this total, and log1p is taken.
        ``None``: they are given an embedding, which is taken as it is.

    Attributes
    ----------
    correlations_
        ``(n_components,)`` canonical correlations :math:`\rho`, falling.
    chance_
        The largest correlation to expect where nothing around a cell predicts it: found by dealing the cells out anew
        over the graph, with a margin of about two standard deviations. With :math:`n` cells and :math:`p` principal
        components it is somewhat above :math:`2 \sqrt{p / n}` (Wachter 1980), for neighborhoods overlap.
    loadings_
        ``(n_features, n_components)``: weight of each standardized feature in each component.
    means_, scales_
        ``(n_groups + 1, n_features)`` mean and standard deviation of each group; the last row is of all cells, and so
        is that of a group of one cell.
    axes_
        ``(n_features, n_pcs)`` principal axes of the standardized features.
    maps_
        ``(n_groups + 1, n_pcs, n_pcs)`` map of the principal components of each group to covariances in common.
    common_
        ``(n_pcs, n_pcs)`` that covariance; with ``align="covariance"`` alone.
    weights_, center_
        ``(n_pcs, n_components)`` and ``(n_pcs,)``: a component is ``(principal components - center_) @ weights_``.
    groups_
        ``(n_groups,)`` names of the groups.
    feature_names_in_
        ``(n_features,)`` names of the features, where they are known.
    n_cells_, n_isolated_
        Cells, and those of them without neighbors, which take no part in the fit.

    Examples
    --------
    >>> components = scjepa.tl.PredictiveComponents(target_sum=1e4)
    >>> components.fit(adata, adata.obsp["spatial_connectivities"], groups=adata.obs["section"])
    >>> components.transform(other)
    """

    def __init__(
        self,
        n_components: int = 20,
        *,
        n_pcs: int = 50,
        n_rings: int = 2,
        ridge: float = 1e-2,
        align: str = "scale",
        target_sum: float | None = None,
    ) -> None:
        self.n_components = n_components
        self.n_pcs = n_pcs
        self.n_rings = n_rings
        self.ridge = ridge
        self.align = align
        self.target_sum = target_sum

    # -- fit and transform --------------------------------------------------------------------------------------

    def fit(
        self, X: object, graph: object, groups: Labels | None = None, *, feature_names: Sequence[str] | None = None
    ) -> PredictiveComponents:
        """Find the components of cells in a spatial graph.

        Parameters
        ----------
        X
            Cells × features: an embedding, or raw counts where ``target_sum`` is given (in memory, backed or Dask; an
            AnnData object stands for its ``X`` without control probes and antibodies). It is read chunk by chunk, three
            times (ten times beyond 2,500 features); what is kept of it are second moments and ``n_pcs`` numbers a cell.
        graph
            ``(n_cells, n_cells)`` spatial graph, as squidpy's ``obsp["spatial_connectivities"]``; an entry other than
            0 is an edge, whatever its weight.
        groups
            Group of each cell, such as its section, ``(n_cells,)``. ``None``: all are one group.
        feature_names
            ``(n_features,)`` names, by which :meth:`transform` finds the features again. Default: those of a data frame
            or an AnnData object; of other arrays none.

        Returns
        -------
        PredictiveComponents
            Itself.

        Warns
        -----
        UserWarning
            If counts are not integers, such as log-normalized values.

        Raises
        ------
        TypeError
            If a number of components or rings is not an integer.
        ValueError
            If no cell has a neighbor, no feature varies, a value is NaN, a count is negative, an option is out of its
            range, or sizes do not fit.
        """
        self.fit_transform(X, graph, groups, feature_names=feature_names)
        return self

    def fit_transform(  # type: ignore[override]
        self, X: object, graph: object, groups: Labels | None = None, *, feature_names: Sequence[str] | None = None
    ) -> np.ndarray:
        """Return the components of the cells they are found in: :meth:`fit`, then :meth:`transform`, in one reading."""
        features = Features.of(X, self.target_sum, feature_names)
        return self._components_of(self._fit(features, edges_of(graph), groups))

    def transform(
        self, X: object, groups: Labels | None = None, *, feature_names: Sequence[str] | None = None
    ) -> np.ndarray:
        """Return the components of cells, which may be others than those of the fit.

        Parameters
        ----------
        X
            Cells × features, as in :meth:`fit`. Where the fit and these cells have names of features, they are taken by
            name, in whatever order and among whatever others; else in the order of the fit.
        groups
            Group of each cell. A group of the fit is standardized as it was there, a new one by its own mean and
            variance as ``align`` says, so that its cells lie where a fit on both would have put them if nothing
            differs; a new group of one cell, which has no variance, by those of all cells of the fit. ``None``: the
            group of the fit, or, where there were several, one new group.
        feature_names
            As in :meth:`fit`.

        Returns
        -------
        numpy.ndarray
            ``(n_cells, n_components)`` float32. The order of the cells changes nothing.

        Raises
        ------
        KeyError
            If a feature of the fit is not there by its name.
        ValueError
            If there are other features than in the fit, or a value is NaN.
        """
        check_is_fitted(self, "weights_")
        names = getattr(self, "feature_names_in_", None)
        features = Features.of(X, self.target_sum, feature_names).taken(names, self.n_features_in_)
        return self._components_of(self._scores(features, *self._standardization(features, groups)))

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:
        """Return the names of the components, for scikit-learn."""
        return np.array([f"component_{number}" for number in range(self.weights_.shape[1])], dtype=object)

    # -- the steps of a fit -------------------------------------------------------------------------------------

    def _fit(self, features: Features, edges: csr_matrix, groups: Labels | None) -> np.ndarray:
        """Fit and return the scores of the cells, which :meth:`_components_of` turns into components."""
        scores, _ = self._principal(features, edges, groups)
        self._correlate(scores, edges)
        return scores

    def _principal(self, features: Features, edges: csr_matrix, groups: Labels | None) -> tuple[np.ndarray, np.ndarray]:
        """Set standardization and principal axes.

        Returns
        -------
        tuple
            Scores, the principal components of the cells, ``(n_cells, n_pcs)`` float32, aligned; and the codes of
            their groups.
        """
        self._check_options()
        n_joined = int(np.count_nonzero(np.diff(edges.indptr)))
        if edges.shape[0] != features.n_cells:
            raise ValueError(f"The graph has {edges.shape[0]:,} cells, the features {features.n_cells:,}.")
        names, codes = groups_in(groups, features.n_cells)
        standardizer = Standardizer.fit(features, codes, len(names), self.align)
        n_axes = self._check_fit(standardizer, n_joined)
        axes = principal_axes_of(features, standardizer, codes, n_axes)
        self._set_principal(standardizer, axes, names, features.names, (features.n_cells, n_joined))
        scores = self._scores(features, standardizer, self.maps_, codes)
        if self.align == "covariance":
            self._set_maps(covariances_of(scores, codes, len(names)))
            scores = mapped(scores, self.maps_, codes)
        return scores, codes

    def _check_fit(self, standardizer: Standardizer, n_joined: int) -> int:
        """Return how many axes are looked at, after checking that there is something to predict."""
        if not n_joined:
            raise ValueError(
                "No cell has a neighbor in the spatial graph, so nothing surrounds a cell. Compute the graph anew, "
                "with more neighbors or a larger radius."
            )
        n_features = standardizer.scales.shape[1]
        if not (standardizer.scales > 0).any():
            raise ValueError(f"None of the {n_features:,} features varies between cells: nothing to predict.")
        return min(self.n_pcs, max(2, n_joined // _CELLS_PER_AXIS), n_features)

    def _set_principal(
        self,
        standardizer: Standardizer,
        axes: np.ndarray,
        names: Sequence[str],
        feature_names: np.ndarray | None,
        n_cells: tuple[int, int],
    ) -> None:
        """Set standardization and axes; ``n_cells`` are all cells, and those that have neighbors."""
        self.axes_ = axes
        self.means_, self.scales_ = standardizer.means, standardizer.scales
        self.groups_, self.n_features_in_ = np.asarray(names, dtype=object), len(axes)
        for of_earlier in ("feature_names_in_", "common_"):
            self.__dict__.pop(of_earlier, None)
        if feature_names is not None:
            self.feature_names_in_ = feature_names
        self.n_cells_, self.n_isolated_ = n_cells[0], n_cells[0] - n_cells[1]
        self.maps_ = np.tile(np.eye(axes.shape[1]), (len(names) + 1, 1, 1))

    def _set_maps(self, covariances: np.ndarray) -> None:
        """Set the maps that give the scores of each group the covariance in common."""
        self.common_ = mean_covariance(covariances)
        if len(covariances) > 1:
            self.maps_[:-1] = [map_to(self.common_, own) for own in covariances]

    def _correlate(self, scores: np.ndarray, edges: csr_matrix) -> None:
        """Set weights and correlations from the second moments of cells and their surroundings."""
        self._set_directions(*_moments(scores, edges, self.n_rings))
        deals = deals_of(np.einsum("nk,nk->n", scores, scores, dtype=np.float64))
        self._set_chance([_moments(scores[dealt], edges, self.n_rings)[1] for dealt in deals])

    def _set_directions(self, mean: np.ndarray, covariance: np.ndarray) -> None:
        """Set weights and correlations from mean and covariance of cells and their surroundings side by side."""
        width = len(mean) // 2
        directions, correlations = self._canonical(covariance)
        kept = min(self.n_components, width)
        self.correlations_ = correlations[:kept]
        self.loadings_ = positive(self.axes_ @ (directions[:, :kept] * self.correlations_))
        self.weights_ = self.axes_.T @ self.loadings_
        self.center_ = mean[:width]

    def _set_chance(self, covariances: Sequence[np.ndarray]) -> None:
        """Set what correlation chance gives, from the covariances after cells were dealt out at random."""
        by_chance = [self._canonical(covariance)[1][0] for covariance in covariances]
        # The largest of p correlations varies by about 0.65 p^(-2/3) of itself (Tracy and Widom's law).
        self.chance_ = float(min((1 + 1.3 * self.axes_.shape[1] ** (-2 / 3)) * np.mean(by_chance), 1.0))

    def _canonical(self, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the directions of canonical correlation and the correlations, falling."""
        width = len(covariance) // 2
        context = _inverse_root(covariance[:width, :width], self.ridge)
        target = _inverse_root(covariance[width:, width:], self.ridge)
        left, correlations, _ = np.linalg.svd(context @ covariance[:width, width:] @ target)
        return context @ left, np.clip(correlations, 0.0, 1.0)

    # -- parts --------------------------------------------------------------------------------------------------

    def _check_options(self) -> None:
        if self.align not in ALIGNMENTS:
            raise ValueError(unknown_name("align", self.align, ALIGNMENTS))
        self._check_whole("n_components", "n_pcs", "n_rings")
        between(0, np.inf)("ridge", self.ridge)
        if self.target_sum is not None and not 0 < self.target_sum < np.inf:
            raise ValueError(f"target_sum must be positive, or None for an embedding, found {self.target_sum}.")

    def _scores(
        self, features: Features, standardizer: Standardizer, maps: np.ndarray, codes: np.ndarray
    ) -> np.ndarray:
        """Return the principal components of the cells, aligned, ``(n_cells, n_axes)`` float32."""
        scores = np.empty((features.n_cells, self.axes_.shape[1]), dtype=np.float32)
        axes = self.axes_.astype(np.float32)
        for rows, chunk in features.chunks():
            scores[rows] = standardizer.dense(chunk, codes[rows]) @ axes
        return mapped(scores, maps, codes) if self.align == "covariance" else scores

    def _standardization(
        self, features: Features, groups: Labels | None
    ) -> tuple[Standardizer, np.ndarray, np.ndarray]:
        """Return standardization and maps of the groups at hand, as :meth:`transform` takes them, and their codes."""
        names, own = groups_in(groups, features.n_cells)
        position = {name: code for code, name in enumerate(self.groups_)}
        if groups is None:
            position = {names[0]: 0 if len(self.groups_) == 1 else -1}
        kept = np.array([position.get(name, -1) for name in names], dtype=np.int64)
        if (kept >= 0).all() or self.align == "none":
            return Standardizer(self.means_, self.scales_), self.maps_, kept[own]
        return *self._with_new(features, own, kept), own

    def _components_of(self, scores: np.ndarray) -> np.ndarray:
        components: np.ndarray = (scores - self.center_.astype(np.float32)) @ self.weights_.astype(np.float32)
        return components

    def _with_new(self, features: Features, own: np.ndarray, kept: np.ndarray) -> tuple[Standardizer, np.ndarray]:
        """Return standardization and maps of the groups at hand: the fit's where ``kept`` names one, else their own."""
        found = Standardizer.fit(features, own, len(kept), self.align)
        size = np.bincount(own, minlength=len(kept))
        maps = np.tile(np.eye(self.axes_.shape[1]), (len(kept) + 1, 1, 1))
        for code, known in enumerate(kept):
            if known >= 0 or size[code] < 2:  # a cell alone is placed by the mean and variance of all cells
                found.means[code], found.scales[code], maps[code] = (
                    self.means_[known],
                    self.scales_[known],
                    self.maps_[known],
                )
            elif self.align == "center":
                found.scales[code] = self.scales_[-1]
        if self.align == "covariance":
            plain = self._scores(features, found, maps, own)
            covariances = covariances_of(plain, own, len(kept))
            for new in np.flatnonzero((kept < 0) & (size > 1)):
                maps[new] = map_to(self.common_, covariances[new])
        return found, maps


# -- second moments -------------------------------------------------------------------------------------------------


def deals_of(distances: np.ndarray) -> Iterator[np.ndarray]:
    """Yield which cell takes whose place, ``(n_cells,)``, where cells are dealt out at random, a few times.

    Which takes whose place depends on how far they lie from 0, ``distances``, and so neither on their order nor on
    signs of axes.
    """
    order = np.argsort(distances, kind="stable")
    rng = np.random.default_rng(0)
    for _ in range(max(1, min(_DEALS, _DEALT_CELLS // len(distances)))):
        dealt = np.empty_like(order)
        dealt[order] = rng.permutation(order)
        yield dealt


@dataclass(frozen=True, eq=False)
class JointSums:
    """Sums over cells and their surroundings side by side, of the cells that have any; those of parts can be added.

    Attributes
    ----------
    size
        Cells.
    total, product
        ``(2 n_pcs,)`` and ``(2 n_pcs, 2 n_pcs)`` sums of values and of products.
    """

    size: int
    total: np.ndarray
    product: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, edges: csr_matrix, n_rings: int) -> JointSums:
        """Return the sums of some cells that have no neighbors among others."""
        width = 2 * scores.shape[1]
        size, total, product = 0, np.zeros(width), np.zeros((width, width))
        joined = np.diff(edges.indptr) > 0
        for rows, hops in iter_hops(scores, edges, n_rings):
            both = np.hstack([hops[0], hops[1:].mean(axis=0)])[joined[rows]].astype(np.float64)
            size += len(both)
            total += both.sum(axis=0)
            product += both.T @ both
        return cls(size, total, product)

    def __add__(self, other: JointSums) -> JointSums:
        return JointSums(self.size + other.size, self.total + other.total, self.product + other.product)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and covariance."""
        mean = self.total / self.size
        return mean, self.product / self.size - np.outer(mean, mean)


def _moments(scores: np.ndarray, edges: csr_matrix, n_rings: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of cells and their surroundings side by side, of the cells that have any."""
    return JointSums.of(scores, edges, n_rings).moments()


def _inverse_root(covariance: np.ndarray, ridge: float) -> np.ndarray:
    size = len(covariance)
    mean = max(np.trace(covariance) / size, np.finfo(np.float32).tiny)
    return power(covariance + ridge * mean * np.eye(size), -0.5)


# -- of the cells of an AnnData object -----------------------------------------------------------------------------


@renamed(by="library_key=")
def predictive_components(
    adata: AnnData,
    use_rep: str | None = None,
    *,
    layer: str | None = None,
    library_key: str | None = None,
    n_comps: int = 20,
    n_pcs: int = 50,
    align: str = "scale",
    neighbors_key: str = _keys.SPATIAL,
    key_added: str = _keys.PREDICTIVE,
) -> None:
    """Write the components of cells that predict, and are predicted by, the cells around them.

    See :class:`PredictiveComponents`, which does the same on arrays, for the equations. They need no model and no
    training: one second for a section, and time and memory linear in the number of cells.

    Parameters
    ----------
    adata
        Annotated data with raw counts (in memory, backed or Dask) and the graph of squidpy.
    use_rep
        Key in ``adata.obsm`` of an embedding to take instead of the counts.
    layer
        Layer of raw counts, which are scaled to 10,000 a cell and log1p'd. Default: ``X``.
    library_key
        Column of ``adata.obs`` that tells sections apart. Default: ``"section"`` if there is such a column.
    n_comps, n_pcs
        Components to keep, and principal components to find them in.
    align
        What sections are made to have in common: ``"scale"``, ``"covariance"``, ``"center"`` or ``"none"``.
    neighbors_key
        squidpy's ``key_added``: the graph is ``obsp[f"{neighbors_key}_connectivities"]``.
    key_added
        Key of what is written.

    Returns
    -------
    None
        Writes ``adata.obsm[key_added]``, float32 of shape (n_cells, n_comps); for counts ``adata.varm[key_added]``,
        the weight of each standardized gene in each component (0 for control probes and antibodies, which take no
        part); and ``adata.uns["scjepa"][key_added]``: how it was
        made, ``"correlations"`` with the surroundings, and the fitted object (``"fitted"``, see
        :func:`predictive_components_of`).

    Warns
    -----
    UserWarning
        If counts are not integers, such as log-normalized values; it names where the raw ones are.

    Raises
    ------
    KeyError
        If ``use_rep``, ``library_key``, ``layer`` or the graph is not there.
    TypeError
        If ``n_comps`` or ``n_pcs`` is not an integer.
    ValueError
        If no cell has a neighbor, no gene varies, a count is negative or NaN, a cell has no section, an edge joins two
        sections, an option is out of its range, or ``key_added`` is there and scjepa did not write it.

    Examples
    --------
    >>> scjepa.tl.predictive_components(adata)
    >>> scjepa.tl.predictive_genes(adata)
    """
    refuse_users(adata, "obsm", key_added)
    refuse_users(adata, "varm", key_added, noted="obsm")
    values = Features.of_counts(adata, layer) if use_rep is None else embedding_of(adata, use_rep)
    target_sum = TARGET_SUM if use_rep is None else None
    graph, sections, library_key = sections_of(adata, neighbors_key, library_key)
    fitted = PredictiveComponents(n_comps, n_pcs=n_pcs, align=align, target_sum=target_sum)
    adata.obsm[key_added] = fitted.fit_transform(values, graph, sections)
    adata.varm.pop(key_added, None)  # weights of an earlier call, which these components do not have
    if isinstance(values, Features):
        weights = np.zeros((adata.n_vars, fitted.loadings_.shape[1]))
        weights[values.columns] = fitted.loadings_
        adata.varm[key_added] = weights
    how: Note = {"use_rep": use_rep, "layer": layer, "library_key": library_key, "neighbors_key": neighbors_key}
    how |= {"align": align, "n_comps": n_comps, "n_pcs": n_pcs, "correlations": fitted.correlations_}
    fitted.note_in(adata, key_added, **how)


def predictive_components_of(adata: AnnData, key: str = _keys.PREDICTIVE) -> PredictiveComponents:
    """Return the fitted components that :func:`predictive_components` noted, to apply them to other cells.

    Raises
    ------
    KeyError
        If there are none.

    Examples
    --------
    >>> components = scjepa.tl.predictive_components_of(adata)
    >>> components.transform(other)
    """
    return PredictiveComponents.noted(adata, key, "predictive_components(adata)")


def predictive_genes(
    adata: AnnData, n_genes: int = 10, *, n_comps: int = 6, key: str = _keys.PREDICTIVE
) -> pd.DataFrame:
    """Return the genes of largest weight, up and down, in each of the first predictive components.

    Parameters
    ----------
    adata
        Annotated data after :func:`predictive_components` of counts.
    n_genes
        Genes at either end.
    n_comps
        Components, from the first; at most as many as there are.
    key
        Key of the components.

    Returns
    -------
    pandas.DataFrame
        Columns ``component``, ``correlation`` (with the surroundings), ``gene``, ``weight``, the largest weight first.

    Raises
    ------
    KeyError
        If there are no components of counts.
    ValueError
        If ``n_genes`` or ``n_comps`` is not positive.

    Examples
    --------
    >>> scjepa.tl.predictive_components(adata)
    >>> scjepa.tl.predictive_genes(adata, n_genes=5)
    """
    import pandas as pd

    n_genes, n_comps = whole("n_genes", n_genes, least=1), whole("n_comps", n_comps, least=1)
    correlations, loadings = weights_of(adata, key)
    rows = []
    for number in range(min(n_comps, len(correlations))):
        weights = loadings[:, number]
        order = np.argsort(-weights, kind="stable")
        shown = order if len(order) <= 2 * n_genes else np.r_[order[:n_genes], order[-n_genes:]]
        rows += [
            (number, float(correlations[number]), str(adata.var_names[gene]), float(weights[gene])) for gene in shown
        ]
    return pd.DataFrame(rows, columns=["component", "correlation", "gene", "weight"])


def weights_of(adata: AnnData, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return correlations of the components, ``(n_comps,)``, and the weights of the genes, ``(n_vars, n_comps)``.

    The weights are those in ``varm``, which follow the genes where the object was subset.

    Raises
    ------
    KeyError
        If there are no components of counts.
    """
    found = predictive_components_of(adata, key)
    if key not in adata.varm:
        raise KeyError(
            f"adata.varm has no {key!r}: these components are of an embedding, whose dimensions are no genes. Take "
            "those of the counts: scjepa.tl.predictive_components(adata)"
        )
    return found.correlations_, np.asarray(adata.varm[key])
