"""The pictures of the home page, the README, the gallery and the entries of ``pl``, all of real tissue.

    SCJEPA_DATA=... python docs/_figures.py            # all; or by name: python docs/_figures.py embryo xenium

Niches are found in closed form, :func:`scjepa.tl.find_niches`, in seconds. The curves of a training and the confidence of
niches need a model; the preset ``demo`` takes about two minutes on V1. Pictures go to ``docs/_static/gallery``. What each
shows, and whose data they are, is said in :data:`PICTURES`, which the pages read.
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
LARGEST_KB, COLORS = 200, 128

EMBRYO = "Mouse embryo at E8.5 to E8.75, seqFISH (Lohoff et al., Nature Biotechnology 2022)."
XENIUM = "Human breast cancer, Xenium (Janesick et al., Nature Communications 2023; 10x Genomics, CC BY 4.0)."
V1 = "Mouse visual cortex, STARmap (Wang et al., Science 2018)."

AXIS = {
    "Otx2": "forebrain",
    "En1": "midbrain and hindbrain border",
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
        "A mouse embryo, its cells colored by twelve niches: forebrain, midbrain-hindbrain border, hindbrain, spinal "
        "cord, heart and others follow one another along the body. Five small maps show the genes Otx2, En1, Hoxb1, "
        "Hoxd4 and Gata4, each bright in one of these niches.",
        EMBRYO,
    ),
    "xenium_niches": Picture(
        "Five tiles of a breast tumor, colored by twelve niches. Ducts, the tumor around them, immune cells, stroma and "
        "fat tissue lie apart, and the same niches come back in several tiles.",
        XENIUM,
    ),
    "xenium_markers": Picture(
        "Dots for marker genes of the twelve niches of the breast tumor: large and dark where a gene is expressed by "
        "many cells, mostly in one niche.",
        XENIUM,
    ),
    "v1_layers": Picture(
        "Visual cortex twice: seven niches, and the seven layers drawn by the authors. The niches are bands that follow "
        "the layers.",
        V1,
    ),
    "pl_niches": Picture(
        "Two planes of a mouse embryo side by side, colored by twelve niches, which are in the same places in both.",
        EMBRYO,
    ),
    "pl_confidence": Picture(
        "Visual cortex colored by the confidence of each cell in its niche, from dark, unsure, to bright, sure; cells at "
        "borders of niches are less sure.",
        V1,
    ),
    "pl_markers": Picture(
        "A dot plot of two marker genes for each of twelve niches of a mouse embryo, most of them expressed in one niche.",
        EMBRYO,
    ),
    "pl_composition": Picture("A bar for each niche of a mouse embryo, divided by the shares of its cell types.", EMBRYO),
    "pl_interactions": Picture(
        "A matrix of the twelve niches of a mouse embryo: which share of the neighbors of each lies in which other.",
        EMBRYO,
    ),
    "pl_compare": Picture(
        "A matrix of eight coarse and twelve finer niches of a mouse embryo: most finer niches lie within one coarse.",
        EMBRYO,
    ),
    "pl_predictive_genes": Picture(
        "Bars of the genes of four predictive components of a mouse embryo, and below each the component on the tissue.",
        EMBRYO,
    ),
    "pl_embedding": Picture(
        "A UMAP of the cells of a mouse embryo by niche and by cell type: niches are islands.", EMBRYO
    ),
    "pl_training": Picture(
        "Eight curves of a training: losses, their ratios, effective rank, spread, cosine, and the optimizer's schedule.",
        V1,
    ),
}


def of_entry(fullname: str) -> dict[str, str] | None:
    """Return name, alternative text and source of the picture that the API entry of a function shows, if it has one."""
    name = fullname.removeprefix("scjepa.").replace(".", "_")
    return {"name": name, **vars(PICTURES[name])} if name in PICTURES else None


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
    """Draw niches with names, and the genes that give the names."""
    import matplotlib.pyplot as plt
    import numpy as np
    import scanpy as sc

    logged = adata.copy()
    sc.pp.normalize_total(logged)
    sc.pp.log1p(logged)
    logged = logged[:, list(AXIS)].to_df()
    niche = adata.obs["niche"]
    means = logged.groupby(niche.to_numpy(), observed=True).mean()
    names = {means[gene].idxmax(): f"{what} ({gene})" for gene, what in AXIS.items()}
    colors = dict(zip(niche.cat.categories, adata.uns["niche_colors"], strict=True))
    xy = np.asarray(adata.obsm["spatial"], dtype=float)[:, :2]
    figure = plt.figure(figsize=(12, 5.6), layout="constrained")
    grid = figure.add_gridspec(2, 6, width_ratios=[1, 1, 0.05, 1, 1, 1])
    large = figure.add_subplot(grid[:, :2])
    large.scatter(*xy.T, c=niche.map(colors).astype(str), s=5, linewidths=0)
    large.set_title("niches")
    for (gene, what), place in zip(AXIS.items(), (grid[0, 3], grid[0, 4], grid[0, 5], grid[1, 3], grid[1, 4]), strict=True):
        order = np.argsort(logged[gene].to_numpy(), kind="stable")
        axis = figure.add_subplot(place)
        axis.scatter(*xy[order].T, c=logged[gene].to_numpy()[order], s=1.6, linewidths=0, cmap="viridis")
        axis.set_title(f"{gene}\n{what}", fontsize=9)
    marks = [plt.Line2D([], [], marker="o", linestyle="", color=colors[key], label=name) for name, key in
             sorted((name, key) for key, name in names.items())]
    figure.add_subplot(grid[1, 5]).legend(handles=marks, loc="center", frameon=False, fontsize=9, title="niches of these genes")
    for axis in figure.axes:
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
    """Draw V1: niches and layers, the curves of a training, and the confidence of niches."""
    import scjepa

    adata = read("starmap_visual_cortex", 7)
    _save("v1_layers", lambda path: scjepa.pl.niches(adata, reference="region", save=path))
    scjepa.STJEPA.setup_anndata(adata)
    model = scjepa.STJEPA(adata, preset="demo")
    model.train(progress_bar=False)
    model.niches(n_niches=7)
    scjepa.tl.niche_confidence(adata, model.get_masked_representations())
    _save("pl_confidence", lambda path: scjepa.pl.confidence(adata, reference="niche", save=path))
    _save("pl_training", lambda path: scjepa.pl.training(model, save=path))


def _save(name: str, draw: Callable[[Path], object]) -> None:
    """Draw a picture on white, and keep it in few colors, small enough for a page."""
    import matplotlib.pyplot as plt
    from PIL import Image

    path = GALLERY / f"{name}.png"
    draw(path)
    plt.close("all")
    with Image.open(path) as image:
        small = image.convert("RGB")
    if small.width > 1400:
        small = small.resize((1400, round(small.height * 1400 / small.width)), Image.Resampling.LANCZOS)
    small.quantize(COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size / 1000
    print(f"{path.name}: {small.width} x {small.height}, {size:.0f} kB")
    if size > LARGEST_KB:
        raise SystemExit(f"{path.name} has {size:.0f} kB, more than {LARGEST_KB}")


def main() -> None:
    """Draw what the command line names, or everything."""
    warnings.filterwarnings("ignore")
    drawn = {"embryo": embryo, "xenium": xenium, "cortex": cortex}
    GALLERY.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or drawn:
        drawn[name]()


if __name__ == "__main__":
    main()
