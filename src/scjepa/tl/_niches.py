"""Niches: clusters of neighborhood embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.anndata import embedding_of, record, record_of, refuse_users
from scjepa._core.leiden import MIN_SHARE, EmbeddingGraph, Partition
from scjepa._core.palette import palette
from scjepa._core.renamed import renamed
from scjepa._core.warn import warn

if TYPE_CHECKING:
    from anndata import AnnData


@renamed(standardize_by="use_rep=, what scjepa.tl.standardize(adata, library_key=...) wrote")
def niches(
    adata: AnnData,
    use_rep: str | None = None,
    *,
    n_niches: int | None = None,
    resolution: float = 1.0,
    n_neighbors: int = 15,
    min_share: float = MIN_SHARE,
    key_added: str = _keys.NICHE,
    random_state: int = 0,
    flavor: str = "igraph",
) -> None:
    """Cluster an embedding into niches: nearest-neighbor graph, then Leiden.

    Parameters
    ----------
    adata
        Annotated data with ``obsm[use_rep]``.
    use_rep
        Key in ``adata.obsm`` of the embedding. Default: ``"X_stjepa_niche"``, the read-out that :func:`niche_readout`
        wrote, where it is there, else ``"X_stjepa"``. Where sections differ by batch effects, name what
        :func:`standardize` wrote.
    n_niches
        Number of niches wanted: the resolution that gives it is searched, and ``resolution`` is not used.
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
        ``adata.uns[f"{key_added}_colors"]``, ``adata.uns["scjepa"][key_added]`` (how it was made), and the graph:
        ``adata.uns["scjepa_niche"]``, ``adata.obsp["scjepa_niche_distances"]`` and
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
        If ``n_niches`` is no whole number.
    ValueError
        If a cell has a NaN in the embedding, there are fewer cells than niches, an option is out of its range, or
        ``adata.obs`` has a column ``key_added`` that scjepa did not write or whose niches were renamed.
    """
    refuse_niches(adata, n_niches, key_added)
    if use_rep is None:
        use_rep = _keys.EMBEDDING_NICHE if _keys.EMBEDDING_NICHE in adata.obsm else _keys.EMBEDDING
    embedding = embedding_of(adata, use_rep)
    graph = EmbeddingGraph(embedding, n_neighbors, random_state)
    if n_niches is None:
        found = graph.leiden(resolution, random_state, flavor)
    else:
        found = graph.match(n_niches, random_state, min_share, flavor)
        _warn_unmatched(found, n_niches)
    _write_niches(adata, key_added, found)
    _write_graph(adata, graph, use_rep, random_state)
    record(
        adata,
        key_added,
        slot="obs",
        use_rep=use_rep,
        resolution=float(found.resolution),
        n_niches=found.n_clusters,
        n_neighbors=graph.n_neighbors,
        random_state=found.seed,
        flavor=flavor,
    )


def refuse_niches(adata: AnnData, n_niches: int | None, key: str) -> None:
    """Raise where niches could not be found or written: at once, before anything long is done.

    Raises
    ------
    TypeError, ValueError
        If the number cannot be, or the column is the user's own, or ours with niches they have renamed since.
    """
    refuse_users(adata, "obs", key)
    if n_niches is not None and (not isinstance(n_niches, int | np.integer) or isinstance(n_niches, bool)):
        raise TypeError(f"n_niches must be a whole number, found {n_niches!r} ({type(n_niches).__name__}).")
    if n_niches is not None and not 1 <= n_niches <= adata.n_obs:
        raise ValueError(f"n_niches must lie between 1 and the number of cells ({adata.n_obs}), found {n_niches}.")
    if key not in adata.obs:
        return
    written = {str(number) for number in range(record_of(adata, key)["n_niches"])}
    if not set(adata.obs[key].dropna().astype(str)) <= written:
        raise ValueError(
            f"The niches in adata.obs[{key!r}] were renamed after scjepa wrote them, and it will not replace them. "
            f"Choose another name with key_added=..., or remove the column first: del adata.obs[{key!r}]"
        )


def _warn_unmatched(found: Partition, n_niches: int) -> None:
    if found.n_clusters != n_niches:
        warn(
            f"No resolution gave {n_niches} niches; the nearest, {found.n_clusters} niches at resolution "
            f"{found.resolution:.4g}, is written. Another random_state or n_neighbors may reach {n_niches}."
        )


def _write_niches(adata: AnnData, key: str, found: Partition) -> None:
    import pandas as pd

    names = np.arange(found.n_clusters).astype(str)
    adata.obs[key] = pd.Categorical.from_codes(found.labels, categories=names)
    adata.uns[f"{key}_colors"] = palette(found.n_clusters)


def _write_graph(adata: AnnData, graph: EmbeddingGraph, use_rep: str, seed: int) -> None:
    """Write the graph as scanpy does, so that its tools take ``neighbors_key="scjepa_niche"``."""
    key = _keys.NICHE_NEIGHBORS
    adata.obsp[f"{key}_distances"] = graph.distances
    adata.obsp[f"{key}_connectivities"] = graph.connectivities
    adata.uns[key] = graph.as_scanpy(use_rep, seed, key)
