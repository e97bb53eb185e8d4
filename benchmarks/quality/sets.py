"""The labelled sets the harness scores on: name -> AnnData with a graph of nearest neighbors within sections."""

from __future__ import annotations

from anndata import AnnData

from scjepa import datasets
from scjepa._core.squidpy import spatial_graph

REAL = ("V1", "osmFISH", "mPFC")
SIMULATED = ("sim-easy", "sim-medium", "sim-hard")
SETS = (*REAL, *SIMULATED)

FILES = {
    "V1": "starmap_visual_cortex",
    "osmFISH": "osmfish_somatosensory_cortex",
    "mPFC": "starmap_mpfc_3sections",
    "molcart": "molcart_mouse_cortex_3sections",
    "osmFISH-second": "osmfish_ssp_second_annotation",
    "smFISH": "smfish_mouse_visp_layers",
    "DLPFC-151674": "visium_dlpfc_151674",
    "HER2": "st_her2_breast_8sections",
    "bulb": "st_mouse_olfactory_bulb",
}
"""Files of sets by their short names; ``DLPFC-<section>`` of the three others lies in one file."""

_SPOTS = ("DLPFC", "HER2", "bulb")
"""Begin the names of sets of spots, which have 6 neighbors; cells have 10."""


def load_set(name: str) -> AnnData:
    """Return a set by its short name, or ``sim-<difficulty>``, with its spatial graph."""
    if name.startswith("sim-"):
        adata = datasets.simulated_tissue(difficulty=name.removeprefix("sim-"))
    else:
        adata = datasets.load(FILES.get(name, name))
    return _with_graph(adata, 10)


def load_labelled(name: str) -> AnnData:
    """Return any labelled set by name, cells with 10 neighbors and spots with 6."""
    if name.startswith("sim-"):
        return load_set(name)
    file, _, section = name.partition("-")
    if name in FILES or not section:
        adata = datasets.load(FILES.get(name, name))
    else:
        adata = datasets.load("visium_dlpfc_br8100_3sections")
        adata = adata[[section in str(one) for one in adata.obs["section"]]].copy()
        adata.obs["section"] = adata.obs["section"].cat.remove_unused_categories()
    if "section" not in adata.obs:
        adata.obs["section"] = "1"
    adata.obs["section"] = adata.obs["section"].astype(str).astype("category")
    return _with_graph(adata, 6 if file in _SPOTS else 10)


def _with_graph(adata: AnnData, n_neighbors: int) -> AnnData:
    spatial_graph(adata, n_neighs=n_neighbors, library_key="section")
    return adata
