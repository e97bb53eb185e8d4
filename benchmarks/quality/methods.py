"""What the harness compares: each method takes (adata, recipe, seed) and returns embeddings by scale, and curves."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scanpy as sc
from anndata import AnnData
from torch import Tensor, nn

import scjepa
from scjepa.stjepa.config import STJEPAConfig

Result = tuple[dict[str, np.ndarray], dict]

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def _model(adata: AnnData, config: STJEPAConfig, seed: int) -> scjepa.STJEPA:
    scjepa.STJEPA.setup_anndata(adata, technology_key="technology", library_key="section")
    return scjepa.STJEPA(adata, config, seed=seed)


def _scales(model: scjepa.STJEPA) -> dict[str, np.ndarray]:
    return {scale: model.get_latent_representation(scale=scale) for scale in ("neighborhood", "cell")}


def stjepa(adata: AnnData, config: STJEPAConfig, seed: int) -> Result:
    """ST-JEPA, trained; with its history."""
    model = _model(adata, config, seed)
    model.train(accelerator="cpu", progress_bar=False)
    return _scales(model), {name: frame[name] for name, frame in model.history.items()}


def _untrained(gene_std: float):
    def method(adata: AnnData, config: STJEPAConfig, seed: int) -> Result:
        config = replace(config, encoder=replace(config.encoder, gene_std=gene_std))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This model is not trained")
            return _scales(_model(adata, config, seed)), {}

    method.__doc__ = f"The same encoder with its random weights, gene vectors of standard deviation {gene_std}."
    return method


class PassingOn(nn.Module):
    """Stands in for the transformer: tokens leave as they came."""

    def forward(self, tokens: Tensor, packing: object) -> Tensor:
        """Return the tokens."""
        return tokens


def pooled_input(adata: AnnData, config: STJEPAConfig, seed: int) -> Result:
    """Mean of gene ⊙ log1p(count) with the untrained gene vectors: the encoder's input without the encoder."""
    encoder = replace(config.encoder, rank="none", segment="none", n_layers=1)
    model = _model(adata, replace(config, encoder=encoder), seed)
    model.module.target.transformer = PassingOn()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This model is not trained")
        return _scales(model), {}


def _cell_pca(adata: AnnData, seed: int) -> np.ndarray:
    counts = AnnData(adata.X.astype(np.float32))
    sc.pp.normalize_total(counts, target_sum=1e4)
    sc.pp.log1p(counts)
    sc.pp.pca(counts, n_comps=min(50, adata.n_vars - 1), random_state=seed)
    return counts.obsm["X_pca"].astype(np.float32)


def neighborhood_pca(adata: AnnData, config: STJEPAConfig, seed: int) -> Result:
    """Neighborhood PCA, see :func:`scjepa.benchmark.neighborhood_pca`; at the cell scale PCA of the cells."""
    near = scjepa.benchmark.neighborhood_pca(adata, random_state=seed)
    return {"neighborhood": near, "cell": _cell_pca(adata, seed)}, {}


def linear(adata: AnnData, config: STJEPAConfig, seed: int) -> Result:
    """Read out expression alone: the linear method, see :class:`scjepa.tl.NicheReadout`."""
    graph, sections = adata.obsp["spatial_connectivities"], adata.obs["section"]
    return {"neighborhood": scjepa.tl.NicheReadout().fit_transform({"X": adata.X}, graph, sections)}, {}


def zscored_pca(adata: AnnData, config: STJEPAConfig, seed: int) -> Result:
    """Neighborhood PCA of genes z-scored in each section, see :func:`scjepa.benchmark.section_zscored_pca`."""
    return {"neighborhood": scjepa.benchmark.section_zscored_pca(adata, library_key="section", random_state=seed)}, {}


def harmony_pca(adata: AnnData, config: STJEPAConfig, seed: int) -> Result:
    """PCA integrated over sections by Harmony, of neighborhoods and of cells; nothing where there is one section."""
    if adata.obs["section"].nunique() < 2:
        return {}, {}
    import harmonypy

    inputs = neighborhood_pca(adata, config, seed)[0]
    obs = adata.obs[["section"]].astype(str)
    found = {}
    for scale, values in inputs.items():
        corrected = np.asarray(harmonypy.run_harmony(values, obs, "section", random_state=seed, verbose=False).Z_corr)
        found[scale] = (corrected if corrected.shape[0] == adata.n_obs else corrected.T).astype(np.float32)
    return found, {}


METHODS: dict[str, Callable[[AnnData, STJEPAConfig, int], Result]] = {
    "stjepa": stjepa,
    "untrained (gene std 1.0)": _untrained(1.0),
    "untrained (gene std 0.02)": _untrained(0.02),
    "pooled input": pooled_input,
    "linear": linear,
    "neighborhood PCA": neighborhood_pca,
    "z-scored PCA": zscored_pca,
    "Harmony PCA": harmony_pca,
}
"""Methods by name; all but the first are the controls of every table."""

INDEPENDENT_OF_RECIPE = ("linear", "neighborhood PCA", "z-scored PCA", "Harmony PCA")
