"""Does training keep what the closed form gives it? `base` started at the predictive loadings, against its usual start.

    export SCJEPA_DATA=... OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.quality.start --seeds 3      # trains `base` twice a set and seed
    python -m benchmarks.quality.start table          # results/start.md from results/start.csv

The start: gene vectors are the weights of the predictive components of the cells' own tokens (20 dimensions) and of the
principal components of what is left (the others), scaled to the usual length of a token; blocks add nothing yet; there
is no norm behind the last block. So the cell embedding of step 0 is a linear method that sees at most 16 genes of a
cell. Scores and read-outs are those of niches.py; the embedding is read alone.

Predictions, written first: on osmFISH, whose 33 genes leave few tokens out, step 0 is level with the linear method
(within 0.02); on V1 with 100 genes it is behind by 0.05; 600 steps of training take either start to the same score
within what seeds differ, on both sets.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from benchmarks.quality.niches import RESULTS, by_rule, linear, scores
from benchmarks.quality.sets import load_labelled
from benchmarks.quality.worth import harder
from benchmarks.records import append, commit, done
from sklearn.decomposition import TruncatedSVD

import scjepa

TABLE = RESULTS.with_name("start.csv")
TASKS = {"V1, 100 genes": ("V1", "100 genes"), "osmFISH": ("osmFISH", "")}
LENGTH = 8.0
"""Of a token's content, as it is at the usual start: the root of the width, for vectors of standard deviation 1."""


def own_tokens(model: scjepa.STJEPA) -> np.ndarray:
    """Return what pooling a cell's own tokens adds up, ``(n_cells, n_genes)``: scaled values over their number."""
    source, parts = model._source(), []
    for start in range(0, source.n_cells, 2048):
        cells = torch.arange(start, min(start + 2048, source.n_cells))
        batch = source.batch(cells)
        own = (batch.segments == 0) & ~batch.is_metatoken
        places = (batch.sequences[own].numpy(), batch.genes[own].numpy())
        values = torch.log1p(batch.values[own].float()).numpy()
        tokens = sp.csr_matrix((values, places), shape=(len(cells), model.module.n_genes)).toarray()
        parts.append(tokens / np.maximum((tokens > 0).sum(1, keepdims=True), 1))
    return np.concatenate(parts)


def loadings(tokens: np.ndarray, adata: AnnData, width: int) -> np.ndarray:
    """Return ``(genes, width)``: what makes the pooled tokens predictive components, and components of the rest."""
    finder = scjepa.tl.PredictiveComponents(n_pcs=min(50, tokens.shape[1] - 1))
    components = finder.fit_transform(tokens, adata.obsp["spatial_connectivities"], adata.obs["section"])
    scale = tokens.std(0)
    varies = scale > 1e-8
    centered = (tokens - tokens.mean(0))[:, varies]
    weights = np.linalg.lstsq(centered, components - components.mean(0), rcond=None)[0]
    standard = centered / scale[varies]
    left = standard - components @ np.linalg.lstsq(components, standard, rcond=None)[0]
    rest = TruncatedSVD(min(width - weights.shape[1], varies.sum() - 1), random_state=0).fit(left)
    others = rest.components_.T / scale[varies, None]
    others *= components.std(0).min() / (centered @ others).std(0).clip(1e-9)
    vectors = np.zeros((len(varies), width), dtype=np.float32)
    vectors[varies, : weights.shape[1] + others.shape[1]] = np.hstack([weights, others])
    lengths = np.linalg.norm(vectors, axis=1)[tokens.nonzero()[1]]
    return vectors * (LENGTH / np.sqrt((lengths**2).mean()))


@torch.no_grad()
def start_linear(model: scjepa.STJEPA, adata: AnnData) -> None:
    """Put a model that is not trained at the linear method."""
    vectors = torch.from_numpy(loadings(own_tokens(model), adata, model.module.config.encoder.width))
    for encoder in (model.module.context, model.module.target):
        encoder.embedding.gene.weight.copy_(vectors)
        encoder.transformer.norm = torch.nn.Identity()
        for block in encoder.transformer.blocks:
            for layer in block.adds_to_residual():
                layer.weight.zero_()


def run(seeds: int) -> None:
    """Make the rows that are not there."""
    for seed in range(seeds):
        for task, (name, harder_by) in TASKS.items():
            adata = load_labelled(name)
            adata = harder(adata, seed)[harder_by] if harder_by else adata
            found = {"linear, by the rule": next(linear(adata))[1:]}
            for start in ("linear", "usual"):
                if done(TABLE, {"task": task, "seed": seed, "method": f"{start} start, trained"}):
                    continue
                scjepa.STJEPA.setup_anndata(adata, library_key="section")
                model = scjepa.STJEPA(adata, "base", seed=seed)
                if start == "linear":
                    start_linear(model, adata)
                for when in ("untrained", "trained"):
                    if when == "trained":
                        model.train(progress_bar=False)
                    with warnings.catch_warnings():
                        warnings.filterwarnings("ignore", message="This model is not trained")
                        cells = model.get_latent_representation(scale="cell")
                    found[f"{start} start, {when}"] = by_rule({"X_stjepa_cell": cells}, adata)
                model.deregister_manager(adata)
            rows = [
                {
                    "task": task,
                    "seed": seed,
                    "method": method,
                    **scores(values, adata),
                    "chosen": chosen,
                    "commit": commit(),
                }
                for method, (values, chosen) in found.items()
                if not done(TABLE, {"task": task, "seed": seed, "method": method})
            ]
            for row in rows:
                print(f"{task} {seed} {row['method']}: {row['nmi']:.3f} / {row['nmi_matched']:.3f}", flush=True)
            if rows:
                append(TABLE, pd.DataFrame(rows))


def table() -> None:
    """Write mean and range over seeds."""
    rows = pd.read_csv(TABLE)
    by = rows.groupby(["task", "method"], sort=False)[["nmi", "nmi_matched"]].agg(["mean", "min", "max"])
    lines = ["| task | method | NMI, Leiden 0.6 to 1.4 | NMI, as many as labels |", "|---|---|---|---|"]
    for (task, method), row in by.iterrows():
        cells = [f"{row[c]['mean']:.3f} ({row[c]['min']:.3f} to {row[c]['max']:.3f})" for c in ("nmi", "nmi_matched")]
        lines.append(f"| {task} | {method} | " + " | ".join(cells) + " |")
    TABLE.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    table() if options.what == "table" else run(options.seeds)
