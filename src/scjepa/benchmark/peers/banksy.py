"""Banksy: each cell's expression beside the mean and the gradient of its neighbors', and principal components."""

from __future__ import annotations

import numpy as np

PACKAGES = ("pybanksy", "harmonypy", "scanpy", "scikit-learn")

_ABOUT = {"needs": "benchmarks/peers/setup.sh (an environment of its own)", "settings": ("tutorial", "same graph")}
METHODS = {
    "banksy": {
        "description": "Banksy: expression beside the mean and the gradient of the neighbors', components",
        "seeded": False,
        **_ABOUT,
    },
    "banksy_harmony": {
        "description": "Banksy, its components corrected for the section by Harmony",
        "fixed": {"harmony": True},
        **_ABOUT,
    },
}

LAMBDA = 0.8
N_COMPONENTS = 20
NEIGHBORS = {"tutorial": 15, "same graph": 10}
ORDER = 1
"""Highest order of the azimuthal filter: its gradient reads twice the neighbors."""


def _matrix(section, n_neighbors):
    from banksy.embed_banksy import generate_banksy_matrix
    from banksy.initialize_banksy import initialize_banksy

    found = initialize_banksy(
        section,
        ("x", "y", "spatial"),
        num_neighbours=n_neighbors,
        nbr_weight_decay="scaled_gaussian",
        max_m=ORDER,
        plt_edge_hist=False,
        plt_nbr_weights=False,
        plt_agf_angles=False,
        plt_theta=False,
    )
    _, matrix = generate_banksy_matrix(section, found, [LAMBDA], ORDER, verbose=False)
    return matrix


def run(adata, *, seed, settings, n_niches=None, harmony=False):
    """Take the settings of its tutorial on STARmap: 15 neighbors, lambda 0.8, 20 components; Harmony on request."""
    import anndata
    import scanpy as sc
    from sklearn.decomposition import PCA

    adata.X = adata.X.toarray().astype(np.float64)
    sc.pp.normalize_total(adata)
    adata.var["gene"] = adata.var_names  # Banksy's matrix keeps var, which must have a column
    sections = [adata[adata.obs["section"] == name].copy() for name in adata.obs["section"].cat.categories]
    matrix = anndata.concat([_matrix(section, NEIGHBORS[settings]) for section in sections], merge="same")
    matrix = matrix[adata.obs_names]
    n_components = min(N_COMPONENTS, min(matrix.shape) - 1)
    embedding = PCA(n_components=n_components, random_state=seed).fit_transform(np.nan_to_num(np.asarray(matrix.X)))
    if harmony:
        from harmonypy import run_harmony

        corrected = np.asarray(run_harmony(embedding, adata.obs, ["section"], random_state=seed).Z_corr)
        # Versions before 2 return components × cells.
        embedding = corrected if corrected.shape == embedding.shape else corrected.T
    info = {
        "n_neighbors": NEIGHBORS[settings],
        "lambda": LAMBDA,
        "order": ORDER,
        "n_components": n_components,
        "harmony": harmony,
        "genes": "all, counts scaled to the median total",
        "sections": "matrices made one by one, components jointly",
    }
    return {"embedding": embedding, "info": info}
