"""What the harness compares: each method takes (adata, recipe, seed) and returns embeddings by read-out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
from anndata import AnnData

import scjepa
from scjepa._config import STJEPAConfig
from scjepa.tl import readout

READOUTS: dict[str, Callable[[np.ndarray, pd.Series], np.ndarray]] = {
    "plain": lambda embedding, sections: embedding,
    "z30": lambda embedding, sections: readout(embedding, sections, n_comps=30),
}
"""Read-outs, the same for every method: the embedding itself, and z-scores per section with 30 components."""

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def _model(adata: AnnData, config: STJEPAConfig, seed: int) -> scjepa.STJEPA:
    scjepa.STJEPA.setup_anndata(adata, technology_key="technology", library_key="section")
    return scjepa.STJEPA(adata, config, seed=seed)


def stjepa(adata: AnnData, config: STJEPAConfig, seed: int) -> tuple[np.ndarray, dict]:
    """ST-JEPA, trained; with its history."""
    model = _model(adata, config, seed)
    model.train(accelerator="cpu", progress_bar=False)
    curves = {name: frame[name] for name, frame in model.history.items()}
    return model.get_latent_representation(), curves


def _untrained(gene_std: float):
    def method(adata: AnnData, config: STJEPAConfig, seed: int) -> tuple[np.ndarray, dict]:
        config = replace(config, encoder=replace(config.encoder, gene_std=gene_std))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This model is not trained")
            return _model(adata, config, seed).get_latent_representation(), {}

    method.__doc__ = f"The same encoder with its random weights, gene vectors of standard deviation {gene_std}."
    return method


def neighborhood_pca(adata: AnnData, config: STJEPAConfig, seed: int) -> tuple[np.ndarray, dict]:
    """Neighborhood PCA, see :func:`scjepa.benchmark.neighborhood_pca`."""
    return scjepa.benchmark.neighborhood_pca(adata, random_state=seed), {}


METHODS: dict[str, Callable[[AnnData, STJEPAConfig, int], tuple[np.ndarray, dict]]] = {
    "stjepa": stjepa,
    "untrained (gene std 1.0)": _untrained(1.0),
    "untrained (gene std 0.02)": _untrained(0.02),
    "neighborhood PCA": neighborhood_pca,
}
"""Methods by name; the last three are the controls of every table."""

INDEPENDENT_OF_RECIPE = ("neighborhood PCA",)
