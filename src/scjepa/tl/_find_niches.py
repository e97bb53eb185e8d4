"""Niches in one call, with a trained model or with none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from scjepa._core import keys as _keys
from scjepa._core.anndata import Note, embedding_of, refuse_users
from scjepa._core.options import AUTO
from scjepa.tl._niche_readout import names_in, niche_readout
from scjepa.tl._niches import niches, refuse_niches

if TYPE_CHECKING:
    from anndata import AnnData


class FindsNiches(Protocol):
    """A model that finds niches itself, such as :class:`scjepa.STJEPA`."""

    def niches(self, adata: AnnData | None = None, n_niches: int | None = None, **options: Any) -> None:
        """Write niches and the embeddings they were found in."""


def find_niches(
    adata: AnnData,
    model: FindsNiches | None = None,
    *,
    n_niches: int | None = None,
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
    (:func:`niche_readout`) and clustered (:func:`niches`). With a model its embedding of cells stands beside them: the
    same as ``model.niches(adata, n_niches)``.

    Parameters
    ----------
    adata
        Annotated data with raw counts and the graph of squidpy.
    model
        A trained :class:`scjepa.STJEPA`. It knows the layer, the sections and the graph that it was set up with.
    n_niches
        Number of niches. Default: as many as Leiden finds at ``resolution``.
    resolution
        Leiden's resolution, where ``n_niches`` is not given.
    use_rep
        What is read: ``"X"`` for the counts, keys of ``adata.obsm`` for embeddings. Default: the counts, and with a
        model its embedding of cells beside them.
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
        Writes ``adata.obsm["X_stjepa_niche"]``, ``adata.obs[key_added]`` and what :func:`niches` writes beside it; with
        a model also what ``model.niches`` names.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :func:`niche_readout` and :func:`niches`; also if a layer, sections or a graph are named beside a model, or
        ``model`` does not find niches.

    Examples
    --------
    >>> sq.gr.spatial_neighbors_knn(adata, n_neighs=10, library_key="section")
    >>> scjepa.tl.find_niches(adata, n_niches=12)
    >>> scjepa.pl.niches(adata)
    """
    refuse_niches(adata, n_niches, key_added)
    if model is None:
        readout = _keys.EXPRESSION if use_rep is None else use_rep
        where: Note = {"layer": layer, "library_key": library_key, "neighbors_key": neighbors_key}
        niche_readout(adata, readout, align=align, **where)
        options: Note = {"n_niches": n_niches, "resolution": resolution, "random_state": random_state}
        niches(adata, _keys.EMBEDDING_NICHE, key_added=key_added, **options)
        return
    if not callable(getattr(model, "niches", None)):
        raise TypeError(f"model must be a trained scjepa.STJEPA, or None; found {type(model).__name__}.")
    if layer is not None or library_key is not None or neighbors_key != _keys.SPATIAL:
        raise ValueError(
            "layer, library_key and neighbors_key are for data without a model; a model has them from setup_anndata."
        )
    model.niches(
        adata,
        n_niches,
        resolution=resolution,
        use_rep=use_rep,
        align=align,
        key_added=key_added,
        random_state=random_state,
    )


def check_niches(
    adata: AnnData,
    n_niches: int | None = None,
    *,
    use_rep: str | Sequence[str] | None = None,
    align: str = AUTO,
    key_added: str = _keys.NICHE,
    made: Sequence[str] = (),
) -> None:
    """Raise where niches could not be found or written, before anything long is done for them.

    Parameters
    ----------
    adata, n_niches, use_rep, align, key_added
        As :func:`find_niches` takes them.
    made
        Keys of embeddings that will be there by then.

    Raises
    ------
    KeyError, TypeError, ValueError
        As :func:`niche_readout` and :func:`niches`.
    """
    from scjepa.tl._niche_estimator import NicheReadout

    refuse_niches(adata, n_niches, key_added)
    refuse_users(adata, "obsm", _keys.EMBEDDING_NICHE)
    NicheReadout(align=align).check_options()
    for name in names_in(use_rep) if use_rep is not None else ():
        if name != _keys.EXPRESSION and name not in made:
            embedding_of(adata, name)
