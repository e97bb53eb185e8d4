"""What the harness compares: each method takes (adata, recipe, seed) and returns embeddings by scale, and curves."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from anndata import AnnData

import scjepa
from scjepa.benchmark.controls import cell_pca, harmony
from scjepa.stjepa.config import STJEPAConfig

Result = tuple[dict[str, np.ndarray], dict]

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def _model(adata: AnnData, config: STJEPAConfig, seed: int) -> scjepa.STJEPA:
    scjepa.STJEPA.setup_anndata(adata, technology_key="technology", library_key="section")
    return scjepa.STJEPA(adata, config, seed=seed)


def _scales(model: scjepa.STJEPA, contextual: bool = True) -> dict[str, np.ndarray]:
    scales = ("neighborhood", "cell")
    return {scale: model.get_latent_representation(scale=scale, contextual=contextual) for scale in scales}


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


def pooled_input(adata: AnnData, config: STJEPAConfig, seed: int) -> Result:
    """Mean of gene ⊙ log1p(count) with the untrained gene vectors: the encoder's input without the encoder."""
    encoder = replace(config.encoder, rank="none", segment="none", n_layers=1)
    model = _model(adata, replace(config, encoder=encoder), seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This model is not trained")
        return _scales(model, contextual=False), {}


def neighborhood_pca(adata: AnnData, config: STJEPAConfig, seed: int) -> Result:
    """Neighborhood PCA, see :func:`scjepa.benchmark.neighborhood_pca`; at the cell scale PCA of the cells."""
    near = scjepa.benchmark.neighborhood_pca(adata, random_state=seed)
    return {"neighborhood": near, "cell": cell_pca(adata, random_state=seed)}, {}


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
    sections = adata.obs["section"].to_numpy()
    both = neighborhood_pca(adata, config, seed)[0]
    return {scale: harmony(values, sections, seed).astype(np.float32) for scale, values in both.items()}, {}


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
