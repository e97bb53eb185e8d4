"""How many niches: what `tl.niche_number` recommends on planted niches, gradients, noise and real sections.

    export SCJEPA_DATA=... OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.niches.number V1 planted-5-0 gradient-0 ...     # appends to results/number.csv
    python -m benchmarks.niches.number table                            # results/number.md from it

``planted-K-SEED``, ``hard-K-SEED``, ``sections-K-SEED``: 5,000 cells of `simulated_tissue` with K niches, difficulty
medium, hard, and medium in three sections. ``noise-SEED``: no niches. ``gradient-SEED``: each of a third of the genes
is highest at its own place along one axis, with no border anywhere. The rule was found on CHOOSING; the others took no
part. Number of labels: those of `region` where there are some; layers of one annotation are one truth among several.

Control: the stability of CellCharter (Varrone et al. 2024) by its definition, on the same read-out: Gaussian mixtures,
five runs for each K; K is as stable as its clusterings agree (Fowlkes-Mallows) with those of K - 1 and K + 1. It names
the K of the highest, and has no way to say that there is none. Rows that are there are not made again.
"""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.quality.sets import load_labelled
from benchmarks.records import append, commit, done
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.metrics import fowlkes_mallows_score
from sklearn.mixture import GaussianMixture

import scjepa
from scjepa._core.squidpy import spatial_graph

RESULTS = Path(__file__).parent / "results"
FIGURE = Path(__file__).parents[2] / "docs" / "_static" / "niche_number.png"
CHOOSING = ("planted-3-0", "planted-5-0", "planted-8-0", "gradient-0", "noise-0", "V1")
NUMBERS = range(2, 13)
RUNS, SPLITS, MOST = 5, 3, 3000
"""Runs of the control, splits of ours, and cells that are looked at: in blocks for ours, at random for the control."""
OTHER_FILES = {
    "embryo": "seqfish_mouse_embryo2",
    "hypothalamus": "merfish_hypothalamus_4sections_unlabelled",
    "xenium": "xenium_breast_51k_unlabelled",
}


def simulated(kind: str, number: int, seed: int) -> AnnData:
    """Return tissue with planted niches, with none, or with a gradient."""
    if kind in ("planted", "hard", "sections"):
        difficulty, n_sections = ("hard" if kind == "hard" else "medium"), (3 if kind == "sections" else 1)
        return scjepa.datasets.simulated_tissue(
            5000, n_niches=number, n_sections=n_sections, difficulty=difficulty, seed=seed
        )
    nothing = replace(scjepa.datasets.DIFFICULTIES["medium"], niche_effect=0.0, mix_sharpness=0.0, gradient=0.0)
    adata = scjepa.datasets.simulated_tissue(5000, n_niches=6, n_sections=1, difficulty=nothing, seed=seed)
    if kind == "gradient":
        rng = np.random.default_rng(seed)
        along = adata.obsm["spatial"][:, :1]
        along = (along - along.min()) / np.ptp(along)
        center, width = rng.uniform(-0.2, 1.2, adata.n_vars), rng.uniform(0.15, 0.5, adata.n_vars)
        drifts = rng.random(adata.n_vars) < 0.35
        fold = np.exp(1.6 * drifts * (np.exp(-(((along - center) / width) ** 2) / 2) - 0.5))
        adata.X = csr_matrix(rng.poisson(adata.X.toarray() * fold).astype(np.int32))
    return adata


def load(name: str) -> tuple[AnnData, int | None]:
    """Return a set with its spatial graph, and how many niches it has by its labels."""
    kind, *rest = name.split("-")
    if kind in ("planted", "hard", "sections", "gradient", "noise"):
        *number, seed = map(int, rest)
        adata = simulated(kind, number[0] if number else 0, seed)
        spatial_graph(adata, n_neighs=10, library_key="section")
        return adata, (number[0] if number else None)
    if name in OTHER_FILES:
        adata = scjepa.datasets.load(OTHER_FILES[name])
        if name == "xenium":  # one tile, cells with counts
            tile = adata.obs["section"].astype(str) == str(adata.obs["section"].astype(str).value_counts().index[0])
            adata = adata[(tile & (np.asarray(adata.X.sum(axis=1)).ravel() > 0)).to_numpy()].copy()
        adata.obs_names_make_unique()
        adata.obsm["spatial"] = np.asarray(adata.obsm["spatial"])[:, :2]
        adata.obs["section"] = adata.obs["section"].astype(str).astype("category")
        spatial_graph(adata, n_neighs=10, library_key="section")
        return adata, None
    adata = load_labelled(name)
    labels = adata.obs["region"].astype(str) if "region" in adata.obs else pd.Series(dtype=str)
    labels = labels[~labels.isin(["unlabelled", "nan"])]
    return adata, (labels.nunique() or None)


def cellcharter(embedding: np.ndarray, seed: int = 0) -> pd.Series:
    """Return the stability of each number by CellCharter's definition."""
    values = PCA(min(20, embedding.shape[1]), random_state=seed).fit_transform(embedding)
    found = {
        k: [GaussianMixture(k, random_state=seed + run, max_iter=50).fit_predict(values) for run in range(RUNS)]
        for k in range(NUMBERS[0] - 1, NUMBERS[-1] + 2)
    }
    next = {
        k: np.mean([fowlkes_mallows_score(one, other) for one in found[k] for other in found[k + 1]])
        for k in list(found)[:-1]
    }
    return pd.Series({k: (next[k - 1] + next[k]) / 2 for k in NUMBERS})


def run(name: str) -> None:
    """Append the rows of a set."""
    adata, truth = load(name)
    scjepa.tl.niche_readout(adata)
    start = time.process_time()
    found = scjepa.tl.niche_number(adata, NUMBERS, max_cells=MOST, n_splits=SPLITS)
    seconds = time.process_time() - start
    rng = np.random.default_rng(0)
    cells = np.sort(rng.permutation(adata.n_obs)[:MOST])
    start = time.process_time()
    theirs = cellcharter(np.asarray(adata.obsm["X_stjepa_niche"])[cells])
    rows = found.table.reset_index().assign(set=name, n_cells=adata.n_obs, labels=truth)
    rows["cellcharter"] = theirs.to_numpy()
    rows["recommended"], rows["defensible"] = found.recommended, " ".join(map(str, found.defensible))
    rows["cellcharter_best"] = int(theirs.idxmax())
    rows["seconds"], rows["cellcharter_seconds"] = seconds, time.process_time() - start
    rows["commit"] = commit()
    append(RESULTS / "number.csv", rows)
    if name == "V1":
        scjepa.pl.niche_number(found, save=FIGURE)
    print(
        name,
        f"{time.process_time():.0f} s in all;",
        adata.shape,
        "labels",
        truth,
        "CellCharter",
        theirs.idxmax(),
        f"{seconds:.0f} s;",
        found.reason,
    )


def table() -> None:
    """Write results/number.md."""
    rows = pd.read_csv(RESULTS / "number.csv")
    best = rows.loc[rows.groupby("set")["stability"].idxmax()]
    at_theirs = rows[rows["n_niches"] == rows["cellcharter_best"]].set_index("set")["excess"]
    lines = [
        "| set | cells | labels | recommended | as stable | stability | without clusters | excess | likelihood "
        "| CellCharter's | excess there | processor s |",
        "|---|" + "---|" * 11,
    ]
    for chosen in (True, False):
        for _, row in best[best["set"].isin(CHOOSING) == chosen].iterrows():
            labels = "" if pd.isna(row["labels"]) else int(row["labels"])
            number = "none" if pd.isna(row["recommended"]) else int(row["recommended"])
            defensible = "" if pd.isna(row["defensible"]) else row["defensible"]
            lines.append(
                f"| {row['set']}{' (chosen on)' if chosen else ''} | {row['n_cells']:,} | {labels} | {number} | "
                f"{defensible} | {row['stability']:.2f} | {row['stability_null']:.2f} | {row['excess']:.2f} | "
                f"{row['likelihood']:.2f} | {row['cellcharter_best']} | {at_theirs[row['set']]:.2f} | "
                f"{row['seconds']:.0f} |"
            )
    (RESULTS / "number.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    for each in sys.argv[1:]:
        if each == "table":
            table()
        elif not done(RESULTS / "number.csv", {"set": each}):
            run(each)
