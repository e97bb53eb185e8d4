"""The read-out that niches are found in, as an estimator: predictive components of cells and of their rings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from scjepa._core import keys as _keys
from scjepa._core.arrays import slices
from scjepa._core.counts import TARGET_SUM
from scjepa._core.graph import edges_of
from scjepa._core.options import AUTO, unknown_name
from scjepa.tl._aggregate import hops_of
from scjepa.tl._kept import Kept
from scjepa.tl._moments import ALIGNMENTS, Features, Standardizer
from scjepa.tl._predictive import PredictiveComponents

if TYPE_CHECKING:
    from scjepa._core.arrays import Labels

MAX_RINGS = 3
"""Rings that are looked at."""

_CELLS = 65_536
"""Cells whose products are added up at one time."""

_RIDGE = 1e-3
"""Ridge of a regression, as a share of the mean variance."""

_TOLERANCE = 0.02
"""A nearer ring is preferred to one that is more reliable by less than this share."""

ALIKE = 0.9
"""Mean cosine of the covariances of sections from which on they are taken for the same kind of tissue: sections of one
tissue, of other animals and of other chemistry have 0.92 to 0.99, other parts of a brain 0.80 to 0.85, tumors of
different patients 0.67."""

_ONE_PANEL = 0.9
"""Share of features in common from which on sections are taken to be of one panel."""

_MOST_PANELS = 8
"""Panels up to which sections are compared by the features of each pair, for each pair takes a reading of its cells."""

FEWEST_CELLS = 100
"""Cells that a section must have for its covariance to be told."""

_AS_WELL = 0.95
"""An embedding is read beside the expression where it predicts ring 2 as well as the expression does, but for 5%: on
the sets that the rule was found on, embeddings at 0.89 to 0.93 of it cost agreement, and one at 1.00 gained some."""

_SEES, _AS_WELL_BEYOND = 1.2, 0.9
"""An embedding that predicts ring 1 so many times as well as the expression of the cell does was made from ring 1 too
(trained embeddings have 1.3 to 3.1, principal components 0.8 to 1.1). It must also predict ring 3 as well as the
expression that sees as far, but for 10%: at 0.79 to 0.87 of it (V1 with few genes or counts) embeddings cost 0.03 to
0.10 NMI, at 0.88 (mPFC) they cost and gained as much, at 0.93 and 0.98 (osmFISH, smFISH) they gained some."""


class NicheReadout(Kept, BaseEstimator):
    """Predictive components of cells with those of the rings around them, weighed as the data asks for.

    For each source, the expression of the cells and an embedding of them: :class:`PredictiveComponents`; then the
    component of the cell itself and the means of the rings around it, side by side, where the number of rings and the
    weight of each block follow from how reliably they tell of a place (:func:`weigh`). Sources stand side by side
    too, with one variance. An embedding is read with the expression only where it predicts the expression of ring 2,
    from the cell and ring 1, as well as the expression itself does (:attr:`predicted_`). An embedding that was made
    from a cell's neighbors too, which shows by how well it predicts ring 1, sees ring 2 through ring 1: it must also
    predict ring 3 nearly as well as the expression of the cell and of rings 1 and 2 does. No labels take part.

    Parameters
    ----------
    n_components
        Predictive components of each source.
    n_rings
        Rings around the cell; ``None``: chosen from the data, 1 to 3.
    own_weight
        Weight of the cell itself against its rings; ``None``: chosen from the data.
    align
        See :class:`PredictiveComponents`. ``"auto"``: ``"scale"``, or ``"center"`` where sections differ in what
        they consist of (:attr:`similarity_` below 0.9).

    Attributes
    ----------
    sources_
        Names of the sources that are used.
    components_
        Their fitted components.
    n_rings_
        ``(n_sources,)`` rings of each.
    weights_
        ``(n_sources, 4)`` weight of the cell and of each ring; 0 beyond the reach.
    reliability_
        ``(n_sources, 4)`` share of signal in the cell and in each ring.
    predicted_
        ``(n_given,)`` variance of the expression around that each source that was given predicts, as a share of what
        expression does, in the order of ``sources_`` and then ``left_out_``; NaN where expression is not among them.
    left_out_
        Names of the sources that are not used.
    align_
        The alignment.
    similarity_
        Mean cosine between the covariances of sections of 100 cells or more; 1 where there are not two of them.
    sizes_
        ``(n_sources,)`` standard deviation of all that a source puts into the read-out, by which it is divided.

    Examples
    --------
    >>> readout = scjepa.tl.NicheReadout()
    >>> found = readout.fit_transform({"X": adata}, adata.obsp["spatial_connectivities"], adata.obs["section"])
    >>> readout.describe()
    """

    def __init__(
        self,
        n_components: int = 20,
        *,
        n_rings: int | None = None,
        own_weight: float | None = None,
        align: str = AUTO,
    ) -> None:
        self.n_components = n_components
        self.n_rings = n_rings
        self.own_weight = own_weight
        self.align = align

    def fit(self, sources: Mapping[str, object], graph: object, groups: Labels | None = None) -> NicheReadout:
        """Find the components, the reach and the weights.

        Parameters
        ----------
        sources
            Cells × features by name: raw counts under ``"X"`` (an AnnData object stands for its ``X`` without control
            probes and antibodies), embeddings under any other.
        graph
            ``(n_cells, n_cells)`` spatial graph, as squidpy's ``obsp["spatial_connectivities"]``.
        groups
            Section of each cell, ``(n_cells,)``; ``None``: one section.

        Raises
        ------
        TypeError
            If the sources are no mapping, or a number of components or rings is not an integer.
        ValueError
            If there is no source, an option is out of its range, or :class:`PredictiveComponents` cannot be fitted.
        """
        self.fit_transform(sources, graph, groups)
        return self

    def fit_transform(self, sources: Mapping[str, object], graph: object, groups: Labels | None = None) -> np.ndarray:
        """Return the read-out of the cells that it is fitted on, ``(n_cells, n_dims)`` float32."""
        self.check_options()
        read = _readable(sources)
        edges = edges_of(graph)
        joined = np.diff(edges.indptr) > 0
        found = []
        for number, (name, features) in enumerate(read.items()):
            if number == 0:
                components, scores = self._first_fitted(name, features, edges, groups)
            else:
                components = self._new_components(name, self.align_)
                scores = components._fit(features, edges, groups)
            rings = hops_of(components._components_of(scores), edges, MAX_RINGS)
            sums = RingSums.of(rings, joined)
            found.append((name, components, rings, sums))
        kept, left, predicted = _worth_reading([(name, rings) for name, _, rings, _ in found], joined)
        self.sources_ = [found[number][0] for number in kept]
        self.left_out_ = [found[number][0] for number in left]
        self.components_ = [found[number][1] for number in kept]
        self.predicted_ = predicted[[*kept, *left]]
        self._set_blocks([found[number][3] for number in kept])
        return self._side_by_side([found[number][2] for number in kept])

    def transform(self, sources: Mapping[str, object], graph: object, groups: Labels | None = None) -> np.ndarray:
        """Return the read-out of cells, which may be others than those of the fit, ``(n_cells, n_dims)`` float32.

        Parameters
        ----------
        sources
            As in :meth:`fit`; those in :attr:`left_out_` need not be there.
        graph
            Spatial graph of these cells.
        groups
            Section of each cell; see :meth:`PredictiveComponents.transform`.

        Raises
        ------
        KeyError
            If a source of the fit is not there.
        ValueError
            If a source has other features than in the fit, or another number of cells than the graph.
        """
        check_is_fitted(self, "components_")
        _require_mapping(sources)
        missing = [name for name in self.sources_ if name not in sources]
        if missing:
            raise KeyError(f"The read-out was fitted on {', '.join(self.sources_)}, and {missing[0]!r} is not there.")
        edges = edges_of(graph)
        rings = []
        for name, components in zip(self.sources_, self.components_, strict=True):
            own = components.transform(sources[name], groups)
            if len(own) != edges.shape[0]:
                raise ValueError(f"The graph has {edges.shape[0]:,} cells, the source {name!r} {len(own):,}.")
            rings.append(hops_of(own, edges, MAX_RINGS))
        return self._side_by_side(rings)

    def describe(self) -> str:
        """Return what was chosen, in words: sources, rings, weights and alignment."""
        check_is_fitted(self, "components_")
        parts = []
        for number, name in enumerate(self.sources_):
            rings, own = self.n_rings_[number], self.weights_[number][0]
            what = "expression" if name == _keys.EXPRESSION else name
            size = self.components_[number].correlations_.size
            parts.append(f"{_several(size, 'component')} of {what}, {_several(rings, 'ring')}, own weight {own:.2f}")
        text = "; ".join(parts) + f"; align {self.align_!r}"
        if self.left_out_:
            text += "; left out, predicts its surroundings less well than expression: " + ", ".join(
                f"{name} ({share:.2f} times)"
                for name, share in zip(self.left_out_, self.predicted_[len(self.sources_) :], strict=True)
            )
        return text

    def check_options(self) -> None:
        """Refuse options that :meth:`fit` could not use, before anything long is done.

        Raises
        ------
        TypeError, ValueError
            As :meth:`fit`.
        """
        self._new_components(_keys.EXPRESSION, "scale")._check_options()
        if self.align != AUTO and self.align not in ALIGNMENTS:
            raise ValueError(unknown_name("align", self.align, (AUTO, *ALIGNMENTS)))
        if self.n_rings is not None:
            if isinstance(self.n_rings, bool) or not isinstance(self.n_rings, int | np.integer):
                raise TypeError(f"n_rings must be a whole number or None, found {self.n_rings!r}.")
            if not 0 <= self.n_rings <= MAX_RINGS:
                raise ValueError(f"n_rings must lie between 0 and {MAX_RINGS}, or be None, found {self.n_rings}.")
        if self.own_weight is not None and not 0 <= self.own_weight < np.inf:
            raise ValueError(f"own_weight must be 0 or more, and finite, found {self.own_weight}.")
        if self.n_rings == 0 and self.own_weight == 0:
            raise ValueError("n_rings=0 and own_weight=0 leave nothing: give the cell a weight, or take rings.")

    # -- parts --------------------------------------------------------------------------------------------------

    def _new_components(self, name: str, align: str) -> PredictiveComponents:
        target_sum = TARGET_SUM if name == _keys.EXPRESSION else None
        return PredictiveComponents(self.n_components, align=align, target_sum=target_sum)

    def _first_fitted(
        self, name: str, features: Features, edges: csr_matrix, groups: Labels | None
    ) -> tuple[PredictiveComponents, np.ndarray]:
        """Decide on the alignment by the first source; return its fitted components and the scores of the cells."""
        components = self._new_components(name, "scale")
        scores, codes = components._principal(features, edges, groups)
        self.similarity_ = _similarity_of_cells(components, features, scores, codes)
        self.align_ = self.align if self.align != AUTO else "scale" if self.similarity_ >= ALIKE else "center"
        if self.align_ == "scale":
            components._correlate(scores, edges)
        else:
            components = self._new_components(name, self.align_)
            scores = components._fit(features, edges, groups)
        return components, scores

    def _set_blocks(self, sums: Sequence[RingSums]) -> None:
        """Set reach, weights and sizes of the sources from sums over the cells."""
        blocks = [weigh(of_source, self.n_rings, self.own_weight) for of_source in sums]
        self.n_rings_ = np.array([one.n_rings for one in blocks])
        self.weights_ = np.array([np.pad(one.weights, (0, MAX_RINGS - one.n_rings)) for one in blocks])
        self.reliability_ = np.array([one.reliability for one in blocks])
        self.sizes_ = np.array([_size(of_source, one) for of_source, one in zip(sums, blocks, strict=True)])

    def _side_by_side(self, rings: Sequence[np.ndarray]) -> np.ndarray:
        used = [(of, block) for of in range(len(rings)) for block in np.flatnonzero(self.weights_[of])]
        ends = np.cumsum([rings[of].shape[2] for of, _ in used])
        found = np.empty((rings[0].shape[1], ends[-1]), dtype=np.float32)
        for (of, block), columns in zip(used, np.split(found, ends[:-1], axis=1), strict=True):
            np.multiply(rings[of][block], np.float32(self.weights_[of][block] / self.sizes_[of]), out=columns)
        return found

    def _restored(self, name: str, value: Any) -> Any:
        if name == "components_":
            return [PredictiveComponents.from_dict(value[str(number)]) for number in range(len(value))]
        value = super()._restored(name, value)
        return list(map(str, value)) if name in ("sources_", "left_out_") else value


def _require_mapping(sources: object) -> None:
    if not isinstance(sources, Mapping):
        raise TypeError(f"The sources must be named, {{'X': counts}} or the like, found {type(sources).__name__}.")


def _readable(sources: Mapping[str, object]) -> dict[str, Features]:
    """Return what each source is read by, so that it is checked, and the user told of it, once."""
    _require_mapping(sources)
    if not sources:
        raise ValueError("Name a source or more: {'X': counts}, {'X_stjepa_cell': embedding}, or both.")
    return {
        name: Features.of(values, TARGET_SUM if name == _keys.EXPRESSION else None)  # counts, or an embedding
        for name, values in sources.items()
    }


def _several(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _worth_reading(
    sources: Sequence[tuple[str, np.ndarray]], joined: np.ndarray
) -> tuple[list[int], list[int], np.ndarray]:
    """Return which sources are read, which are left out, and how well each predicts against the expression."""
    names = [name for name, _ in sources]
    if _keys.EXPRESSION not in names or len(names) == 1:
        return list(range(len(names))), [], np.full(len(names), np.nan)
    expression = sources[names.index(_keys.EXPRESSION)][1]
    tests = [(1.0, True) if rings is expression else _against(expression, rings, joined) for _, rings in sources]
    kept = [number for number, (_, passed) in enumerate(tests) if passed]
    return kept, [number for number in range(len(names)) if number not in kept], np.array([test[0] for test in tests])


def _against(expression: np.ndarray, rings: np.ndarray, joined: np.ndarray) -> tuple[float, bool]:
    """Return what an embedding predicts of the expression around, as a share of what expression does, and a verdict.

    It is predicted from the cell and ring 1. An embedding that was made from a cell's neighbors too sees ring 2 through
    ring 1, so that it has to stand a second test, in which the expression sees as far and ring 3 is predicted.
    """

    def share(n_blocks: int, n_of_expression: int, ring: int) -> float:
        found, expected = (
            predicted_share(blocks, expression[ring], joined)
            for blocks in (rings[:n_blocks], expression[:n_of_expression])
        )
        return found / expected if expected > 0 else np.inf

    found = share(2, 2, 2)
    if found < _AS_WELL or share(1, 1, 1) < _SEES:
        return found, found >= _AS_WELL
    found = share(2, 3, 3)
    return found, found >= _AS_WELL_BEYOND


def _size(sums: RingSums, blocks: Blocks) -> float:
    """Return the root of the total variance of the weighed blocks, by which a source is divided."""
    variances = sums.variances()[: blocks.n_rings + 1]
    return float(np.sqrt(variances @ blocks.weights**2)) or 1.0


def _similarity_of_cells(
    components: PredictiveComponents, features: Features, scores: np.ndarray, codes: np.ndarray
) -> float:
    """Return :func:`section_similarity` of the cells that ``components`` were fitted on, aligned by ``"scale"``."""
    standardizer = Standardizer(components.means_, components.scales_)

    def covariances(sections: np.ndarray, basis: np.ndarray | None) -> list[np.ndarray]:
        if basis is None:
            return [np.cov(scores[codes == code].T) for code in sections]
        projected = np.empty((features.n_cells, basis.shape[1]), dtype=np.float32)
        for rows, chunk in features.chunks():
            wanted = np.flatnonzero(np.isin(codes[rows], sections))
            if len(wanted):
                standardized = standardizer.dense(chunk[wanted], codes[rows][wanted])
                projected[rows.start + wanted] = standardized @ basis.astype(np.float32)
        return [np.cov(projected[codes == code].T) for code in sections]

    sizes = np.bincount(codes, minlength=len(components.groups_))
    return section_similarity(components, sizes, covariances)


def section_similarity(
    components: PredictiveComponents,
    sizes: np.ndarray,
    covariances: Callable[[np.ndarray, np.ndarray | None], Sequence[np.ndarray]],
) -> float:
    """Return the mean cosine between the covariances of sections of 100 cells or more; 1 with fewer than two of them.

    Sections of one tissue have like covariances once means and variances are aligned, also where animals, chemistry or
    depth differ; sections that consist of other kinds of cells have not. Two sections are compared by the features
    that vary in both: where panels differ, what one of them did not measure says nothing of the tissue.

    Parameters
    ----------
    components
        Whose principal axes are looked at, and whose scales say what varies in a section.
    sizes
        ``(n_sections,)`` cells.
    covariances
        Of sections and a basis, ``(n_features, n_axes)``: the covariance of each section's standardized features in
        it. Without a basis: in the principal axes.
    """
    large = np.flatnonzero(sizes >= FEWEST_CELLS)
    if len(large) < 2:
        return 1.0
    varies = components.scales_[large] > 0
    panels, panel_of = _panels_of(varies)
    if len(panels) > _MOST_PANELS:
        panels, panel_of = [np.logical_and.reduce(panels)], np.zeros(len(large), dtype=np.int64)
    is_one = len(panels) == 1 and panels[0].sum() >= _ONE_PANEL * varies.sum(axis=1).max()
    cosines: list[np.ndarray] = [np.empty(0)]
    for first, one in enumerate(panels):
        for second, other in enumerate(panels[first:], start=first):
            left, right = large[panel_of == first], large[panel_of == second]
            basis = None if is_one else _basis_of(components.axes_, one & other)
            if basis is not None and not basis.any():
                continue
            if first == second:
                units = _units_of(covariances(left, basis))
                cosines.append((units @ units.T)[np.triu_indices(len(left), k=1)])
            else:
                units = _units_of(covariances(np.concatenate([left, right]), basis))
                cosines.append((units[: len(left)] @ units[len(left) :].T).ravel())
    found = np.concatenate(cosines)
    return float(found.mean()) if len(found) else 1.0


def _panels_of(varies: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the features of each panel, and the panel of each section.

    A gene that happens not to vary in a small or shallow section makes no panel: where nine tenths of the features of
    one section vary in another as well, both are of one panel, of the features that vary in all of its sections.
    """
    panels: list[np.ndarray] = []
    panel_of = np.zeros(len(varies), dtype=np.int64)
    for section, own in enumerate(varies):
        for number, panel in enumerate(panels):
            if (own & panel).sum() >= _ONE_PANEL * min(own.sum(), panel.sum()):
                panels[number], panel_of[section] = own & panel, number
                break
        else:
            panel_of[section] = len(panels)
            panels.append(own)
    return panels, panel_of


def _basis_of(axes: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of principal axes cut to some features, 0 elsewhere."""
    left, size, _ = np.linalg.svd(axes[features], full_matrices=False)
    kept = left[:, size > 1e-6 * max(size.max(initial=0.0), np.finfo(np.float64).tiny)]
    basis = np.zeros((len(axes), kept.shape[1]))
    basis[features] = kept
    return basis


def _units_of(covariances: Sequence[np.ndarray]) -> np.ndarray:
    """Return covariances as rows of unit length."""
    rows = [np.atleast_2d(one).ravel() for one in covariances]
    return np.array([row / max(np.linalg.norm(row), np.finfo(np.float64).tiny) for row in rows])


# -- reach and weights ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blocks:
    """The cell itself and the means of the rings around it: how each is weighed, and why.

    Attributes
    ----------
    reliability
        ``(n_rings + 1,)``: share of signal in the cell itself and in each ring, 1 without error.
    n_rings
        The reach: rings that are read with the cell.
    weights
        ``(n_rings + 1,)``: weight of the cell and of each ring up to the reach; the largest of the rings is 1.
    signal
        Variance of what components say of places, summed over components.
    """

    reliability: np.ndarray
    n_rings: int
    weights: np.ndarray
    signal: float


def weigh(sums: RingSums, n_rings: int | None = None, own_weight: float | None = None) -> Blocks:
    r"""Choose the reach and the weights of the cell and of its rings, without labels.

    A component of a cell is taken for the sum of a signal, what the place tells, and an error that cells do not share,
    such as the cell's own type within a mixed neighborhood. With :math:`C_h` the covariance of a cell and the mean of
    its ring :math:`h`, :math:`C_0` its variance and :math:`V_h` the variance of the mean:

    - signal variance :math:`S = C_1^2 / C_2`, the course of :math:`C_h` continued to the cell itself, within
      :math:`[C_1, C_0]`;
    - squared error :math:`N_0 = C_0 - S` of the cell and :math:`N_h = V_h + S - 2 C_h` of ring :math:`h`, which holds
      what errors are left after averaging and how far the signal has changed by then.

    All are summed over components. The reach is the ring of the highest reliability :math:`S / (S + N_h)`, or the
    nearest that comes within 2%; a block weighs the inverse of its error, :math:`N_h^{-1/2}`. Where cells say much
    of their place (layers, spots) the cell itself weighs more; where types are mixed, or counts are few, it weighs
    less, and further rings are taken.

    Parameters
    ----------
    sums
        Over the cells: of components of each, and of their means over the rings around it.
    n_rings, own_weight
        Reach, and weight of the cell itself against that of the rings, where they are not to be chosen.

    Returns
    -------
    Blocks
        What was chosen.
    """
    variance, shared = sums.moments()
    signal = _signal(shared)
    error = variance + signal - 2 * shared
    error[0] = shared[0] - signal
    total = signal.sum()
    errors = np.maximum(error.sum(axis=1), np.finfo(np.float32).eps * max(shared[0].sum(), np.finfo(np.float32).tiny))
    reliability = total / (total + errors)
    if n_rings is None:
        around = reliability[1:]
        n_rings = 1 + int(np.argmax(around >= (1 - _TOLERANCE) * around.max()))
    weights = errors[: n_rings + 1] ** -0.5
    weights /= weights[1:].max() if n_rings else weights[0]
    if own_weight is not None:
        weights[0] = own_weight
    return Blocks(reliability, n_rings, weights, float(total))


def predicted_share(blocks: np.ndarray, target: np.ndarray, joined: np.ndarray) -> float:
    """Return the share of the variance of ``target`` that a linear map of ``blocks`` predicts, for few cells corrected.

    Parameters
    ----------
    blocks
        ``(n_blocks, n_cells, n_components)``: what predicts.
    target
        ``(n_cells, n_dims)``: what is predicted.
    joined
        ``(n_cells,)`` bool, the cells that take part.

    Returns
    -------
    float
        1 less the error over the variance, both per degree of freedom; 0 for a target that does not vary.
    """
    width = blocks.shape[0] * blocks.shape[2]
    total = np.zeros(width + target.shape[1])
    product = np.zeros((len(total), len(total)))
    size = int(joined.sum())
    for cells in slices(len(target), _CELLS):
        rows = joined[cells]
        parts = [*blocks[:, cells][:, rows], target[cells][rows]]
        both = np.hstack(parts).astype(np.float64)
        total += both.sum(axis=0)
        product += both.T @ both
    covariance = product / size - np.outer(total / size, total / size)
    within, across = covariance[:width, :width], covariance[:width, width:]
    variance = np.trace(covariance[width:, width:])
    if not variance > 0:
        return 0.0
    ridge = max(_RIDGE * np.trace(within) / width, np.finfo(np.float64).tiny)
    explained = np.trace(across.T @ np.linalg.solve(within + ridge * np.eye(width), across))
    freedom = (size - 1) / max(size - width - 1, 1)
    return float(1 - (1 - explained / variance) * freedom)


@dataclass(frozen=True, eq=False)
class RingSums:
    """Sums over cells of the blocks of a read-out, the cell itself and its rings; those of parts can be added.

    Attributes
    ----------
    size, n_cells
        Cells that have neighbors, and all.
    total, square, product
        ``(n_rings + 1, n_components)`` sums of values, of squares, and of products with the cell itself, of the cells
        that have neighbors.
    every_total, every_square
        Sums of values and of squares of all cells.
    """

    size: int
    n_cells: int
    total: np.ndarray
    square: np.ndarray
    product: np.ndarray
    every_total: np.ndarray
    every_square: np.ndarray

    @classmethod
    def of(cls, rings: np.ndarray, joined: np.ndarray) -> RingSums:
        """Return the sums of some cells.

        Parameters
        ----------
        rings
            ``(n_rings + 1, n_cells, n_components)``: components of each cell, and their means over the rings around it.
        joined
            ``(n_cells,)`` bool, which cells have neighbors.
        """
        n_blocks, n_cells, n_components = rings.shape
        total, square, product, every_total, every_square = np.zeros((5, n_blocks, n_components))
        for cells in slices(n_cells, _CELLS):
            every = rings[:, cells].astype(np.float64)
            every_total += every.sum(axis=1)
            every_square += np.einsum("bnk,bnk->bk", every, every)
            rows = every[:, joined[cells]]
            total += rows.sum(axis=1)
            square += np.einsum("bnk,bnk->bk", rows, rows)
            product += np.einsum("nk,bnk->bk", rows[0], rows)
        return cls(int(joined.sum()), n_cells, total, square, product, every_total, every_square)

    def __add__(self, other: RingSums) -> RingSums:
        return RingSums(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return variance of each block and its covariance with the cell itself, ``(n_rings + 1, n_components)``."""
        mean = self.total / self.size
        return np.maximum(self.square / self.size - mean**2, 0), self.product / self.size - mean[0] * mean

    def variances(self) -> np.ndarray:
        """Return the total variance of each block over all cells, ``(n_rings + 1,)``."""
        mean = self.every_total / self.n_cells
        found: np.ndarray = np.maximum(self.every_square / self.n_cells - mean**2, 0).sum(axis=1)
        return found


def _signal(shared: np.ndarray) -> np.ndarray:
    """Return the signal variance of each component from the covariances of the cell with itself, ring 1 and ring 2."""
    own, near = shared[0], np.maximum(shared[1], 0)
    far = np.maximum(shared[2], 0) if len(shared) > 2 else near
    continued = np.divide(near**2, far, out=near.copy(), where=far > 0)
    return np.minimum(np.clip(continued, near, None), np.maximum(own, 0))
