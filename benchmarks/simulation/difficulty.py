"""How hard the named difficulties are: what neighborhood PCA finds, and what the same counts hold.

Run from the root of the repository (about a minute); it rewrites ``difficulty.csv`` beside it::

    OMP_NUM_THREADS=1 python -m benchmarks.simulation.difficulty

The tissue is the default of ``scjepa.datasets.simulated_tissue`` (5,000 cells, 3 sections, 6 niches, 12 cell types,
200 genes, one technology). Rows of the table:

- ``pca``: log1p of 1e4-normalized counts, mean over the 10 nearest neighbors and the cell, 50 PCs, 15 nearest
  neighbors, Leiden at the number of planted niches (``nmi``, ``ari``) and the mean NMI over resolutions 0.6-1.4.
- ``pca_per_section``: the same with the means standardized gene by gene within each section.
- ``pca_no_niches``: ``pca`` on the same cells with the niches taken out of composition and expression, against the
  same labels. It is the score of a map that says nothing: means over overlapping neighborhoods cluster into
  contiguous patches, which agree with any contiguous labels better than chance.
- ``probe_blocks``: logistic regression from standardized means over the 30 nearest neighbors to the niche, out of
  sample in five folds of spatial blocks. It knows the labels of the other blocks: not a method, but a measure of what
  the counts hold. Cells beside a border between blocks share neighbors with cells it was trained on.
- ``probe_sections``: the same probe trained on two sections and tested on the third, which share no cell.

At ``hard`` the mean NMI over fixed resolutions says little: many small contiguous patches score about 0.43 without
any niche. Read ``nmi`` and ``ari`` against ``pca_no_niches``. Counts and genes per cell are those of the tissue with
niches in every row.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy.spatial import cKDTree
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.model_selection import GroupKFold

from scjepa.datasets import DIFFICULTIES, Difficulty, simulated_tissue

SEEDS = (0, 1, 2)
RESOLUTIONS = (0.6, 0.8, 1.0, 1.2, 1.4)


def log_counts(adata: AnnData) -> np.ndarray:
    """Return log1p of counts normalized to 1e4 per cell."""
    X = adata.X.toarray().astype(np.float64)
    return np.log1p(1e4 * X / np.maximum(X.sum(axis=1, keepdims=True), 1))


def neighborhood_mean(adata: AnnData, values: np.ndarray, k: int) -> np.ndarray:
    """Return the mean of each cell and its ``k`` nearest neighbors in its section."""
    means = np.empty_like(values)
    for rows in adata.obs.groupby("section", observed=True).indices.values():
        points = adata.obsm["spatial"][rows]
        means[rows] = values[rows][cKDTree(points).query(points, k + 1)[1]].mean(axis=1)
    return means


def standardized(adata: AnnData, values: np.ndarray) -> np.ndarray:
    """Return values with mean 0 and variance 1 in each section."""
    result = np.empty_like(values)
    for rows in adata.obs.groupby("section", observed=True).indices.values():
        result[rows] = (values[rows] - values[rows].mean(axis=0)) / (values[rows].std(axis=0) + 1e-9)
    return result


def leiden_scores(features: np.ndarray, truth: np.ndarray, seed: int) -> dict[str, float]:
    """Return NMI and ARI at the number of niches, and the mean NMI over fixed resolutions."""
    adata = AnnData(np.zeros((len(features), 1), dtype=np.float32))
    adata.obsm["X"] = sc.pp.pca(features, n_comps=min(50, features.shape[1] - 1), random_state=seed)
    sc.pp.neighbors(adata, n_neighbors=15, use_rep="X", random_state=seed)

    def clusters(resolution: float) -> np.ndarray:
        sc.tl.leiden(adata, resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
        return adata.obs["leiden"].cat.codes.to_numpy()

    fixed = [normalized_mutual_info_score(truth, clusters(r)) for r in RESOLUTIONS]
    wanted, low, high = len(np.unique(truth)), 0.01, 4.0
    best = clusters(1.0)
    for _ in range(16):
        middle = np.sqrt(low * high)
        found = clusters(middle)
        n_found, n_best = found.max() + 1, best.max() + 1
        if abs(n_found - wanted) < abs(n_best - wanted):
            best = found
        if n_found == wanted:
            break
        low, high = (middle, high) if n_found < wanted else (low, middle)
    return {
        "nmi": normalized_mutual_info_score(truth, best),
        "ari": adjusted_rand_score(truth, best),
        "nmi_resolutions": float(np.mean(fixed)),
        "n_clusters": int(best.max() + 1),
    }


def probe_scores(features: np.ndarray, truth: np.ndarray, groups: np.ndarray, n_folds: int) -> dict[str, float]:
    """Return accuracy, NMI and ARI of out-of-sample predictions, with whole groups held out."""
    predicted = np.empty_like(truth)
    for train, test in GroupKFold(n_folds).split(features, truth, groups):
        predicted[test] = (
            LogisticRegression(C=0.003, max_iter=300).fit(features[train], truth[train]).predict(features[test])
        )
    return {
        "nmi": normalized_mutual_info_score(truth, predicted),
        "ari": adjusted_rand_score(truth, predicted),
        "accuracy": float((predicted == truth).mean()),
    }


def spatial_blocks(adata: AnnData, side: float = 100.0) -> np.ndarray:
    """Return a code of the section and the square of ``side`` µm that each cell lies in."""
    squares = (adata.obsm["spatial"] // side).astype(int)
    keys = pd.DataFrame({"section": adata.obs["section"].cat.codes.to_numpy(), "x": squares[:, 0], "y": squares[:, 1]})
    return keys.groupby(["section", "x", "y"]).ngroup().to_numpy()


def evaluate(difficulty: Difficulty, seed: int) -> list[dict[str, object]]:
    """Return the rows of the table for one tissue."""
    adata = simulated_tissue(difficulty=difficulty, seed=seed)
    truth = adata.obs["region"].cat.codes.to_numpy().astype(int)
    logs = log_counts(adata)
    near, wide = neighborhood_mean(adata, logs, 10), standardized(adata, neighborhood_mean(adata, logs, 30))
    sections = adata.obs["section"].cat.codes.to_numpy()
    scores = {
        "pca": leiden_scores(near, truth, seed),
        "pca_per_section": leiden_scores(standardized(adata, near), truth, seed),
        "probe_blocks": probe_scores(wide, truth, spatial_blocks(adata), 5),
        "probe_sections": probe_scores(wide, truth, sections, len(np.unique(sections))),
    }
    counts = {"counts_per_cell": float(adata.X.sum() / adata.n_obs), "genes_per_cell": adata.X.nnz / adata.n_obs}
    blank = simulated_tissue(difficulty=replace(difficulty, niche_effect=0.0, mix_sharpness=0.0), seed=seed)
    scores["pca_no_niches"] = leiden_scores(neighborhood_mean(blank, log_counts(blank), 10), truth, seed)
    return [{"seed": seed, "method": method, **row, **counts} for method, row in scores.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("difficulty.csv"))
    output = parser.parse_args().output
    rows = [
        {"difficulty": name, **row}
        for name, knobs in DIFFICULTIES.items()
        for seed in SEEDS
        for row in evaluate(knobs, seed)
    ]
    table = pd.DataFrame(rows)
    table.round(4).to_csv(output, index=False)
    keys = ["difficulty", "method"]
    print(table.groupby(keys, sort=False)[["nmi", "ari", "nmi_resolutions", "accuracy"]].mean().round(3).to_string())


if __name__ == "__main__":
    main()
