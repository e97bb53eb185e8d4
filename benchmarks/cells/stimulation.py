"""Sanity case of perturbation: one condition, interferon, learned from one donor and scored on the other.

    python -m benchmarks.cells.stimulation --seeds 3

``pbmc_kang_muscat`` has control and stimulated blood of two donors. Interferon is no gene, so it is written
``IFN+ctrl`` and has a token without a value (``outside="token"``). Trained on donor 101; predicted is the mean
stimulated profile, scored against donor 107: its own change from its own control. "donor 101's change" adds the
measured mean change of donor 101 to the control of 107, which is what a model of one condition can know at best. Rows
go to ``results/stimulation.csv``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.records import append, commit, done

import scjepa
from scjepa import datasets
from scjepa.metrics import PerturbationReference, perturbation_reference, perturbation_scores
from scjepa.perturbation import log_normalized

RESULTS = Path(__file__).parent / "results"
CONDITION = "IFN+ctrl"

CHEAP = {"n_tokens": 300, "training": {"batch_size": 16, "max_steps": 150}}
"""300 of 1,267 genes at a time: minutes on a CPU."""


def donors() -> tuple[AnnData, AnnData]:
    """Return the cells to train on and those to score, conditions in GEARS' grammar."""
    adata = datasets.load("pbmc_kang_muscat")
    adata.obs["condition"] = adata.obs["condition"].map({"ctrl": "ctrl", "stim": CONDITION}).astype(str)
    seen, other = (adata[adata.obs["donor"].astype(str) == donor].copy() for donor in ("101", "107"))
    return seen, other


def change(adata: AnnData, target_sum: float) -> tuple[np.ndarray, np.ndarray, PerturbationReference]:
    """Return the mean of control, that of the stimulated minus it, and the reference of scores."""
    expression = log_normalized(adata, target_sum=target_sum)
    reference = perturbation_reference(expression, adata.obs["condition"], adata.var_names)
    control = reference.control.to_numpy()
    return control, reference.means.loc[CONDITION].to_numpy() - control, reference


def run(seed: int, options: argparse.Namespace) -> None:
    """Train with one seed, if its rows are missing, and append scores."""
    if done(options.out, {"seed": seed}):
        return
    seen, other = donors()
    target_sum = float(np.median(np.asarray(seen.X.sum(axis=1)).ravel()))
    (before, step, _), (control, _, reference) = change(seen, target_sum), change(other, target_sum)
    predicted = {"no change": np.zeros_like(step), "donor 101's change": step}
    for name, aware in (("celljepa", False), ("celljepa_delta", True)):
        scjepa.CellJEPA.setup_anndata(seen)
        model = scjepa.CellJEPA(seen, options.preset, seed=seed, perturbation=CHEAP)
        quiet = {"accelerator": "cpu", "progress_bar": False}
        model.train(max_steps=options.pretraining_steps, **quiet)
        start = time.process_time()
        model.train_perturbation(outside="token", delta_aware=aware, target_sum=target_sum, **quiet)
        print(f"{name}, seed {seed}: {time.process_time() - start:.0f} CPU s", flush=True)
        profile = (
            model.predict_perturbation([CONDITION], method="network")
            .to_df()
            .iloc[0]
            .reindex(other.var_names)
            .to_numpy()
        )
        predicted[name] = profile - before
    for name, delta in predicted.items():
        profile = pd.DataFrame([control + delta], index=[CONDITION], columns=other.var_names)
        scores = perturbation_scores(profile, reference).iloc[0].round(4)
        append(options.out, pd.DataFrame([{"method": name, "seed": seed, **scores.to_dict(), "commit": commit()}]))
        print(name, scores.to_dict(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--pretraining-steps", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULTS / "stimulation.csv")
    arguments = parser.parse_args()
    for number in range(arguments.seeds):
        run(number, arguments)
