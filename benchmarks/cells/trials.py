"""Try configurations of Cell-JEPA: train on ``pbmc3k``, embed ``pbmc4k_half`` zero-shot, append rows.

    python -m benchmarks.cells.trials plan.json

``plan.json`` is a list of ``{"trial": name, "steps": n, "parts": {...}, "readouts": [...]}``; ``parts`` change the
preset, a readout is "pooling rule genes", such as "cls spread 600". Rows are never overwritten: they are the record of
what was tried. ``knn`` is the share of cells that the vote of their 15 nearest cells labels rightly, ``knn_centered``
the same by angles about the mean cell; they are cheap, so AvgBIO is computed for the first read-out alone. Labels chose
among trials, so the winner's own row is optimistic; ``run.sh pbmc`` then trains it on more data and further seeds.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks.cells.sets import corpus, highly_variable, target
from benchmarks.records import append, commit
from sklearn.preprocessing import normalize

import scjepa
from scjepa import datasets
from scjepa.benchmark.controls import pca_on_hvg
from scjepa.benchmark.suites.cell_tasks import knn_accuracy

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")
RESULTS = Path(__file__).parent / "results"
WATCHED = ("reconstruction_loss", "jepa_loss", "module_loss", "loss_ratio", "effective_rank", "mean_cosine")
READOUTS = ("cls spread 600", "cls top 600", "genes spread 600", "cls spread 3000")


def bio(embedding: np.ndarray, labels: pd.Series) -> dict:
    """Return AvgBIO and its parts."""
    score = scjepa.metrics.average_bio(embedding, labels)
    return {name: round(getattr(score, name), 4) for name in ("avg_bio", "nmi", "ari", "asw")}


def knn(embedding: np.ndarray, labels: pd.Series) -> float:
    """Return the accuracy of a vote of nearest cells, five-fold."""
    return round(knn_accuracy(embedding, labels.to_numpy()), 4)


def run(plan: dict, options: argparse.Namespace) -> None:
    """Train as the plan says, score its read-outs and append their rows."""
    scored = target()
    labels = scored.obs["cell_type"]
    row = {"trial": plan["trial"], "parts": json.dumps(plan.get("parts", {})), "seed": plan.get("seed", 0)}
    row["commit"] = commit()
    if plan.get("baseline") == "hvg_pca":
        embedding = pca_on_hvg(scored)(scored)
        scores = {**row, "readout": "hvg_pca", "knn": knn(embedding, labels), **bio(embedding, labels)}
        append(options.out, pd.DataFrame([scores]))
        return
    adata = corpus() if plan.get("corpus") else datasets.load("pbmc3k")
    if "hvg" in plan:
        adata = highly_variable(adata, plan["hvg"])
        row["hvg"] = plan["hvg"]
    scjepa.CellJEPA.setup_anndata(adata)
    more = {}
    if plan.get("modules") == "co-expression":
        scjepa.tl.gene_modules(adata)
        more["modules"] = "module"
    elif "modules" in plan:
        more["modules"] = plan["modules"]
    model = scjepa.CellJEPA(adata, plan.get("preset", "demo"), seed=row["seed"], **plan.get("parts", {}), **more)
    start = time.process_time()
    if plan["steps"]:
        model.train(max_steps=plan["steps"], accelerator="cpu", progress_bar=False)
        model.save(options.models / plan["trial"].replace(" ", "_"), overwrite=True)
    row.update(cpu_seconds=round(time.process_time() - start), steps=model.n_steps_)
    for metric in WATCHED:
        if model.history_ and metric in model.history:
            values = model.history[metric][metric]  # losses by step, the others by monitor
            row[metric] = round(float(values.iloc[-20 if metric.endswith("_loss") else -1 :].mean()), 3)
    for number, readout in enumerate(plan.get("readouts", READOUTS)):
        pooling, kept, n_tokens = readout.split()
        embedding = model.get_latent_representation(scored, scale=pooling, n_tokens=int(n_tokens), kept=kept)
        scores = {**row, "readout": readout, "knn": knn(embedding, labels)}
        scores["knn_centered"] = knn(normalize(embedding - embedding.mean(0)), labels)
        if number == 0 and plan.get("bio", True):
            scores.update(bio(embedding, labels))
        append(options.out, pd.DataFrame([scores]))
        print({k: v for k, v in scores.items() if k not in ("commit", "parts")}, flush=True)


def main() -> None:
    """Read the command line and run the plans."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "trials.csv")
    parser.add_argument("--models", type=Path, default=Path("/tmp/scjepa_trials"))
    options = parser.parse_args()
    for plan in json.loads(options.plan.read_text()):
        run(plan, options)


if __name__ == "__main__":
    main()
