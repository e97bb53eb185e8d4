"""Niches: clusters of neighborhood embeddings, with a trained model or with none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.anndata import Note, embedding_of, record, record_of, refuse_users, require_cells
from scjepa._core.leiden import MIN_SHARE
from scjepa._core.options import AUTO
from scjepa._core.palette import palette
from scjepa._core.renamed import renamed
from scjepa._core.warn import warn
from scjepa.tl._niche_readout import names_in, niche_readout

if TYPE_CHECKING:
    from anndata import AnnData

    from scjepa._core.leiden import EmbeddingGraph


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
        did not write or whose niches were renamed.
    """
    import pandas as pd

    from scjepa.tl._niche_clusters import NicheClusters

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
        If the number or the method cannot be, or the column is the user's own, or ours with niches they have renamed.
    """
    from scjepa.tl._niche_clusters import NicheClusters

    require_cells(adata)
    refuse_users(adata, "obs", key)
    if n_niches is not None and (not isinstance(n_niches, int | np.integer) or isinstance(n_niches, bool)):
        raise TypeError(f"n_niches must be a whole number, found {n_niches!r} ({type(n_niches).__name__}).")
    if n_niches is not None and not 1 <= n_niches <= adata.n_obs:
        raise ValueError(f"n_niches must lie between 1 and the number of cells ({adata.n_obs}), found {n_niches}.")
    NicheClusters(n_niches, method=method).check_options()
    if key not in adata.obs:
        return
    written = {str(number) for number in range(record_of(adata, key)["n_niches"])}
    if not set(adata.obs[key].dropna().astype(str)) <= written:
        raise ValueError(
            f"The niches in adata.obs[{key!r}] were renamed after scjepa wrote them, and it will not replace them. "
            f"Choose another name with key_added=..., or remove the column first: del adata.obs[{key!r}]"
        )


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
