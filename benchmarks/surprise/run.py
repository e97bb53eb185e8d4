"""What surprise and spillover find of faults that were planted in real sections.

    export SCJEPA_DATA=... OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.surprise.run V1 mPFC osmFISH embryo xenium      # results/cells.csv, results/genes.csv
    python -m benchmarks.surprise.run --model V1 --faults swapped          # the same with trained models
    python -m benchmarks.surprise.run --table                              # results/surprise.md from the csv files

AUC of the planted cells against all others, by depth alone (the counts of a cell, either direction as it is), by
``tl.surprise``, ``tl.spillover``, and by ``model.get_surprise`` of a demo model that was trained for 150 steps on the
section with its faults. Also the share of planted cells, and of the others (false alarms), with a p-value below 0.05.
Fault "nothing": no fault was planted, so the AUC is 0.5 but for chance. Genes: AUC of leaking genes by the slope of
``tl.spillover`` and by their level alone. The way to score was chosen on seed 0 of V1, mPFC, osmFISH and embryo
(swapped cells, doublets, spillover); folded patches, leaking genes, xenium and the other seeds took no part.

Sets: embryo is z-slice with most cells, its middle 5,000; xenium one tile, its middle 5,000 cells of 20 counts or more,
with clusters in the place of cell types. Labels of types go with the counts. Rows that are there are not made again.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.records import append, commit, done
from benchmarks.surprise import plant
from sklearn.metrics import roc_auc_score

import scjepa
from scjepa._core.squidpy import spatial_graph

RESULTS = Path(__file__).parent / "results"
SETS = {
    "V1": "starmap_visual_cortex",
    "mPFC": "starmap_mpfc_3sections",
    "osmFISH": "osmfish_somatosensory_cortex",
    "embryo": "seqfish_mouse_embryo2",
    "xenium": "xenium_breast_51k_unlabelled",
}
SEEDS = (0, 1, 2)
MOST_CELLS = 5_000
ALARM = 0.05


def load(name: str) -> AnnData:
    """Return a set with cell types and a graph of ten neighbors."""
    adata = scjepa.datasets.load(SETS[name])
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() >= (20 if name == "xenium" else 1)].copy()
    if adata.n_obs > MOST_CELLS:
        largest = adata.obs["section"].value_counts().index[0]
        adata = adata[adata.obs["section"] == largest].copy()
        places = adata.obsm["spatial"]
        middle = np.linalg.norm(places - np.median(places, axis=0), axis=1).argsort()[:MOST_CELLS]
        adata = adata[np.sort(middle)].copy()
    adata.obs["section"] = adata.obs["section"].astype(str).astype("category")
    spatial_graph(adata, n_neighs=10, library_key="section")
    if "cell_type" not in adata.obs:
        adata.obs["cell_type"] = clusters(adata)
    return adata


def clusters(adata: AnnData) -> pd.Series:
    """Return clusters of the expression of cells, in the place of cell types."""
    import scanpy as sc

    copy = AnnData(adata.X.copy(), obs=adata.obs[[]], var=adata.var[[]])
    sc.pp.normalize_total(copy, target_sum=1e4)
    sc.pp.log1p(copy)
    sc.pp.pca(copy, n_comps=30)
    sc.pp.neighbors(copy)
    sc.tl.leiden(copy, flavor="igraph", n_iterations=2)
    return copy.obs["leiden"]


def trained(adata: AnnData) -> scjepa.STJEPA:
    """Return a demo model that was trained on the section as it is, faults and all."""
    scjepa.STJEPA.setup_anndata(adata, library_key="section")
    model = scjepa.STJEPA(adata, preset="demo", seed=0)
    model.train(max_steps=150, progress_bar=False, enable_progress_bar=False)
    return model


def scored(fault: plant.Planted, score: np.ndarray, p_value: np.ndarray | None) -> dict[str, float]:
    """Return the AUC of faults, and how many of them and of the others are below the level."""
    there = fault.is_compared & np.isfinite(score)
    row = {"auc": roc_auc_score(fault.is_fault[there], score[there]), "n_faults": int(fault.is_fault[there].sum())}
    if p_value is not None:
        low = p_value < ALARM
        row |= {"found": low[there & fault.is_fault].mean(), "alarms": low[there & ~fault.is_fault].mean()}
    return row


def of_cells(name: str, adata: AnnData, fault_name: str, seed: int, with_model: bool) -> list[dict]:
    """Return a row for each method."""
    fault = plant.OF_CELLS[fault_name](adata, np.random.default_rng(seed))
    found, rows = fault.adata, []
    about = {"set": name, "fault": fault_name, "seed": seed, "commit": commit()}
    if with_model:
        start = time.process_time()
        model = trained(found)
        between = time.process_time()
        table = model.get_surprise()
        p_value = table["surprise_p_value"].to_numpy()
        row = scored(fault, table["surprise"].to_numpy(), p_value)
        times = {"train_cpu_s": between - start, "cpu_s": time.process_time() - between}
        return [{**about, "method": "model surprise", **row, **times}]
    depth = np.asarray(found.X.sum(axis=1)).ravel().astype(float)
    rows.append({**about, "method": "depth", **scored(fault, depth, None)})
    for method, call in (("surprise", scjepa.tl.surprise), ("spillover", scjepa.tl.spillover)):
        start = time.process_time()
        call(found)
        p_value = found.obs[f"{method}_p_value"].to_numpy()
        row = scored(fault, found.obs[method].to_numpy(), p_value)
        rows.append({**about, "method": method, **row, "cpu_s": time.process_time() - start})
    return rows


def of_genes(name: str, adata: AnnData, seed: int) -> list[dict]:
    """Return a row for each way to suspect genes."""
    fault = plant.leaking_genes(adata, np.random.default_rng(seed))
    table = scjepa.tl.spillover(fault.adata).set_index("gene").reindex(adata.var_names)
    level = np.asarray(adata.X.mean(axis=0)).ravel()
    ways = {"slope": table["slope"], "z": table["z"], "context_share": table["context_share"], "level": level}
    about = {"set": name, "seed": seed, "commit": commit()}
    return [
        {**about, "method": way, **scored(fault, np.nan_to_num(np.asarray(values, dtype=float)), None)}
        for way, values in ways.items()
    ]


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", choices=[*SETS, []])
    parser.add_argument("--model", action="store_true")
    parser.add_argument("--faults", nargs="+", choices=list(plant.OF_CELLS), default=list(plant.OF_CELLS))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    for name in options.sets:
        adata = load(name)
        for seed in SEEDS:
            for fault in options.faults:
                key = {"set": name, "fault": fault, "seed": seed}
                key["method"] = "model surprise" if options.model else "depth"
                if not done(RESULTS / "cells.csv", key):
                    append(RESULTS / "cells.csv", pd.DataFrame(of_cells(name, adata, fault, seed, options.model)))
            if not options.model and not done(RESULTS / "genes.csv", {"set": name, "seed": seed}):
                append(RESULTS / "genes.csv", pd.DataFrame(of_genes(name, adata, seed)))
    if options.table:
        write_table()


def write_table() -> None:
    """Write mean AUC over seeds, smallest and largest in brackets."""
    lines = []
    for file, by in (("cells", ["set", "fault"]), ("genes", ["set"])):
        rows = pd.read_csv(RESULTS / f"{file}.csv")
        spread = rows.groupby([*by, "method"], sort=False)["auc"].agg(["mean", "min", "max"])
        text = spread.apply(lambda one: f"{one['mean']:.2f} ({one['min']:.2f}-{one['max']:.2f})", axis=1)
        lines += [
            f"AUC of planted {file}, mean over seeds (range)\n",
            text.unstack("method").fillna("").to_markdown(),
            "",
        ]
        if "alarms" in rows:
            alarms = rows.groupby(["fault", "method"], sort=False)[["found", "alarms"]].mean().dropna().round(3)
            lines += [f"Cells with p < {ALARM}: share of those planted, and of the others\n", alarms.to_markdown(), ""]
    (RESULTS / "surprise.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
