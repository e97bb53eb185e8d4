"""How unlike all labelled cells the cells to label are, read together with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy import sparse

from scjepa._core.conformal import HeldOut
from scjepa._core.neighbors import nearest
from scjepa.tl._annotator import LARGEST, LEAST_SCALE, CellAnnotator, leading, variable_genes
from scjepa.tl._label_classifier import TOLD_CELLS, Discriminants, drift, stratified, typical, within

if TYPE_CHECKING:
    from scjepa.tl._moments import Features

_SAMPLE = 5_000
"""Cells of either side that axes are made of, and cells that neighbors are looked for among, at most."""

_POOLED = 15
"""Neighbors whose distances are averaged, the cell itself among them: types come as groups of cells."""

_NEAREST_SHARE = 0.1
"""Share of the cells called a label, the nearest, that are taken to be of it: where they lie is the batch's doing."""

_SHIFTED_CELLS, _SHIFTS = 10, 3
"""Cells of a label for its shift to be told, and how often shifts are looked for."""


def unlike(
    reference: Features,
    query: Features,
    annotator: CellAnnotator,
    labels: np.ndarray,
    batches: np.ndarray,
    cells: np.ndarray,
) -> np.ndarray:
    """Return the share of held-out reference cells that are as unlike all labels, of each of ``cells``.

    Two distances from the nearest label are combined by Fisher's method, and the combination is calibrated on reference
    cells that were held out one by one. The first is the annotator's, in the space that the means of labels span. The
    second is Mahalanobis among principal components of both sides together, of genes that vary in either, so that what
    a new type expresses is in them: what most labels of a query batch are shifted by is taken off, distances are
    averaged over neighbors, and they are relative to the label's own.

    Parameters
    ----------
    reference, query
        Counts of the genes that the annotator was fitted on.
    labels
        ``(n_reference,)`` codes of the annotator's labels.
    batches
        ``(n_query,)`` batch of each.
    cells
        Positions of the query's cells that have counts; the others are left out.
    """
    how = labels, len(annotator.classifier_.labels_), batches[cells], annotator.seed
    of_means = _spanned(annotator.places(reference), annotator.places(query)[cells], *how)
    first, second = _joint_places(reference, query, annotator)
    of_both = _together(first, second[cells], *how)
    held = [HeldOut.of(found) for _, found in (of_means, of_both)]
    new, old = (
        -sum(np.log(kept.p_values(pair[side])) for kept, pair in zip(held, (of_means, of_both), strict=True))
        for side in (0, 1)
    )
    return HeldOut.of(np.asarray(old)).p_values(np.asarray(new))


_Distances = tuple[np.ndarray, np.ndarray]
"""Of new cells, and of held-out cells."""


def _folds(values: np.ndarray, labels: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the training cells, the held-out cells and the labels that the training cells have."""
    for train, test in stratified(labels, 5, seed):
        known = np.unique(labels[train])
        if len(known) > 1:
            yield train, test, known


def _spanned(
    values: np.ndarray, new: np.ndarray, labels: np.ndarray, n_labels: int, batches: np.ndarray, seed: int
) -> _Distances:
    held, called = np.zeros(len(values)), np.zeros(len(values), dtype=np.int64)
    for train, test, known in _folds(values, labels, seed):
        fitted = Discriminants.fit(values[train], np.searchsorted(known, labels[train]), len(known))
        logits, held[test] = fitted.read(values[test])
        called[test] = known[logits.argmax(axis=1)]
    usual = typical(called, held, n_labels)
    logits, found = Discriminants.fit(values, labels, n_labels).read(new)
    codes = logits.argmax(axis=1)
    for batch in np.unique(batches):
        own = batches == batch
        found[own] /= drift(codes[own], found[own], usual)
    return found, held


@dataclass(frozen=True)
class _Gaussians:
    """Labels as Gaussians of one covariance, in all dimensions."""

    means: np.ndarray
    white: np.ndarray
    prior: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, codes: np.ndarray, n_labels: int) -> Self:
        means, inverse, sizes = within(values, codes, n_labels)
        return cls(means, np.linalg.cholesky(inverse), np.log(sizes / sizes.sum()))

    def read(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the most probable label, and the squared distance from the nearest."""
        places, means = values @ self.white, self.means @ self.white
        squares = (places**2).sum(axis=1)[:, None] - 2 * places @ means.T + (means**2).sum(axis=1)
        return (self.prior - squares / 2).argmax(axis=1), np.maximum(squares.min(axis=1), 0)

    def unshifted(self, values: np.ndarray, batches: np.ndarray) -> np.ndarray:
        """Take off each batch what most labels are shifted by: the median over labels of their medians' shifts."""
        found = values.copy()
        for batch in np.unique(batches):
            rows = np.flatnonzero(batches == batch)
            for _ in range(_SHIFTS):
                codes = self.read(found[rows])[0]
                told = np.flatnonzero(np.bincount(codes) >= _SHIFTED_CELLS)
                if len(told) < 2:
                    break
                shifts = [np.median(found[rows[codes == code]], axis=0) - self.means[code] for code in told]
                found[rows] -= np.median(shifts, axis=0)
        return found


def _together(
    values: np.ndarray, new: np.ndarray, labels: np.ndarray, n_labels: int, batches: np.ndarray, seed: int
) -> _Distances:
    held, called = np.zeros(len(values)), np.zeros(len(values), dtype=np.int64)
    for train, test, known in _folds(values, labels, seed):
        fitted = _Gaussians.fit(values[train], np.searchsorted(known, labels[train]), len(known))
        codes, held[test] = fitted.read(fitted.unshifted(values[test], np.zeros(len(test))))
        called[test] = known[codes]
    fitted = _Gaussians.fit(values, labels, n_labels)
    new = fitted.unshifted(new, batches)
    codes, found = fitted.read(new)
    size = min(_SAMPLE, len(values), len(new))  # of the same number of cells neighbors are as near
    held, found = _pooled(held, values, size, seed), _pooled(found, new, size, seed)
    usual, near = (typical(called, held, n_labels, share) for share in (0.5, _NEAREST_SHARE))
    usual = np.where(usual > 0, usual, np.median(usual[usual > 0]) if (usual > 0).any() else 1.0)
    near = np.where(near > 0, near, np.nan)  # nothing is told of a label whose cells are repeated
    found, held = found / usual[codes], held / usual[called]
    for batch in np.unique(batches):
        own = np.flatnonzero(batches == batch)
        farther = typical(codes[own], found[own], n_labels, _NEAREST_SHARE, TOLD_CELLS) * usual / near
        told = farther > 0
        if told.any():
            most = np.exp(np.median(np.log(farther[told])))
            found[own] /= np.where(told, np.fmax(farther, most), most)[codes[own]]
    return found, held


def _pooled(distances: np.ndarray, values: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return the mean distance of each cell's neighbors among a random part of ``size`` cells, or all of fewer."""
    found = np.empty_like(distances)
    order = np.random.default_rng(seed).permutation(len(values))
    for start in range(0, len(order), size):  # the last part overlaps the one before, for fewer cells lie farther apart
        part = order[max(0, min(start, len(order) - size)) :][:size]
        neighbors, _ = nearest(values[part], min(_POOLED, len(part)), seed)
        found[part] = distances[part][neighbors].mean(axis=1)
    return found


def _joint_places(reference: Features, query: Features, annotator: CellAnnotator) -> tuple[np.ndarray, np.ndarray]:
    """Return places of both sides on principal axes of both.

    Each cell counts as much as any other: axes are made of the noise of those that count for more, which would put them
    far from all others.
    """
    samples = [_sampled(side) for side in (reference, query)]
    variable = np.union1d(annotator.variable_, variable_genes(samples[1], annotator.n_genes))
    dense = [sample[:, variable].toarray() for sample in samples]
    means = [side.mean(axis=0) for side in dense]
    scale = np.sqrt(sum(side.var(axis=0) for side in dense) / 2) + LEAST_SCALE

    def scaled(values: np.ndarray, mean: np.ndarray) -> np.ndarray:
        values = (values - mean) / scale
        return np.clip(values, -LARGEST, LARGEST, out=values)

    centered = [scaled(side, mean) for side, mean in zip(dense, means, strict=True)]
    n_comps = min(annotator.n_comps, len(dense[0]) - 2, len(variable))
    axes = leading(sum(side.T @ side for side in centered), max(n_comps, 1))
    first, second = (
        np.concatenate([scaled(logged.toarray(), means[0]) @ axes for _, logged in side.showing(variable).chunks()])
        for side in (reference, query)
    )
    return first.astype(np.float64), second.astype(np.float64)


def _sampled(features: Features) -> sparse.csr_matrix:
    """Return cells evenly spaced, log-normalized."""
    chosen = np.unique(np.linspace(0, features.n_cells - 1, min(features.n_cells, _SAMPLE)).round().astype(int))
    rows = []
    for place, logged in features.chunks():
        rows.append(logged[chosen[(chosen >= place.start) & (chosen < place.stop)] - place.start])
    return sparse.vstack(rows, format="csr")
