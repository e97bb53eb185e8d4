"""A ceiling: the encoder of a recipe trained with the labels themselves, tested on tissue it has not seen.

    export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.quality.ceiling --sets V1 mPFC osmFISH --seeds 1

Tokens and encoder are those of the recipe, and a linear layer on the pooled neighborhood names the region
(cross-entropy). Cells are dealt to folds by compact blocks of tissue with a margin (:func:`scjepa.metrics.block_folds`,
the folds of ``probes.py``); a model is trained for each fold, and every cell is tested once. Rows ``neighborhood``
score its answers; rows ``hops`` the mean of its probabilities over a cell and three rings, each as a whole, as far as
the read-out by hops sees. NMI and ARI of the answers with the regions stand beside those of clusters. Rows go to
``results/ceiling.csv``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from anndata import AnnData
from benchmarks.quality.methods import _model
from benchmarks.quality.recipes import RECIPES
from benchmarks.quality.run import RESULTS, config_hash
from benchmarks.quality.sets import REAL, SETS, load_set
from benchmarks.records import fill, keys
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from scjepa.metrics import ari, block_folds, nmi
from scjepa.stjepa import pool
from scjepa.stjepa.config import STJEPAConfig
from scjepa.tl import aggregate
from scjepa.training.plan import learning_rate, parameter_groups

N_HOPS = 3


def out_of_fold(adata: AnnData, config: STJEPAConfig, seed: int, n_steps: int, n_folds: int) -> np.ndarray:
    """Return the probability of each region for each cell, from a model that did not see it, ``(n_cells, n_labels)``.

    Cells without a label have a row of zeros.
    """
    folds = block_folds(adata.obs["region"].astype(str), adata.obsm["spatial"], adata.obs["section"], n_folds=n_folds)
    labelled = np.flatnonzero(folds.kept)
    found = np.zeros((adata.n_obs, len(folds.names)), dtype=np.float32)
    for fold, (train, test) in enumerate(folds):
        torch.manual_seed(1000 * seed + fold)
        model = _model(adata, config, seed)
        source, encoder = model._source(None), model.module.context
        head = nn.Linear(config.encoder.width, len(folds.names))
        learned = nn.ModuleList([encoder, head])
        optimizer = torch.optim.AdamW(parameter_groups(learned), lr=1e-3, weight_decay=0.04)
        truth = torch.from_numpy(folds.truth)
        rng = torch.Generator().manual_seed(1000 * seed + fold)
        for step in range(n_steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, n_steps, 1e-3, 1e-6, 0.1)
            rows = torch.from_numpy(train)[torch.randint(len(train), (config.training.batch_size,), generator=rng)]
            loss = F.cross_entropy(head(_pooled(encoder, source, labelled[rows.numpy()])), truth[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(learned.parameters(), config.training.clip or 1e9)
            optimizer.step()
        with torch.no_grad():
            for chunk in np.array_split(labelled[test], max(1, len(test) // 256)):
                found[chunk] = head(_pooled(encoder, source, chunk)).softmax(-1).numpy()
        print(f"fold {fold}: loss {loss.item():.3f}", flush=True)
    return found


def _pooled(encoder: nn.Module, source, cells: np.ndarray) -> torch.Tensor:
    batch = source.batch(torch.from_numpy(cells))
    return pool(encoder(batch).float(), batch, "neighborhood")


def scores(probabilities: np.ndarray, labels: pd.Series, names: list[str]) -> dict[str, float]:
    """Return how the likeliest labels agree with the known ones, over the labelled cells."""
    kept = probabilities.sum(1) > 0
    truth, answer = labels[kept].to_numpy(), np.array(names)[probabilities[kept].argmax(1)]
    return {
        "accuracy": accuracy_score(truth, answer),
        "macro_f1": f1_score(truth, answer, average="macro"),
        "nmi": nmi(truth, answer),
        "ari": ari(truth, answer),
    }


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="base", choices=list(RECIPES))
    parser.add_argument("--sets", nargs="+", default=list(REAL), choices=SETS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()

    def made(name: str, recipe: str, seed: int, _: str, steps: int, folds: int) -> list[dict[str, object]]:
        adata = load_set(name)
        start = time.process_time()
        found = out_of_fold(adata, RECIPES[recipe], seed, steps, folds)
        seconds = time.process_time() - start
        labels = adata.obs["region"].astype(str)
        names = sorted(set(labels) - {"unlabelled"})
        rings = aggregate(found, connectivities=adata.obsp["spatial_connectivities"], n_hops=N_HOPS)
        smooth = rings.reshape(adata.n_obs, N_HOPS + 1, -1).mean(1) * (found.sum(1, keepdims=True) > 0)
        return [
            {"readout": readout, **scores(values, labels, names), "cpu_seconds": round(seconds)}
            for readout, values in (("neighborhood", found), ("hops", smooth))
        ]

    how = {"config": [config_hash(options.recipe)], "steps": [options.steps], "folds": [options.folds]}
    wanted = keys(set=options.sets, recipe=[options.recipe], seed=range(options.seeds), **how)
    fill(options.out / "ceiling.csv", wanted, made)


if __name__ == "__main__":
    main()
