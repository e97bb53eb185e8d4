"""Where a linear method should be hard pressed, and what a network is worth there. Both are read out alike.

    export SCJEPA_DATA=... OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.quality.worth --sets V1 --seeds 3       # few genes, few counts: two minutes a row of runs
    python -m benchmarks.quality.worth new --seeds 3             # a mouse or section that took no part in the fit
    python -m benchmarks.quality.worth pair --seeds 3            # two technologies with 15 genes in common
    python -m benchmarks.quality.worth context --seeds 3         # types of cells that are hidden, from their neighbors
    python -m benchmarks.quality.worth table                     # results/worth.md from results/worth*.csv

*Few genes, few counts.* A seed draws the genes of a small panel, or the counts that are kept, and the network's start;
every method of a row sees the same draw and is fitted on it. Scores and methods are those of niches.py. Predictions,
written first: with 20 and 50 genes of V1 the embedding alone is ahead of the linear method by 0.03 or more (as on the
second annotation of osmFISH), with 100 it is level; with few counts it is behind, for ranks and values of tokens are
noisier than means over rings. ``worth_first.csv``: rows of before the rule asked for ring 3 too (readout_rule.md).

*New.* Each mouse of mPFC in turn, each of four sections of DLPFC, and embryos 1 and 3 where embryo 2 is known are left
out of the fit of everything: the network, the components, the read-out (but the 1,000 genes of DLPFC were taken of all
four). Labels are those of the 15 nearest cells of the others: layers, and for the embryos the commonest type of a
cell's ten neighbors. Prediction for mPFC: level within what seeds differ; none was written for the other two, which
were run later.

*Pair.* V1 and smFISH as on the page of two technologies: niches of both together, layers carried both ways. The linear
method reads the genes in common with covariances aligned. Prediction: the network (preset `technologies`) is ahead in
agreement, as on V1 x osmFISH, and behind the components in common of shared_components.py.

*Context.* The type of a cell, by logistic regression on what its neighbors alone say: means over them (those of
headroom.py), or the embedding of a neighborhood whose index cell is hidden. Blocks are held out from the regression,
not from the networks, which know no types. "Taught" is a deep set that is given the types of the training blocks, to
see what is there at most. Predictions: taught is ahead of the linear method by 0.02 or less, and `base` is behind it.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from benchmarks.atlas.leave_out import UNLABELLED
from benchmarks.atlas.leave_out import load_set as of_atlas
from benchmarks.paper.harmony import scores as pair_scores
from benchmarks.paper.kept import task_of
from benchmarks.quality import headroom
from benchmarks.quality.niches import RESULTS, linear, network, of_preset, rows_of
from benchmarks.quality.readouts import read_out
from benchmarks.quality.sets import load_labelled
from benchmarks.records import fill, spread
from benchmarks.records import table as table_of
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

import scjepa
from scjepa._core.squidpy import spatial_graph

TABLE = RESULTS.with_name("worth.csv")
GENES, SHARES = (100, 50, 20), (0.5, 0.25, 0.1)
SHOWN = ("linear, by the rule", "base alone", "base and expression", "untrained alone", "neighborhood PCA")


def harder(adata: AnnData, seed: int) -> dict[str, AnnData]:
    """Return the set with fewer genes, and with fewer counts."""
    rng = np.random.default_rng(seed)
    found = {}
    order = rng.permutation(adata.n_vars)
    for number in GENES:
        if number < adata.n_vars:
            found[f"{number} genes"] = adata[:, np.sort(order[:number])].copy()
    for share in SHARES:
        found[f"{share:.0%} of counts"] = scjepa.datasets.thin_counts(adata, share, seed=seed)
    return found


def run(names: list[str], seeds: int, tasks: list[str]) -> None:
    """Make the rows that are not there, of all tasks or of those that are named."""
    for name in names:
        for seed in range(seeds):
            drawn = harder(load_labelled(name), seed)

            def made(_: str, task: str, seed: int, drawn: dict[str, AnnData] = drawn) -> list[dict[str, object]]:
                adata = drawn[task]
                return rows_of([*linear(adata), *network(adata, of_preset(adata, seed))], adata)

            fill(TABLE, [{"set": name, "task": task, "seed": seed} for task in tasks or drawn], made)


# -- a section that took no part -------------------------------------------------------------------------------------


LEFT_OUT = {
    "mPFC": ("BZ5", "BZ9", "BZ14"),
    "DLPFC": ("151673", "151674", "151675", "151676"),
    "embryo": ("embryo 1", "embryo 3"),
}
"""What is left out of each set in turn."""


def without(left_out: str) -> tuple[AnnData, AnnData]:
    """Return known sections and those that are left out, with ``section``, ``region`` and the graph."""
    if left_out in LEFT_OUT["embryo"]:
        known, crops = (load_labelled(f"seqfish_mouse_{name}") for name in ("embryo2", "embryo1_3_crops"))
        parts = known, crops[crops.obs["section"].str.startswith(left_out.replace(" ", ""))].copy()
        for part in parts:
            part.obs["region"] = around(part)
    else:
        adata = load_labelled("mPFC") if left_out in LEFT_OUT["mPFC"] else of_atlas("DLPFC")
        is_out = adata.obs["section"].astype(str).str.endswith(left_out)
        parts = adata[~is_out].copy(), adata[is_out].copy()
    for part in parts:
        part.obs["section"] = part.obs["section"].astype(str).astype("category")
    return parts


def around(adata: AnnData) -> np.ndarray:
    """Return the commonest type of the neighbors of each cell."""
    types = pd.get_dummies(adata.obs["cell_type"].astype(str))
    counts = (adata.obsp["spatial_connectivities"] > 0) @ types.to_numpy(np.float32)
    return types.columns.to_numpy()[counts.argmax(axis=1)]


def new(left_out: str, seed: int) -> list[dict[str, object]]:
    """Return how well labels are carried to a section that took no part in any fit."""
    known, other = without(left_out)
    scjepa.STJEPA.setup_anndata(known, library_key="section")
    model = scjepa.STJEPA(known, "base", seed=seed)
    embedded = {}
    for state in ("untrained", "base"):
        if state == "base":
            model.train(progress_bar=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This model is not trained")
            embedded[state] = [model.get_latent_representation(part, scale="cell") for part in (known, other)]
    expression = [part.X for part in (known, other)]
    sources = {
        "linear": {"X": expression},
        "base alone": {"cells": embedded["base"]},
        "base and expression": {"X": expression, "cells": embedded["base"]},
        "untrained alone": {"cells": embedded["untrained"]},
    }
    return [{"method": method, **carried(own, known, other)} for method, own in sources.items()]


def carried(sources: dict[str, list], known: AnnData, other: AnnData) -> dict[str, float]:
    """Return how many labels of the other cells are those of the 15 nearest known ones."""
    readout = scjepa.tl.NicheReadout()
    graphs = [part.obsp["spatial_connectivities"] for part in (known, other)]
    first = readout.fit_transform({k: v[0] for k, v in sources.items()}, graphs[0], known.obs["section"])
    second = readout.transform({k: v[1] for k, v in sources.items()}, graphs[1], other.obs["section"])
    labels, truth = (part.obs["region"].astype(str).to_numpy() for part in (known, other))
    with_label, scored_on = (~np.isin(one, UNLABELLED) for one in (labels, truth))
    nearest = KNeighborsClassifier(15).fit(first[with_label], labels[with_label])
    return scored(truth[scored_on], nearest.predict(second[scored_on]))


def scored(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Return accuracy and macro F1 over the labels that are there."""
    f1 = f1_score(truth, found, labels=np.unique(truth), average="macro", zero_division=0)
    return {"accuracy": accuracy_score(truth, found), "f1": float(f1)}


# -- two technologies ------------------------------------------------------------------------------------------------


def pair(_: str, seed: int) -> list[dict[str, object]]:
    """Return joint niches and carried layers of V1 and smFISH, by the embedding of both."""
    task = task_of(
        {"V1": "starmap_visual_cortex", "smFISH": "smfish_mouse_visp_layers"}, "region_harmonised", "technologies"
    )
    scjepa.STJEPA.setup_anndata(task.adata, technology_key="technology", library_key="section", panel_key="panel")
    model = scjepa.STJEPA(task.adata, "technologies", seed=seed)
    model.train(progress_bar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # cells without a count of a shared gene
        cells = {"cell": model.get_latent_representation(scale="cell", genes="shared")}
    spaces = {name: read_out(name, cells, task.adata) for name in ("hops", "aligned_hops", "niche", "aligned_niche")}
    return [{"method": f"technologies, {name}", **_by_side(pair_scores(task, v))} for name, v in spaces.items()]


def _by_side(found: dict[str, float]) -> dict[str, float]:
    """Return scores with labels that were carried named by their direction."""
    carried_by = [name for name in found if " to " in name]
    renamed = dict(zip(carried_by, ("first to second", "second to first"), strict=True))
    return {renamed.get(name, name): value for name, value in found.items()}


# -- types of hidden cells -------------------------------------------------------------------------------------------

CONTEXT = {"mPFC": "mPFC", "osmFISH": "osmFISH", "embryo crops": "seqfish_mouse_embryo1_3_crops"}
"""Sets with types of cells, by their names in headroom.py and in sets.py."""


class Taught(nn.Module):
    """A deep set over 20 neighbors that is given the types: a network for each, learned weights, a network for all."""

    def __init__(self, n_comps: int, n_means: int, n_types: int, width: int = 128, n_heads: int = 4):
        super().__init__()
        self.cell = nn.Sequential(
            nn.Linear(n_comps + 1, width), nn.GELU(), nn.Dropout(0.3), nn.Linear(width, width), nn.GELU()
        )
        self.weigh = nn.Linear(width, n_heads)
        n_in = (n_heads + 2) * width + n_means
        self.all = nn.Sequential(nn.Linear(n_in, width), nn.GELU(), nn.Dropout(0.4), nn.Linear(width, n_types))

    def forward(self, neighbors: Tensor, distances: Tensor, means: Tensor) -> Tensor:
        """Return ``(n_cells, n_types)`` from ``(n_cells, 20, n_comps)``, ``(n_cells, 20)``, ``(n_cells, n_means)``."""
        each = self.cell(torch.cat([neighbors, distances[..., None]], dim=-1))
        weighed = self.weigh(each).softmax(1).mT @ each
        return self.all(torch.cat([each[:, :10].mean(1), each[:, 10:].mean(1), weighed.flatten(1), means], dim=-1))


def taught(
    cells: headroom.Cells, means: np.ndarray, codes: np.ndarray, train: np.ndarray, validate: np.ndarray, seed: int
) -> np.ndarray:
    """Return the type of every cell by a deep set, stopped by the accuracy on the blocks that validate."""
    torch.manual_seed(seed)
    model = Taught(cells.components.shape[1], means.shape[1], int(codes.max()) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.1)
    own = torch.as_tensor(cells.components / cells.components.std(axis=0).mean())
    rest = [torch.as_tensor(values) for values in (cells.distances, means.astype(np.float32))]
    neighbors, rng, best = torch.as_tensor(cells.neighbors), np.random.default_rng(seed), (0.0, np.zeros(len(codes)))

    def scores_of(some: Tensor) -> Tensor:
        return model(own[neighbors[some]], *(values[some] for values in rest))

    for step in range(1, 1_501):
        model.train()
        some = torch.as_tensor(train[rng.integers(0, len(train), 256)])
        loss = nn.functional.cross_entropy(scores_of(some), torch.as_tensor(codes)[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            model.eval()
            with torch.no_grad():
                rows = torch.arange(len(codes)).split(4_096)
                found = torch.cat([scores_of(some).argmax(1) for some in rows]).numpy()
            best = max(best, (float((found[validate] == codes[validate]).mean()), found), key=lambda one: one[0])
    return best[1]


def context(name: str, seed: int) -> list[dict[str, object]]:
    """Return how well the type of a cell is told by its neighbors alone, on blocks that were held out."""
    cells = headroom.read(name, "all", seed)
    adata = load_labelled(CONTEXT[name])
    adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    spatial_graph(adata, n_neighs=10, library_key="section")
    known = ~np.isin(cells.types, headroom.UNKNOWN)
    train, validate, test = (part[known[part]] for part in headroom.parts(cells, seed, None))
    codes = np.unique(cells.types, return_inverse=True)[1]
    scjepa.STJEPA.setup_anndata(adata, library_key="section")
    model = scjepa.STJEPA(adata, "base", masking={"scheme": "mixture"}, seed=seed)
    model.train(progress_bar=False)
    means = standardized(headroom.means_around(cells), train)
    hidden = standardized(headroom.hidden(model, adata), train)
    spaces = {"linear": means, "base alone": hidden, "base and linear": np.hstack([means, hidden])}
    rows = [{"method": "taught", **scored(codes[test], taught(cells, means, codes, train, validate, seed)[test])}]
    for method, values in spaces.items():
        fitted = [LogisticRegression(C=c, max_iter=300).fit(values[train], codes[train]) for c in (1e-3, 1e-2, 1e-1)]
        best = max(fitted, key=lambda one: one.score(values[validate], codes[validate]))
        rows.append({"method": method, **scored(codes[test], best.predict(values[test]))})
    return rows


def standardized(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return the values with the mean 0 and the variance 1 of the training cells."""
    return (values - values[train].mean(axis=0)) / values[train].std(axis=0).clip(1e-6)


# -- tables ----------------------------------------------------------------------------------------------------------

OTHERS = {
    "new": (new, [{"left out": one} for name in LEFT_OUT for one in LEFT_OUT[name]]),
    "pair": (pair, [{"pair": "V1 x smFISH"}]),
    "context": (context, [{"set": name} for name in CONTEXT]),
}
"""Other tasks: how the rows of a batch are made, and the keys of batches."""


def run_other(task: str, seeds: int, some: list[str]) -> None:
    """Make the rows of another task that are not there, of all batches or of those that are named."""
    made, wanted = OTHERS[task]
    wanted = [one for one in wanted if not some or next(iter(one.values())) in some]
    fill(TABLE.with_name(f"worth_{task}.csv"), [{**one, "seed": s} for s in range(seeds) for one in wanted], made)


def table_of_others() -> None:
    """Write the means over batches and seeds of every other task, and how far a method is from the linear one."""
    for task in OTHERS:
        path = TABLE.with_name(f"worth_{task}.csv")
        if not path.is_file():
            continue
        rows = pd.read_csv(path).drop(columns="commit")
        by = next(iter(OTHERS[task][1][0]))
        measures = [name for name in rows if name not in (by, "seed", "method")]
        means = rows.groupby([by, "method"], sort=False)[measures].agg(["mean", "std"])
        lines = [[*key, *(spread(*row[m]) for m in measures)] for key, row in means.iterrows()]
        text = table_of([by, "method", *measures], lines)
        path.with_suffix(".md").write_text(f"{text}\n")
        print(text)


def table() -> None:
    """Write means over seeds, and the difference of the embedding to the linear method, draw by draw."""
    columns, lines = ["nmi", "nmi_matched"], []
    for (name, task), own in pd.read_csv(TABLE).groupby(["set", "task"], sort=False):
        by = own.set_index(["method", "seed"])[columns]
        means = [" / ".join(f"{value:.3f}" for value in by.loc[method].mean()) for method in SHOWN]
        change = by.loc["base alone"] - by.loc["linear, by the rule"]
        told = " / ".join(f"{change[c].mean():+.3f} ± {change[c].std(ddof=0):.3f}" for c in columns)
        lines.append([f"{name}, {task}", *means, told])
    text = table_of(["set", *SHOWN, "`base` alone less linear"], lines)
    TABLE.with_suffix(".md").write_text(f"{text}\n")
    print(text)
    table_of_others()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("run", "table", *OTHERS), default="run")
    parser.add_argument("--sets", nargs="+", default=["V1"])
    parser.add_argument("--tasks", nargs="+", default=[], help="such as '20 genes', BZ5, osmFISH")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if options.what in OTHERS:
        run_other(options.what, options.seeds, options.tasks)
    else:
        table() if options.what == "table" else run(options.sets, options.seeds, options.tasks)
