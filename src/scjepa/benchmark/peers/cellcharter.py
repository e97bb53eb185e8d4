"""CellCharter: scVI latent with the section as batch, neighbors aggregated over three hops, concatenated."""

from __future__ import annotations

PACKAGES = ("cellcharter", "scvi-tools", "squidpy", "torch")

METHODS = {
    "cellcharter": {
        "description": "CellCharter: scVI latent with the section as batch, neighbors aggregated over three hops, "
        "concatenated",
        "needs": "benchmarks/peers/setup.sh (an environment of its own)",
        "settings": ("tutorial", "same graph"),
        "options": ("max_epochs",),
        "gives": ("embedding", "clusters"),
    },
}

HOPS = 3


def run(adata, *, seed, settings, n_niches=None, max_epochs=None):
    """Take its tutorial on CosMx: genes of three counts or more, scVI with early stopping, Delaunay graph."""
    import cellcharter
    import scanpy as sc
    import scvi
    from scjepa_squidpy import spatial_graph

    scvi.settings.seed = seed
    sc.pp.filter_genes(adata, min_counts=3)
    scvi.model.SCVI.setup_anndata(adata, batch_key="section")
    model = scvi.model.SCVI(adata)
    model.train(max_epochs=max_epochs, early_stopping=True, enable_progress_bar=False)
    adata.obsm["X_scVI"] = model.get_latent_representation()
    if settings == "tutorial":
        spatial_graph(adata, "delaunay", library_key="section", percentile=99)
    cellcharter.gr.aggregate_neighbors(
        adata, n_layers=HOPS, use_rep="X_scVI", out_key="X_cellcharter", sample_key="section"
    )
    clusters = None
    if n_niches is not None:
        mixture = cellcharter.tl.Cluster(
            n_clusters=n_niches, random_state=seed, trainer_params={"accelerator": "cpu", "enable_progress_bar": False}
        )
        mixture.fit(adata, use_rep="X_cellcharter")
        clusters = mixture.predict(adata, use_rep="X_cellcharter")
    info = {
        "epochs": len(model.history["elbo_train"]),
        "n_genes": adata.n_vars,
        "graph": "Delaunay, longest 1% left out" if settings == "tutorial" else "as given",
        "hops": HOPS,
        "own clusters": "Gaussian mixture",
    }
    return {"embedding": adata.obsm["X_cellcharter"], "clusters": clusters, "info": info}
