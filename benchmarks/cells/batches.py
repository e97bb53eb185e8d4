"""Batches: the suite of scib-metrics on ``pbmc_2batch`` and ``celllines_sc_mixology``.

    python benchmarks/cells/batches.py --seeds 3

Neither Cell-JEPA nor HVG-PCA corrects for batches; Harmony on HVG-PCA, which does, stands beside. ``pbmc_2batch`` is
embedded by the model pretrained on blood (its ``pbmc3k`` half is among what that was trained on). The cell lines have
Ensembl ids, of which such a model knows none, so that one is trained on them, for as many steps and without labels.
Rows go to ``results/batches.csv``; what is there is not run again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import harmonypy
import numpy as np
import pandas as pd
from anndata import AnnData
from baselines import pca_on_hvg
from methods import PRETRAINED, embedder, pretrained
from rows import RESULTS, append, commit, done
from sets import corpus

import scjepa
from scjepa import datasets
from scjepa.metrics import scib_suite

SETS = ("pbmc_2batch", "celllines_sc_mixology")
OURS = ("CellJEPA", "reconstruction only")


def _ours(method: str, name: str, adata: AnnData, seed: int, max_steps: int | None) -> np.ndarray:
    if name == "pbmc_2batch":
        return embedder(pretrained(method, corpus(), seed, max_steps))(adata)
    preset, parts = PRETRAINED[method]
    scjepa.CellJEPA.setup_anndata(adata)
    model = scjepa.CellJEPA(adata, preset, seed=seed, **parts)
    model.train(max_steps=max_steps, accelerator="cpu", progress_bar=False)
    return embedder(model)(adata)


def _harmony(values: np.ndarray, adata: AnnData, seed: int) -> np.ndarray:
    obs = adata.obs[["batch"]].astype(str)
    found = np.asarray(harmonypy.run_harmony(values, obs, "batch", random_state=seed, verbose=False).Z_corr)
    return found if len(found) == adata.n_obs else found.T


def run(name: str, method: str, seed: int, options: argparse.Namespace) -> None:
    """Score one method on one set, if its row is missing."""
    key = {"set": name, "method": method, "seed": seed, "max_steps": options.max_steps or "preset"}
    if done(options.out, key):
        return
    adata = datasets.load(name)
    plain = pca_on_hvg(adata, seed)(adata)
    if method in OURS:
        embedding = _ours(method, name, adata, seed, options.max_steps)
    else:
        embedding = plain if method == "HVG-PCA" else _harmony(plain, adata, seed)
    row = scib_suite(embedding, adata.obs["batch"], adata.obs["cell_type"], uncorrected=plain)
    print(key, row.round(3).to_dict(), flush=True)
    append(options.out, pd.DataFrame([{**key, **row.to_dict(), "commit": commit()}]))


def main() -> None:
    """Read the command line and run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    methods = ("HVG-PCA", "Harmony", *OURS)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--methods", nargs="+", default=list(methods), choices=methods)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS / "batches.csv")
    options = parser.parse_args()
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name in options.sets:
            for method in options.methods:
                run(name, method, seed, options)


if __name__ == "__main__":
    main()
