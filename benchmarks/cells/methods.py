"""Methods of the Cell-JEPA benchmarks: pretrained ones embed a target that is new to them, others are fitted on it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from baselines import fit_scvi, pca_on_hvg

import scjepa

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

MODELS = Path.home() / ".cache" / "scjepa" / "cells"
"""Where pretrained models are kept between commands."""

PRETRAINED: Mapping[str, tuple[str, dict[str, Any]]] = {
    "CellJEPA": ("demo", {}),
    "reconstruction only": ("demo", {"objective": {"jepa_weight": 0.0}}),
    "modules": ("modules", {}),
}
"""Preset and changes of what is pretrained; the second is the first with one weight set to 0."""

UNTRAINED = {"untrained": "CellJEPA", "untrained modules": "modules"}
"""The same encoders with their initial weights."""

Embed = Callable[[AnnData], np.ndarray]


def _build(name: str, corpus: AnnData, seed: int) -> scjepa.CellJEPA:
    preset, parts = PRETRAINED[name]
    scjepa.CellJEPA.setup_anndata(corpus, labels_key="cell_type")  # for finetune.py; pretraining never reads labels
    modules = {}
    if preset == "modules":
        scjepa.tl.gene_modules(corpus)
        modules["modules"] = "module"
    return scjepa.CellJEPA(corpus, preset, seed=seed, **modules, **parts)


def pretrained(name: str, corpus: AnnData, seed: int, max_steps: int | None = None) -> scjepa.CellJEPA:
    """Return a method's model, trained on ``corpus`` or taken from where an earlier command left it."""
    if name in UNTRAINED:
        return _build(UNTRAINED[name], corpus, seed)
    steps = max_steps or scjepa.CELL_PRESETS[PRETRAINED[name][0]].training.max_steps
    folder = MODELS / f"{name.replace(' ', '_')}_{steps}_{seed}"
    if folder.is_dir():
        return scjepa.CellJEPA.load(folder, corpus, accelerator="cpu")
    model = _build(name, corpus, seed)
    model.train(max_steps=max_steps, accelerator="cpu", progress_bar=False)
    folder.parent.mkdir(parents=True, exist_ok=True)
    model.save(folder)
    return model


def embedder(model: scjepa.CellJEPA, n_tokens: int = 3000, pooling: str = "cls") -> Embed:
    """Return the function that embeds cells by as many of their expressed genes."""
    model.config = replace(model.config, tokens=replace(model.config.tokens, n_tokens=n_tokens, kept="spread"))

    def embed(adata: AnnData) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.get_latent_representation(adata, pooling=pooling)

    return embed


def fitted(name: str, target: AnnData, seed: int, max_epochs: int | None = None) -> Embed:
    """Return the embedding of a method that is fitted on the target: ``"HVG-PCA"`` or ``"scVI"``."""
    if name == "HVG-PCA":
        return pca_on_hvg(target, seed)
    model = fit_scvi(target, seed, max_epochs=max_epochs)

    def embed(adata: AnnData) -> np.ndarray:
        genes = adata[:, model.adata.var_names].copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.get_latent_representation(genes)

    return embed
