"""The flavors of ``squidpy.gr.calculate_niche``."""

from __future__ import annotations

import numpy as np

PACKAGES = ("squidpy", "scanpy", "spatialleiden")

_SQUIDPY = "squidpy 1.8 or newer"


def _flavor(flavor, description, needs=f"{_SQUIDPY}, which scjepa brings", **more):
    about = {"needs": needs, "fixed": {"flavor": flavor}, "gives": ("clusters",)}
    return {"description": f"squidpy's niches, flavor {flavor!r}: {description}", **about, **more}


_LEIDEN = ("resolution", "resolutions", "min_share")
METHODS = {
    "squidpy_neighborhood": _flavor(
        "neighborhood",
        "shares of cell groups among the neighbors, Leiden",
        options=(*_LEIDEN, "cell_type_key"),
        obs_options=("cell_type_key",),
    ),
    "squidpy_utag": _flavor("utag", "expression averaged over the graph, Leiden", options=_LEIDEN, seeded=False),
    "squidpy_cellcharter": _flavor(
        "cellcharter", "components aggregated over three hops, Gaussian mixture of n_niches"
    ),
    "squidpy_spatialleiden": _flavor(
        "spatialleiden",
        "Leiden on the graphs of expression and of space together",
        f"{_SQUIDPY} and spatialleiden",
        options=_LEIDEN,
    ),
}

N_NEIGHBORS = 15
"""Neighbors in Leiden's graph, as in the scores of embeddings."""
HOPS = 3
TRIED = 16
"""Resolutions tried at most for a number of niches."""
DEFAULT_NICHES = 10
"""squidpy's own number for the flavor that needs one."""


def _groups(adata, seed, cell_type_key):
    """Return the column of cell groups: the one given, or Leiden clusters of expression."""
    if cell_type_key is not None:
        return cell_type_key
    import scanpy as sc

    sc.pp.neighbors(adata, random_state=seed)
    sc.tl.leiden(adata, random_state=seed, flavor="igraph", n_iterations=2, key_added="group")
    return "group"


def run(
    adata,
    *,
    seed,
    settings,
    flavor,
    n_niches=None,
    resolution=1.0,
    resolutions=None,
    min_share=0.01,
    cell_type_key=None,
):
    """Take log-normalized counts, the graph given, and the function's defaults where it has them.

    With ``resolutions`` the clusters have a column for each; where ``n_niches`` is given too, a further one at the
    resolution that gives this number of clusters of at least ``min_share`` of the cells.
    """
    import scanpy as sc

    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=min(50, min(adata.shape) - 1), random_state=seed)
    info = {"flavor": flavor}
    if flavor == "cellcharter":
        mixture = {"distance": HOPS, "aggregation": "mean", "use_rep": "X_pca"}
        return _result(adata, flavor, seed, {**mixture, "n_components": n_niches or DEFAULT_NICHES}, info)
    if flavor == "neighborhood":
        groups = _groups(adata, seed, cell_type_key)
        info["groups"] = cell_type_key or f"{adata.obs[groups].nunique()} Leiden clusters of expression"
        plain = {"groups": groups, "n_neighbors": N_NEIGHBORS}
    elif flavor == "utag":
        plain = {"n_neighbors": N_NEIGHBORS}
    else:
        sc.pp.neighbors(adata, random_state=seed)
        plain = {}

    def at(value):
        return _result(adata, flavor, seed, {**plain, "resolutions": [value]}, info)

    if resolutions is None:
        return at(resolution)
    found = {value: at(value) for value in resolutions}
    columns = [one["clusters"] for one in found.values()]
    if n_niches is not None:
        matched = _matched(at, found, n_niches, min_share * adata.n_obs)
        info["matched_resolution"] = matched
        columns.append(found[matched]["clusters"])
    return {"clusters": np.stack(columns, axis=1), "info": {**_plain(plain), **info, "resolutions": list(resolutions)}}


def _matched(at, found, n_niches, least):
    """Search the resolution that gives the number by bisection, adding what is tried to ``found``; return it."""

    def number(value):
        return sum(count >= least for count in np.unique(found[value]["clusters"], return_counts=True)[1])

    for _ in range(TRIED):
        few = [value for value in found if number(value) < n_niches]
        many = [value for value in found if number(value) > n_niches]
        if len(few) + len(many) < len(found):
            break
        low, high = max(few, default=0.0), min(many, default=2 * max(found))
        if low >= high:  # the number does not rise with the resolution
            break
        value = high if high not in found else (low + high) / 2
        found[value] = at(value)
    return min(found, key=lambda value: abs(number(value) - n_niches))


def _result(adata, flavor, seed, arguments, info):
    """Call the function and take its column of niches away again."""
    from scjepa_squidpy import calculate_niche

    before = set(adata.obs)
    calculate_niche(adata, flavor, seed, **arguments)
    (column,) = set(adata.obs) - before
    clusters = adata.obs.pop(column).astype(str).to_numpy()
    return {"clusters": clusters, "info": {**_plain(arguments), "seed": seed, **info}}


def _plain(arguments):
    return {name: value for name, value in arguments.items() if isinstance(value, int | float | str | list)}
