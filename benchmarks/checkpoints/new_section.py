"""What a section that had no say in training gets from a model: zero-shot on a further section, and on another panel.

    export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 SCJEPA_DATA=...
    python -m benchmarks.checkpoints.new_section section    # three hypothalamus sections, the fourth zero-shot
    python -m benchmarks.checkpoints.new_section query      # trained on V1 alone, osmFISH through load_query_data

``section``: two models, one trained on all sections but the last and one on all. On the cells of the last section: a
linear probe of cell types over spatial blocks, and the share of a cell's 15 nearest neighbors that are also its
neighbors in the embedding of the model that knew the section, from other initial weights. Rows in
``results/new_section.csv``.

``query``: layers (``region_harmonised``) of V1 carried to osmFISH by a vote of 15 neighbors. The interval resamples
spatial blocks of osmFISH, the same for all methods; differences from z-scored PCA are paired. Rows in
``results/query.csv``.

Both: preset ``demo`` and its own number of steps unless told otherwise; a seed that is there with as many
steps of the preset is not run again.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.records import fill, keys
from sklearn.neighbors import KNeighborsClassifier

import scjepa
from scjepa._core.neighbors import spatial_blocks
from scjepa._core.squidpy import spatial_graph
from scjepa.benchmark import neighborhood_pca, section_zscored_pca
from scjepa.benchmark.controls import cell_pca
from scjepa.metrics import block_probe, neighbor_agreement
from scjepa.tl import aggregate, standardize

RESULTS = Path(__file__).parent / "results"
HYPOTHALAMUS = "merfish_hypothalamus_4sections_unlabelled"
NEIGHBORS = 15
BLOCKS = 50
RESAMPLES = 2000
SCALES = ("cell", "neighborhood")


def with_graph(adata: AnnData) -> AnnData:
    """Write the spatial graph."""
    spatial_graph(adata, n_neighs=10, library_key="section")
    return adata


def model_of(adata: AnnData, seed: int, preset: str) -> scjepa.STJEPA:
    """Return an untrained model of these cells."""
    scjepa.STJEPA.setup_anndata(adata, library_key="section")
    return scjepa.STJEPA(adata, preset=preset, seed=seed)


def trained(model: scjepa.STJEPA, steps: int, what: str) -> scjepa.STJEPA:
    """Train, and say how long it took."""
    start = time.process_time()
    model.train(max_steps=steps, accelerator="cpu", progress_bar=False)
    print(f"{what}: {model.n_steps_} steps, {time.process_time() - start:.0f} CPU s\n{model.diagnose()}", flush=True)
    return model


# -- a further section ------------------------------------------------------------------------------------------------


def section(seed: int, steps: int, preset: str) -> pd.DataFrame:
    """Embed the last hypothalamus section with and without its having been trained on."""
    whole = scjepa.datasets.load(HYPOTHALAMUS)
    names = list(whole.obs["section"].cat.categories)
    last = (whole.obs["section"] == names[-1]).to_numpy()
    new, rest = with_graph(whole[last].copy()), with_graph(whole[~last].copy())
    print(f"{new.n_obs:,} cells of {names[-1]} held back, {rest.n_obs:,} to train on", flush=True)

    def embedded(model: scjepa.STJEPA) -> dict[str, np.ndarray]:
        return {scale: model.get_latent_representation(new, scale=scale) for scale in SCALES}

    model = model_of(rest, seed, preset)
    methods: dict[str, dict[str, np.ndarray]] = {"untrained": embedded(model)}
    methods["ST-JEPA, without the section"] = embedded(trained(model, steps, "three sections"))
    # Of another seed: with the same initial weights, even untrained models would agree.
    other = model_of(with_graph(whole), seed + 100, preset)
    methods["ST-JEPA, with the section"] = embedded(trained(other, steps, "four sections"))
    methods["PCA"] = {"cell": cell_pca(new), "neighborhood": neighborhood_pca(new)}
    methods["z-scored PCA"] = {"neighborhood": section_zscored_pca(new, library_key="section")}
    known = methods["ST-JEPA, with the section"]
    rows = []
    for method, scales in methods.items():
        for scale, values in scales.items():
            probe = block_probe(values, new.obs["cell_type"], new.obsm["spatial"])
            row = {
                "accuracy": probe.accuracy,
                "balanced_accuracy": probe.balanced_accuracy,
                "macro_f1": probe.macro_f1,
                "majority": probe.majority_rate,
                "neighbors_in_common": neighbor_agreement(values, known[scale], n_neighbors=NEIGHBORS),
                "neighbors_by_chance": NEIGHBORS / (new.n_obs - 1),
            }
            rows.append({"method": method, "scale": scale, "n_cells": probe.n_cells, **row})
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


# -- another panel and technology -------------------------------------------------------------------------------------


def readouts(values: np.ndarray, what: str, v1: AnnData, new: AnnData) -> dict[str, list[np.ndarray]]:
    """Return both sections' read-outs by name: each section z-scored by itself, components of both together."""
    sections = np.repeat([0, 1], [v1.n_obs, new.n_obs])
    if what.startswith("cell"):
        cells = np.split(standardize(values, groups=sections, n_comps=20), [v1.n_obs])
        pairs = zip(cells, (v1, new), strict=True)
        return {
            "hops": [
                aggregate(one, connectivities=adata.obsp["spatial_connectivities"], n_hops=3) for one, adata in pairs
            ]
        }
    return {"plain": np.split(values, [v1.n_obs]), "z30": np.split(standardize(values, groups=sections), [v1.n_obs])}


def vote(reference: np.ndarray, labels: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the commonest label among each query cell's nearest labelled cells of the reference."""
    labelled = labels != "unlabelled"
    voters = KNeighborsClassifier(n_neighbors=NEIGHBORS, algorithm="brute")
    return voters.fit(reference[labelled], labels[labelled]).predict(query)


def query_embeddings(model: scjepa.STJEPA, v1: AnnData, new: AnnData, shared: list[str]) -> dict[str, np.ndarray]:
    """Return embeddings of both sections, V1 first, with the shared genes alone and with all there are."""
    query = scjepa.STJEPA.load_query_data(new, model)
    found = {}
    for genes, chosen in (("shared genes", shared), ("all genes", None)):
        for scale in SCALES:
            parts = [query.get_latent_representation(adata, scale=scale, genes=chosen) for adata in (v1, new)]
            found[f"{scale}, {genes}"] = np.vstack(parts)
    return found


def query(seed: int, steps: int, preset: str) -> pd.DataFrame:
    """Carry layers of V1 to osmFISH by a model that was trained on V1 alone."""
    v1, new = (
        with_graph(scjepa.datasets.load(name)) for name in ("starmap_visual_cortex", "osmfish_somatosensory_cortex")
    )
    shared = [gene for gene in v1.var_names if gene in set(new.var_names)]
    labels, truth = (adata.obs["region_harmonised"].astype(str).to_numpy() for adata in (v1, new))
    scored = np.isin(truth, np.setdiff1d(labels, ["unlabelled"]))

    model = model_of(v1, seed, preset)
    methods = {"untrained": query_embeddings(model, v1, new, shared)}
    methods["ST-JEPA, trained on V1"] = query_embeddings(trained(model, steps, "V1"), v1, new, shared)
    few = [adata[:, shared].copy() for adata in (v1, new)]
    both = scjepa.concat({"V1": few[0], "osmFISH": few[1]})
    zscored = section_zscored_pca(both, library_key="section")
    methods["z-scored PCA"] = {"neighborhood, shared genes": zscored}
    methods["PCA"] = {"cell, shared genes": cell_pca(both), "neighborhood, shared genes": neighborhood_pca(both)}

    correct: dict[tuple[str, str, str], np.ndarray] = {}
    for method, embeddings in methods.items():
        for what, values in embeddings.items():
            for name, (reference, target) in readouts(values, what, v1, new).items():
                correct[method, what, name] = vote(reference, labels, target)[scored] == truth[scored]

    n_scored = int(scored.sum())
    places = np.asarray(new.obsm["spatial"], dtype=np.float64)[scored]
    blocks = spatial_blocks(places, np.zeros(n_scored, dtype=int), -(-n_scored // BLOCKS))
    share = resampler(blocks, seed)
    control = share(correct["z-scored PCA", "neighborhood, shared genes", "plain"])
    names, sizes = np.unique(truth[scored], return_counts=True)
    rows = []
    for (method, what, name), right in correct.items():
        drawn = share(right)
        low, high = np.quantile(drawn, [0.025, 0.975])
        below, above = np.quantile(drawn - control, [0.025, 0.975])
        row = {"accuracy": right.mean(), "lower": low, "upper": high, "less_zscored_pca_lower": below}
        row |= {"less_zscored_pca_upper": above, "majority": sizes.max() / sizes.sum(), "n_cells": n_scored}
        rows.append({"method": method, "embedding": what, "readout": name, **row, "n_blocks": int(blocks.max()) + 1})
        print({key: round(v, 3) if isinstance(v, float) else v for key, v in rows[-1].items()}, flush=True)
    return pd.DataFrame(rows).assign(commonest=names[sizes.argmax()], n_shared=len(shared))


def resampler(blocks: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that gives the share of right cells in each resample of blocks, the same blocks every time."""
    found = int(blocks.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(found, np.full(found, 1 / found), size=RESAMPLES)
    sizes = drawn @ np.bincount(blocks)
    return lambda right: drawn @ np.bincount(blocks, weights=right) / sizes


# ---------------------------------------------------------------------------------------------------------------------

TASKS: Mapping[str, tuple[Callable[[int, int], pd.DataFrame], str]] = {
    "section": (section, "new_section.csv"),
    "query": (query, "query.csv"),
}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--preset", default="demo", choices=list(scjepa.config.PRESETS))
    parser.add_argument("--steps", type=int, help="optimizer steps; default: the preset's")
    options = parser.parse_args()
    run, name = TASKS[options.task]
    steps = options.steps or scjepa.config.PRESETS[options.preset].training.max_steps
    # What they say is meant here: untrained models, genes left out, cells without a count of a shared gene.
    warnings.simplefilter("ignore")
    wanted = keys(seed=range(options.seeds), preset=[options.preset], steps=[steps])
    fill(RESULTS / name, wanted, lambda seed, preset, steps: run(seed, steps, preset))


if __name__ == "__main__":
    main()
