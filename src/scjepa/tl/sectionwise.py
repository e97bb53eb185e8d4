"""The linear method on sections that are read one at a time: the same read-out, from sums over their cells.

No edge joins two sections, so whatever the method needs of all cells together is a sum over sections. The order is that
of :meth:`scjepa.tl.NicheReadout.fit_transform`:

1. :func:`fit_axes` from the :class:`SectionMoments` of all sections;
2. of each section :func:`scores_of`, then :func:`around` them;
3. :func:`fit_directions` from the sums of all; of each section :func:`mapped_scores`; :func:`fit_chance` from the sums
   of cells that were dealt out anew;
4. of each section :func:`rings_of`, then :class:`RingSums` of them;
5. :func:`fit_blocks`, and :func:`readout_of` each section.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from scjepa._core import keys as _keys
from scjepa._core.options import AUTO
from scjepa.tl._aggregate import hops_of
from scjepa.tl._moments import (
    EXACT_FEATURES,
    Features,
    SectionMoments,
    Standardizer,
    add_product,
    leading_axes,
    principal_axes_of,
    shrunk,
)
from scjepa.tl._niche_estimator import ALIKE, MAX_RINGS, NicheReadout, RingSums, section_similarity
from scjepa.tl._predictive import JointSums, PredictiveComponents, deals_of

__all__ = [
    "EXACT_FEATURES",
    "MAX_RINGS",
    "Features",
    "JointSums",
    "RingSums",
    "SectionMoments",
    "SectionSums",
    "around",
    "deals_of",
    "fit_axes",
    "fit_blocks",
    "fit_chance",
    "fit_directions",
    "mapped_scores",
    "readout_of",
    "rings_of",
    "scores_of",
    "sections_alike",
]

Moments = Callable[[], Iterable[tuple[np.ndarray, SectionMoments]]]
"""Gives the moments of each section anew, with the columns of all features that its own are."""


@dataclass(frozen=True, eq=False)
class SectionSums:
    """Sums over the cells of one section.

    Attributes
    ----------
    joint
        Of scores and their surroundings, of cells that have any.
    covariance
        ``(n_pcs, n_pcs)`` covariance of the scores of all cells.
    n_cells
        Cells.
    """

    joint: JointSums
    covariance: np.ndarray
    n_cells: int


def fit_axes(
    readout: NicheReadout,
    align: str,
    names: Sequence[str],
    moments: Moments,
    feature_names: Sequence[str],
    n_joined: int,
    stacked: Features | None = None,
) -> PredictiveComponents:
    """Return components of expression with their standardization and principal axes.

    Parameters
    ----------
    readout
        Its options count.
    align
        What sections are made to have in common.
    names
        Of the sections.
    moments
        Of the sections, in this order.
    feature_names
        Names of all features.
    n_joined
        Cells that have neighbors.
    stacked
        All cells, section after section, to iterate over where there are too many features for products.

    Raises
    ------
    ValueError
        As :class:`PredictiveComponents`.
    """
    components = readout._new_components(_keys.EXPRESSION, align)
    components._check_options()
    shape = (len(names), len(feature_names))
    size, total, square = np.zeros(len(names)), np.zeros(shape), np.zeros(shape)
    for code, (columns, own) in enumerate(moments()):
        size[code], total[code, columns], square[code, columns] = own.n_cells, own.total, own.square
    standardizer = Standardizer.of_sums(size, total, square, align)
    n_axes = components._check_fit(standardizer, n_joined)
    if len(feature_names) <= EXACT_FEATURES:
        product = np.zeros((shape[1], shape[1]))
        for code, (columns, own) in enumerate(moments()):
            add_product(product, own, columns, standardizer.means[code], standardizer.scales[code])
        axes = leading_axes(product, n_axes)
    elif stacked is not None:
        codes = np.repeat(np.arange(len(names)), size.astype(np.int64))
        axes = principal_axes_of(stacked, standardizer, codes, n_axes)
    else:
        raise ValueError(f"Axes of {shape[1]:,} features are iterated for, which takes their cells: pass stacked=.")
    counted = (int(size.sum()), n_joined)
    components._set_principal(standardizer, axes, names, np.array(feature_names, dtype=object), counted)
    return components


def scores_of(components: PredictiveComponents, features: Features, code: int) -> np.ndarray:
    """Return the principal components of the cells of a section, ``(n_cells, n_pcs)`` float32, before their map."""
    own = [code, -1]  # the other sections' rows are not needed
    plain = np.tile(np.eye(components.axes_.shape[1]), (2, 1, 1))
    codes = np.zeros(features.n_cells, dtype=np.int64)
    return components._scores(features, Standardizer(components.means_[own], components.scales_[own]), plain, codes)


def around(components: PredictiveComponents, scores: np.ndarray, edges: csr_matrix) -> SectionSums:
    """Return what :func:`fit_directions` needs of the scores of a section."""
    width = scores.shape[1]
    covariance = np.zeros((width, width))
    if len(scores) > 1:
        covariance = np.cov(scores.T, dtype=np.float64, bias=True).reshape(width, width)
    return SectionSums(JointSums.of(scores, edges, components.n_rings), covariance, len(scores))


def sections_alike(
    readout: NicheReadout, components: PredictiveComponents, sums: Sequence[SectionSums], moments: Moments
) -> bool:
    """Note how alike sections are, and the alignment that follows; return whether it is that of the scores.

    Where it is not, and sections are to be aligned by their means alone, axes have to be fitted anew.

    Parameters
    ----------
    readout
        Gets its ``similarity_`` and ``align_``.
    components
        From :func:`fit_axes`, ``align="scale"``.
    sums
        Of the sections, their scores aligned by ``"scale"``.
    moments
        Of the sections. Where panels differ, sections are compared by the features that both have; of panels of more
        than 2,500 features by all, for there are no products of them.
    """

    def covariances(sections: np.ndarray, basis: np.ndarray | None) -> list[np.ndarray]:
        found = {}
        for code, (columns, own) in enumerate(moments() if basis is not None else ()):
            if basis is not None and code in sections and own.product is not None:
                found[code] = basis[columns].T @ own.product @ basis[columns]
        if len(found) < len(sections):
            return [sums[code].covariance for code in sections]
        return [found[code] for code in sections]

    readout.similarity_ = section_similarity(components, np.array([one.n_cells for one in sums]), covariances)
    readout.align_ = readout.align
    if readout.align == AUTO:
        readout.align_ = "scale" if readout.similarity_ >= ALIKE else "center"
    return readout.align_ == "scale"


def fit_directions(components: PredictiveComponents, sums: Sequence[SectionSums]) -> None:
    """Set maps, weights and correlations of components from the sums of all sections."""
    if components.align == "covariance":
        components._set_maps(np.array([shrunk(one.covariance) for one in sums]))
    joint = [_after_map(one.joint, own) for one, own in zip(sums, components.maps_, strict=False)]
    components._set_directions(*_added(joint).moments())


def fit_chance(components: PredictiveComponents, deals: Iterable[Sequence[JointSums]]) -> None:
    """Set what correlation chance gives, from the sums of all sections after each deal."""
    components._set_chance([_added(sums).moments()[1] for sums in deals])


def _added(sums: Sequence[JointSums]) -> JointSums:
    return sum(sums[1:], start=sums[0])


def _after_map(sums: JointSums, own: np.ndarray) -> JointSums:
    """Return the sums of scores after a linear map, with which means over rings go along."""
    both = np.kron(np.eye(2), own)
    return JointSums(sums.size, sums.total @ both, both.T @ sums.product @ both)


def mapped_scores(components: PredictiveComponents, scores: np.ndarray, code: int) -> np.ndarray:
    """Return the scores of a section after its map, which is none but with ``align="covariance"``."""
    if components.align != "covariance":
        return scores
    return scores @ components.maps_[code].astype(scores.dtype)


def rings_of(components: PredictiveComponents, scores: np.ndarray, edges: csr_matrix) -> np.ndarray:
    """Return components of the cells of a section and their means over rings, ``(MAX_RINGS + 1, n_cells, n_comps)``.

    The scores are those after their map.
    """
    return hops_of(components._components_of(scores), edges, MAX_RINGS)


def fit_blocks(readout: NicheReadout, components: PredictiveComponents, sums: Sequence[RingSums]) -> None:
    """Finish a read-out of expression from its fitted components and the sums of the rings of all sections."""
    readout.sources_, readout.left_out_, readout.components_ = [_keys.EXPRESSION], [], [components]
    readout.predicted_ = np.array([np.nan])
    readout._set_blocks([sum(sums[1:], start=sums[0])])


def readout_of(readout: NicheReadout, rings: np.ndarray) -> np.ndarray:
    """Return the read-out of the cells of a section from :func:`rings_of` them, ``(n_cells, n_dims)`` float32."""
    return readout._side_by_side([rings])
