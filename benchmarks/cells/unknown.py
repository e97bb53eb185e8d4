"""Choose how cells of types that the reference lacks are found: statistics, pooling over neighbors, and thresholds.

    python -m benchmarks.cells.unknown choose     # half of pbmc3k, cell lines, pbmc68k_reduced; chosen by these
    python -m benchmarks.cells.unknown report     # 3k > 4k, 3k > kang, donors of kang; a task that has rows is not run
    python -m benchmarks.cells.unknown report --contrasts-alone --out unknown_contrast.csv     # seconds a task

Each type in turn is left out of the reference. ``at10`` is the share of its cells found where a tenth of the cells of
known types are false alarms, by a threshold that looks at the labels; ``found`` and ``alarms`` are those of a stated
error of 10 %, by held-out reference cells. ``results/unknown.csv`` has means over the types that were left out; rows
that lost stay. A row is named by the space, what is taken off the query, the statistic, and the cells that are pooled;
rows of thresholds say how distances of the query are brought to those of held-out cells.

``results/unknown_first.csv`` has means over tasks of the rows that the choice was made by, and what they had on the
sets to report; there both sides counted half in axes of both, where today every cell counts alike. Of the sets to
choose by, the row with most found at 10 % alarms or fewer was taken, ``span, drift + relative, own 10, Fisher``
(84 % at 9 %). Before it, ``relative, median`` and ``relative, own 25`` had been taken by the least alarms of any task,
and their outcome on the sets to report was seen: alarms of 26 %, and 58 % found, on 4k.

``--crowding-alone`` has another candidate that lost: how much nearer a cell lies to the nearest 5 % of its batch than
to the nearest 5 % of the reference, which had found layers that an atlas of tissue lacks. It was to be taken if more
were found on the sets to choose by, with neither the mean nor the worst task's alarms above those of the rule
(expected: 85 % found, 70 % on ``101 > 107``, ``3k > kang`` not mended). With the two distances, in ten axes, scaled
within the batch, it was: 89 % at 9 % alarms on nine sets (the rule: 81 % at 9 %). On the sets to report, run once, it
finds 71 and 88 % on the donors at 5 and 6 % alarms (the rule: 61 and 86 % at 8 %), but has alarms of 15 % on 4k (8 %),
and meets the aim nowhere that the rule does not: so the rule stays as it was. Labels whose cells are all crowded could
be pulled back; that costs a third of the gain on the sets to choose by, and was not run on the others.
``results/unknown_crowding.csv`` has means of the trials, of a script that is not kept, ``n_tasks`` of 9 with
``3k biased more``: the 50 to 150 axes of tissue, places averaged over neighbors and scales by label did less well.

``--contrasts-alone --out results/unknown_contrast.csv`` has a candidate that lost: what a neighborhood differs by from
the mean of its batch, compared with labels by the angle, each side scaled by itself. It was made after a look at the
geometry of ``3k > kang`` with its labels, where it was to take off the shift (40 to 70 % found at a tenth of alarms was
expected, for averages of whole types gave cosines of 0.69 to 0.83 where the reference had the type, and of 0.59 to 0.68
where not, in one batch of four). It finds 25 % there (the threshold looks at labels), more than the rule that ships on
4k (92 %) and less on the donors: neighborhoods of 15 cells of so few counts say too little. Even averages of whole
types of that set do not tell which type is new: left out, CD4 T cells and FCGR3A+ monocytes lie as near to a label as
types that the reference has. So ``annotate`` warns of a batch that lies farther from the reference, in the space of
both, than labels usually do from the nearest other: three of Kang's four batches (1.1 to 2.0 times), none of the other
tasks.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.cells.annotation import FEWEST, OF_3K, tasks
from benchmarks.cells.sets import target
from benchmarks.records import append, commit, done
from scipy import sparse
from sklearn.covariance import ledoit_wolf
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.neighbors import NearestNeighbors

import scjepa
from scjepa._core.conformal import HeldOut
from scjepa.atlas._cells import _whitening
from scjepa.tl._annotate import _Gaussians
from scjepa.tl._annotator import Discriminants, drift, leading, stratified, typical, variable_genes

RESULTS = Path(__file__).parent / "results" / "unknown.csv"
COARSE = {"CD14+ Monocyte": "Mono", "CD19+ B": "B", "CD34+": "CD34", "CD56+ NK": "NK", "Dendritic": "DC"}
OF_4K = {"CD14+ Monocytes": "Mono", "FCGR3A+ Monocytes": "Mono", "B cells": "B", "NK cells": "NK"}
OF_4K |= {"CD4 T cells": "T", "CD8 T cells": "T", "Dendritic Cells": "DC", "Megakaryocytes": "Meg"}
LINES = (("celseq2_5cl_p1", "celseq2_5cl_p2"), ("celseq2_5cl_p2", "dropseq"), ("dropseq", "celseq2"))

Pair: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Of the query, and of the reference (places), or of its held-out cells (scores)."""


def cells(counts: sparse.spmatrix, types: np.ndarray, batches: np.ndarray, genes: pd.Index) -> AnnData:
    """Return cells with their types and batches."""
    obs = pd.DataFrame({"cell_type": types.astype(str), "batch": batches.astype(str)})
    obs.index = obs.index.astype(str)
    return AnnData(sparse.csr_matrix(counts).astype(np.float32), obs=obs, var=pd.DataFrame(index=list(genes)))


def sets_to_choose_by() -> dict[str, tuple[AnnData, AnnData]]:
    """Return references and queries that are not reported."""
    first, rng, found = target("pbmc3k"), np.random.default_rng(0), {}
    types = first.obs["cell_type"].map(OF_3K).astype(str).to_numpy()
    half = rng.permutation(first.n_obs) < first.n_obs // 2
    known = cells(first.X[half], types[half], np.full(half.sum(), "r"), first.var_names)
    rest = first.X[~half].tocoo()
    found["3k half"] = known, cells(rest, types[~half], np.full((~half).sum(), "q"), first.var_names)
    for name, by, draws in (("3k biased", 0.5, rng), ("3k biased more", 1.0, np.random.default_rng(1))):
        batch = draws.integers(0, 2, rest.shape[0])  # thinned, and each gene seen more or less by batch
        seen = np.exp(draws.normal(0, by, (2, rest.shape[1])))
        seen *= 0.6 / seen.mean(axis=1, keepdims=True)
        drawn = draws.poisson(rest.data * seen[batch[rest.row], rest.col])
        biased = sparse.csr_matrix((drawn, (rest.row, rest.col)), shape=rest.shape)
        found[name] = known, cells(biased, types[~half], batch, first.var_names)
    lines = scjepa.datasets.load("celllines_sc_mixology")
    lines = lines[lines.obs["demuxlet_cls"] == "SNG"].copy()
    of = lines.obs["batch"].astype(str).to_numpy()
    for pair in LINES:
        sides = [lines[of == f"sc_{name}"] for name in pair]
        sides = [cells(s.X, s.obs["cell_type"].to_numpy(), s.obs["batch"].to_numpy(), s.var_names) for s in sides]
        found[f"lines {pair[0]} > {pair[1]}"] = sides[0], sides[1]
    other = scjepa.datasets.load("pbmc68k_reduced")
    fine = other.obs["cell_type"].astype(str)
    coarse = np.array([COARSE.get(name, name[:3]) for name in fine])  # CD4 and CD8 of all kinds
    of = other.obs["batch"].astype(str).str[-1].astype(int).to_numpy()
    sides = [cells(other.X[k], coarse[k], of[k] * 0, other.var_names) for k in (of <= 4, of > 4)]
    found["68k halves"] = sides[0], sides[1]
    genes = other.var_names[other.var_names.isin(first.var_names)]
    coarse = np.where(np.isin(coarse, ("CD4", "CD8")), "T", coarse)
    one = cells(first[:, genes].X, np.array([OF_4K[name] for name in types]), np.full(len(types), "r"), genes)
    two = cells(other[:, genes].X, coarse, np.full(len(coarse), "q"), genes)
    return found | {"3k > 68k": (one, two), "68k > 3k": (two, one)}


def sets_to_report() -> dict[str, tuple[AnnData, AnnData]]:
    """Return references and queries of the annotation benchmark."""
    return {name: (task.reference, task.query) for name, task in tasks().items()}


def logged(adata: AnnData) -> sparse.csr_matrix:
    """Return log-normalized counts."""
    sizes = np.asarray(adata.X.sum(axis=1)).ravel()
    return sparse.csr_matrix(sparse.diags(1e4 / np.maximum(sizes, 1)) @ adata.X).log1p()


def spaces(reference: sparse.csr_matrix, query: sparse.csr_matrix, n_genes: int = 2000) -> dict[str, Pair]:
    """Return places on axes of the reference and on axes of both, query first; and what the former leaves out."""
    found, own = {}, variable_genes(reference, n_genes)
    for name, chosen in (("reference", own), ("both", np.union1d(own, variable_genes(query, n_genes)))):
        sides = [side[:, chosen].toarray() for side in (query, reference)]
        means = [side.mean(axis=0) for side in sides]
        spread = np.sqrt(sum(s.var(axis=0) for s in sides) / 2) if name == "both" else sides[1].std(axis=0)
        about = means if name == "both" else [means[1], means[1]]
        centered = [np.clip((s - m) / (spread + 1e-2), -10, 10) for s, m in zip(sides, about, strict=True)]
        of = centered if name == "both" else centered[1:]
        axes = leading(sum(s.T @ s for s in of), min(50, len(sides[1]) - 2))
        placed = [np.clip((s - means[1]) / (spread + 1e-2), -10, 10) for s in sides]
        found[name] = placed[0] @ axes, placed[1] @ axes
        if name == "reference":
            rest = [(s**2).sum(axis=1) - ((s @ axes) ** 2).sum(axis=1) for s in placed]
            found["residual"] = rest[0], rest[1]
    return found


def scores(new: np.ndarray, known: np.ndarray, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Return how far cells are from labelled cells, by several statistics."""
    n_labels = int(codes.max()) + 1
    of, means = _Gaussians.fit(known, codes, n_labels), Discriminants.fit(known, codes, n_labels)
    logits, span = means.read(new)
    _, distance = of.read(new)
    whole, _ = ledoit_wolf(known - known.mean(axis=0), assume_centered=True)
    away = (new - known.mean(axis=0)) @ np.linalg.cholesky(np.linalg.inv(whole + 1e-9 * np.eye(len(whole))))
    close = NearestNeighbors(n_neighbors=10).fit(known).kneighbors(new)[0].mean(axis=1)
    logits = logits - (new @ of.white @ of.white.T * new).sum(axis=1, keepdims=True) / 2
    energy = -np.logaddexp.reduce(logits, axis=1)
    probability = np.exp(logits / 4 - np.logaddexp.reduce(logits / 4, axis=1)[:, None]).max(axis=1)
    found = {"span": span, "Mahalanobis": distance, "relative Mahalanobis": distance - (away**2).sum(axis=1)}
    return found | {"neighbors": close, "energy": energy, "probability": 1 - probability}


def neighbors(places: np.ndarray, number: int) -> np.ndarray:
    """Return each cell's nearest cells, itself among them."""
    return NearestNeighbors(n_neighbors=min(number, len(places))).fit(places).kneighbors(places)[1]


def statistics(space: dict[str, Pair], codes: np.ndarray, batches: np.ndarray) -> dict[str, Pair]:
    """Return scores of query and held-out cells by space, shift, statistic and cells pooled."""
    found = {"reference, residual": space["residual"]}
    for name in ("reference", "both"):
        for shift in ("", ", unshifted"):
            new, known = space[name]
            model = _Gaussians.fit(known, codes, int(codes.max()) + 1)
            new = model.unshifted(new, batches) if shift else new
            of_query = scores(new, known, codes)
            held = {key: np.zeros(len(known)) for key in of_query}
            parts = list(stratified(codes, 2, 0))
            for train, test in parts:
                for key, values in scores(known[test], known[train], codes[train]).items():
                    held[key][test] = values
            for number in (1, 5, 15, 30):
                own = neighbors(new, number)
                for key, values in of_query.items():
                    pooled = np.zeros(len(known))
                    for _, test in parts:
                        pooled[test] = held[key][test][neighbors(known[test], number)].mean(axis=1)
                    found[f"{name}{shift}, {key}, {number} cells"] = values[own].mean(axis=1), pooled
    return found


def thresholds(space: dict[str, Pair], codes: np.ndarray, batches: np.ndarray) -> dict[str, Pair]:
    """Return two statistics by how the query's distances are brought to those of held-out cells."""
    n_labels, parts = int(codes.max()) + 1, list(stratified(codes, 5, 0))
    new, known = space["reference"]
    held, called = np.zeros(len(known)), np.zeros(len(known), dtype=int)
    for train, test in parts:
        logits, held[test] = Discriminants.fit(known[train], codes[train], n_labels).read(known[test])
        called[test] = logits.argmax(axis=1)
    logits, far = Discriminants.fit(known, codes, n_labels).read(new)
    for batch in np.unique(batches):
        own = batches == batch
        far[own] /= drift(logits[own].argmax(axis=1), far[own], typical(called, held, n_labels))
    found = {"span, drift": (far, held)}
    new, known = space["both"]
    held, called = np.zeros(len(known)), np.zeros(len(known), dtype=int)
    for train, test in parts:
        model = _Gaussians.fit(known[train], codes[train], n_labels)
        called[test], held[test] = model.read(model.unshifted(known[test], np.zeros(len(test))))
    held = held[neighbors(known, 15)].mean(axis=1)
    model = _Gaussians.fit(known, codes, n_labels)
    new = model.unshifted(new, batches)
    label, far = model.read(new)
    far = far[neighbors(new, 15)].mean(axis=1)
    usual = typical(called, held, n_labels)
    found["as it is"] = far, held
    usual = np.where(np.isnan(usual), np.nanmedian(usual), usual)
    for share, name in ((0.5, "median"), (0.1, "own 10"), (0.25, "own 25"), (0.4, "own 40")):
        near, rescaled = typical(called, held, n_labels, share), far / usual[label]
        for batch in np.unique(batches):
            own = np.flatnonzero(batches == batch)
            farther = typical(label[own], far[own], n_labels, share, 20) / near
            told = farther > 0
            most = np.exp(np.median(np.log(farther[told]))) if told.any() else 1.0
            by = np.full(n_labels, max(most, 1.0)) if name == "median" else np.fmax(farther, most)
            rescaled[own] /= np.where(np.isnan(by), most, by)[label[own]]
        found[f"relative, {name}"] = rescaled, held / usual[called]
    for name in [key for key in found if key.startswith("relative")]:
        sides = [[HeldOut.of(found[key][1]).p_values(found[key][k]) for key in ("span, drift", name)] for k in (0, 1)]
        fisher, least = (
            [f(np.stack(side)) for side in sides] for f in (lambda p: -np.log(p).sum(0), lambda p: -p.min(0))
        )
        found[f"span + {name}"], found[f"least of span and {name}"] = (fisher[0], fisher[1]), (least[0], least[1])
    return found


def crowding(known: np.ndarray, codes: np.ndarray, new: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """Return how much nearer cells lie to their batch than to labelled cells, scaled within the batch; 0 of too few."""
    names, codes = np.unique(codes, return_inverse=True)
    axes, found = _whitening(known, codes).astype(np.float64), np.zeros(len(new))
    known = known @ axes
    new = _Gaussians.fit(known, codes, len(names)).unshifted(new @ axes, batches)

    def near(squares: np.ndarray) -> np.ndarray:
        number = max(5, round(0.05 * squares.shape[1]))
        return np.sqrt(np.maximum(np.partition(squares, number - 1, axis=1)[:, :number], 0.01)).mean(axis=1)

    for batch in np.unique(batches):
        own = np.flatnonzero(batches == batch)
        if min(len(own), len(known)) < 50:
            continue
        to_own = euclidean_distances(new[own], squared=True)
        np.fill_diagonal(to_own, np.inf)
        more = np.log(near(euclidean_distances(new[own], known, squared=True)) / near(to_own))
        lowest, median = np.quantile(more, [0.1, 0.5])
        found[own] = (more - median) / max(median - lowest, 1e-6)
    return found


def crowded(space: dict[str, Pair], codes: np.ndarray, batches: np.ndarray, others: dict[str, Pair]) -> dict[str, Pair]:
    """Return how crowded cells are in so many axes, alone and by Fisher's method with statistics that were read before.

    Of held-out cells, each half of the reference is compared with the other.
    """
    found = {}
    for n_axes in (5, 10, 20, 50):
        new, known = (values[:, :n_axes] for values in space["both"])
        held, name = np.zeros(len(known)), f"crowding, {n_axes} axes"
        for train, test in stratified(codes, 2, 0):
            held[test] = crowding(known[train], codes[train], known[test], np.zeros(len(test)))
        found[name] = pair = crowding(known, codes, new, batches), held
        for with_it in (
            ("relative, own 10",),
            ("span, drift", "relative, own 10"),
            ("span, drift", "relative, median"),
        ):
            pairs = [*(others[each] for each in with_it), pair]
            kept = [HeldOut.of(of_held) for _, of_held in pairs]
            first, second = (-sum(np.log(k.p_values(p[i])) for k, p in zip(kept, pairs, strict=True)) for i in (0, 1))
            found[" + ".join([*with_it, name]).replace(", drift", "")] = first, second
    return found


def contrasts(reference: sparse.csr_matrix, query: sparse.csr_matrix, codes: np.ndarray, batches: np.ndarray) -> dict:
    """Return 1 - cosine of a neighborhood's contrast and the most similar label's, each side scaled by itself.

    A contrast is taken about the mean of the labels that a batch has, so that a shift of the whole batch, and one of
    scale, take no part.
    """
    chosen = np.union1d(variable_genes(reference, 2000), variable_genes(query, 2000))
    n_labels, known, new = int(codes.max()) + 1, reference[:, chosen].toarray(), query[:, chosen].toarray()

    def scaled(values: np.ndarray) -> np.ndarray:
        return np.clip((values - values.mean(axis=0)) / (values.std(axis=0) + 1e-2), -10, 10)

    known = scaled(known)
    for batch in np.unique(batches):
        new[batches == batch] = scaled(new[batches == batch])
    product = known.T @ known / len(known) + new.T @ new / len(new)
    axes = leading(product, min(50, len(known) - 2))
    known, new = known @ axes, new @ axes

    def unit(values: np.ndarray) -> np.ndarray:
        return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)

    def read(train: np.ndarray, labels: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        means = np.array([train[labels == code].mean(axis=0) for code in range(n_labels)])
        places = cells[neighbors(cells, 15)].mean(axis=1)
        about, center = means - means.mean(axis=0), places.mean(axis=0)
        for _ in range(5):
            found = (unit(places - center) @ unit(about).T).argmax(axis=1)
            there = np.flatnonzero(np.bincount(found, minlength=n_labels) >= max(5, 0.01 * len(places)))
            if len(there) < 2:
                break
            about = means - means[there].mean(axis=0)
            center = np.mean([places[found == code].mean(axis=0) for code in there], axis=0)
        alike = unit(places - center) @ unit(about).T
        return alike.argmax(axis=1), 1 - alike.max(axis=1)

    held, called = np.full(len(known), np.nan), np.zeros(len(known), dtype=int)
    for train, test in stratified(codes, 2, 0):
        if len(np.unique(codes[train])) == n_labels:
            called[test], held[test] = read(known[train], codes[train], known[test])
    held, called = held[~np.isnan(held)], called[~np.isnan(held)]
    usual, near = (typical(called, held, n_labels, share) for share in (0.5, 0.1))
    filled = np.where(np.isnan(usual), np.nanmedian(usual), usual)
    plain, median, own = np.zeros((3, len(new)))
    for batch in np.unique(batches):
        cells = np.flatnonzero(batches == batch)
        label, plain[cells] = read(known, codes, new[cells])
        rates = [typical(label, plain[cells], n_labels, share, 20) / by for share, by in ((0.5, usual), (0.1, near))]
        most = [np.exp(np.nanmedian(np.log(rate))) if (rate > 0).any() else 1.0 for rate in rates]
        median[cells] = plain[cells] / filled[label] / max(1.0, most[0])
        own[cells] = plain[cells] / filled[label] / np.where(rates[1] > 0, np.fmax(rates[1], most[1]), most[1])[label]
    found = {"contrast": (plain, held), "contrast, median": (median, held / filled[called])}
    return found | {"contrast, own 10": (own, held / filled[called])}


def evaluated(found: dict[str, Pair], truth: np.ndarray, left_out: str, known: np.ndarray) -> list[dict]:
    """Return a row for each statistic."""
    new, old, rows = truth == left_out, np.isin(truth, known), []
    for name, (query, held) in found.items():
        least, stated = np.quantile(query[old], 0.9), np.quantile(held, 0.9)
        row = {"row": name, "at10": (query[new] > least).mean(), "found": (query[new] > stated).mean()}
        rows.append(row | {"alarms": (query[old] > stated).mean()})
    return rows


def measured(
    space: dict[str, Pair], codes: np.ndarray, batches: np.ndarray, options: argparse.Namespace
) -> dict[str, Pair]:
    """Return the statistics that are asked for, but contrasts."""
    if options.contrasts_alone:
        return {}
    others = thresholds(space, codes, batches)
    if options.crowding_alone:
        return crowded(space, codes, batches, others)
    found = {} if options.thresholds_alone else statistics(space, codes, batches)
    return found | others | crowded(space, codes, batches, others)


def main() -> None:
    """Run, and write means over the types that were left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", choices=("choose", "report"))
    parser.add_argument("--thresholds-alone", action="store_true", help="leave out the first round, of statistics")
    parser.add_argument("--contrasts-alone", action="store_true", help="the last round alone")
    parser.add_argument("--crowding-alone", action="store_true", help="crowding, and what it is combined with")
    parser.add_argument("--tasks", nargs="*", help="default: all")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name, (reference, query) in (sets_to_choose_by() if options.sets == "choose" else sets_to_report()).items():
        last = "span, drift" if options.thresholds_alone else "reference, residual"
        last = "contrast" if options.contrasts_alone else "crowding, 5 axes" if options.crowding_alone else last
        if (options.tasks and name not in options.tasks) or done(options.out, {"task": name, "row": last}):
            continue
        start, rows = time.process_time(), []
        seen = np.asarray((reference.X > 0).sum(0)).ravel() + np.asarray((query.X > 0).sum(0)).ravel() >= 3
        sides = [logged(side)[:, seen] for side in (reference, query)]
        types, truth = (side.obs["cell_type"].astype(str).to_numpy() for side in (reference, query))
        for left_out in np.unique(types):
            if min((types == left_out).sum(), (truth == left_out).sum()) < FEWEST or len(np.unique(types)) < 3:
                continue
            kept = types != left_out
            labels, codes = np.unique(types[kept], return_inverse=True)
            space, batches = spaces(sides[0][kept], sides[1]), query.obs["batch"].astype(str).to_numpy()
            found = measured(space, codes, batches, options)
            if not options.crowding_alone:
                found |= contrasts(sides[0][kept], sides[1], codes, batches)
            rows += [{"sets": options.sets, "task": name, **row} for row in evaluated(found, truth, left_out, labels)]
        table = pd.DataFrame(rows).groupby(["sets", "task", "row"], sort=False).mean().reset_index()
        append(options.out, table.assign(commit=commit()))
        print(f"{name}: {time.process_time() - start:.0f} s", flush=True)
    table = pd.read_csv(options.out)
    means = table[table["sets"] == options.sets].groupby("row")[["at10", "found", "alarms"]].mean()
    print(means.sort_values("at10", ascending=False).head(40).round(3).to_string())


if __name__ == "__main__":
    main()
