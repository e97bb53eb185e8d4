"""The pictures of the home page, the README, the gallery and the entries of ``pl``, all but one of real tissue.

    SCJEPA_DATA=... python docs/_figures.py            # all; or by name: python docs/_figures.py embryo xenium

Niches are found in closed form, :func:`scjepa.tl.find_niches`, in seconds. The curves of a training and the confidence
of niches need a model: 150 steps of the preset ``demo`` on V1. Pictures go to ``docs/_static/gallery``. What they show
and whose data they are is said in :data:`PICTURES`, which the pages read.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData

GALLERY = Path(__file__).parent / "_static" / "gallery"
LARGEST_KB, WIDEST, COLORS = 195, 1400, 256

EMBRYO = "Mouse embryo at E8.5 to E8.75, seqFISH (Lohoff et al., Nature Biotechnology 2022)."
XENIUM = "Human breast cancer, Xenium (Janesick et al., Nature Communications 2023; 10x Genomics, CC BY 4.0)."
V1 = "Mouse visual cortex, STARmap (Wang et al., Science 2018)."
KANG = "Blood of two donors, half of it with interferon beta (Kang et al., Nature Biotechnology 2018)."
PAPALEXI = "THP-1 cells, knock-outs read by ECCITE-seq (Papalexi et al., Nature Genetics 2021)."
SIMULATED = "Simulated tissue (scjepa.datasets.simulated_tissue): no set at hand has enough samples."

AXIS = {
    "Otx2": "forebrain",
    "En1": "midbrain–\nhindbrain",
    "Hoxb1": "hindbrain",
    "Hoxd4": "spinal cord",
    "Gata4": "heart",
}
"""Markers along the body axis, and what their niche is called."""


@dataclass(frozen=True)
class Picture:
    """What a picture shows, for those who cannot see it, and whose data are in it."""

    alt: str
    source: str


PICTURES = {
    "embryo_niches": Picture(
        "A mouse embryo, its cells colored by twelve niches. Five smaller maps show the genes Otx2, En1, Hoxb1, Hoxd4 "
        "and Gata4, each high in one niche: forebrain, midbrain-hindbrain, hindbrain, spinal cord and heart.",
        EMBRYO,
    ),
    "xenium_niches": Picture(
        "Five tiles of a breast tumor, colored by twelve niches. Ducts, the tumor around them, immune cells, stroma "
        "and fat tissue lie apart, and the same niches come back in several tiles.",
        XENIUM,
    ),
    "xenium_markers": Picture(
        "Dots for marker genes of the twelve niches of the breast tumor: large and dark where a gene is expressed by "
        "many cells, mostly in one niche.",
        XENIUM,
    ),
    "v1_layers": Picture(
        "Visual cortex twice: seven niches, and the seven layers drawn by the authors. The niches are bands that "
        "follow the layers; two of them share layer 2/3.",
        V1,
    ),
    "pl_niches": Picture(
        "Two planes of a mouse embryo side by side, colored by twelve niches, which are in the same places in both.",
        EMBRYO,
    ),
    "pl_confidence": Picture(
        "Visual cortex colored by the confidence of each cell in its niche, from dark, unsure, to bright, sure; cells "
        "at borders of niches are less sure.",
        V1,
    ),
    "pl_markers": Picture(
        "A dot plot of two marker genes for each of twelve niches of a mouse embryo, most expressed in one niche.",
        EMBRYO,
    ),
    "pl_composition": Picture(
        "A bar for each niche of a mouse embryo, divided by the shares of its cell types.", EMBRYO
    ),
    "pl_interactions": Picture(
        "A matrix of the twelve niches of a mouse embryo: which share of the border of each touches which other.",
        EMBRYO,
    ),
    "pl_compare": Picture(
        "A matrix of eight and of twelve niches of a mouse embryo: eight of the twelve lie within one of the eight.",
        EMBRYO,
    ),
    "pl_confusion": Picture(
        "A matrix of five cell types of one donor, by what labels of another donor called them; unknown is the last.",
        KANG,
    ),
    "pl_reliability": Picture(
        "The share of right labels rises with confidence, near the diagonal, from seven tenths to one.", KANG
    ),
    "pl_perturbation": Picture(
        "Predicted against measured changes of genes under four knock-outs left out of training, the largest named.",
        PAPALEXI,
    ),
    "pl_predictive_genes": Picture(
        "Bars of the genes of four predictive components of a mouse embryo, and below each its map on the tissue.",
        EMBRYO,
    ),
    "pl_embedding": Picture(
        "A UMAP of the cells of a mouse embryo by niche and by cell type: niches lie apart.", EMBRYO
    ),
    "pl_niche_number": Picture(
        "Three panels of curves for 2 to 12 niches of visual cortex: stability above that of cells without clusters, "
        "the likelihood of held-out cells, and confidence, coherence and markers. The recommended number is marked.",
        V1,
    ),
    "pl_niche_drivers": Picture(
        "A block of bars for each niche of visual cortex: the neighbors and the genes that speak most for it, blue "
        "where they pass the false discovery rate.",
        V1,
    ),
    "pl_surprise": Picture(
        "Visual cortex colored by how surprising each cell is among cells of its type: most are yellow and green, "
        "single cells and those at the edge are dark.",
        V1,
    ),
    "pl_differential_niches": Picture(
        "Six niches with the difference of their shares between conditions and its error: the niche of which four "
        "fifths of the cells were taken out lies far from zero, in color.",
        SIMULATED,
    ),
    "pl_training": Picture(
        "Eight curves of a training: losses, their ratios, effective rank, spread, cosine, the optimizer's schedule.",
        V1,
    ),
}


def of_entry(fullname: str) -> dict[str, str] | None:
    """Return name, alternative text and source of the picture that the API entry of a function shows, if it has one."""
    name = fullname.removeprefix("scjepa.").replace(".", "_")
    drawn = name in PICTURES and (GALLERY / f"{name}.png").is_file()
    return {"name": name, **vars(PICTURES[name])} if drawn else None


def read(name: str, n_niches: int) -> AnnData:
    """Return a data set with its graph and niches, without cells that have no counts."""
    import numpy as np

    import scjepa
    from scjepa._core.squidpy import spatial_graph

    adata = scjepa.datasets.load(name)
    adata = adata[np.ravel(adata.X.sum(axis=1)) > 0].copy()
    spatial_graph(adata, n_neighs=10, library_key="section")
    scjepa.tl.find_niches(adata, n_niches=n_niches)
    return adata


def embryo() -> None:
    """Draw the embryo: niches with the markers of the body axis, and what most functions of ``pl`` draw."""
    import scjepa

    adata = read("seqfish_mouse_embryo2", 12)
    scjepa.tl.niche_markers(adata)
    scjepa.tl.niche_composition(adata)
    scjepa.tl.niche_interactions(adata)
    first = adata[adata.obs["section"] == adata.obs["section"].cat.categories[0]].copy()
    _save("embryo_niches", lambda path: _body_axis(first, path))
    scjepa.tl.niches(adata, "X_stjepa_niche", n_niches=8, key_added="niche_8")
    scjepa.tl.predictive_components(adata)
    _save("pl_niches", lambda path: scjepa.pl.niches(adata, save=path))
    _save("pl_markers", lambda path: scjepa.pl.markers(adata, n_genes=2, save=path))
    _save("pl_composition", lambda path: scjepa.pl.composition(adata, max_labels=10, save=path))
    _save("pl_interactions", lambda path: scjepa.pl.interactions(adata, save=path))
    _save("pl_compare", lambda path: scjepa.pl.compare(adata, "niche_8", "niche", save=path))
    _save("pl_predictive_genes", lambda path: scjepa.pl.predictive_genes(adata, n_comps=4, tissue=True, save=path))
    colors = ["niche", "cell_type"]
    _save("pl_embedding", lambda path: scjepa.pl.embedding(adata, "X_stjepa_niche", color=colors, save=path))


def _body_axis(adata: AnnData, path: Path) -> None:
    """Draw the niches, and maps of the genes that name five of them, each marked with its niche's color."""
    import matplotlib.pyplot as plt
    import numpy as np
    import scanpy as sc
    from matplotlib.colors import LinearSegmentedColormap

    logged = adata.copy()
    sc.pp.normalize_total(logged)
    sc.pp.log1p(logged)
    expression = logged[:, list(AXIS)].to_df()
    niche = adata.obs["niche"]
    means = expression.groupby(niche.to_numpy(), observed=True).mean()
    colors = dict(zip(niche.cat.categories, adata.uns["niche_colors"], strict=True))
    xy = np.asarray(adata.obsm["spatial"], dtype=float)[:, :2]
    shades = LinearSegmentedColormap.from_list("shades", ["#e4e4e8", "#8a6fb0", "#240046"])
    figure, axes = plt.subplots(1, 6, figsize=(12.6, 4.6), width_ratios=[2, 1, 1, 1, 1, 1], layout="constrained")
    axes[0].scatter(*xy.T, c=niche.map(colors).astype(str), s=4, linewidths=0)
    axes[0].set_title(f"{niche.nunique()} niches")
    for axis, (gene, what) in zip(axes[1:], AXIS.items(), strict=True):
        values = expression[gene].to_numpy()
        order = np.argsort(values, kind="stable")
        axis.scatter(*xy[order].T, c=values[order], s=1.5, linewidths=0, cmap=shades)
        axis.set_title(f"$\\mathit{{{gene}}}$", fontsize=11)
        axis.text(0.5, -0.02, what, ha="center", va="top", fontsize=10, transform=axis.transAxes)
        axis.plot(0.5, -0.15, "o", color=colors[means[gene].idxmax()], ms=9, clip_on=False, transform=axis.transAxes)
    for axis in axes:
        axis.set_aspect("equal")
        axis.set_axis_off()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def xenium() -> None:
    """Draw the breast tumor: niches of its five tiles, and their markers."""
    import scjepa

    adata = read("xenium_breast_51k_unlabelled", 12)
    scjepa.tl.niche_markers(adata)
    _save("xenium_niches", lambda path: scjepa.pl.niches(adata, ncols=3, save=path))
    _save("xenium_markers", lambda path: scjepa.pl.markers(adata, n_genes=2, save=path))


def cortex() -> None:
    """Draw V1: its niches and its layers."""
    import scjepa

    adata = read("starmap_visual_cortex", 7)
    _save("v1_layers", lambda path: scjepa.pl.niches(adata, reference="region", save=path))


def evidence() -> None:
    """Draw what speaks for niches: their number, what drives them, and cells that their surroundings do not predict."""
    import scjepa

    adata = read("starmap_visual_cortex", 7)
    found = scjepa.tl.niche_number(adata, range(2, 13))
    _save("pl_niche_number", lambda path: scjepa.pl.niche_number(found, save=path))
    drivers = scjepa.tl.niche_drivers(adata)
    _save("pl_niche_drivers", lambda path: scjepa.pl.niche_drivers(drivers, n_drivers=4, save=path))
    scjepa.tl.surprise(adata)
    _save("pl_surprise", lambda path: scjepa.pl.surprise(adata, save=path))


def cells() -> None:
    """Draw labels of one donor's blood by another's, and predictions of knock-outs."""
    import pandas as pd
    from anndata import AnnData

    import scjepa
    from scjepa import perturbation as pt

    blood = scjepa.datasets.load("pbmc_kang_muscat")
    one, other = (blood[blood.obs["donor"] == donor].copy() for donor in ("101", "107"))
    scjepa.tl.annotate(other, one, "cell_type", batch_key="batch", query_batch_key="batch")
    _save("pl_confusion", lambda path: scjepa.pl.confusion(other, "cell_type", save=path))
    _save("pl_reliability", lambda path: scjepa.pl.reliability(other, "cell_type", save=path))
    screen = scjepa.datasets.load("papalexi_eccite_299g")
    split = pt.simulation_split(pt.Conditions.of_adata(screen).names, 1, validation=False)
    measured, known = (pt.condition_profiles(screen, conditions=c) for c in (split.test_conditions, split.train))
    largest = (measured.means - measured.control).abs().sum(axis=1).nlargest(4).index
    found = pt.PerturbationStack().fit(known.means, known.control, known.noise).predict(list(largest))
    predicted = AnnData(found.to_numpy(), pd.DataFrame(index=found.index), pd.DataFrame(index=found.columns))
    predicted.layers["control"] = pd.DataFrame([known.control] * len(found)).to_numpy()
    _save("pl_perturbation", lambda path: scjepa.pl.perturbation(predicted, measured.means, save=path))


def conditions() -> None:
    """Draw two conditions of simulated samples; in one of them most of a niche is missing."""
    import numpy as np

    import scjepa

    adata = scjepa.datasets.simulated_tissue(600, n_sections=16, difficulty="easy", seed=0)
    sections, regions = (adata.obs[key].astype(str) for key in ("section", "region"))
    adata.obs["treated"] = np.where(sections.isin(sorted(sections.unique())[::2]), "treated", "control")
    lost = (adata.obs["treated"] == "treated") & (regions == sorted(regions.unique())[1])
    adata = adata[~(lost & (np.random.default_rng(0).random(adata.n_obs) < 0.8))].copy()
    found = scjepa.tl.differential_niches(adata, "treated", "section", niche_key="region")
    _save("pl_differential_niches", lambda path: scjepa.pl.differential_niches(found, save=path))


def training() -> None:
    """Draw what needs a model, of V1: the curves of its training, and the confidence of niches."""
    import scjepa

    adata = read("starmap_visual_cortex", 7)
    scjepa.STJEPA.setup_anndata(adata)
    model = scjepa.STJEPA(adata, preset="demo")
    model.train(max_steps=150, progress_bar=False)
    model.niches(n_niches=7)
    scjepa.tl.niche_confidence(adata, model.get_masked_representations())
    _save("pl_confidence", lambda path: scjepa.pl.confidence(adata, reference="niche", save=path))
    _save("pl_training", lambda path: scjepa.pl.training(model, save=path))


def _save(name: str, draw: Callable[[Path], object]) -> None:
    """Draw a picture on white, and keep it in few colors and small enough for a page."""
    import matplotlib.pyplot as plt
    from PIL import Image

    path, width = GALLERY / f"{name}.png", WIDEST
    draw(path)
    plt.close("all")
    with Image.open(path) as image:
        drawn = image.convert("RGB")
    while True:
        small = drawn.copy()
        small.thumbnail((width, 2 * width))
        small.quantize(COLORS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)
        size = path.stat().st_size / 1000
        if size <= LARGEST_KB:
            break
        width = round(0.9 * width)
    print(f"{path.name}: {small.width} x {small.height}, {size:.0f} kB")


def main() -> None:
    """Draw what the command line names, or everything."""
    warnings.filterwarnings("ignore")
    drawn = {
        **{"cortex": cortex, "embryo": embryo, "xenium": xenium},
        **{"evidence": evidence, "conditions": conditions, "training": training, "cells": cells},
    }
    GALLERY.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or drawn:
        drawn[name]()


if __name__ == "__main__":
    main()
