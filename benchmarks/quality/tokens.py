"""Which genes of a cell become tokens: candidates on panels and on whole transcriptomes.

What came (no prediction was written down before; of a like simulation 0.003 by count and 0.91 by gene means were
known):

1. By count, tokens of whole transcriptomes give nothing.
2. By a gene's own mean or by residuals deep spots give domains, shallow cells nothing: rare genes fill the tokens.
3. Any of these times Moran's I of the gene gives the domains in all simulations. Bags of tokens do not tell apart which
   of them is weighted. Trained, count over mean is ahead of the root of the deviance on DLPFC 151673 and 151675 (0.02
   to 0.03), and counts times the weight are behind.
4. On panels weighted ranks are level with counts; counts stay there.
5. ``demo``, rings, mean of two seeds: ahead of counts on DLPFC 151673 (0.58 / 0.58 against 0.55 / 0.54), level on
   151675 (0.56 / 0.57 and 0.55 / 0.57), behind on 151674 (0.53 / 0.51 and 0.57 / 0.54). By the default read-out, one
   seed, level on all three. Thirty-two tokens instead of sixteen do not help.

The rule was chosen on V1, mPFC, DLPFC 151673 and 151675 and simulations; 151674 took no part.

    python -m benchmarks.quality.tokens bags                                  # no network: a minute or two a set
    python -m benchmarks.quality.tokens train DLPFC-151673 spatial_ratio      # trains a preset, default ``demo``

A bag is what the tokens of a cell hold, log1p counts, without a network: 50 principal components, 20 predictive
components of them, rings 0 to 3. NMI with the labels: mean over Leiden's resolutions 0.6, 1.0 and 1.4, then at the
number of labels, clusters below 1 % not counted. ``predictability`` is the sum of the 20 canonical correlations.
"""

from __future__ import annotations

import argparse
import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from benchmarks.quality.niches import scores
from benchmarks.quality.sets import load_labelled
from benchmarks.quality.spots import transcriptome
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, svds

import scjepa
from scjepa._core.counts import rows_of, totals_of
from scjepa.tl import PredictiveComponents, aggregate, standardize
from scjepa.tokens import (
    NORMALIZATIONS,
    TokenConfig,
    TokenTable,
    build_neighbor_table,
    build_token_table,
    fit_normalizations,
    gene_weights,
)
from scjepa.tokens.choice import TokenSpread
from scjepa.tokens.normalize import SpatialRatio

RESULTS = Path(__file__).parent / "results" / "tokens.csv"
COLUMNS = (
    "set",
    "what",
    "rule",
    "seed",
    "readout",
    "fixed",
    "matched",
    "predictability",
    "seen",
    "effective",
    "overlap",
)

SIMULATED: dict[str, dict[str, Any]] = {
    "sim-spots": {},
    "sim-spots, no names": {"named": False, "fold": 1.0, "seed": 3},
    "sim-cells": {"n_cells": 3000, "depth": 600.0, "n_types": 8, "seed": 2},
    "sim-bins": {"n_cells": 4000, "depth": 150.0, "fold": 1.5, "seed": 4},
}
"""Deep spots, the same without names, shallow cells of mixed types, and sparse bins."""
SETS = ("V1", "mPFC", "DLPFC-151673", "DLPFC-151675", *SIMULATED)


class _Expected(SpatialRatio):
    """Base of losing candidates: the count against what depth and gene let expect, weighted."""

    def start(self, n_genes: int, n_groups: int) -> None:
        super().start(n_genes, n_groups)
        self._sums = np.zeros(n_genes)

    def observe(self, counts: sparse.csr_array, groups: np.ndarray) -> None:
        super().observe(counts, groups)
        self._sums += np.bincount(counts.indices, weights=counts.data, minlength=len(self._sums))

    def transform(self, counts: sparse.csr_array, groups: np.ndarray) -> np.ndarray:
        rows = rows_of(counts)
        expected = totals_of(counts)[rows] * (self._sums / self._sums.sum())[counts.indices]
        weight = self.statistics[groups[rows], counts.indices, 1]
        return (weight * self.surprise(counts.data, expected)).astype(np.float32)

    def surprise(self, counts: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """Return the counts as they are."""
        return counts


class Deviance(_Expected):
    """Signed root of the Poisson deviance, weighted."""

    def surprise(self, counts: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """Return the roots."""
        deviance = counts * np.log(counts / expected) - counts + expected
        return np.sign(counts - expected) * np.sqrt(2 * np.maximum(deviance, 0))


class Excess(_Expected):
    """Counts above expectation, weighted."""

    def surprise(self, counts: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """Return the difference."""
        return counts - expected


RULES = ("counts", "nonzero_mean", "pearson_residuals", "counts_weighted", "excess", "deviance", "spatial_ratio")
NORMALIZATIONS.update(counts_weighted=_Expected, excess=Excess, deviance=Deviance)


def load(name: str) -> AnnData:
    """Return a set with its spatial graph: six neighbors of spots, ten of cells."""
    return transcriptome(**SIMULATED[name]) if name in SIMULATED else load_labelled(name)


def agreement(embedding: np.ndarray, adata: AnnData, n_seeds: int) -> tuple[float, float]:
    """Return NMI with the labels over the resolutions and at the number of labels."""
    found = scores(embedding, adata, n_seeds)
    return found["nmi"], found["nmi_matched"]


def predictive_rings(values: np.ndarray, adata: AnnData) -> tuple[np.ndarray, float]:
    """Return predictive components and their means over three rings, and the sum of correlations."""
    graph = adata.obsp["spatial_connectivities"]
    components = PredictiveComponents()
    found = components.fit_transform(values.astype(np.float32), graph, adata.obs["section"].to_numpy())
    return aggregate(found, connectivities=graph, n_hops=3), float(components.correlations_.sum())


def bag(table: TokenTable) -> np.ndarray:
    """Return 50 principal components of what the tokens hold."""
    shape = (table.n_cells, table.n_vocabulary)
    held = sparse.csr_matrix(
        (np.log1p(table.values.astype(float)), table.genes.astype(int), table.offsets), shape=shape
    )
    mean = np.asarray(held.mean(axis=0)).ravel()
    centered = LinearOperator(
        shape,
        matvec=lambda v: held @ v.ravel() - mean @ v.ravel(),
        rmatvec=lambda v: held.T @ v.ravel() - mean * v.sum(),
        dtype=float,
    )
    left, values, _ = svds(centered, k=min(50, min(shape) - 1), random_state=0)
    return left * values


def bags(name: str, rule: str, adata: AnnData) -> None:
    """Score the bag of tokens of a rule."""
    ids = np.arange(adata.n_vars)
    config = TokenConfig(n_tokens=16, ranks=rule)
    fitted = fit_normalizations(adata.X, ids, adata.n_vars, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # spots have six neighbors
        neighbors = build_neighbor_table(adata.obsp["spatial_connectivities"], None, adata.obsm["spatial"], 10)
    fitted.weigh(gene_weights(adata.X, ids, adata.n_vars, neighbors, adata.obs["section"].cat.codes.to_numpy()))
    table = build_token_table(adata.X, ids, adata.n_vars, config, fitted=fitted)
    values, predictability = predictive_rings(bag(table), adata)
    row = {"set": name, "what": "bag", "rule": rule, "readout": "predictive", "predictability": predictability}
    _write(row, agreement(values, adata, 1), TokenSpread.of(table, adata.n_vars))


def train(name: str, rule: str, preset: str, n_tokens: int, seed: int) -> None:
    """Train a preset on the tokens of a rule (``auto``: as the data decides) and score its cell embedding."""
    adata = load(name)
    scjepa.STJEPA.setup_anndata(adata, library_key="section")
    tokens = {"ranks": rule, "n_tokens": n_tokens}
    model = scjepa.STJEPA(adata, preset, tokens=tokens, seed=seed)
    model.train(accelerator="cpu", progress_bar=False)
    embedding = model.get_latent_representation(scale="cell")
    section = adata.obs["section"].to_numpy()
    rings = aggregate(
        standardize(embedding, groups=section, n_comps=20),
        connectivities=adata.obsp["spatial_connectivities"],
        n_hops=3,
    )
    predictive, predictability = predictive_rings(embedding, adata)
    adata.obsm["X_stjepa_cell"] = embedding
    scjepa.tl.niche_readout(adata)
    spread = TokenSpread.of(model._own_tables().tokens, adata.n_vars)
    what = preset if n_tokens == 16 else f"{preset}, {n_tokens} tokens"
    for kind, values in (("rings", rings), ("predictive", predictive), ("default", adata.obsm["X_stjepa_niche"])):
        row = {"set": name, "what": what, "rule": rule, "seed": seed, "readout": kind, "predictability": predictability}
        _write(row, agreement(values, adata, 3), spread)


def _write(row: dict[str, Any], scores: tuple[float, float], spread: TokenSpread) -> None:
    row = {**row, "fixed": scores[0], "matched": scores[1], "seen": spread.n_seen}
    row |= {"effective": round(spread.n_effective), "overlap": spread.overlap}
    new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow({name: f"{v:.3f}" if isinstance(v := row.get(name, ""), float) else v for name in COLUMNS})
    print(row, flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("bags").add_argument("sets", nargs="*", default=SETS)
    one = what.add_parser("train")
    one.add_argument("set")
    one.add_argument("rule")
    one.add_argument("--preset", default="demo")
    one.add_argument("--tokens", type=int, default=16)
    one.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.what == "train":
        train(options.set, options.rule, options.preset, options.tokens, options.seed)
        return
    for name in options.sets:
        adata = load(name)
        for rule in RULES:
            bags(name, rule, adata)


if __name__ == "__main__":
    main()
