"""Carry layers from one section to another of a different technology, by the few genes they have in common.

    export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.quality.transfer --pair V1 osmFISH --seeds 3

Both sections are trained on together, without labels; embeddings then use the genes that both measured. The layers
(``region_harmonised``) of one are carried to the other by a vote of 15 neighbors, in both directions, and mixing is
told by iLISI, over all cells and within layers. Read-outs are those of ``readouts.py``. Rows
are appended to ``results/transfer.csv``; a seed that is there is not run again. ``shared genes only`` trains on the
shared genes as well.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from anndata import AnnData
from benchmarks.quality.methods import harmony_pca, neighborhood_pca, zscored_pca
from benchmarks.quality.readouts import ACROSS_TECHNOLOGIES, Embeddings, read_out
from benchmarks.quality.recipes import RECIPES
from benchmarks.quality.run import RESULTS
from benchmarks.quality.sets import load_set
from benchmarks.records import fill, keys

import scjepa
from scjepa.metrics import ilisi, label_transfer
from scjepa.stjepa.config import STJEPAConfig

LABELS = "region_harmonised"
KEYS = {"technology_key": "technology", "library_key": "section", "panel_key": "panel"}


def joined(pair: list[str]) -> tuple[AnnData, list[str]]:
    """Return two sets as one AnnData, and the genes that both measured."""
    parts = {name: load_set(name) for name in pair}
    shared = [gene for gene in parts[pair[0]].var_names if gene in set(parts[pair[1]].var_names)]
    adata = scjepa.concat(parts)
    adata.obs["set"] = np.repeat(pair, [parts[name].n_obs for name in pair])
    return adata, shared


def model_of(adata: AnnData, config: STJEPAConfig, seed: int) -> scjepa.STJEPA:
    """Return an untrained model of these cells."""
    scjepa.STJEPA.setup_anndata(adata, **KEYS)
    return scjepa.STJEPA(adata, config, seed=seed)


def embeddings_of(model: scjepa.STJEPA, genes: list[str]) -> Embeddings:
    """Embed at both scales with ``genes`` alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # cells without a count of a shared gene, an untrained model
        scales = ("neighborhood", "cell")
        return {scale: model.get_latent_representation(scale=scale, genes=genes) for scale in scales}


def methods(adata: AnnData, shared: list[str], config: STJEPAConfig, seed: int) -> Iterator[tuple[str, Embeddings]]:
    """Yield each method's embeddings, from the shared genes."""
    few = adata[:, shared].copy()
    if seed == 0:
        yield "neighborhood PCA", neighborhood_pca(few, config, seed)[0]
        yield "z-scored PCA", zscored_pca(few, config, seed)[0]
        yield "Harmony PCA", harmony_pca(few, config, seed)[0]
    yield "untrained", embeddings_of(model_of(adata, config, seed), shared)
    model = model_of(adata, config, seed)
    model.train(accelerator="cpu", progress_bar=False)
    yield "ST-JEPA", embeddings_of(model, shared)
    model = model_of(few, config, seed)
    model.train(accelerator="cpu", progress_bar=False)
    yield "ST-JEPA, shared genes only", embeddings_of(model, shared)


def score(embedding: np.ndarray, adata: AnnData, pair: list[str]) -> dict[str, float]:
    """Return transfer in both directions and mixing."""
    labels, sets = adata.obs[LABELS].astype(str).to_numpy(), adata.obs["set"].to_numpy()
    found: dict[str, float] = {}
    for reference, query in (pair, pair[::-1]):
        one, other = sets == reference, sets == query
        transfer = label_transfer(embedding[one], labels[one], embedding[other], labels[other])
        found[f"accuracy {reference} to {query}"] = transfer.accuracy
        found[f"macro_f1 {reference} to {query}"] = transfer.macro_f1
        found[f"majority {reference} to {query}"] = transfer.majority_rate
    found["ilisi"] = ilisi(embedding, sets)
    found["ilisi within layers"] = ilisi(embedding, sets, labels=labels)
    return found


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=2, default=["V1", "osmFISH"])
    parser.add_argument("--recipe", default="technologies", choices=list(RECIPES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    adata, shared = joined(options.pair)
    print(f"{len(shared)} shared genes; cells: {adata.obs['set'].value_counts().to_dict()}", flush=True)

    def made(_: str, recipe: str, seed: int) -> list[dict[str, object]]:
        return [
            {"method": method, "readout": name, "metric": metric, "value": value}
            for method, embeddings in methods(adata, shared, RECIPES[recipe], seed)
            for name, readout in ACROSS_TECHNOLOGIES.items()
            for values in [read_out(readout, embeddings, adata)]
            if values is not None
            for metric, value in score(values, adata, options.pair).items()
        ]

    wanted = keys(pair=[" x ".join(options.pair)], recipe=[options.recipe], seed=range(options.seeds))
    fill(options.out / "transfer.csv", wanted, made)


if __name__ == "__main__":
    main()
