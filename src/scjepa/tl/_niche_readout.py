"""The read-out that niches are found in, of the cells of an AnnData object."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scjepa._core import keys as _keys
from scjepa._core.anndata import Note, embedding_of, refuse_users, require_anndata
from scjepa._core.graph import sections_of
from scjepa._core.options import AUTO
from scjepa._core.renamed import renamed
from scjepa._core.warn import warn
from scjepa.tl._moments import Features

if TYPE_CHECKING:
    from anndata import AnnData

    from scjepa.tl._niche_estimator import NicheReadout

logger = logging.getLogger("scjepa")


@renamed(by="library_key=")
def niche_readout(
    adata: AnnData,
    use_rep: str | Sequence[str] | None = None,
    *,
    layer: str | None = None,
    library_key: str | None = None,
    n_comps: int = 20,
    n_rings: int | None = None,
    own_weight: float | None = None,
    align: str = AUTO,
    neighbors_key: str = _keys.SPATIAL,
    key_added: str = _keys.EMBEDDING_NICHE,
) -> None:
    """Write the read-out for niches: what cells, and the rings around them, tell of their place.

    Predictive components (:class:`PredictiveComponents`) of the expression of the cells and of their embedding, beside
    the means of these components over the rings around each cell. How many rings, how much the cell itself weighs, and
    which of the two sources is used, follow from the data without labels (:class:`NicheReadout`). What was chosen is
    logged and noted.

    Parameters
    ----------
    adata
        Annotated data with raw counts, cell embeddings, or both, and the graph of squidpy.
    use_rep
        What to read: ``"X"`` for the counts, keys of ``adata.obsm`` for embeddings of cells, or several of these.
        Default: the counts, and ``"X_stjepa_cell"`` where it is there; that alone where the object has no counts. The
        counts alone need no model.
    layer
        Layer of raw counts. Default: ``X``.
    library_key
        Column of ``adata.obs`` that tells sections apart. Default: ``"section"`` if there is such a column.
    n_comps
        Predictive components of each source.
    n_rings
        Rings around the cell, 0 to 3. Default: chosen from the data.
    own_weight
        Weight of the cell itself against that of its rings (1: the same). Default: chosen from the data.
    align
        What sections are made to have in common: ``"scale"``, mean and variance of each gene or dimension;
        ``"covariance"``, covariances as well, for sections of different technologies of like tissue; ``"center"``,
        means; ``"none"``. Default: ``"scale"``, or ``"center"``, with a warning, where sections differ in what they
        consist of, such as tumors of different patients.
    neighbors_key
        squidpy's ``key_added``: the graph is ``obsp[f"{neighbors_key}_connectivities"]``.
    key_added
        Key in ``adata.obsm`` of the result.

    Returns
    -------
    None
        Writes ``adata.obsm[key_added]``, float32 of shape (n_cells, n_dims), and ``adata.uns["scjepa"][key_added]``:
        how it was made, what was chosen in words (``"chosen"``), and the fitted read-out (``"fitted"``, see
        :func:`niche_readout_of`).

    Warns
    -----
    UserWarning
        If sections differ in what they consist of, nothing around a cell predicts it, or counts are not integers,
        such as log-normalized values.

    Raises
    ------
    KeyError
        If ``use_rep``, ``library_key``, ``layer`` or the graph is not there.
    TypeError
        If ``n_comps`` or ``n_rings`` is not an integer.
    ValueError
        If a cell has a NaN in the embedding or no section, a count is negative or NaN, no cell has a neighbor, no
        feature varies, an edge joins two sections, an option is out of its range, or ``key_added`` is there and scjepa
        did not write it.

    Examples
    --------
    >>> adata.obsm["X_stjepa_cell"] = model.get_latent_representation(scale="cell")
    >>> scjepa.tl.niche_readout(adata)
    >>> scjepa.tl.niches(adata, n_niches=12)
    """
    from scjepa.tl._niche_estimator import NicheReadout

    refuse_users(adata, "obsm", key_added)
    readout = NicheReadout(n_comps, n_rings=n_rings, own_weight=own_weight, align=align)
    readout.check_options()
    sources = sources_of(adata, use_rep, layer)
    graph, sections, library_key = sections_of(adata, neighbors_key, library_key)
    adata.obsm[key_added] = readout.fit_transform(sources, graph, sections)
    _tell(readout, align, library_key)
    how: Note = {"layer": layer, "library_key": library_key, "neighbors_key": neighbors_key}
    readout.note_in(adata, key_added, use_rep=list(sources), chosen=readout.describe(), **how)


def niche_readout_of(adata: AnnData, key: str = _keys.EMBEDDING_NICHE) -> NicheReadout:
    """Return the fitted read-out that :func:`niche_readout` noted, to apply it to other cells.

    Raises
    ------
    KeyError
        If there is none.

    Examples
    --------
    >>> readout = scjepa.tl.niche_readout_of(adata)
    >>> sources = {"X": other, "X_stjepa_cell": other.obsm["X_stjepa_cell"]}  # those of readout.sources_
    >>> other.obsm["X_stjepa_niche"] = readout.transform(sources, other.obsp["spatial_connectivities"])
    """
    from scjepa.tl._niche_estimator import NicheReadout

    return NicheReadout.noted(adata, key, "niche_readout(adata)")


def names_in(use_rep: str | Sequence[str]) -> list[str]:
    """Return the sources that are named, each once."""
    names = [use_rep] if isinstance(use_rep, str) else list(dict.fromkeys(use_rep))
    if not names:
        raise ValueError("use_rep names nothing: 'X' for the counts, a key of adata.obsm, or several of these.")
    return names


def sources_of(adata: AnnData, use_rep: str | Sequence[str] | None, layer: str | None) -> dict[str, Any]:
    """Return what is to be read, by name: checked counts under ``"X"``, embeddings under their keys."""
    require_anndata(adata)
    if use_rep is None:
        there = _keys.EMBEDDING_CELL in adata.obsm
        without_counts = there and layer is None and adata.X is None
        names = [_keys.EXPRESSION] * (not without_counts) + [_keys.EMBEDDING_CELL] * there
    else:
        names = names_in(use_rep)
    return {
        name: Features.of_counts(adata, layer) if name == _keys.EXPRESSION else embedding_of(adata, name)
        for name in names
    }


def _tell(readout: NicheReadout, align: str, library_key: str | None) -> None:
    logger.info("Niche read-out: %s.", readout.describe())
    if align == AUTO and readout.align_ == "center":
        warn(
            f"The sections of adata.obs[{library_key!r}] differ in what they consist of (their covariances agree by "
            f"{readout.similarity_:.2f}, sections of one tissue by 0.9 or more): z-scores within sections would take "
            "that away, so only their means are aligned (align='center'). Where sections differ by batch alone, pass "
            "align='scale'; where they were measured alike, align='none' keeps all differences."
        )
    weakest = [
        name
        for name, components in zip(readout.sources_, readout.components_, strict=True)
        if components.correlations_[0] <= components.chance_
    ]
    if weakest:
        warn(
            f"Nothing around a cell predicts it, by {', '.join(weakest)}, better than chance would: these niches are "
            "hardly of the tissue. Look whether coordinates and counts belong to the same cells."
        )
