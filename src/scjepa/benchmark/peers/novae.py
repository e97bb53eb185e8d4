"""Novae: a graph network trained by swapped assignments; from scratch, or with pretrained weights as they are."""

from __future__ import annotations

import numpy as np

PACKAGES = ("novae", "lightning", "torch", "torch-geometric")

_SETUP = "benchmarks/peers/setup.sh (an environment of its own)"
_ABOUT = {"settings": ("tutorial", "same graph"), "gives": ("embedding", "clusters")}
METHODS = {
    "novae": {
        "description": "Novae, trained from scratch on the data",
        "needs": _SETUP,
        "options": ("microns_per_unit", "max_epochs"),
        **_ABOUT,
    },
    "novae_zero_shot": {
        "description": "Novae with pretrained weights as they are",
        "needs": f"{_SETUP}, and options={{'weights': folder of a pretrained model}}",
        "options": ("weights", "microns_per_unit"),
        "required": ("weights",),
        **_ABOUT,
    },
}

MICRONS_BETWEEN_NEIGHBORS = 10.0
"""Median distance of nearest cells that coordinates are scaled to where their unit is not told: Novae wants microns."""
RADIUS = 80
"""Its tutorial leaves out edges longer than this, in microns."""
NO_DOMAIN = "no domain"
LEAVES = "novae_leaves"
"""Where it writes the prototype of each cell."""


def _median_distance(adata):
    from sklearn.neighbors import NearestNeighbors

    distances = []
    for name in adata.obs["section"].cat.categories:
        place = adata.obsm["spatial"][(adata.obs["section"] == name).to_numpy()]
        if len(place) > 1:
            distances.append(NearestNeighbors(n_neighbors=1).fit(place).kneighbors()[0].ravel())
    return float(np.median(np.concatenate(distances)))


def run(adata, *, seed, settings, n_niches=None, weights=None, microns_per_unit=None, max_epochs=None):
    """Take the defaults of its tutorial; ``weights`` is a folder of a pretrained model, used without training."""
    import lightning
    import novae
    import pandas as pd

    lightning.seed_everything(seed, verbose=False)
    scale = microns_per_unit or MICRONS_BETWEEN_NEIGHBORS / _median_distance(adata)
    adata.obsm["spatial"] = adata.obsm["spatial"] * scale
    for key in list(adata.obsp):
        del adata.obsp[key]
    adata.uns.clear()
    if settings == "tutorial":
        novae.spatial_neighbors(adata, slide_key="section", radius=RADIUS)
    else:
        novae.spatial_neighbors(adata, slide_key="section", delaunay=False, n_neighs=10, coord_type="generic")
    info = {"microns_per_unit": scale, "graph": "Delaunay" if settings == "tutorial" else "10 nearest neighbors"}
    if weights is None:
        model = novae.Novae(adata)
        model.fit(**({} if max_epochs is None else {"max_epochs": max_epochs}))
        model.compute_representations()
        info["epochs"] = int(model.trainer.current_epoch)
    else:
        model = novae.Novae.from_pretrained(weights)
        model.compute_representations(adata, zero_shot=True)
        info["weights"] = str(weights)
    clusters = None
    if n_niches is not None:
        # Its tree has as many domains as prototypes that a cell was assigned to, at most: those, where they are fewer.
        n_leaves = adata.obs[LEAVES].nunique()
        domains = adata.obs[LEAVES if n_leaves < n_niches else model.assign_domains(adata, n_domains=n_niches)]
        clusters = pd.Series(domains.astype(object)).fillna(NO_DOMAIN).astype(str).to_numpy()
        info["prototypes with cells"] = n_leaves
    return {"embedding": adata.obsm["novae_latent"], "clusters": clusters, "info": info}
