"""Components that the technologies of an AnnData object have in common."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.anndata import counts_of, entry_of, flags_of, groups_of, names_of, record, record_of, refuse_users
from scjepa._core.counts import iter_rows
from scjepa._core.graph import section_key_of, spatial_graph_of
from scjepa.tl._moments import Features

if TYPE_CHECKING:
    from anndata import AnnData

    from scjepa.tl._shared import SharedComponents

logger = logging.getLogger("scjepa")

_NO_TABLE = "Name a table of all technologies, or leave panel_key out."


def shared_components(
    adata: AnnData,
    technology_key: str = _keys.TECHNOLOGY,
    *,
    layer: str | None = None,
    library_key: str | None = None,
    panel_key: str | None = None,
    n_comps: int = 20,
    n_anchors: int = 20,
    n_iterations: int = 3,
    neighbors_key: str = _keys.SPATIAL,
    key_added: str = _keys.SHARED,
) -> None:
    """Write components that technologies of different panels have in common, in closed form.

    All genes of each technology take part, also where few are in all panels; see :class:`SharedComponents`. Niches of
    all technologies are found in the read-out of these components. It takes seconds, and no model.

    Parameters
    ----------
    adata
        Annotated data of all technologies with raw counts and the graph of squidpy, as :func:`scjepa.concat` makes it:
        genes that a technology did not measure are 0 in its cells.
    technology_key
        Column of ``adata.obs`` with the technology of each cell.
    layer
        Layer of raw counts. Default: ``X``.
    library_key
        Column of ``adata.obs`` that tells sections apart. Default: ``"section"`` if there is such a column.
    panel_key
        Data frame in ``adata.varm``, a boolean column for each technology: the genes that it measured. Default:
        ``"panel"`` where it is there, else the genes of which a technology has a count.
    n_comps
        Components.
    n_anchors, n_iterations
        See :class:`SharedComponents`. More iterations mix technologies further.
    neighbors_key
        squidpy's ``key_added``: the graph is ``obsp[f"{neighbors_key}_connectivities"]``.
    key_added
        Key of what is written.

    Returns
    -------
    None
        Writes ``adata.obsm[key_added]``, float32 of shape (n_cells, n_comps), and ``adata.uns["scjepa"][key_added]``:
        how it was made, and the fitted object (``"fitted"``, see :func:`shared_components_of`).

    Raises
    ------
    KeyError
        If a column, ``layer``, ``panel_key`` or the graph is not there.
    TypeError
        If a number is no whole number.
    ValueError
        If there are not two technologies, no chain of genes in common joins them, too few neighborhoods correspond, a
        count is negative or NaN, an edge joins two sections, or ``key_added`` is there and scjepa did not write it.

    Examples
    --------
    >>> scjepa.tl.shared_components(adata, "technology")
    >>> scjepa.tl.niche_readout(adata, use_rep="X_shared", align="covariance")
    >>> scjepa.tl.niches(adata, n_niches=12)

    Where technologies are to mix further than that, at some cost in agreement, Harmony may follow:

    >>> scanpy.external.pp.harmony_integrate(adata, "technology", basis="X_stjepa_niche")
    """
    from scjepa.tl._shared import SharedComponents

    refuse_users(adata, "obsm", key_added)
    technologies = names_of(adata, technology_key)
    library_key = section_key_of(adata, library_key)
    graph, sections = spatial_graph_of(adata, neighbors_key, library_key), groups_of(adata, library_key)
    data, graphs, groups, cells_of = {}, {}, {}, {}
    for name in sorted(set(technologies)):
        cells = cells_of[name] = np.flatnonzero(technologies == name)
        part = adata[cells]
        read = Features.of_counts(part, layer)
        data[name] = read.narrowed(np.flatnonzero(_panel(part, name, layer, panel_key)[read.columns]))
        graphs[name] = graph[cells][:, cells]
        groups[name] = np.zeros(len(cells), dtype=int) if sections is None else sections[cells]
    fitted = SharedComponents(n_comps, n_anchors=n_anchors, n_iterations=n_iterations)
    found = fitted.fit_transform(data, graphs, groups)
    values = np.empty((adata.n_obs, next(iter(found.values())).shape[1]), dtype=np.float32)
    for name, cells in cells_of.items():
        values[cells] = found[name]
    adata.obsm[key_added] = values
    logger.info(
        "Components in common of %s: correlations %s.",
        ", ".join(data),
        ", ".join(f"{value:.2f}" for value in fitted.correlations_[:5]),
    )
    record(
        adata,
        key_added,
        slot="obsm",
        technology_key=technology_key,
        layer=layer,
        library_key=library_key,
        neighbors_key=neighbors_key,
        correlations=fitted.correlations_,
        fitted=fitted.to_dict(),
    )


def shared_components_of(adata: AnnData, key: str = _keys.SHARED) -> SharedComponents:
    """Return the fitted components that :func:`shared_components` noted, to apply them to other cells.

    Raises
    ------
    KeyError
        If there are none.

    Examples
    --------
    >>> shared = scjepa.tl.shared_components_of(adata)
    >>> shared.transform({"osmFISH": other})
    """
    from scjepa.tl._shared import SharedComponents

    noted = record_of(adata, key).get("fitted")
    if noted is None or "technologies_" not in noted:
        raise KeyError(
            f"adata.uns['scjepa'] holds no components in common for {key!r}. Make them: "
            "scjepa.tl.shared_components(adata, technology_key)"
        )
    return SharedComponents.from_dict(noted)


def _panel(part: AnnData, technology: str, layer: str | None, panel_key: str | None) -> np.ndarray:
    """Return which genes a technology measured, by the table of panels or its counts, ``(n_vars,)`` bool."""
    table = part.varm.get(_keys.PANEL) if panel_key is None else entry_of(part, "varm", panel_key, _NO_TABLE)
    column = _keys.key_in(getattr(table, "columns", ()), technology)
    if column is not None:
        return flags_of(table[column])
    if panel_key is not None:
        raise KeyError(f"adata.varm[{panel_key!r}] must be a data frame with a column {technology!r}. {_NO_TABLE}")
    seen = np.zeros(part.n_vars, dtype=bool)
    for _, counts in iter_rows(counts_of(part, layer)):
        seen[counts.indices[counts.data != 0]] = True
    return seen
