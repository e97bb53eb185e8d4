"""Predict perturbations that were not trained on, beside the baselines; a table of all scores by category.

    export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 SCJEPA_DATA=...
    python -m benchmarks.cells.perturbation --sets papalexi norman --seeds 1

A seed draws the split ``simulation`` (1 is GEARS') and the weights. Test conditions are left out of everything that is
learned, pretraining and baselines included: the model is made on the other cells alone. Expression is log(1 + count /
size · median size). Rows go to ``results/perturbation.csv``: set × seed × method × category × rule for correlations
that are not defined, each a mean over conditions; ``results/perturbation_conditions.csv`` has every condition, and
``results/perturbation_splits/`` the splits. Finished rows are not run again.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.records import append

import scjepa
from scjepa.metrics import PerturbationReference, perturbation_reference, perturbation_scores
from scjepa.perturbation import (
    CONTROL,
    Conditions,
    PerturbationSplit,
    log_normalized,
    predict_baselines,
    simulation_split,
)

RESULTS = Path(__file__).parent / "results"
TABLE, EACH = RESULTS / "perturbation.csv", RESULTS / "perturbation_conditions.csv"

VARIANTS: dict[str, dict] = {
    "celljepa": {},
    "celljepa_delta": {"delta_aware": True},
    "celljepa_from_nothing": {"from_control": False},
    "celljepa_from_nothing_delta": {"from_control": False, "delta_aware": True},
    "celljepa_no_jepa": {"jepa_weight": 0.0},
}
"""Ours: changes to the preset's ``perturbation``, and arguments of ``train_perturbation``."""


def load_set(name: str) -> tuple[AnnData, str | None]:
    """Return the cells of a screen, and the column of their sizes."""
    if name == "papalexi":
        return scjepa.datasets.load("papalexi_eccite_299g"), None
    adata = scjepa.datasets.load("perturb_norman_mcfaline_500g")
    return adata[adata.obs["dataset"] == "norman19"].copy(), "size_total"


def train(adata: AnnData, split: PerturbationSplit, size_key: str | None, variant: str, args) -> scjepa.CellJEPA:
    """Pretrain on the cells of training conditions, then train on the conditions."""
    options = dict(VARIANTS[variant])
    delta_aware = options.pop("delta_aware", False)
    objective = {"jepa_weight": options.pop("jepa_weight")} if "jepa_weight" in options else {}
    training = {"max_steps": args.steps, "batch_size": args.batch_size}
    scjepa.CellJEPA.setup_anndata(adata)
    changes = {"training": training, "objective": objective, **options}
    model = scjepa.CellJEPA(adata, args.preset, seed=args.seed, perturbation=changes)
    # The monitor reads at the beginning and at the end: each reading costs as much as some ten steps.
    quiet = {"accelerator": "cpu", "progress_bar": False, "monitor_every": args.steps}
    model.train(max_steps=args.pretraining_steps, **quiet)
    how = {"delta_aware": delta_aware, "outside": "token", "size_key": size_key}
    if not split.validation:
        how["validation_size"] = args.validation_size
    model.train_perturbation(split=split, **how, **quiet)
    return model


def profiles(model: scjepa.CellJEPA, conditions: list[str]) -> pd.DataFrame:
    """Return predicted mean profiles, conditions × genes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*their vectors are random.*")  # counted in the table instead
        return model.predict_perturbation(conditions, method="network").to_df().set_axis(conditions, axis=0)


def rows_of(
    predicted: pd.DataFrame, reference: PerturbationReference, split: PerturbationSplit, panel: pd.Index
) -> pd.DataFrame:
    """Return scores of each condition under both rules, with its category and what was seen of its genes."""
    parts = []
    for rule in ("zero", "omit"):
        scores = perturbation_scores(predicted, reference, nan=rule)
        scores.insert(0, "nan", rule)
        parts.append(scores)
    table = pd.concat(parts)
    table.insert(0, "category", [split.part_of(name) for name in table.index])
    table.insert(1, "condition", table.index)
    table.insert(2, "n_singles_seen", [split.n_singles_seen(name) for name in table.index])
    genes = [[g for g in name.split("+") if g != CONTROL] for name in table.index]
    table.insert(3, "n_in_panel", [sum(g in panel for g in each) for each in genes])
    return table.reset_index(drop=True)


def done(name: str, seed: int) -> set[str]:
    """Return the methods of a set and seed that have rows."""
    if not TABLE.is_file():
        return set()
    table = pd.read_csv(TABLE)
    return set(table.loc[(table["set"] == name) & (table["seed"] == seed), "method"])


def run(name: str, args) -> None:
    """Score all methods on one set and one seed."""
    adata, size_key = load_set(name)
    conditions = Conditions.of_adata(adata)
    adata.obs["condition"] = [conditions.names[code] for code in conditions.codes]
    split = simulation_split(conditions.names, args.seed, validation=False)
    folder = RESULTS / "perturbation_splits"
    folder.mkdir(parents=True, exist_ok=True)
    split.save(folder / f"{name}_{args.seed}.json")
    seen = adata[~adata.obs["condition"].isin(split.test_conditions)].copy()
    sizes = seen.obs[size_key] if size_key else pd.Series(np.asarray(seen.X.sum(axis=1)).ravel())
    target_sum = float(sizes[sizes > 0].median())
    expression = log_normalized(adata, size_key=size_key, target_sum=target_sum)
    reference = perturbation_reference(expression, adata.obs["condition"], adata.var_names)
    means = reference.means.loc[list(split.train)]
    wanted = list(split.test_conditions)
    finished = done(name, args.seed)

    def keep(method: str, predicted: pd.DataFrame, seconds: float, options: dict) -> None:
        each = rows_of(predicted, reference, split, adata.var_names)
        marks = {"set": name, "seed": args.seed, "method": method, "delta_aware": options.get("delta_aware", "")}
        each = pd.concat([pd.DataFrame(marks, index=each.index), each], axis=1)
        scores = [column for column in each if column.startswith(("pearson", "mse", "delta_size"))]
        total = each.assign(category="all")
        by = [*marks, "category", "nan"]
        mean = pd.concat([each, total]).groupby(by, sort=False, dropna=False)[scores].mean().reset_index()
        counted = pd.concat([each, total]).groupby(by, sort=False, dropna=False).size().to_numpy()
        mean.insert(len(by), "n_conditions", counted)
        append(TABLE, mean.assign(seconds=round(seconds, 1), steps=options.get("steps", "")))
        append(EACH, each)
        print(mean[mean["nan"] == "zero"].round(3).to_string(), flush=True)

    for method, predicted in predict_baselines(means, reference.control, wanted).items():
        if method not in finished:
            keep(method, predicted, 0.0, {})
    for variant in args.variants:
        if variant in finished:
            continue
        start = time.process_time()
        model = train(seen, split, size_key, variant, args)
        found = profiles(model, wanted)
        steps = f"{args.pretraining_steps}+{model.perturbation_.n_steps}x{args.batch_size}"
        options = {"delta_aware": VARIANTS[variant].get("delta_aware", False), "steps": steps}
        keep(variant, found, time.process_time() - start, options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["papalexi", "norman"], choices=["papalexi", "norman"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--variants", nargs="*", default=["celljepa", "celljepa_delta"], choices=list(VARIANTS))
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--pretraining-steps", type=int, default=200)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--validation-size", type=float, default=0.01)
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        arguments.seed = seed
        for each in arguments.sets:
            run(each, arguments)
