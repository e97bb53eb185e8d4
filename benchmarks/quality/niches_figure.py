"""The niches of V1 by the default flow, the linear method and neighborhood PCA, beside the labels.

    SCJEPA_DATA=... python -m benchmarks.quality.niches_figure     # docs/_static/niches_V1.png

Of `base`, seed 0, whose embedding `niches.py base` has kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from benchmarks.quality.niches import CACHE, embeddings_of
from benchmarks.quality.sets import load_labelled

import scjepa
from scjepa._core.palette import palette
from scjepa.benchmark import neighborhood_pca
from scjepa.metrics import nmi

OUT = Path(__file__).parents[2] / "docs" / "_static" / "niches_V1.png"


def main() -> None:
    """Find niches at the number of labels by each method, and draw them side by side."""
    import matplotlib.pyplot as plt

    adata = load_labelled("V1")
    n_labels = adata.obs["region"].nunique()
    adata.obsm["X_stjepa_cell"] = embeddings_of("V1", adata, 0, CACHE)["cell"]
    adata.obsm["X_pca"] = neighborhood_pca(adata)
    scjepa.tl.niche_readout(adata, key_added="X_both")
    scjepa.tl.niche_readout(adata, "X", key_added="X_linear")
    shown = {"ST-JEPA, default": "X_both", "linear method": "X_linear", "neighborhood PCA": "X_pca"}
    labels = adata.obs["region"].astype(str).to_numpy()
    figure, axes = plt.subplots(1, 4, figsize=(14, 2.7), layout="constrained")
    places = adata.obsm["spatial"]
    names = sorted(set(labels))
    colors = dict(zip(names, palette(len(names)), strict=True))

    def draw(axis: plt.Axes, of: np.ndarray, title: str) -> None:
        axis.scatter(*places.T, c=[colors[name] for name in of], s=14, linewidths=0)
        axis.set(title=title, aspect="equal", xticks=[], yticks=[])

    draw(axes[0], labels, "layers, as labelled")
    for axis, (title, key) in zip(axes[1:], shown.items(), strict=True):
        scjepa.tl.niches(adata, key, n_niches=n_labels, key_added="found")
        found = adata.obs["found"].astype(str).to_numpy()
        # Each niche in the color of the label that most of its cells have.
        most = {niche: max(names, key=lambda name: (labels[found == niche] == name).sum()) for niche in set(found)}
        draw(axis, np.array([most[niche] for niche in found]), f"{title}, NMI {nmi(labels, found):.2f}")
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=colors[name], label=name) for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(names), frameon=False, fontsize=12)
    figure.savefig(OUT, dpi=130)


if __name__ == "__main__":
    main()
