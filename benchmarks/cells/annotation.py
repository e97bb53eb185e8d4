"""Label cells of another study or donor by labelled cells, and find cells of types that the reference lacks.

    python -m benchmarks.cells.annotation --seeds 3                   # what is missing, all tasks and methods
    python -m benchmarks.cells.annotation --methods linear --tasks "3k > 4k" --leave-out
    python -m benchmarks.cells.annotation --tasks "3k > 4k" "3k > kang" --hierarchy

Tasks: labels of ``pbmc3k`` for ``pbmc4k_half`` and for ``pbmc_kang_muscat``; donor 101 of the latter for donor 107, and
the other way. Labels are mapped to the names of ``pbmc4k_half``. All methods get the counts of the genes that both
have. With ``--leave-out`` each type in turn is left out of the reference: ``found_at_10`` is the share of its cells
that are found where a tenth of the cells of known types are false alarms, by a threshold that looks at the labels, the
same for all methods; ``found`` and ``alarms`` are those of the stated error of 10 %, which looks at the reference
alone. Rows go to ``results/annotation.csv``, scores of each type to ``results/annotation_types.csv``.

With ``--hierarchy`` the linear method gives each cell the most specific term of ``PARENTS`` that is sure at an error
of 10 %. ``results/annotation_hierarchy.csv`` has, by level, the share of cells whose term is of it, how many of these
terms are right (the truth or above it), and how many would be if the most probable label were taken up to that level.

The linear method's design (scaling, discriminants rather than a regression, the distance that tells unknown cells) was
chosen on ``celllines_sc_mixology``, on ``pbmc68k_reduced`` and within ``pbmc3k``, not on what is scored here. Cell-JEPA
is read from models trained without labels and without the study that is scored: folders of
``benchmarks.checkpoints.human_blood_small --leave-out STUDY --out FOLDER/STUDY``, given as ``--models FOLDER``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.cells.sets import target
from benchmarks.records import append, commit, done

import scjepa
from scjepa.metrics import annotation_scores

RESULTS = Path(__file__).parent / "results"
ERROR = 0.1
FEWEST = 10
"""Cells of a type, on both sides, for it to be left out in turn."""

OF_3K = {
    "Naive CD4 T": "CD4 T cells",
    "Memory CD4 T": "CD4 T cells",
    "CD8 T": "CD8 T cells",
    "CD14+ Mono": "CD14+ Monocytes",
    "FCGR3A+ Mono": "FCGR3A+ Monocytes",
    "B": "B cells",
    "NK": "NK cells",
    "DC": "Dendritic Cells",
    "Platelet": "Megakaryocytes",
}


PARENTS = {
    "CD4 T cells": "T cells",
    "CD8 T cells": "T cells",
    "T cells": "Lymphocytes",
    "NK cells": "Lymphocytes",
    "B cells": "Lymphocytes",
    "CD14+ Monocytes": "Monocytes",
    "FCGR3A+ Monocytes": "Monocytes",
    "Monocytes": "Myeloid cells",
    "Dendritic Cells": "Myeloid cells",
    "Lymphocytes": "Blood cells",
    "Myeloid cells": "Blood cells",
    "Megakaryocytes": "Blood cells",
}
"""Terms above the labels, as the Cell Ontology has them, but for platelets, which are taken for their mother cells."""


@dataclass(frozen=True)
class Task:
    """Labelled cells, cells to label, and the study that a pretrained model must not have seen."""

    reference: AnnData
    query: AnnData
    study: str


@dataclass(frozen=True)
class Answer:
    """Labels, how sure they are, and how far each cell is from all labels; what is called unknown, if anything is."""

    labels: np.ndarray
    confidence: np.ndarray
    distance: np.ndarray
    is_unknown: np.ndarray | None = None


def tasks() -> dict[str, Task]:
    """Return the tasks by name; both sides have the genes of both and a batch."""
    first, second, kang = target("pbmc3k"), target("pbmc4k_half"), target("pbmc_kang_muscat")
    first.obs["cell_type"] = first.obs["cell_type"].map(OF_3K).astype(str)
    donor = kang.obs["donor"].astype(str)
    of = {name: kang[donor == name].copy() for name in ("101", "107")}
    sides = {
        "3k > 4k": (first, second, "pbmc4k"),
        "3k > kang": (first, kang, "kang"),
        "101 > 107": (of["101"], of["107"], "kang"),
        "107 > 101": (of["107"], of["101"], "kang"),
    }
    found = {}
    for name, (reference, query, study) in sides.items():
        genes = reference.var_names[reference.var_names.isin(query.var_names)]
        found[name] = Task(reference[:, genes].copy(), query[:, genes].copy(), study)
    return found


def by_linear(task: Task, seed: int, options: argparse.Namespace) -> Answer:
    """Do what ``scjepa.tl.annotate`` does, without a network."""
    query = AnnData(task.query.X, obs=task.query.obs[["batch"]].copy(), var=task.query.var[[]])
    how = {"batch_key": "batch", "query_batch_key": "batch", "error": ERROR, "random_state": seed, "key_added": "found"}
    scjepa.tl.annotate(query, task.reference, "cell_type", **how)
    found = query.obs
    labels, sure = found["found_nearest"].astype(str).to_numpy(), found["found_confidence"].to_numpy()
    return Answer(labels, sure, -found["found_p_value"].to_numpy(), (found["found"] == "unknown").to_numpy())


def by_annotator(task: Task, seed: int, options: argparse.Namespace) -> Answer:
    """Read each cell by itself, as a saved annotator does."""
    reference, genes = task.reference, task.reference.var_names
    annotator = scjepa.tl.CellAnnotator(error=ERROR, seed=seed)
    annotator.fit(reference.X, reference.obs["cell_type"], reference.obs["batch"], feature_names=genes)
    found = annotator.predict(task.query.X, task.query.obs["batch"], feature_names=genes)
    labels, sure = found["nearest"].astype(str).to_numpy(), found["confidence"].to_numpy()
    return Answer(labels, sure, found["distance"].to_numpy(), (found["label"] == "unknown").to_numpy())


def of_probabilities(probabilities: np.ndarray, names: np.ndarray) -> Answer:
    """Return the most probable label, and one less its probability as distance."""
    sure = probabilities.max(axis=1)
    return Answer(np.asarray(names)[probabilities.argmax(axis=1)].astype(str), sure, 1 - sure)


def components(task: Task, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return principal components of highly variable genes, fitted on the reference."""
    from scjepa.benchmark.controls import pca_on_hvg

    embed = pca_on_hvg(task.reference, seed)
    return embed(task.reference), embed(task.query)


def by_neighbors(task: Task, seed: int, options: argparse.Namespace) -> Answer:
    """Vote of 15 neighbors among principal components."""
    from sklearn.neighbors import KNeighborsClassifier

    reference, query = components(task, seed)
    model = KNeighborsClassifier(15).fit(reference, task.reference.obs["cell_type"])
    return of_probabilities(model.predict_proba(query), model.classes_)


def by_regression(task: Task, seed: int, options: argparse.Namespace) -> Answer:
    """Logistic regression on principal components."""
    from sklearn.linear_model import LogisticRegression

    reference, query = components(task, seed)
    model = LogisticRegression(max_iter=1000).fit(reference, task.reference.obs["cell_type"])
    return of_probabilities(model.predict_proba(query), model.classes_)


def by_celltypist(task: Task, seed: int, options: argparse.Namespace) -> Answer:
    """CellTypist, trained on the reference by SGD: its other solver does not run with scikit-learn 1.9."""
    import celltypist
    import scanpy as sc

    sides = [
        AnnData(side.X.astype(np.float32), obs=side.obs, var=side.var[[]]) for side in (task.reference, task.query)
    ]
    for side in sides:
        sc.pp.normalize_total(side, target_sum=1e4)
        sc.pp.log1p(side)
    model = celltypist.train(sides[0], labels="cell_type", use_SGD=True, n_jobs=1, random_state=seed)
    found = celltypist.annotate(sides[1], model=model, majority_voting=False).probability_matrix
    return of_probabilities(found.to_numpy(), found.columns.to_numpy())


def by_scanvi(task: Task, seed: int, options: argparse.Namespace) -> Answer:
    """ScANVI on 2,000 variable genes of the reference, then its query by scArches; few epochs."""
    import scanpy as sc
    import scvi

    scvi.settings.seed = seed
    reference, query = task.reference.copy(), task.query.copy()
    sc.pp.highly_variable_genes(reference, n_top_genes=min(2000, reference.n_vars), flavor="seurat_v3", span=0.5)
    genes = reference.var_names[reference.var["highly_variable"]]
    reference, query = reference[:, genes].copy(), query[:, genes].copy()
    quiet = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
    query.obs["batch"] = query.obs["batch"].astype(str)
    reference.obs["batch"] = reference.obs["batch"].astype(str)
    scvi.model.SCVI.setup_anndata(reference, batch_key="batch", labels_key="cell_type")
    base = scvi.model.SCVI(reference)
    base.train(max_epochs=options.scanvi_epochs, **quiet)
    model = scvi.model.SCANVI.from_scvi_model(base, unlabeled_category="Unknown")
    model.train(max_epochs=max(1, options.scanvi_epochs // 2), **quiet)
    query.obs["cell_type"] = "Unknown"
    mapped = scvi.model.SCANVI.load_query_data(query, model)
    mapped.train(max_epochs=max(1, options.scanvi_epochs // 2), plan_kwargs={"weight_decay": 0.0}, **quiet)
    found = mapped.predict(soft=True).drop(columns="Unknown", errors="ignore")
    return of_probabilities(found.to_numpy(), found.columns.to_numpy())


def by_celljepa(method: str) -> Callable[[Task, int, argparse.Namespace], Answer]:
    """Return ``CellJEPA.predict_labels`` of a model that saw neither labels nor the query."""

    def run(task: Task, seed: int, options: argparse.Namespace) -> Answer:
        folder = options.models / task.study
        reference = task.reference.copy()
        genes = scjepa.pretrained.vocabulary(folder).names
        reference = reference[:, reference.var_names.isin(genes)].copy()
        scjepa.CellJEPA.setup_anndata(reference, batch_key="batch", labels_key="cell_type")
        model = scjepa.CellJEPA.from_pretrained(folder, reference, accelerator="cpu")
        found = model.predict_labels(task.query, method=method)
        labels, sure = found["label"].astype(str).to_numpy(), found["confidence"].to_numpy()
        classifier = model._labelled.reference.classifier
        calls = classifier.predict(model.get_latent_representation(task.query), task.query.obs["batch"])
        return Answer(labels, sure, calls.distances, calls.p_values < ERROR)

    return run


METHODS: Mapping[str, Callable[[Task, int, argparse.Namespace], Answer]] = {
    "linear": by_linear,
    "linear, one by one": by_annotator,
    "neighbors": by_neighbors,
    "regression": by_regression,
    "celltypist": by_celltypist,
    "scanvi": by_scanvi,
    "celljepa": by_celljepa("neighbors"),
    "celljepa linear": by_celljepa("linear"),
}


def score(task: Task, answer: Answer, left_out: str) -> tuple[dict, pd.DataFrame]:
    """Return scores of a run, and those of each type."""
    truth = task.query.obs["cell_type"].astype(str).to_numpy()
    known = np.unique(task.reference.obs["cell_type"].astype(str))
    found = annotation_scores(truth, answer.labels, answer.confidence, known=known)
    is_known = np.isin(truth, known)
    row = {"accuracy": found.accuracy, "macro_f1": found.macro_f1, "ece": found.calibration_error}
    row |= {"n_cells": found.n_cells, "n_reference": task.reference.n_obs, "n_genes": task.reference.n_vars}
    if answer.is_unknown is not None:
        row["alarms"] = float(answer.is_unknown[is_known].mean())
    if left_out:
        new = truth == left_out
        row["n_new"] = int(new.sum())
        row["found_at_10"] = float((answer.distance[new] > np.quantile(answer.distance[is_known], 0.9)).mean())
        if answer.is_unknown is not None:
            row["found"] = float(answer.is_unknown[new].mean())
    sizes = task.reference.obs["cell_type"].astype(str).value_counts()
    types = found.labels.drop(columns="unknown").assign(n_reference=sizes).reset_index()
    return row, types


def left_out_of(task: Task) -> list[str]:
    """Return the types that are left out in turn."""
    both = [side.obs["cell_type"].astype(str).value_counts() for side in (task.reference, task.query)]
    return sorted(name for name in both[0].index if min(both[0][name], both[1].get(name, 0)) >= FEWEST)


def run(name: str, task: Task, method: str, seed: int, left_out: str, options: argparse.Namespace) -> None:
    """Run a method once, if its rows are missing, and append scores."""
    key = {"task": name, "method": method, "seed": seed, "left_out": left_out}
    if done(options.out / "annotation.csv", key):
        return
    if left_out:
        kept = (task.reference.obs["cell_type"].astype(str) != left_out).to_numpy()
        task = Task(task.reference[kept].copy(), task.query, task.study)
        task.reference.obs["cell_type"] = task.reference.obs["cell_type"].astype(str)
    start = time.process_time()
    answer = METHODS[method](task, seed, options)
    seconds = time.process_time() - start
    row, types = score(task, answer, left_out)
    row["cpu_seconds"] = round(seconds, 1)
    append(options.out / "annotation.csv", pd.DataFrame([{**key, **row, "commit": commit()}]))
    if not left_out:
        append(options.out / "annotation_types.csv", types.assign(**key)[[*key, *types.columns]])
    print(key, {name: round(value, 3) for name, value in row.items()}, flush=True)


def above(name: str) -> list[str]:
    """Return a term and those above it."""
    return [name, *(above(PARENTS[name]) if name in PARENTS else [])]


def hierarchy(name: str, task: Task, out: Path) -> None:
    """Score the terms that cells get, by level."""
    query = AnnData(task.query.X, obs=task.query.obs[["batch"]].copy(), var=task.query.var[[]])
    start = time.process_time()
    how = {"batch_key": "batch", "query_batch_key": "batch", "error": ERROR, "key_added": "found"}
    scjepa.tl.annotate(query, task.reference, "cell_type", hierarchy=PARENTS, **how)
    seconds = time.process_time() - start
    truth = [above(label) for label in task.query.obs["cell_type"].astype(str)]
    nearest = [above(label) for label in query.obs["found_nearest"].astype(str)]
    terms = query.obs["found_term"].astype(str).to_numpy()
    right = np.array([term in each for term, each in zip(terms, truth, strict=True)])
    labels = set(task.reference.obs["cell_type"].astype(str))
    levels = {term: len(above(term)) - 1 for term in [*PARENTS, "Blood cells"]}
    rows = []
    for level in ["label", *sorted({levels[t] for t in levels if t not in labels}, reverse=True), "unknown"]:
        if level == "label":
            of = np.isin(terms, list(labels))
            forced = np.mean([a[0] == b[0] for a, b in zip(nearest, truth, strict=True)])
        elif level == "unknown":
            of, forced = terms == "unknown", np.nan
        else:
            of = np.array([term not in labels and levels.get(term) == level for term in terms])
            up = [[each[max(0, len(each) - 1 - level)] for each in side] for side in (nearest, truth)]
            forced = np.mean([a == b for a, b in zip(*up, strict=True)])
        names = ", ".join(f"{term} {n}" for term, n in pd.Series(terms[of]).value_counts().items())
        row = {"task": name, "level": level, "share": of.mean(), "right": right[of].mean() if of.any() else np.nan}
        rows.append(row | {"forced_right": forced, "terms": names})
    given = terms != "unknown"
    rows.append({"task": name, "level": "all terms", "share": given.mean(), "right": right[given].mean()})
    append(out, pd.DataFrame(rows).assign(cpu_seconds=round(seconds, 1), commit=commit()))
    print(pd.DataFrame(rows).round(3).to_string(), flush=True)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", help="default: all")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--leave-out", action="store_true", help="leave each type out of the reference in turn")
    parser.add_argument("--hierarchy", action="store_true", help="score terms of a hierarchy, linear method alone")
    parser.add_argument("--scanvi-epochs", type=int, default=20)
    parser.add_argument("--models", type=Path, help="folder of pretrained models, by the study that they have not seen")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name, task in tasks().items():
        if options.tasks and name not in options.tasks:
            continue
        if options.hierarchy:
            if not done(options.out / "annotation_hierarchy.csv", {"task": name}):
                hierarchy(name, task, options.out / "annotation_hierarchy.csv")
            continue
        for method in options.methods:
            for seed in range(options.seeds):
                for left_out in left_out_of(task) if options.leave_out else [""]:
                    run(name, task, method, seed, left_out, options)


if __name__ == "__main__":
    main()
