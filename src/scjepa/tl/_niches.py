"""Niches: clusters of neighborhood embeddings, with a trained model or with none, of any number of cells."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted

from scjepa._core import keys as _keys
from scjepa._core.anndata import (
    Note,
    as_embedding,
    embedding_of,
    record,
    record_of,
    refuse_renamed,
    refuse_users,
    require_cells,
)
from scjepa._core.arrays import blocks_of, sketch, votes
from scjepa._core.leiden import MIN_SHARE, EmbeddingGraph
from scjepa._core.neighbors import neighbor_search
from scjepa._core.options import AUTO, unknown_name
from scjepa._core.palette import palette
from scjepa._core.renamed import renamed
from scjepa._core.warn import warn
from scjepa.tl._kept import Kept
from scjepa.tl._niche_readout import names_in, niche_readout

if TYPE_CHECKING:
    from anndata import AnnData
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


@renamed(standardize_by="use_rep=, what scjepa.tl.standardize(adata, library_key=...) wrote")
def niches(
    adata: AnnData,
    use_rep: str | None = None,
    *,
    n_niches: int | None = None,
    method: str = AUTO,
    resolution: float = 1.0,
    n_neighbors: int = 15,
    min_share: float = MIN_SHARE,
    key_added: str = _keys.NICHE,
    random_state: int = 0,
    flavor: str = "igraph",
) -> None:
    """Cluster an embedding into niches: nearest-neighbor graph, then Leiden; of millions of cells, of a sample.

    Parameters
    ----------
    adata
        Annotated data with ``obsm[use_rep]``.
    use_rep
        Key in ``adata.obsm`` of the embedding. Default: ``"X_stjepa_niche"``, the read-out that :func:`niche_readout`
        wrote, where it is there, else ``"X_stjepa"``. Where sections differ by batch effects, name what
        :func:`standardize` wrote.
    n_niches
        Number of niches wanted: the resolution that gives it is searched, and ``resolution`` is not used. Needed by
        ``"kmeans"`` and ``"gmm"``.
    method
        ``"leiden"``: Leiden on the graph of all cells. ``"landmarks"``: Leiden on a sample of 50,000 cells in which
        rare places keep some, carried to all cells by the votes of their nearest landmarks. ``"kmeans"``, ``"gmm"``:
        k-means, and a mixture of Gaussians, of such a sample. ``"auto"``: Leiden up to 200,000 cells, landmarks beyond.
        To find niches in arrays on disk, or to keep the clusters for other cells: :class:`NicheClusters`.
    resolution
        Leiden's resolution; more gives more niches.
    n_neighbors
        Neighbors of each cell in the graph, itself included; at most as many as there are cells are used.
    min_share
        With ``n_niches``: islands of a smaller share of the cells (or of less than a tenth of an equal share, where
        that is less) do not count as niches, and their cells join the niche of their nearest cell. 0: every cluster
        counts.
    key_added
        Column of ``adata.obs`` to write.
    random_state
        Seed of Leiden and of the neighbor search. The same seed gives the same niches, in whatever order the cells
        are; where an embedding differs by rounding (other batch sizes), Leiden's random choices may fall differently.
    flavor
        Implementation of Leiden, ``"igraph"`` or ``"leidenalg"``, as in :func:`scanpy.tl.leiden`. Both optimize
        modularity; where clusters are clear they agree, else their random choices fall differently.

    Returns
    -------
    None
        Writes ``adata.obs[key_added]`` (categorical of ``"0"``, ``"1"``, ... by decreasing size),
        ``adata.uns[f"{key_added}_colors"]``, ``adata.uns["scjepa"][key_added]`` (how it was made), and, where Leiden
        clustered all cells, the graph: ``adata.uns["scjepa_niche"]``, ``adata.obsp["scjepa_niche_distances"]`` and
        ``adata.obsp["scjepa_niche_connectivities"]``. A graph of your own under ``"neighbors"`` is left alone.

    Warns
    -----
    UserWarning
        If no resolution gives ``n_niches``; the nearest number is written.

    Raises
    ------
    KeyError
        If ``use_rep`` is not there.
    TypeError
        If ``n_niches`` is not an integer.
    ValueError
        If a cell has a NaN in the embedding, there are fewer cells than niches, ``method`` is not known or must know
        the number of niches, an option is out of its range, or ``adata.obs`` has a column ``key_added`` that scjepa
        did not write, that :meth:`scjepa.NicheAtlas.predict` wrote, or whose niches were renamed.
    """
    import pandas as pd

    _refuse_niches(adata, n_niches, key_added, method)
    if use_rep is None:
        use_rep = _keys.EMBEDDING_NICHE if _keys.EMBEDDING_NICHE in adata.obsm else _keys.EMBEDDING
        if use_rep not in adata.obsm:
            raise KeyError(
                f"adata.obsm has neither {_keys.EMBEDDING_NICHE!r} nor {_keys.EMBEDDING!r} to cluster. Find niches of "
                "the expression, scjepa.tl.find_niches(adata), or with a model, model.niches(); or name an embedding: "
                "use_rep=..."
            )
    embedding = embedding_of(adata, use_rep)
    how: Note = {"n_neighbors": n_neighbors, "flavor": flavor, "min_share": min_share, "random_state": random_state}
    clusters = NicheClusters(n_niches, method=method, resolution=resolution, **how)
    labels = clusters.fit_predict(embedding)
    found = clusters.n_niches_
    if n_niches is not None and found != n_niches:
        warn(
            f"No resolution gave {n_niches} niches; the nearest, {found} niches at resolution "
            f"{clusters.resolution_:.4g}, is written. Another random_state or n_neighbors may reach {n_niches}."
        )
    adata.obs[key_added] = pd.Categorical.from_codes(labels, categories=np.arange(found).astype(str))
    adata.uns[f"{key_added}_colors"] = palette(found)
    if clusters.graph is not None:
        _write_graph(adata, clusters.graph, use_rep, random_state)
    record(adata, key_added, slot="obs", use_rep=use_rep, **clusters.note())


def _write_graph(adata: AnnData, graph: EmbeddingGraph, use_rep: str, seed: int) -> None:
    """Write the graph as scanpy does, so that its tools take ``neighbors_key="scjepa_niche"``."""
    adata.obsp[f"{_keys.NICHE_NEIGHBORS}_distances"] = graph.distances
    adata.obsp[f"{_keys.NICHE_NEIGHBORS}_connectivities"] = graph.connectivities
    adata.uns[_keys.NICHE_NEIGHBORS] = graph.as_scanpy(use_rep, seed, _keys.NICHE_NEIGHBORS)


def _refuse_niches(adata: AnnData, n_niches: int | None, key: str, method: str = AUTO) -> None:
    """Raise where niches could not be found or written: at once, before anything long is done.

    Raises
    ------
    TypeError, ValueError
        If the number or the method cannot be, or the column is the user's own, ours with niches they have renamed, or
        that of an atlas, whose names say more than those of clusters.
    """
    require_cells(adata)
    refuse_users(adata, "obs", key)
    if key in adata.obs and record_of(adata, key).get("by") == "NicheAtlas":
        raise ValueError(
            f"The niches in adata.obs[{key!r}] are those of an atlas, and clusters would replace them under other "
            f"names. Choose another name, such as key_added={f'{key}_found'!r}, or remove the column first: "
            f"del adata.obs[{key!r}]"
        )
    if n_niches is not None and (not isinstance(n_niches, int | np.integer) or isinstance(n_niches, bool)):
        raise TypeError(f"n_niches must be a whole number, found {n_niches!r} ({type(n_niches).__name__}).")
    if n_niches is not None and not 1 <= n_niches <= adata.n_obs:
        raise ValueError(f"n_niches must lie between 1 and the number of cells ({adata.n_obs}), found {n_niches}.")
    NicheClusters(n_niches, method=method).check_options()
    refuse_renamed(adata, key)


class FindsNiches(Protocol):
    """A model that finds niches itself, such as :class:`scjepa.STJEPA`."""

    def niches(self, adata: AnnData | None = None, n_niches: int | None = None, **options: object) -> None:
        """Write niches and the embeddings they were found in."""


def find_niches(
    adata: AnnData,
    model: FindsNiches | None = None,
    *,
    n_niches: int | None = None,
    method: str = AUTO,
    resolution: float = 1.0,
    use_rep: str | Sequence[str] | None = None,
    layer: str | None = None,
    library_key: str | None = None,
    align: str = AUTO,
    neighbors_key: str = _keys.SPATIAL,
    key_added: str = _keys.NICHE,
    random_state: int = 0,
) -> None:
    """Find niches in one call: with no model by the linear method, in a second; with a trained one, by both.

    Without a model the predictive components of the expression are read out with the rings around each cell
    (:func:`niche_readout`) and clustered (:func:`niches`). With a model its embedding of cells is read with them: the
    same as ``model.niches(adata, n_niches)``.

    Parameters
    ----------
    adata
        Annotated data with raw counts and the graph of squidpy.
    model
        A trained :class:`scjepa.STJEPA`. It knows the layer, the sections and the graph that it was set up with.
    n_niches
        Number of niches. Default: as many as Leiden finds at ``resolution``.
    method
        How they are found; see :func:`niches`.
    resolution
        Leiden's resolution, where ``n_niches`` is not given.
    use_rep
        What is read: ``"X"`` for the counts, keys of ``adata.obsm`` for embeddings. Default: the counts, and with a
        model its embedding of cells as well.
    layer, library_key, neighbors_key
        Layer of raw counts, column of sections and squidpy's ``key_added``, where there is no model.
    align
        What sections are made to have in common; see :func:`niche_readout`.
    key_added
        Column of ``adata.obs`` to write.
    random_state
        Seed of the clustering.

    Returns
    -------
    None
        Writes ``adata.obsm["X_stjepa_niche"]``, ``adata.obs[key_added]`` and what else :func:`niches` writes; with
        a model also what ``model.niches`` names.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :func:`niche_readout` and :func:`niches`; also if a layer, sections or a graph are named with a model, or
        ``model`` does not find niches.

    Examples
    --------
    >>> sq.gr.spatial_neighbors_knn(adata, n_neighs=10, library_key="section")
    >>> scjepa.tl.find_niches(adata, n_niches=12)
    >>> scjepa.pl.niches(adata)
    """
    _refuse_niches(adata, n_niches, key_added, method)
    options: Note = {"method": method, "resolution": resolution, "random_state": random_state}
    if model is None:
        readout = _keys.EXPRESSION if use_rep is None else use_rep
        niche_readout(adata, readout, layer=layer, library_key=library_key, align=align, neighbors_key=neighbors_key)
        niches(adata, _keys.EMBEDDING_NICHE, n_niches=n_niches, key_added=key_added, **options)
        return
    if not callable(getattr(model, "niches", None)):
        raise TypeError(f"model must be a trained scjepa.STJEPA, or None; found {type(model).__name__}.")
    if layer is not None or library_key is not None or neighbors_key != _keys.SPATIAL:
        raise ValueError(
            "layer, library_key and neighbors_key are for data without a model; a model has them from setup_anndata."
        )
    model.niches(adata, n_niches, use_rep=use_rep, align=align, key_added=key_added, **options)


def check_niches(
    adata: AnnData,
    n_niches: int | None = None,
    *,
    method: str = AUTO,
    use_rep: str | Sequence[str] | None = None,
    align: str = AUTO,
    key_added: str = _keys.NICHE,
    made: Sequence[str] = (),
) -> None:
    """Raise where niches could not be found or written, before anything long is done for them.

    Parameters
    ----------
    adata, n_niches, method, use_rep, align, key_added
        As :func:`find_niches` takes them.
    made
        Keys of embeddings that will be there by then.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :func:`niche_readout` and :func:`niches`.
    """
    from scjepa.tl._niche_estimator import NicheReadout

    _refuse_niches(adata, n_niches, key_added, method)
    refuse_users(adata, "obsm", _keys.EMBEDDING_NICHE)
    NicheReadout(align=align).check_options()
    for name in names_in(use_rep) if use_rep is not None else ():
        if name != _keys.EXPRESSION and name not in made:
            embedding_of(adata, name)


# -- the estimator -----------------------------------------------------------------------------------------------------


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
        return lambda block: votes(self.landmark_niches_[search(block)], self.n_niches_).argmax(axis=1)

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
