"""Niches of millions of cells: clusters that are found in a sample and carried to all cells, block by block."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted

from scjepa._core.anndata import Note, as_embedding
from scjepa._core.arrays import blocks_of, sketch
from scjepa._core.leiden import MIN_SHARE, EmbeddingGraph
from scjepa._core.neighbors import neighbor_search
from scjepa._core.options import AUTO, unknown_name
from scjepa.tl._kept import Kept

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

logger = logging.getLogger("scjepa")

LEIDEN, LANDMARKS, KMEANS, GMM = "leiden", "landmarks", "kmeans", "gmm"

METHODS = (AUTO, LEIDEN, LANDMARKS, KMEANS, GMM)
"""Ways to find niches: Leiden on all cells, or one of a sample."""

LARGEST_LEIDEN = 200_000
"""Cells up to which ``"auto"`` is Leiden on all of them."""

_STARTS = {KMEANS: 10, GMM: 3}
"""Starts from which the best is taken."""

_RIDGE = 1e-3
"""What is added to the variances of a mixture's components, as a share of the mean variance."""


class NicheClusters(Kept, ClusterMixin, BaseEstimator):
    """Niches of an embedding of any number of cells, which may lie on disk, and of cells that come later.

    Beyond 200,000 cells a sample is drawn in which every place of the embedding keeps some. It is clustered, and all
    cells are then assigned block by block: memory does not grow with the cells but for a few numbers of each. The same
    cells in another order have the same niches.

    Parameters
    ----------
    n_niches
        Number of niches. ``None``: as many as Leiden finds at ``resolution``; ``"kmeans"`` and ``"gmm"`` must know it.
    method
        ``"leiden"``: Leiden on the graph of all cells, which are held in memory. ``"landmarks"``: Leiden on the graph
        of the sample; the niche of a cell is that of most of its ``n_neighbors`` nearest landmarks. ``"kmeans"``:
        k-means of the sample, the best of 10 starts. ``"gmm"``: a mixture of Gaussians with covariances of their own,
        the best of 3 starts. ``"auto"``: ``"leiden"`` up to 200,000 cells, ``"landmarks"`` beyond, which is logged.
    resolution, min_share, flavor
        As for :func:`niches`; for Leiden.
    n_neighbors
        Neighbors of a cell in the graph, itself included; and landmarks that vote.
    n_landmarks
        Cells of the sample, about.
    random_state
        Seed of the sample, the search and the clustering.

    Attributes
    ----------
    n_niches_
        Number of niches.
    graph
        The graph of all cells, for ``"leiden"`` on the cells of the fit; not kept in files.
    method_
        The method that was used.
    resolution_, seed_
        Leiden's resolution, NaN for other methods; and seed, where others than the first were tried.
    landmarks_, landmark_niches_
        ``(n_landmarks, n_dims)`` and ``(n_landmarks,)`` int32: what votes, all cells for ``"leiden"``.
    means_
        ``(n_niches, n_dims)`` of ``"kmeans"`` and ``"gmm"``.
    shares_, precisions_
        ``(n_niches,)`` weights, and ``(n_niches, n_dims, n_dims)`` Cholesky factors of the inverse covariances, of
        ``"gmm"``.

    Examples
    --------
    >>> clusters = scjepa.tl.NicheClusters(12)
    >>> niche = clusters.fit_predict(np.load("readout.npy", mmap_mode="r"))
    >>> clusters.save("niches.safetensors")
    >>> later = clusters.predict(readout_of_another_section)
    """

    graph: EmbeddingGraph | None = None

    def __init__(
        self,
        n_niches: int | None = None,
        *,
        method: str = AUTO,
        resolution: float = 1.0,
        n_neighbors: int = 15,
        min_share: float = MIN_SHARE,
        n_landmarks: int = 50_000,
        random_state: int = 0,
        flavor: str = "igraph",
    ) -> None:
        self.n_niches = n_niches
        self.method = method
        self.resolution = resolution
        self.n_neighbors = n_neighbors
        self.min_share = min_share
        self.n_landmarks = n_landmarks
        self.random_state = random_state
        self.flavor = flavor

    def fit(self, embedding: object, y: object = None) -> NicheClusters:
        """Draw the sample and cluster it; niches are numbered by their size in it, decreasing.

        Parameters
        ----------
        embedding
            ``(n_cells, n_dims)``: an array, also a memory-mapped one, or a data set of an h5ad or zarr file.
        y
            Not used; scikit-learn's.

        Raises
        ------
        TypeError
            If a number of niches, neighbors or landmarks is not an integer.
        ValueError
            If there is no such method, ``"kmeans"`` or ``"gmm"`` have no ``n_niches``, there are fewer cells than
            niches, an option is out of its range, or a value is NaN or infinite.
        """
        self.check_options()
        self.method_ = _chosen(self.method, np.shape(cast("ArrayLike", embedding))[0])
        self.resolution_, self.seed_, self.graph = math.nan, self.random_state, None
        if self.method_ == LEIDEN:
            drawn = as_embedding(embedding)
        else:
            drawn = sketch(embedding, self.n_landmarks, self.random_state).astype(np.float32, copy=False)
        if self.n_niches is not None and self.n_niches > len(drawn):
            raise ValueError(f"n_niches must be at most the {len(drawn):,} cells of the sample, found {self.n_niches}.")
        {KMEANS: self._fit_means, GMM: self._fit_mixture}.get(self.method_, self._fit_landmarks)(drawn)
        return self

    def predict(self, embedding: object) -> np.ndarray:
        """Return the niche of each cell, ``(n_cells,)`` int32, of cells in the same coordinates.

        Raises
        ------
        ValueError
            If the dimensions are not those of the fit, or a value is NaN or infinite.
        """
        check_is_fitted(self, "n_niches_")
        niche_of = self._niche_of()
        found = [niche_of(self._checked(block)).astype(np.int32) for _, block in blocks_of(embedding)]
        return np.concatenate(found)

    def fit_predict(self, embedding: object, y: object = None) -> np.ndarray:
        """Find niches, numbered by decreasing size, and return that of each cell, ``(n_cells,)`` int32.

        Those of Leiden on all cells are as it found them; :meth:`predict` lets cells vote.
        """
        self.fit(embedding)
        if self.method_ == LEIDEN:
            return self.landmark_niches_
        found = self.predict(embedding)
        sizes = np.bincount(found, minlength=self.n_niches_)
        order = np.argsort(-sizes, kind="stable")
        self._number(order)
        return np.argsort(order).astype(np.int32)[found]

    def check_options(self) -> None:
        """Refuse options that :meth:`fit` could not use, before anything long is done.

        Raises
        ------
        TypeError, ValueError
            As :meth:`fit`.
        """
        if self.method not in METHODS:
            raise ValueError(unknown_name("method", self.method, METHODS))
        self._check_whole("n_neighbors", "n_landmarks", *(["n_niches"] if self.n_niches is not None else []))
        if self.n_niches is None and self.method in _STARTS:
            raise ValueError(f"The method {self.method!r} must know the number of niches: n_niches=...")

    def note(self) -> Note:
        """Return how the niches were found: method, numbers, seed, and the options that the method has."""
        check_is_fitted(self, "n_niches_")
        found: Note = {"method": self.method_, "n_niches": self.n_niches_, "random_state": self.seed_}
        if self.method_ not in _STARTS:
            n_neighbors = min(self.n_neighbors, len(self.landmarks_))
            found |= {"resolution": self.resolution_, "n_neighbors": n_neighbors, "flavor": self.flavor}
        return found if self.method_ == LEIDEN else {**found, "n_landmarks": self.n_landmarks}

    # -- parts --------------------------------------------------------------------------------------------------

    def _fit_landmarks(self, drawn: np.ndarray) -> None:
        graph = EmbeddingGraph(drawn, self.n_neighbors, self.random_state)
        if self.n_niches is None:
            found = graph.leiden(self.resolution, self.random_state, self.flavor)
        else:
            found = graph.match(self.n_niches, self.random_state, self.min_share, self.flavor)
        self.n_niches_, self.resolution_, self.seed_ = found.n_clusters, float(found.resolution), found.seed
        self.landmarks_, self.landmark_niches_ = drawn, found.labels.astype(np.int32)
        self.graph = graph if self.method_ == LEIDEN else None

    def _fit_means(self, drawn: np.ndarray) -> None:
        from sklearn.cluster import MiniBatchKMeans

        how = {"n_init": _STARTS[KMEANS], "batch_size": 4096, "random_state": self.random_state}
        model = MiniBatchKMeans(self.n_niches, **how).fit(drawn)
        self.n_niches_, self.means_ = len(model.cluster_centers_), model.cluster_centers_
        self._number(np.argsort(-np.bincount(model.labels_, minlength=self.n_niches_), kind="stable"))

    def _fit_mixture(self, drawn: np.ndarray) -> None:
        from sklearn.mixture import GaussianMixture

        ridge = _RIDGE * float(drawn.var(axis=0, dtype=np.float64).mean()) or 1.0
        how = {"n_init": _STARTS[GMM], "reg_covar": ridge, "random_state": self.random_state}
        model = GaussianMixture(self.n_niches, **how).fit(drawn)
        self.n_niches_, self.means_ = len(model.means_), model.means_
        self.shares_, self.precisions_ = model.weights_, model.precisions_cholesky_
        self._number(np.argsort(-model.weights_, kind="stable"))

    def _number(self, order: np.ndarray) -> None:
        """Give the niches new numbers: ``order`` holds the present ones."""
        if self.method_ == LANDMARKS:
            self.landmark_niches_ = np.argsort(order).astype(np.int32)[self.landmark_niches_]
            return
        self.means_ = self.means_[order]
        if self.method_ == GMM:
            self.shares_, self.precisions_ = self.shares_[order], self.precisions_[order]

    def _niche_of(self) -> Any:
        """Return the function that gives the niches of a block of cells."""
        from sklearn.metrics import pairwise_distances_argmin

        if self.method_ == KMEANS:
            return lambda block: pairwise_distances_argmin(block, self.means_)
        if self.method_ == GMM:
            from sklearn.mixture import GaussianMixture

            model = GaussianMixture(self.n_niches_)
            model.means_, model.weights_, model.precisions_cholesky_ = self.means_, self.shares_, self.precisions_
            return model.predict
        n_voters = min(self.n_neighbors, len(self.landmarks_))
        search = neighbor_search(self.landmarks_, n_voters, self.random_state)
        return lambda block: _majority(self.landmark_niches_[search(block)], self.n_niches_)

    def _checked(self, block: np.ndarray) -> np.ndarray:
        n_dims = (self.means_ if self.method_ in _STARTS else self.landmarks_).shape[1]
        if block.shape[1] != n_dims:
            raise ValueError(f"The niches were found in {n_dims} dimensions, and these cells have {block.shape[1]}.")
        return block.astype(np.float32, copy=False)


def _chosen(method: str, n_cells: int) -> str:
    """Return the method, and say so where ``"auto"`` is not Leiden on all cells."""
    if method != AUTO:
        return method
    if n_cells <= LARGEST_LEIDEN:
        return LEIDEN
    logger.warning(
        "%s cells are more than the %s of which Leiden clusters all: niches are found in a sample and carried to all "
        "cells (method='landmarks'). For Leiden on all of them pass method='leiden'.",
        f"{n_cells:,}",
        f"{LARGEST_LEIDEN:,}",
    )
    return LANDMARKS


def _majority(votes: np.ndarray, n_niches: int) -> np.ndarray:
    """Return what most of the votes of each cell, ``(n_cells, n_voters)``, are for; of equal numbers the first."""
    at = votes + n_niches * np.arange(len(votes))[:, None]
    counts = np.bincount(at.ravel(), minlength=n_niches * len(votes))
    return counts.reshape(len(votes), n_niches).argmax(axis=1)
