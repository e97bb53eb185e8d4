"""The read-out that niches are found in, as an estimator: predictive components of cells and of their rings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from scjepa._config import unknown_name
from scjepa.tl._aggregate import aggregate_neighbors
from scjepa.tl._groups import factorized
from scjepa.tl._kept import Kept
from scjepa.tl._moments import ALIGNMENTS, TARGET_SUM
from scjepa.tl._predictive import PredictiveComponents
from scjepa.tl._spatial import edges_of
from scjepa.tl._surroundings import MAX_RINGS, Blocks, weigh

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

AUTO = "auto"
"""``align`` that the data decides."""

EXPRESSION = "X"
"""Source that is raw counts, as scanpy calls them; any other is an embedding."""

_ALIKE = 0.9
"""Mean cosine of the covariances of sections from which on they are taken for the same kind of tissue: sections of one
tissue, of other animals and of other chemistry have 0.92 to 0.99, other parts of a brain 0.80 to 0.85, tumors of
different patients 0.67."""

_FEWEST_CELLS = 100
"""Cells that a section must have for its covariance to be told."""

_LEAST_SIGNAL = 1 / 3
"""A source whose signal (a standard deviation) is below this share of the largest is left out."""


class NicheReadout(Kept, BaseEstimator):
    """Predictive components of cells beside those of the rings around them, weighed as the data asks for.

    For each source, the expression of the cells and an embedding of them: :class:`PredictiveComponents`; then the
    component of the cell itself and the means of the rings around it, side by side, where the number of rings and the
    weight of each block follow from how reliably they tell of a place (:func:`weigh`). Sources stand side by side
    too, with one variance; one that carries less than a third of the signal of another is left out. No labels take
    part.

    Parameters
    ----------
    n_components
        Predictive components of each source.
    n_rings
        Rings beside the cell; ``None``: chosen from the data, 1 to 3.
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
    signals_
        ``(n_sources,)`` standard deviation of what the components of each source tell of places.
    left_out_
        Names of the sources that are not used.
    align_
        The alignment.
    similarity_
        Mean cosine between the covariances of sections; 1 where there is one section.
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

    def fit(self, sources: Mapping[str, Any], graph: Any, groups: Any = None) -> NicheReadout:
        """Find the components, the reach and the weights.

        Parameters
        ----------
        sources
            Cells × features by name: raw counts under ``"X"``, embeddings under any other.
        graph
            ``(n_cells, n_cells)`` spatial graph, as squidpy's ``obsp["spatial_connectivities"]``.
        groups
            Section of each cell, ``(n_cells,)``; ``None``: one section.

        Raises
        ------
        ValueError
            If there is no source, an option is out of its range, or :class:`PredictiveComponents` cannot be fitted.
        """
        self.fit_transform(sources, graph, groups)
        return self

    def fit_transform(self, sources: Mapping[str, Any], graph: Any, groups: Any = None) -> np.ndarray:
        """Return the read-out of the cells that it is fitted on, ``(n_cells, n_dims)`` float32."""
        self._check(sources)
        edges = edges_of(graph)
        joined = np.diff(edges.indptr) > 0
        self.align_, self.similarity_ = self._alignment(sources, edges, groups)
        found = []
        for name, values in sources.items():
            components = self._new_components(name, self.align_)
            rings = self._rings(components.fit_transform(values, edges, groups), edges)
            found.append((name, components, rings, weigh(rings, joined, self.n_rings, self.own_weight)))
        signals = np.sqrt([blocks.signal for *_, blocks in found])
        kept = np.flatnonzero(signals >= _LEAST_SIGNAL * signals.max())
        self.sources_ = [found[number][0] for number in kept]
        self.left_out_ = [name for name, *_ in found if name not in self.sources_]
        self.components_ = [found[number][1] for number in kept]
        blocks = [found[number][3] for number in kept]
        self.n_rings_ = np.array([one.n_rings for one in blocks])
        self.weights_ = np.array([np.pad(one.weights, (0, MAX_RINGS - one.n_rings)) for one in blocks])
        self.reliability_ = np.array([one.reliability for one in blocks])
        self.signals_ = signals[kept]
        self.sizes_ = np.array([_size(found[number][2], found[number][3]) for number in kept])
        return self._side_by_side([found[number][2] for number in kept])

    def transform(self, sources: Mapping[str, Any], graph: Any, groups: Any = None) -> np.ndarray:
        """Return the read-out of cells, which may be others than those of the fit, ``(n_cells, n_dims)`` float32.

        Raises
        ------
        KeyError
            If a source of the fit is not there.
        """
        check_is_fitted(self, "components_")
        missing = [name for name in self.sources_ if name not in sources]
        if missing:
            raise KeyError(f"The read-out was fitted on {', '.join(self.sources_)}, and {missing[0]!r} is not there.")
        edges = edges_of(graph)
        return self._side_by_side(
            [
                self._rings(components.transform(sources[name], groups), edges)
                for name, components in zip(self.sources_, self.components_, strict=True)
            ]
        )

    def describe(self) -> str:
        """Return what was chosen, in words: sources, rings, weights and alignment."""
        check_is_fitted(self, "components_")
        parts = []
        for number, name in enumerate(self.sources_):
            rings, own = self.n_rings_[number], self.weights_[number][0]
            what = "expression" if name == EXPRESSION else name
            parts.append(
                f"{self.components_[number].correlations_.size} components of {what}, "
                f"{rings} ring{'' if rings == 1 else 's'}, own weight {own:.2f}"
            )
        text = "; ".join(parts) + f"; align {self.align_!r}"
        if self.left_out_:
            text += f"; left out, too little signal: {', '.join(self.left_out_)}"
        return text

    # -- parts --------------------------------------------------------------------------------------------------

    def _check(self, sources: Mapping[str, Any]) -> None:
        if not sources:
            raise ValueError("Name a source or more: {'X': counts}, {'X_stjepa_cell': embedding}, or both.")
        if self.align != AUTO and self.align not in ALIGNMENTS:
            raise ValueError(unknown_name("align", self.align, (AUTO, *ALIGNMENTS)))
        if self.n_rings is not None and not 0 <= self.n_rings <= MAX_RINGS:
            raise ValueError(f"n_rings must lie between 0 and {MAX_RINGS}, or be None, found {self.n_rings}.")
        if self.own_weight is not None and not self.own_weight >= 0:
            raise ValueError(f"own_weight must not be negative, found {self.own_weight}.")
        if self.n_rings == 0 and self.own_weight == 0:
            raise ValueError("n_rings=0 and own_weight=0 leave nothing: give the cell a weight, or take rings.")

    def _new_components(self, name: str, align: str) -> PredictiveComponents:
        target_sum = TARGET_SUM if name == EXPRESSION else None
        return PredictiveComponents(self.n_components, align=align, target_sum=target_sum)

    def _alignment(self, sources: Mapping[str, Any], edges: csr_matrix, groups: Any) -> tuple[str, float]:
        """Return the alignment, and how alike the sections are, of the first source."""
        name, values = next(iter(sources.items()))
        names, codes = factorized(groups, edges.shape[0])
        if len(names) < 2:
            return ("scale" if self.align == AUTO else self.align), 1.0
        similarity = section_similarity(self._new_components(name, "scale").scores(values, groups), codes)
        if self.align != AUTO:
            return self.align, similarity
        return ("scale" if similarity >= _ALIKE else "center"), similarity

    @staticmethod
    def _rings(components: np.ndarray, edges: csr_matrix) -> np.ndarray:
        shape = (len(components), MAX_RINGS + 1, components.shape[1])
        return aggregate_neighbors(components, edges, MAX_RINGS).reshape(shape)

    def _side_by_side(self, rings: Sequence[np.ndarray]) -> np.ndarray:
        blocks = []
        for number, of_source in enumerate(rings):
            for block in np.flatnonzero(self.weights_[number]):
                blocks.append(of_source[:, block] * np.float32(self.weights_[number][block] / self.sizes_[number]))
        return np.hstack(blocks)

    def _restored(self, name: str, value: Any) -> Any:
        if name == "components_":
            return [PredictiveComponents.from_dict(value[str(number)]) for number in range(len(value))]
        value = super()._restored(name, value)
        return list(map(str, value)) if name in ("sources_", "left_out_") else value


def _size(rings: np.ndarray, blocks: Blocks) -> float:
    """Return the root of the total variance of the weighed blocks, by which a source is divided."""
    used = rings[:, : blocks.n_rings + 1]
    variance = (used.var(axis=0, dtype=np.float64).sum(axis=1) * blocks.weights**2).sum()
    return float(np.sqrt(variance)) or 1.0


def section_similarity(scores: np.ndarray, codes: np.ndarray) -> float:
    """Return the mean cosine between the covariances of sections of 100 cells or more; 1 with fewer than two of them.

    Sections of one tissue have like covariances once means and variances are aligned, also where animals, chemistry or
    depth differ; sections that consist of other kinds of cells have not.
    """
    large = [code for code in np.unique(codes) if (codes == code).sum() >= _FEWEST_CELLS]
    if len(large) < 2:
        return 1.0
    covariances = [np.cov(scores[codes == code].T).ravel() for code in large]
    units = np.array([one / max(np.linalg.norm(one), np.finfo(np.float64).tiny) for one in covariances])
    pairs = np.triu_indices(len(large), k=1)
    return float((units @ units.T)[pairs].mean())
