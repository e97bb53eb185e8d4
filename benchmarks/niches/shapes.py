"""Shapes of niches, and who surrounds whom, on two real sections.

    export SCJEPA_DATA=... OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.niches.shapes         # results/shapes.csv, results/shapes.md

V1: the annotated layers, and niches of the same number. Embryo: slice z2, 12 niches, named by
their commonest cell type. The largest piece of each, and in how many pieces of 20 cells it lies; ``touches``: the
other that it borders most beyond what the borders of both let expect (`contact_enrichment`), and how much, in log2.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd
from anndata import AnnData
from benchmarks.quality.sets import load_labelled

import scjepa
from scjepa._core.squidpy import spatial_graph

RESULTS = Path(__file__).parent / "results"


def described(adata: AnnData, niche_key: str, name: str) -> pd.DataFrame:
    """Return a row for each niche."""
    pieces = scjepa.tl.niche_shapes(adata, niche_key)
    largest = pieces[pieces["piece"] == 0].set_index("niche")
    found = largest[["n_cells", "area", "border_length", "linearity", "compactness"]]
    found.insert(0, "pieces", pieces.groupby("niche", observed=True).size())
    counts = scjepa.tl.niche_interactions(adata, niche_key).counts
    near = pd.DataFrame(scjepa.tl.contact_enrichment(counts.to_numpy()), counts.index, counts.columns)
    found = found.assign(touches=near.idxmax(axis=1), log2=near.max(axis=1))
    return found.rename_axis("niche").reset_index().assign(set=name)


def main() -> None:
    warnings.filterwarnings("ignore")
    cortex = load_labelled("V1")
    cortex = cortex[~cortex.obs["region"].astype(str).isin(["unlabelled", "nan"])].copy()
    scjepa.tl.find_niches(cortex, n_niches=7)
    embryo = scjepa.datasets.load("seqfish_mouse_embryo2")
    embryo = embryo[embryo.obs["section"].astype(str).str.contains("z2")].copy()
    embryo.obsm["spatial"] = embryo.obsm["spatial"][:, :2]
    spatial_graph(embryo, n_neighs=10, library_key="section")
    scjepa.tl.find_niches(embryo, n_niches=12)
    most = embryo.obs.groupby("niche", observed=True)["cell_type"].agg(lambda types: types.mode()[0])
    embryo.obs["niche"] = embryo.obs["niche"].map(lambda niche: f"{niche} ({most[niche]})").astype("category")
    parts = [described(cortex, "region", "V1, layers"), described(cortex, "niche", "V1, niches")]
    found = pd.concat([*parts, described(embryo, "niche", "embryo, niches")], ignore_index=True)
    found = found[["set", *(column for column in found if column != "set")]]
    found.to_csv(RESULTS / "shapes.csv", index=False, float_format="%.4g")
    columns = [*found.columns[:4], "linearity", "compactness", "touches", "log2"]
    (RESULTS / "shapes.md").write_text(found[columns].round(2).to_markdown(index=False) + "\n")


if __name__ == "__main__":
    main()
