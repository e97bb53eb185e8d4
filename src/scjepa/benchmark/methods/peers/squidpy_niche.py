"""The flavors of ``squidpy.gr.calculate_niche``."""

from __future__ import annotations

import scanpy as sc
import squidpy as sq

PACKAGES = ("squidpy", "scanpy", "spatialleiden")

N_NEIGHBORS = 15
"""Neighbors in Leiden's graph, as in the scores of embeddings."""
HOPS = 3
DEFAULT_NICHES = 10
"""squidpy's own number for the flavor that needs one."""


def _groups(adata, seed, cell_type_key):
    """Return the column of cell groups: the one given, or Leiden clusters of expression."""
    if cell_type_key is not None:
        return cell_type_key
    sc.pp.neighbors(adata, random_state=seed)
    sc.tl.leiden(adata, random_state=seed, flavor="igraph", n_iterations=2, key_added="group")
    return "group"


def run(adata, *, seed, settings, flavor, n_niches=None, resolution=1.0, cell_type_key=None):
    """Take log-normalized counts, the graph given, and the function's defaults where it has them."""
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=min(50, min(adata.shape) - 1), random_state=seed)
    arguments, info = {}, {"flavor": flavor}
    if flavor == "neighborhood":
        groups = _groups(adata, seed, cell_type_key)
        info["groups"] = cell_type_key or f"{adata.obs[groups].nunique()} Leiden clusters of expression"
        arguments = {"groups": groups, "n_neighbors": N_NEIGHBORS, "resolutions": [resolution]}
    elif flavor == "utag":
        arguments = {"n_neighbors": N_NEIGHBORS, "resolutions": [resolution]}
    elif flavor == "cellcharter":
        arguments = {
            "distance": HOPS,
            "aggregation": "mean",
            "n_components": n_niches or DEFAULT_NICHES,
            "use_rep": "X_pca",
            "random_state": seed,
        }
    elif flavor == "spatialleiden":
        sc.pp.neighbors(adata, random_state=seed)
        arguments = {"resolutions": resolution, "random_state": seed}
    before = set(adata.obs)
    sq.gr.calculate_niche(adata, flavor=flavor, **arguments)
    (column,) = set(adata.obs) - before
    return {"clusters": adata.obs[column].astype(str).to_numpy(), "info": {**_plain(arguments), **info}}


def _plain(arguments):
    return {name: value for name, value in arguments.items() if isinstance(value, int | float | str | list)}
