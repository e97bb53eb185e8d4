"""Conditions compared with samples as units: errors without an effect, recall of planted ones, cells as units.

    export SCJEPA_DATA=... OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.niches.conditions shares composition contacts      # results/conditions_cohorts.csv
    python -m benchmarks.niches.conditions expression pipeline
    python -m benchmarks.niches.conditions table                            # results/conditions.md and the figure

No data set at hand has three samples a side. **Semi-synthetic**: places, regions and cell types are those of STARmap
PLUS, well 11 (Shi et al. 2023), regions of 300 cells or more taken as niches; every "sample" is a random sixth of its
blocks of 200 cells, in which each niche keeps a share of its cells of its own (log-normal, standard deviation 0.25), so
that samples differ as pieces of one brain and a little more. That is not how patients differ. Counts, where needed, are
those of `simulated_tissue`, with a factor of each gene in each sample (0.2).

Planted in the second condition, in two niches: a share of their cells taken out (shares); of the cells of their
commonest type (composition); of the cells of the one niche that touch the other (contacts); molecules of 20 genes
(expression). ``wide``: shares, each sample a random half of the blocks in place of a sixth, so that samples differ
less. ``error``: how often a feature drawn at random has p <= 0.05 where nothing was planted. ``any``: how often
a cohort without an effect has an adjusted p-value of 0.05 or less. ``recall``: planted features among those of adjusted
p <= 0.05; ``false``: the others' share of these. Intervals: Clopper-Pearson, 95 %. ``cells``: the same shares by a
chi-squared test of cells. conditions_cohorts_before.csv has rows made before shares were damped and before the
adjustment of Westfall and Young; these were chosen on other cohorts of the same tissue (other seeds). The power told is
missing in rows made before it took into account that shares are skewed. ``pipeline``: twelve sections of
`simulated_tissue` of 600 cells, niches found jointly, from the second condition 60 % of a planted niche taken out
before.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.records import append, commit, done
from scipy.sparse import block_diag, csr_matrix, vstack
from scipy.stats import binomtest, chi2_contingency, false_discovery_control

import scjepa
from scjepa._core.matching import contingency
from scjepa._core.neighbors import spatial_blocks
from scjepa._core.squidpy import spatial_graph

RESULTS = Path(__file__).parent / "results"
FIGURE = Path(__file__).parents[2] / "docs" / "_static" / "conditions.png"
FEWEST, BLOCK, PART, VARIES = 300, 200, 6, 0.25
SIZES, EFFECTS = (4, 8), (0.0, 0.5, 0.8)
WIDE = 2
"""Of how many parts of the blocks each sample of ``wide`` has one."""
REPEATS = {
    "shares": (100, 40),
    "wide": (40, 20),
    "composition": (40, 20),
    "contacts": (40, 20),
    "expression": (10, 5),
    "pipeline": (20, 10),
}
"""Cohorts without and with an effect."""
OF = {"pipeline": "shares", "wide": "shares"}
"""What is compared, where it has another name."""
METHODS = {"expression": ("welch", "pydeseq2")}
"""Methods compared, where not permutation and Welch."""
KEY = ["what", "method", "n", "effect"]
SCORES = ["wrong", "any", "recall", "false", "power_told", "recall_unadjusted"]
SECONDS = 240
"""A call ends after these, and the next goes on."""
Make: TypeAlias = "Callable[[int, float, np.random.Generator], tuple[AnnData, list[tuple[str, str]], str]]"


def brain() -> AnnData:
    """Return the real places, regions and cell types, without counts, and the graph of 10 neighbors."""
    path = Path(scjepa.settings.data_dir) / "spatial" / "starmap_plus_well11_labels_no_counts.csv.gz"
    table = pd.read_csv(path, index_col="NAME")
    region = table["Tissue_Symbol"].astype(str)
    region = region.where(region.map(region.value_counts()) >= FEWEST, "unlabelled")
    obs = pd.DataFrame({"niche": region, "cell_type": table["Maintype_Symbol"].astype(str)}).astype("category")
    adata = AnnData(obs=obs, obsm={"spatial": table[["X", "Y"]].to_numpy(dtype=float)}, shape=(len(obs), 0))
    spatial_graph(adata, n_neighs=10)
    return adata


def planted_in(tissue: AnnData, what: str, rng: np.random.Generator) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Return the planted features (niche, feature), and the cells of which a share is taken out."""
    niche = tissue.obs["niche"].astype(str).to_numpy()
    names = [name for name in np.unique(niche) if name != "unlabelled"]
    if what != "contacts":
        chosen = list(rng.choice(names, 2, replace=False))
        if what != "composition":
            return [(name, name) for name in chosen], np.isin(niche, chosen)
        kinds = tissue.obs["cell_type"].astype(str).to_numpy()
        pairs = [(name, pd.Series(kinds[niche == name]).value_counts().index[0]) for name in chosen]
        return pairs, np.any([(niche == name) & (kinds == kind) for name, kind in pairs], axis=0)
    edges = tissue.obsp["spatial_connectivities"].tocoo()
    codes = pd.Categorical(niche, categories=names).codes.astype(int)
    counts = contingency(codes[edges.row], codes[edges.col], (len(names), len(names)))
    np.fill_diagonal(counts, 0)
    often = np.argwhere(np.triu(counts) >= 150)
    first, second = often[rng.integers(len(often))]
    touching = np.zeros(len(niche), dtype=bool)
    touching[edges.row[(codes[edges.row] == first) & (codes[edges.col] == second)]] = True
    return [(names[first], names[second]), (names[second], names[first])], touching


def cohort(
    tissue: AnnData,
    blocks: np.ndarray,
    n: int,
    effect: float,
    gone: np.ndarray,
    rng: np.random.Generator,
    *,
    edges: bool,
    part: int = PART,
) -> tuple[AnnData, list[np.ndarray]]:
    """Return ``n`` samples of each condition, and the cells of the tissue that each has."""
    niches, n_blocks = tissue.obs["niche"].cat.codes.to_numpy(), blocks.max() + 1
    rows = []
    for number in range(2 * n):
        keeps = np.exp(-np.abs(rng.normal(0, VARIES, niches.max() + 2)))[niches]
        if number >= n:
            keeps = np.where(gone, keeps * (1 - effect), keeps)
        drawn = (rng.permutation(n_blocks) < n_blocks // part)[blocks]
        rows.append(np.flatnonzero(drawn & (rng.random(len(niches)) < keeps)))
    obs = tissue.obs.iloc[np.concatenate(rows)].reset_index(drop=True)
    obs.index = obs.index.astype(str)
    sample = np.repeat(np.arange(2 * n), [len(one) for one in rows])
    obs["sample"] = pd.Categorical([f"sample{number:02d}" for number in sample])
    obs["condition"] = pd.Categorical(np.where(sample < n, "control", "treated"))
    found = AnnData(obs=obs, shape=(len(obs), 0))
    if edges:
        graph = tissue.obsp["spatial_connectivities"]
        found.obsp["spatial_connectivities"] = csr_matrix(block_diag([graph[one][:, one] for one in rows]))
    return found, rows


def by_cells(adata: AnnData) -> pd.DataFrame:
    """Return a chi-squared test of each niche's share with cells as units: what must not be done."""
    counts = pd.crosstab(adata.obs["niche"], adata.obs["condition"]).drop(index="unlabelled")
    rows = [(name, chi2_contingency([row, counts.sum() - row]).pvalue) for name, row in counts.iterrows()]
    table = pd.DataFrame(rows, columns=["niche", "p_value"])
    return table.assign(p_adjusted=false_discovery_control(table["p_value"]))


def scores(table: pd.DataFrame, planted: list[tuple[str, str]], rng: np.random.Generator) -> dict[str, float]:
    """Return what is found in one cohort; a niche's share is a feature of its own name."""
    table = table.dropna(subset="p_value")
    feature = table["feature"] if "feature" in table else table["niche"]
    is_planted = np.isin(table["niche"].astype(str) + "|" + feature.astype(str), ["|".join(one) for one in planted])
    found = (table["p_adjusted"] <= 0.05).to_numpy()
    return {
        "wrong": float(table["p_value"].iloc[rng.integers(len(table))] <= 0.05),
        "any": float(found.any()),
        "recall": float(found[is_planted].mean()) if is_planted.any() else np.nan,
        "false": float(found[~is_planted].sum() / max(found.sum(), 1)),
        "power_told": float(table["power"][is_planted].mean()) if "power" in table and is_planted.any() else np.nan,
        "recall_unadjusted": float((table["p_value"][is_planted] <= 0.05).mean()) if is_planted.any() else np.nan,
    }


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each setting: means over cohorts, and the interval of what is a rate of cohorts."""
    found = []
    for key, each in rows.groupby(KEY):
        about = dict(zip(KEY, key, strict=True)) | {"n_cohorts": len(each)}
        about |= each[SCORES].mean().to_dict()
        for name in ("wrong", "any"):
            interval = binomtest(int(each[name].sum()), len(each)).proportion_ci()
            about |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
        found.append(about)
    return pd.DataFrame(found)


def cohorts(what: str, sizes: Sequence[int], effects: Sequence[float], make: Make) -> None:
    """Append a row for each cohort and method, until ``SECONDS`` are over; those that are there are not made again.

    ``make`` returns of a size, an effect and a generator the cohort, and its planted features.
    """
    start = time.monotonic()
    path = RESULTS / "conditions_cohorts.csv"
    for number in range(max(REPEATS[what])):
        for n in sizes:
            for effect in effects:
                key = {"what": what, "n": n, "effect": f"{effect:g}", "cohort": number}  # as it is written
                if number >= REPEATS[what][effect > 0] or done(path, key):
                    continue
                if time.monotonic() - start > SECONDS:
                    print("stopped; call again to go on", flush=True)
                    sys.exit(3)
                rng = np.random.default_rng([n, int(100 * effect), number])
                adata, planted, sample_key = make(n, effect, rng)
                rows = []
                for method in METHODS.get(what, ("permutation", "welch")):
                    found = scjepa.tl.differential_niches(
                        adata, "condition", sample_key, what=OF.get(what, what), method=method
                    )
                    rows.append({**key, "method": method, **scores(found, planted, rng)})
                if what in ("shares", "wide"):
                    rows.append({**key, "method": "cells", **scores(by_cells(adata), planted, rng)})
                append(path, pd.DataFrame(rows).assign(commit=commit()))


def run(what: str) -> None:
    """Append cohorts of one kind of feature that needs no counts."""
    tissue = brain()
    blocks = spatial_blocks(tissue.obsm["spatial"], None, BLOCK)

    def make(n: int, effect: float, rng: np.random.Generator) -> tuple[AnnData, list[tuple[str, str]], str]:
        planted, gone = planted_in(tissue, what, rng)
        adata, _ = cohort(
            tissue, blocks, n, effect, gone, rng, edges=what == "contacts", part=WIDE if what == "wide" else PART
        )
        return adata, planted if effect else [], "sample"

    cohorts(what, SIZES, EFFECTS, make)


def run_expression() -> None:
    """Append cohorts of expression within niches: the three largest regions, simulated counts."""
    whole = brain()
    common = whole.obs["niche"].value_counts().drop("unlabelled").index[:3]
    tissue = whole[whole.obs["niche"].isin(common)].copy()
    labels = tissue.obs.rename(columns={"niche": "region"}).astype({"region": str, "cell_type": str})
    counts = scjepa.datasets.simulated_tissue(coordinates=tissue.obsm["spatial"], labels=labels, seed=0).X.tocsr()
    tissue.obs["niche"] = tissue.obs["niche"].cat.remove_unused_categories()
    niches = tissue.obs["niche"].astype(str).to_numpy()
    blocks = spatial_blocks(tissue.obsm["spatial"], None, BLOCK)
    genes = [f"gene{number}" for number in range(counts.shape[1])]

    def make(n: int, effect: float, rng: np.random.Generator) -> tuple[AnnData, list[tuple[str, str]], str]:
        frame, members = cohort(tissue, blocks, n, 0.0, np.zeros(len(niches), dtype=bool), rng, edges=False)
        chosen = rng.choice(counts.shape[1], 20, replace=False)
        parts = []
        for number, cells in enumerate(members):
            part = counts[cells].tocoo()
            keep = np.exp(-np.abs(rng.normal(0, 0.2, counts.shape[1])))[part.col]
            if number >= n:
                hit = np.isin(niches[cells], common[:2])[part.row] & np.isin(part.col, chosen)
                keep = np.where(hit, keep * (1 - effect), keep)
            kept = rng.binomial(part.data, keep).astype(np.int32)
            parts.append(csr_matrix((kept, (part.row, part.col)), shape=part.shape))
        adata = AnnData(csr_matrix(vstack(parts)), obs=frame.obs)
        adata.var_names = genes
        planted = [(str(name), genes[gene]) for name in common[:2] for gene in chosen]
        return adata, planted if effect else [], "sample"

    cohorts("expression", SIZES, EFFECTS, make)


def run_pipeline() -> None:
    """Append cohorts of the whole way: sections, joint niches, shares."""

    def make(n: int, effect: float, rng: np.random.Generator) -> tuple[AnnData, list[tuple[str, str]], str]:
        adata = scjepa.datasets.simulated_tissue(600 * 2 * n, n_sections=2 * n, n_niches=5, seed=int(rng.integers(1e6)))
        treated = adata.obs["section"].isin(rng.permutation(adata.obs["section"].cat.categories)[:n]).to_numpy()
        adata.obs["condition"] = np.where(treated, "treated", "control")
        gone = treated & (adata.obs["region"] == "niche_1").to_numpy() & (rng.random(adata.n_obs) < effect)
        adata = adata[~gone].copy()
        spatial_graph(adata, n_neighs=10, library_key="section")
        scjepa.tl.find_niches(adata, n_niches=5)
        partner = pd.crosstab(adata.obs["region"], adata.obs["niche"]).loc["niche_1"].idxmax()
        return adata, [(partner, partner)] if effect else [], "section"

    cohorts("pipeline", (6,), (0.0, 0.6), make)


def table() -> None:
    """Write results/conditions.md and the figure."""
    import matplotlib.pyplot as plt

    rows = summary(pd.read_csv(RESULTS / "conditions_cohorts.csv"))
    rows.to_csv(RESULTS / "conditions.csv", index=False, float_format="%.4g")
    lines = [
        "| what | method | samples a side | taken out | cohorts | error | any | recall | recall, p <= 0.05 "
        "| power of a doubling | false |",
        "|---|---|" + "---|" * 9,
    ]
    for _, row in rows.sort_values(["what", "method", "n", "effect"]).iterrows():
        error = any_ = recall = "|"
        if row["effect"] == 0:
            error = f"{row['wrong']:.3f} ({row['wrong_low']:.3f} to {row['wrong_high']:.3f}) |"
            any_ = f"{row['any']:.3f} ({row['any_low']:.3f} to {row['any_high']:.3f}) |"
        else:
            recall = f"{row['recall']:.2f} |"
        told = "" if pd.isna(row["power_told"]) or not row["effect"] else f"{row['power_told']:.2f}"
        plain = "" if pd.isna(row["recall_unadjusted"]) or not row["effect"] else f"{row['recall_unadjusted']:.2f}"
        false = f"{row['false']:.2f}" if row["effect"] else ""
        lines.append(
            f"| {row['what']} | {row['method']} | {row['n']} | {row['effect']:.0%} | {row['n_cohorts']} "
            f"| {error} {any_} {recall} {plain} | {told} | {false} |"
        )
    (RESULTS / "conditions.md").write_text("\n".join(lines) + "\n")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 3.4), layout="constrained")
    names = {"permutation": "samples, permuted", "welch": "samples, Welch", "cells": "cells as units (wrong)"}
    for name, label in names.items():
        of = rows[(rows["what"] == "shares") & (rows["method"] == name)]
        null = of[of["effect"] == 0].sort_values("n")
        low, high = null["wrong"] - null["wrong_low"], null["wrong_high"] - null["wrong"]
        left.errorbar(null["n"], null["wrong"], yerr=[low, high], marker="o", label=label, capsize=3)
    for what, label in (("shares", "a sixth of a brain section"), ("wide", "half of one")):
        for effect, line in ((0.8, "-"), (0.5, "--")):
            of = rows[(rows["what"] == what) & (rows["method"] == "permutation") & (rows["effect"] == effect)]
            of, color = of.sort_values("n"), "C0" if what == "shares" else "C2"
            label_of = f"{label}, {effect:.0%} taken out"
            right.plot(of["n"], of["recall"], line, marker="o", label=label_of, color=color)
    for ax in (left, right):
        ax.set_xticks(sorted(set(rows["n"])))
    left.axhline(0.05, color="0.5", linestyle=":", linewidth=1)
    left.set(title="No effect planted", ylabel="niches with p ≤ 0.05", ylim=(0, 1), xlabel="samples a side")
    right.set(title="Cells of two niches taken out", ylabel="found (adjusted p ≤ 0.05)", ylim=(0, 1))
    right.set(xlabel="samples a side")
    right.legend(
        frameon=False, fontsize=8, title="a sample is", title_fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    left.legend(frameon=False, fontsize=8, loc="center right")
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    special = {"table": table, "pipeline": run_pipeline, "expression": run_expression}
    for each in sys.argv[1:]:
        special.get(each, lambda each=each: run(each))()
