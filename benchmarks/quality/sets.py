"""The labelled sets the harness scores on: name -> AnnData with a 10-nearest-neighbor graph."""

from __future__ import annotations

import warnings

import squidpy as sq
from anndata import AnnData

from scjepa import datasets

REAL = ("V1", "osmFISH", "mPFC")
SIMULATED = ("sim-easy", "sim-medium", "sim-hard")
SETS = (*REAL, *SIMULATED)


def load_set(name: str) -> AnnData:
    """Return a set by its short name, or ``sim-<difficulty>``, with its spatial graph."""
    if name.startswith("sim-"):
        adata = datasets.simulated_tissue(difficulty=name.removeprefix("sim-"))
    else:
        adata = datasets.load(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        sq.gr.spatial_neighbors(adata, n_neighs=10, coord_type="generic", library_key="section")
    return adata
