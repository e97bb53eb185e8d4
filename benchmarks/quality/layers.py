"""Look inside: what each layer knows of the regions, and what of a target can be predicted.

    export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.quality.layers --sets V1 mPFC osmFISH

For the recipe trained and untrained, tokens are taken before the first block (0), after each, and after the last norm,
and pooled to cells and to neighborhoods. Each is probed for region and cell type over blocks of tissue
(:func:`scjepa.metrics.block_probe`), and its clusters are scored at the matched number (NMI; cells by hops,
neighborhoods z-scored). Rows go to ``results/layers.csv``.

Targets are taken at the masked tokens of cells that training held out. ``results/targets.csv`` has the share of their
variance (around each gene's mean over other cells) that is explained by the predictor, which sees the visible tokens,
and by a regression for each gene on the token's own value and rank, which the predictor is not told (the value) and
which say nothing of the surroundings.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from benchmarks.quality.methods import _model
from benchmarks.quality.readouts import read_out
from benchmarks.quality.recipes import RECIPES
from benchmarks.quality.run import RESULTS, config_hash
from benchmarks.quality.sets import REAL, SETS, load_set
from benchmarks.records import fill, keys
from sklearn.linear_model import Ridge

from scjepa import STJEPA
from scjepa._core.leiden import EmbeddingGraph
from scjepa.metrics import block_probe, nmi
from scjepa.nn import Packing
from scjepa.stjepa import draw_mask, pool

FEWEST = 10
"""Tokens of a gene from which on its mean and regression are asked."""

SCALES = {"cell": "hops", "neighborhood": "z30"}


@torch.no_grad()
def by_layer(model: STJEPA) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Return the pooled tokens of all cells at each depth of the target encoder."""
    source, encoder = model._source(None), model.module.target
    names = ["0", *(str(i + 1) for i in range(len(encoder.transformer.blocks))), "last norm"]
    found: dict[str, dict[str, list[np.ndarray]]] = {name: {scale: [] for scale in SCALES} for name in names}
    for cells in torch.arange(source.n_cells).split(256):
        batch = source.batch(cells)
        packing = Packing(batch.lengths)
        tokens = [encoder.embedding(batch)]
        for block in encoder.transformer.blocks:
            tokens.append(block(tokens[-1], packing))
        tokens.append(encoder.transformer.norm(tokens[-1]))
        for name, layer in zip(names, tokens, strict=True):
            for scale in SCALES:
                found[name][scale].append(pool(layer.float(), batch, scale).numpy())
    return [(name, {scale: np.concatenate(parts) for scale, parts in pooled.items()}) for name, pooled in found.items()]


def probes(adata: AnnData, pooled: dict[str, np.ndarray]) -> list[dict]:
    """Return a row for each scale: what a linear probe finds, and what clusters do."""
    rows = []
    regions = adata.obs["region"].astype(str)
    n_labels = regions[regions != "unlabelled"].nunique()
    for scale, readout in SCALES.items():
        values = read_out(readout, pooled, adata)
        row: dict[str, object] = {"scale": scale}
        for label in ("region", "cell_type"):
            found = block_probe(values, adata.obs[label].astype(str), adata.obsm["spatial"], adata.obs["section"])
            row[f"{label} accuracy"], row[f"{label} macro_f1"] = found.accuracy, found.macro_f1
        graph = EmbeddingGraph(values, 15)
        row["nmi"] = np.mean([nmi(regions, graph.match(n_labels, seed).labels) for seed in range(3)])
        rows.append(row)
    return rows


@torch.no_grad()
def explained(model: STJEPA, held_out: np.ndarray, seed: int) -> dict[str, float]:
    """Return the share of the targets' variance around gene means that predictor and own value and rank explain."""
    source, module = model._source(None), model.module
    rng = torch.Generator().manual_seed(seed)
    kept: dict[str, list[torch.Tensor]] = {"prediction": [], "target": [], "gene": [], "own": [], "fold": []}
    for i, cells in enumerate(torch.from_numpy(held_out).split(64)):
        batch = module.gather(source, cells)
        state = rng.get_state()
        output = module.loss(batch, rng)
        after = rng.get_state()
        rng.set_state(state)  # the same masks again, to know which tokens were asked for
        masking = module.objective.masking
        asked = module.objective._queried(draw_mask(batch, masking.scheme, masking.ratio, rng), rng)
        rng.set_state(after)
        kept["prediction"].append(output.predictions)
        kept["target"].append(output.targets)
        kept["gene"].append(output.genes)
        kept["own"].append(torch.stack([batch.values[asked].log1p(), batch.ranks[asked].float()], dim=1))
        kept["fold"].append(torch.full((len(asked),), i % 2))
    prediction, target, own = (torch.cat(kept[name]).double().numpy() for name in ("prediction", "target", "own"))
    gene, fold = torch.cat(kept["gene"]).numpy(), torch.cat(kept["fold"]).numpy()
    gene_mean, regressed = np.full_like(target, np.nan), np.full_like(target, np.nan)
    for code in np.unique(gene):
        for half in (0, 1):
            here, other = (np.flatnonzero((gene == code) & (fold == which)) for which in (half, 1 - half))
            if len(other) < FEWEST or not len(here):
                continue
            gene_mean[here] = target[other].mean(0)
            regressed[here] = Ridge(alpha=1.0).fit(own[other], target[other]).predict(own[here])
    known = ~np.isnan(gene_mean).any(1)

    def share(guess: np.ndarray) -> float:
        return 1 - np.square(target - guess)[known].sum() / np.square(target - gene_mean)[known].sum()

    return {"predictor": share(prediction), "own value and rank": share(regressed), "n_tokens": int(known.sum())}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="base", choices=list(RECIPES))
    parser.add_argument("--sets", nargs="+", default=list(REAL), choices=SETS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()

    def made(name: str, recipe: str, seed: int, config: str) -> list[dict[str, object]]:
        adata = load_set(name)
        model = _model(adata, RECIPES[recipe], seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            before = by_layer(model)
            task = model._task(0.1, None)
            first = explained(model, task.held_out, seed)
            model.train(accelerator="cpu", progress_bar=False)
        shares = [{"trained": False, **first}, {"trained": True, **explained(model, task.held_out, seed)}]
        key = {"set": name, "recipe": recipe, "seed": seed, "config": config}
        fill(options.out / "targets.csv", [key], lambda *_: shares)
        return [
            {"trained": trained, "layer": layer, **row}
            for trained, layers in ((False, before), (True, by_layer(model)))
            for layer, pooled in layers
            for row in probes(adata, pooled)
        ]

    how = {"recipe": [options.recipe], "seed": range(options.seeds), "config": [config_hash(options.recipe)]}
    fill(options.out / "layers.csv", keys(set=options.sets, **how), made)


if __name__ == "__main__":
    main()
