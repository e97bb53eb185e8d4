"""Closed-form predictions of perturbations: the stack that ships beside no change, train mean, additive and linear.

    export OMP_NUM_THREADS=1 SCJEPA_DATA=...
    python -m benchmarks.cells.perturbation_closed                              # seconds a split
    python -m benchmarks.cells.perturbation_closed --vectors reactome control celljepa both blood linear
    python -m benchmarks.cells.perturbation_closed --sets papalexi --seeds 1 --vectors --network     # minutes a split

Sets, splits (seeds 1 to 3) and expression are those of ``perturbation.py``; test conditions are left out of all that is
learned. Rows go to ``results/perturbation_closed.csv`` (set × seed × method × category, means over conditions;
correlations that are not defined count as 0), each condition to ``results/perturbation_closed_conditions.csv``, and
``results/perturbation_closed.md`` has means over splits and what the stack differs by from each other method, with 95%
intervals of 2,000 paired bootstrap draws of a set's test conditions of all splits. Rows of methods that are not run
again stay.

``--vectors``: ``celljepa`` pretrains on the cells that are not of test conditions; ``both`` joins its vectors and those
of ``control``; ``blood`` are those of ``human-blood-small``, or of ``--blood FOLDER``; with ``linear``, the model of
Ahlmann-Eltze et al. is read with each of them in the place of its own components of the perturbed genes, as well.
``--network`` trains Cell-JEPA's network on a split with validation conditions, a tenth of the training conditions: on
these its share in ``method="stack"`` is found. "stack, fewer conditions" is the stack beside it, of as few.

The rule (columns, their priors, five pseudo-conditions, what counts for half) was found on left-out *training*
conditions of the splits of seed 1 and on the three glioma lines of ``perturb_norman_mcfaline_500g``, which are not
scored; numbers it fits come from the training conditions of the split that is scored. Training conditions of seed 1 are
test conditions of other seeds, so those splits are not wholly untouched; the split of seed 1 is.

Written before the first run on test conditions:

1. ``papalexi``, correlation of changes, mean of three splits: train mean and additive 0.414 (stored). The stack has
   0.47 to 0.52: its usual change is not that of SPI1 and MYC, and it knows that a knock-out loses its own gene. Ahead
   of the train mean on each split.
2. ``papalexi``, mean absolute error: below the train mean's by 5 to 10%.
3. ``norman``, correlation of changes: the stack 0.40 to 0.45, additive 0.411, train mean 0.328. Singles of genes not
   seen about as good as the train mean (nothing is known of them), combos of which both genes are seen better.
4. ``norman``, mean absolute error: below all four.
5. Discrimination: near 0.5 for singles on either set, above it for combos of seen genes and where own genes are in the
   panel.
6. Vectors of gene sets help by 0.00 to 0.03 where pathways tell genes apart (``papalexi``), not beyond the interval;
   components of control cells and Cell-JEPA's vectors by nothing, for 17 of 25 perturbed genes of ``papalexi`` and all
   of ``norman`` are outside the panel.
7. Of the errors told, 1.645 standard deviations hold 85 to 95% of measured means.

What came: (1) and (2) failed, 0.416 and 1% less error, behind the train mean on the split of seed 2. (3) 0.482, more
than predicted; singles are behind the train mean (0.458, 0.499), combos of two seen genes behind the additive model
(0.542, 0.640). (4) and (5) hold. (6) gene sets gave 0.08 on ``papalexi``, beyond the interval. (7) 91% on
``papalexi``, 99% on ``norman``, too wide. The rule was not changed after that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.cells.perturbation import load_set, profiles, train
from safetensors.torch import load_file

import scjepa
from scjepa.metrics import (
    PerturbationReference,
    perturbation_discrimination,
    perturbation_reference,
    perturbation_scores,
)
from scjepa.perturbation import (
    CONTROL,
    ConditionProfiles,
    Conditions,
    PerturbationSplit,
    PerturbationStack,
    condition_profiles,
    gene_set_vectors,
    log_normalized,
    parse_condition,
    predict_baselines,
    simulation_split,
)

RESULTS = Path(__file__).parent / "results"
BASELINES = ("no_change", "train_mean", "additive", "linear")
Predictions: TypeAlias = "dict[str, tuple[pd.DataFrame, pd.DataFrame | None]]"
"""Profiles, and their errors where they are told, by method."""

COMPARED = ("pearson_delta", "mae", "discrimination")
SHOWN = (
    "pearson_delta",
    "pearson_delta_de",
    "pearson_delta_top20_de_non_dropout",
    "pearson",
    "mae",
    "mae_de",
    "mse",
    "delta_size",
    "de_recovery",
    "discrimination",
    "within_error",
)


def gene_sets(genes: tuple[str, ...]) -> pd.DataFrame:
    """Return vectors of genes by the sets of Reactome and of MSigDB's hallmarks."""
    folder = Path(scjepa.settings.data_dir) / "genesets"
    files = ("reactome_v2025_human.gmt", "hallmark_v2025_human.gmt")
    return gene_set_vectors({k: v for file in files for k, v in scjepa.datasets.read_gmt(folder / file).items()}, genes)


def control_components(expression: np.ndarray, genes: pd.Index, n: int = 10) -> pd.DataFrame:
    """Return loadings of genes on components of control cells, genes scaled."""
    scaled = expression - expression.mean(axis=0)
    scaled /= np.maximum(scaled.std(axis=0), 1e-6)
    _, size, loadings = np.linalg.svd(scaled, full_matrices=False)
    return pd.DataFrame((size[:n, None] * loadings[:n]).T, genes)


def celljepa_vectors(seen: AnnData, seed: int, steps: int) -> pd.DataFrame:
    """Return Cell-JEPA's table of genes, about its mean, pretrained on the cells that are not of test conditions."""
    scjepa.CellJEPA.setup_anndata(seen)
    model = scjepa.CellJEPA(seen, "demo", seed=seed, training={"max_steps": steps, "batch_size": 32})
    model.train(max_steps=steps, accelerator="cpu", progress_bar=False, monitor_every=steps)
    table = pd.DataFrame(
        model.module.target.embedding.gene.weight.numpy(force=True), index=list(model.vocabulary.names)
    )
    return table - table.mean()


def pretrained_vectors(name: str) -> pd.DataFrame:
    """Return the gene vectors of a checkpoint or a saved model, about their mean."""
    weights = load_file(scjepa.pretrained.locate(name) / scjepa.pretrained.WEIGHTS_FILE)
    names = list(scjepa.pretrained.vocabulary(name).names)
    table = pd.DataFrame(weights["target.embedding.gene.weight"].numpy()[: len(names)], index=names)
    return table - table.mean()


def joined(*tables: pd.DataFrame) -> pd.DataFrame:
    """Return vectors of several kinds side by side, each of length 1; a gene that one kind lacks has 0 there."""
    unit = [table.div(np.linalg.norm(table, axis=1), axis=0) for table in tables]
    return pd.concat(unit, axis=1).fillna(0.0).set_axis(range(sum(table.shape[1] for table in unit)), axis=1)


def linear_with(known: ConditionProfiles, wanted: list[str], vectors: pd.DataFrame, ridge: float = 0.1) -> pd.DataFrame:
    """Predict with means = G W P + b, P the vectors given of perturbed genes; without one, the train mean."""
    y = known.means.to_numpy(dtype=np.float64).T
    usual = y.mean(axis=1)
    left, size, _ = np.linalg.svd(y - usual[:, None], full_matrices=False)
    k = min(10, y.shape[1] - 1)
    g, unit = left[:, :k] * size[:k], joined(vectors)

    def placed(names: Sequence[str]) -> np.ndarray:
        genes = [[gene for gene in parse_condition(name) if gene in unit.index] for name in names]
        return np.stack([unit.loc[each].to_numpy().sum(axis=0) for each in genes])

    p = placed(list(known.means.index))
    kept = p.any(axis=1)
    left_side = np.linalg.solve(g.T @ g + ridge * np.eye(k), g.T @ (y - usual[:, None])[:, kept] @ p[kept])
    w = np.linalg.solve(p[kept].T @ p[kept] + ridge * np.eye(p.shape[1]), left_side.T).T
    return pd.DataFrame(usual + placed(wanted) @ w.T @ g.T, wanted, known.means.columns)


def with_network(
    seen: AnnData, names: Sequence[str], wanted: list[str], size_key: str | None, seed: int, args: argparse.Namespace
) -> Predictions:
    """Predict with the network, alone and by its share in the stack, and with the stack of as many conditions."""
    split = simulation_split(names, seed)
    options = argparse.Namespace(**{**vars(args), "seed": seed, "pretraining_steps": 200})
    model = train(seen, split, size_key, "celljepa", options)
    print(f"share of the network by {len(split.validation)} conditions: {model.perturbation_.network_weight:.3f}")
    of_stack = model.predict_perturbation(wanted).to_df().set_axis(wanted, axis=0)
    found = {"network": (profiles(model, wanted), None), "stack and network": (of_stack, None)}
    return found | {"stack, fewer conditions": model.perturbation_.stack.predict(wanted, return_std=True)}


def scored(
    predicted: pd.DataFrame, reference: PerturbationReference, split: PerturbationSplit, std: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return a row of scores for each condition."""
    table = perturbation_scores(predicted, reference)
    table["discrimination"] = perturbation_discrimination(predicted, reference)
    if std is not None:
        away = np.abs(predicted - reference.means.loc[predicted.index, predicted.columns])
        table["within_error"] = (away <= 1.645 * std).mean(axis=1)
    table.insert(0, "category", [split.part_of(name) for name in table.index])
    return table.rename_axis("condition").reset_index()


def methods(known: ConditionProfiles, wanted: list[str], vectors: dict[str, pd.DataFrame], linear: bool) -> Predictions:
    """Return predictions, and their errors where they are told."""
    found: Predictions = {}
    for name, predicted in predict_baselines(known.means, known.control, wanted).items():
        found[name] = predicted, None
    stack = PerturbationStack().fit(known.means, known.control, known.noise)
    found["stack"] = stack.predict(wanted, return_std=True)
    for name in ("usual", "genes"):
        found[name] = stack.predict(wanted, method=name), None
    for name, table in vectors.items():
        other = PerturbationStack().fit(known.means, known.control, known.noise, vectors=table)
        found[f"stack, vectors of {name}"] = other.predict(wanted, return_std=True)
        if linear:
            found[f"linear, vectors of {name}"] = linear_with(known, wanted, table), None
    return found


def run(name: str, seed: int, args: argparse.Namespace) -> pd.DataFrame:
    """Score all methods on one split."""
    adata, size_key = load_set(name)
    conditions = Conditions.of_adata(adata)
    split = simulation_split(conditions.names, seed, validation=False)
    start = time.process_time()
    known = condition_profiles(adata, conditions=split.train, size_key=size_key)
    wanted = list(split.test_conditions)
    expression = log_normalized(adata, size_key=size_key, target_sum=known.target_sum)
    labels = np.array(conditions.names)[conditions.codes]
    # float64 as the profiles are: of no change nothing is left but 0.
    reference = perturbation_reference(expression.astype(np.float64), labels, adata.var_names)
    seen, vectors = adata[~np.isin(labels, split.test_conditions)].copy(), {}
    seen.obs["condition"] = labels[~np.isin(labels, split.test_conditions)]
    if "reactome" in args.vectors:
        vectors["gene sets"] = gene_sets(conditions.perturbed_genes)
    if "control" in args.vectors or "both" in args.vectors:
        vectors["control's components"] = control_components(expression[labels == CONTROL].toarray(), adata.var_names)
    if {"celljepa", "both"} & {*args.vectors} and name == "papalexi":  # on norman no perturbed gene has a vector
        vectors["Cell-JEPA"] = celljepa_vectors(seen.copy(), seed, args.pretraining_steps)
    if "both" in args.vectors and name == "papalexi":
        vectors["both"] = joined(vectors["control's components"], vectors["Cell-JEPA"])
    if "blood" in args.vectors:
        vectors[f"Cell-JEPA of blood, {args.blood_name}"] = table = pretrained_vectors(args.blood)
        there = sum(gene in table.index for gene in conditions.perturbed_genes)
        print(f"{there} of {len(conditions.perturbed_genes)} perturbed genes have a vector of {args.blood}")
    found = methods(known, wanted, vectors, "linear" in args.vectors)
    if args.network:
        found |= with_network(seen, conditions.names, wanted, size_key, seed, args)
    parts = []
    for method, (predicted, std) in found.items():
        table = scored(predicted, reference, split, std)
        parts.append(table.assign(set=name, seed=seed, method=method))
    print(f"{name}, seed {seed}: {time.process_time() - start:.1f} s", flush=True)
    rows = pd.concat(parts)
    return rows[["set", "seed", "method", *(c for c in rows if c not in ("set", "seed", "method"))]]


def differences(each: pd.DataFrame, ours: str = "stack", seed: int = 0, n_draws: int = 2000) -> pd.DataFrame:
    """Return what one method differs by from others, with intervals of paired draws of conditions.

    A draw is of the conditions of each split; the difference is the mean over splits of their means.
    """
    rows, rng = [], np.random.default_rng(seed)
    for name, of_set in each.groupby("set", sort=False):
        for score in COMPARED:
            tables = [t.pivot(index="condition", columns="method", values=score) for _, t in of_set.groupby("seed")]
            for method in of_set["method"].unique():
                if method == ours or not all(method in table for table in tables):
                    continue
                away = [(table[ours] - table[method]).to_numpy() for table in tables]
                drawn = np.mean([d[rng.integers(len(d), size=(n_draws, len(d)))].mean(axis=1) for d in away], axis=0)
                low, high = np.quantile(drawn, [0.025, 0.975])
                mean = float(np.mean([d.mean() for d in away]))
                of_splits = "/".join(f"{d.mean():+.4f}" for d in away)
                row = {"set": name, "score": score, f"{ours} minus": method, "difference": mean}
                rows.append(row | {"low": low, "high": high, "by split": of_splits})
    return pd.DataFrame(rows)


def stored_networks() -> pd.DataFrame:
    """Return what networks had on the same splits, from the stored study; their absolute errors were not kept."""
    table = pd.read_csv(RESULTS / "perturbation.csv")
    table = table[(table["nan"] == "zero") & table["method"].isin(["celljepa", "celljepa_delta"])]
    return table.drop(columns=["nan"])


def markdown(table: pd.DataFrame, digits: int = 4) -> str:
    """Return a table of text."""
    text = table.map(
        lambda value: "" if value != value else f"{value:.{digits}f}" if isinstance(value, float) else value
    )
    lines = [[*map(str, table.columns)], ["---"] * table.shape[1], *text.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Run all and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["papalexi", "norman"], choices=["papalexi", "norman"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--vectors", nargs="*", default=["reactome", "control"])
    parser.add_argument("--pretraining-steps", type=int, default=150)
    parser.add_argument("--blood", default="human-blood-small", help="folder or name of a model of blood")
    parser.add_argument("--blood-name", default="2,000 genes", help="what its rows are called")
    parser.add_argument("--network", action="store_true", help="train the network as well")
    parser.add_argument("--preset", default="demo", help="of the network")
    parser.add_argument("--steps", type=int, default=300, help="of the network on conditions")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    each = pd.concat([run(name, seed, args) for name in args.sets for seed in args.seeds])
    path = args.out / "perturbation_closed_conditions.csv"
    if path.is_file():  # rows of methods that were not run again stay
        before, key = pd.read_csv(path), ["set", "seed", "method"]
        kept = ~pd.MultiIndex.from_frame(before[key]).isin(pd.MultiIndex.from_frame(each[key]))
        each = pd.concat([each, before[kept]]).sort_values(["set", "seed"], kind="stable", ascending=[False, True])
    scores = [column for column in each if column not in ("set", "seed", "method", "category", "condition")]
    by = ["set", "seed", "method", "category"]
    both = pd.concat([each.assign(category="all"), each])
    means = both.groupby(by, sort=False)[scores].mean()
    means.insert(0, "n_conditions", both.groupby(by, sort=False).size())
    each.to_csv(path, index=False, float_format="%.5g")
    means.reset_index().to_csv(args.out / "perturbation_closed.csv", index=False, float_format="%.5g")
    table = pd.concat([means.reset_index(), stored_networks()])
    told = table[table["set"].isin(each["set"])].groupby(["set", "category", "method"], sort=False)[list(SHOWN)].mean()
    text = ["Means over the splits; `celljepa` and `celljepa_delta` are rows of `perturbation.csv`.", ""]
    text += [markdown(told.reset_index(), 3), "", "The stack minus others, all test conditions (95% intervals).", ""]
    text += [markdown(differences(each)), ""]
    if "stack, vectors of gene sets" in set(each["method"]):
        simple = each[each["method"].isin([*BASELINES, "stack, vectors of gene sets"])]
        text += ["The stack with gene sets minus baselines.", ""]
        text += [markdown(differences(simple, "stack, vectors of gene sets")), ""]
    (args.out / "perturbation_closed.md").write_text("\n".join(text), encoding="utf-8")
    print(told.loc[(slice(None), "all"), :].round(3).to_string())
    print(differences(each).round(4).to_string())


if __name__ == "__main__":
    main()
