"""Predictive components of the cells of an AnnData object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scjepa._core import keys as _keys
from scjepa._core.anndata import embedding_of, groups_of, record, refuse_users
from scjepa._core.counts import TARGET_SUM
from scjepa._core.graph import section_key_of, spatial_graph_of
from scjepa._core.renamed import renamed
from scjepa.tl._moments import Features

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scjepa.tl._predictive import PredictiveComponents


@renamed(by="library_key=")
def predictive_components(
    adata: AnnData,
    use_rep: str | None = None,
    *,
    layer: str | None = None,
    library_key: str | None = None,
    n_comps: int = 20,
    n_pcs: int = 50,
    align: str = "scale",
    neighbors_key: str = _keys.SPATIAL,
    key_added: str = _keys.PREDICTIVE,
) -> None:
    """Write the components of cells that predict, and are predicted by, the cells around them.

    See :class:`PredictiveComponents`, which does the same on arrays, for the equations. They need no model and no
    training: one second for a section, and time and memory linear in the number of cells.

    Parameters
    ----------
    adata
        Annotated data with raw counts (in memory, backed or Dask) and the graph of squidpy.
    use_rep
        Key in ``adata.obsm`` of an embedding to take instead of the counts.
    layer
        Layer of raw counts, which are scaled to 10,000 a cell and log1p'd. Default: ``X``.
    library_key
        Column of ``adata.obs`` that tells sections apart. Default: ``"section"`` if there is such a column.
    n_comps, n_pcs
        Components to keep, and principal components to find them in.
    align
        What sections are made to have in common: ``"scale"``, ``"covariance"``, ``"center"`` or ``"none"``.
    neighbors_key
        squidpy's ``key_added``: the graph is ``obsp[f"{neighbors_key}_connectivities"]``.
    key_added
        Key of what is written.

    Returns
    -------
    None
        Writes ``adata.obsm[key_added]``, float32 of shape (n_cells, n_comps); for counts ``adata.varm[key_added]``,
        the weight of each standardized gene in each component (0 for control probes and antibodies, which take no
        part); and ``adata.uns["scjepa"][key_added]``: how it was
        made, ``"correlations"`` with the surroundings, and the fitted object (``"fitted"``, see
        :func:`predictive_components_of`).

    Warns
    -----
    UserWarning
        If counts are no whole numbers, such as log-normalized values; it names where the raw ones are.

    Raises
    ------
    KeyError
        If ``use_rep``, ``library_key``, ``layer`` or the graph is not there.
    TypeError
        If ``n_comps`` or ``n_pcs`` is no whole number.
    ValueError
        If no cell has a neighbor, no gene varies, a count is negative or NaN, a cell has no section, an edge joins two
        sections, an option is out of its range, or ``key_added`` is there and scjepa did not write it.

    Examples
    --------
    >>> scjepa.tl.predictive_components(adata)
    >>> scjepa.tl.predictive_genes(adata)
    """
    from scjepa.tl._predictive import PredictiveComponents

    refuse_users(adata, "obsm", key_added)
    refuse_users(adata, "varm", key_added, noted="obsm")
    values = Features.of_counts(adata, layer) if use_rep is None else embedding_of(adata, use_rep)
    target_sum = TARGET_SUM if use_rep is None else None
    library_key = section_key_of(adata, library_key)
    graph = spatial_graph_of(adata, neighbors_key, library_key)
    fitted = PredictiveComponents(n_comps, n_pcs=n_pcs, align=align, target_sum=target_sum)
    adata.obsm[key_added] = fitted.fit_transform(values, graph, groups_of(adata, library_key))
    adata.varm.pop(key_added, None)  # weights of an earlier call, which these components do not have
    if isinstance(values, Features):
        weights = np.zeros((adata.n_vars, fitted.loadings_.shape[1]))
        weights[values.columns] = fitted.loadings_
        adata.varm[key_added] = weights
    record(
        adata,
        key_added,
        slot="obsm",
        use_rep=use_rep,
        layer=layer,
        library_key=library_key,
        align=align,
        neighbors_key=neighbors_key,
        n_comps=n_comps,
        n_pcs=n_pcs,
        correlations=fitted.correlations_,
        fitted=fitted.to_dict(),
    )


def predictive_components_of(adata: AnnData, key: str = _keys.PREDICTIVE) -> PredictiveComponents:
    """Return the fitted components that :func:`predictive_components` noted, to apply them to other cells.

    Raises
    ------
    KeyError
        If there are none.

    Examples
    --------
    >>> components = scjepa.tl.predictive_components_of(adata)
    >>> components.transform(other)
    """
    from scjepa.tl._predictive import PredictiveComponents

    return PredictiveComponents.noted(adata, key, "predictive_components(adata)")


def predictive_genes(
    adata: AnnData, n_genes: int = 10, *, n_comps: int = 6, key: str = _keys.PREDICTIVE
) -> pd.DataFrame:
    """Return the genes of largest weight, up and down, in each of the first predictive components.

    Parameters
    ----------
    adata
        Annotated data after :func:`predictive_components` of counts.
    n_genes
        Genes at either end.
    n_comps
        Components, from the first; at most as many as there are.
    key
        Key of the components.

    Returns
    -------
    pandas.DataFrame
        Columns ``component``, ``correlation`` (with the surroundings), ``gene``, ``weight``, the largest weight first.

    Raises
    ------
    KeyError
        If there are no components of counts.
    ValueError
        If ``n_genes`` or ``n_comps`` is not positive.

    Examples
    --------
    >>> scjepa.tl.predictive_components(adata)
    >>> scjepa.tl.predictive_genes(adata, n_genes=5)
    """
    import pandas as pd

    for name, value in (("n_genes", n_genes), ("n_comps", n_comps)):
        if value < 1:
            raise ValueError(f"{name} must be positive, found {value}.")
    correlations, loadings = weights_of(adata, key)
    rows = []
    for number in range(min(n_comps, len(correlations))):
        weights = loadings[:, number]
        order = np.argsort(-weights, kind="stable")
        shown = order if len(order) <= 2 * n_genes else np.r_[order[:n_genes], order[-n_genes:]]
        rows += [
            (number, float(correlations[number]), str(adata.var_names[gene]), float(weights[gene])) for gene in shown
        ]
    return pd.DataFrame(rows, columns=["component", "correlation", "gene", "weight"])


def weights_of(adata: AnnData, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return correlations of the components, ``(n_comps,)``, and the weights of the genes, ``(n_vars, n_comps)``.

    The weights are those in ``varm``, which follow the genes where the object was subset.

    Raises
    ------
    KeyError
        If there are no components of counts.
    """
    found = predictive_components_of(adata, key)
    if key not in adata.varm:
        raise KeyError(
            f"adata.varm has no {key!r}: these components are of an embedding, whose dimensions are no genes. Take "
            "those of the counts: scjepa.tl.predictive_components(adata)"
        )
    return found.correlations_, np.asarray(adata.varm[key])
