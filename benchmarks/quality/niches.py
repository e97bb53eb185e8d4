"""Niches of every labelled set: the linear method, the network beside it and alone, controls, and peers.

    export SCJEPA_DATA=... OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.quality.niches linear                       # seconds a set: the guide's table and the rule
    python -m benchmarks.quality.niches base --seeds 3               # trains `base`: minutes a set and seed
    python -m benchmarks.quality.niches demo --seeds 3 --sets V1     # trains `demo`
    SCJEPA_PEERS_PYTHON=... python -m benchmarks.quality.niches peers
    python -m benchmarks.quality.niches table                        # results/niches.md from results/niches.csv

NMI and ARI with the labels: mean over Leiden's resolutions 0.6, 1.0 and 1.4, and at the number of labels, three Leiden
seeds, clusters below 1 % not counted, 15 nearest neighbors. Rows that are there are not made again; embeddings of
trained models are kept in --cache, outside the repository.

The rule of the read-out was found on the sets of CHOOSING, and on simulations; the others took no part. Of osmFISH and
of the olfactory bulb some outcomes were known (../shared/guides): that three rings do well on the former, and that
averaging over neighbors erases the layers of the latter.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.quality.sets import load_labelled
from benchmarks.records import fill, keys
from benchmarks.records import table as table_of

import scjepa
from scjepa._core.leiden import MIN_SHARE, EmbeddingGraph
from scjepa.benchmark import neighborhood_pca, run_method
from scjepa.metrics import ari, nmi

CHOOSING = ("V1", "mPFC", "DLPFC-151673", "DLPFC-151675")
REPORTED = ("osmFISH", "osmFISH-second", "smFISH", "DLPFC-151674", "DLPFC-151676", "HER2", "bulb")
RESULTS = Path(__file__).parent / "results" / "niches.csv"
CACHE = Path.home() / ".cache" / "scjepa" / "quality"
SHOWN = {
    "base and expression": "**ST-JEPA** (`base`), default",
    "linear, by the rule": "**linear method**",
    "base alone": "`base` alone",
    "base alone, read-out of before": "`base`, read-out of before",
    "untrained and expression": "untrained and expression",
    "untrained alone": "untrained alone",
    "untrained alone, read-out of before": "untrained, read-out of before",
    "neighborhood PCA": "neighborhood PCA",
    "cellcharter, as it is": "CellCharter",
    "banksy, as it is": "Banksy",
}
"""Methods of the table; every row is in the csv."""
RESOLUTIONS, LEIDEN_SEEDS = (0.6, 1.0, 1.4), 3


def scores(embedding: np.ndarray, adata: AnnData, n_seeds: int = LEIDEN_SEEDS) -> dict[str, float]:
    """Return agreement with ``obs["region"]``, over the resolutions and at the number of labels."""
    labels = adata.obs["region"].astype(str)
    known = (adata.obs["region"].notna() & (labels != "unlabelled")).to_numpy()
    labels = labels[known].to_numpy()
    graph = EmbeddingGraph(np.asarray(embedding, dtype=np.float32))
    fixed = [graph.leiden(resolution, seed) for seed in range(n_seeds) for resolution in RESOLUTIONS]
    matched = [graph.match(len(set(labels)), seed, MIN_SHARE) for seed in range(n_seeds)]
    found = {"n_clusters": float(np.mean([one.n_clusters for one in fixed]))}
    for suffix, partitions in (("", fixed), ("_matched", matched)):
        for name, score in (("nmi", nmi), ("ari", ari)):
            found[name + suffix] = float(np.mean([score(labels, one.labels[known], ignore=()) for one in partitions]))
    return found


def by_rings(embedding: np.ndarray, adata: AnnData) -> np.ndarray:
    """Return the read-out of before: z-scores within sections, 20 principal components, the cell and three rings."""
    cells = scjepa.tl.standardize(embedding, groups=adata.obs["section"], n_comps=20)
    return scjepa.tl.aggregate(cells, connectivities=adata.obsp["spatial_connectivities"], n_hops=3)


def by_rule(sources: dict[str, np.ndarray], adata: AnnData, **options: float | str) -> tuple[np.ndarray, str]:
    """Return the read-out of the rule, and what it chose."""
    readout = scjepa.tl.NicheReadout(**options)
    found = readout.fit_transform(sources, adata.obsp["spatial_connectivities"], adata.obs["section"])
    return found, readout.describe()


def linear(adata: AnnData) -> Iterator[tuple[str, np.ndarray, str]]:
    """Yield rows that need no training: the rule, the components with three plain rings, neighborhood PCA."""
    yield "linear, by the rule", *by_rule({"X": adata.X}, adata)
    components = scjepa.tl.PredictiveComponents(target_sum=1e4)
    found = components.fit_transform(adata.X, adata.obsp["spatial_connectivities"], adata.obs["section"])
    yield (
        "linear, three plain rings",
        scjepa.tl.aggregate(found, connectivities=adata.obsp["spatial_connectivities"], n_hops=3),
        "",
    )
    yield "neighborhood PCA", neighborhood_pca(adata), ""
    if adata.obs["section"].nunique() > 1:
        for align in ("scale", "center", "none"):
            yield f"linear, align {align}", *by_rule({"X": adata.X}, adata, align=align)


def network(
    adata: AnnData, embeddings: dict[str, np.ndarray], preset: str = "base"
) -> Iterator[tuple[str, np.ndarray, str]]:
    """Yield the default flow, the embedding forced on alone, the encoder untrained, and the read-out of before."""
    untrained = "untrained" if preset == "base" else f"untrained {preset}"
    for name, cells in ((preset, embeddings["cell"]), (untrained, embeddings["untrained"])):
        yield f"{name} and expression", *by_rule({"X": adata.X, "X_stjepa_cell": cells}, adata)
        yield f"{name} alone", *by_rule({"X_stjepa_cell": cells}, adata)
        yield f"{name} alone, read-out of before", by_rings(cells, adata), ""


def of_preset(adata: AnnData, seed: int, preset: str = "base") -> dict[str, np.ndarray]:
    """Return the cell embeddings of a preset, trained and untrained."""
    scjepa.STJEPA.setup_anndata(adata, library_key="section")
    model = scjepa.STJEPA(adata, preset, seed=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This model is not trained")
        untrained = model.get_latent_representation(scale="cell")
    start = time.perf_counter()
    model.train(progress_bar=False)
    print(f"{preset}: trained in {time.perf_counter() - start:.0f} s", flush=True)
    cells = model.get_latent_representation(scale="cell")
    model.deregister_manager(adata)
    return {"cell": cells, "untrained": untrained}


def embeddings_of(name: str, adata: AnnData, seed: int, cache: Path, preset: str = "base") -> dict[str, np.ndarray]:
    """Return the cell embeddings of a preset, trained and untrained, from the cache where they are there."""
    path = cache / f"{name}-{preset}-{seed}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **of_preset(adata, seed, preset))
    with np.load(path) as kept:
        return {key: kept[key] for key in ("cell", "untrained")}


def peers(adata: AnnData, seed: int, names: list[str]) -> Iterator[tuple[str, np.ndarray, str]]:
    """Yield each peer at the settings of its tutorial, its embedding as it is and z-scored within sections."""
    for name in names:
        result = run_method(name, adata.copy(), seed=seed, settings="tutorial", library_key="section", timeout=2400)
        if result.embedding is None:
            print(name, result.error, flush=True)
            continue
        yield f"{name}, as it is", result.embedding, ""
        yield f"{name}, z-scored", scjepa.tl.standardize(result.embedding, groups=adata.obs["section"], n_comps=30), ""


def run(names: list[str], what: str, seeds: int, cache: Path, peer: list[str]) -> None:
    """Make the rows of ``what`` that are not there."""

    def made(name: str, _: str, seed: int) -> list[dict[str, object]]:
        adata = load_labelled(name)
        if what == "linear":
            return rows_of(linear(adata), adata)
        if what != "peers":
            embedded = embeddings_of(name.removesuffix("-second"), adata, seed, cache, what)
            return rows_of(network(adata, embedded, what), adata)
        return rows_of(peers(adata, seed, peer), adata)

    part = "-".join([what, *(peer if what == "peers" else ())])
    fill(RESULTS, keys(set=names, part=[part], seed=range(seeds)), made)


def rows_of(found: Iterable[tuple[str, np.ndarray, str]], adata: AnnData) -> list[dict[str, object]]:
    """Return a row for each method."""
    return [{"method": method, **scores(values, adata), "chosen": chosen} for method, values, chosen in found]


def table() -> None:
    """Write the means over seeds, a row a set and a column a method, and the mean over the sets that did not choose."""
    found = pd.read_csv(RESULTS).groupby(["set", "method"])[["nmi", "nmi_matched"]].mean()
    sets = [name for name in (*CHOOSING, *REPORTED) if name in found.index.get_level_values("set")]
    rows = {f"{name}{' (chose)' if name in CHOOSING else ''}": [name] for name in sets}
    rows["**mean of those that did not choose**"] = [name for name in sets if name in REPORTED]
    lines = [[title, *(_pair(found, own, method) for method in SHOWN)] for title, own in rows.items()]
    text = table_of(["set", *SHOWN.values()], lines)
    RESULTS.with_suffix(".md").write_text(f"{text}\n")
    print(text)


def _pair(found: pd.DataFrame, names: list[str], method: str) -> str:
    """Return the mean scores over sets, with the number of sets where a method lacks some."""
    there = [found.loc[(name, method)] for name in names if (name, method) in found.index]
    if not there:
        return ""
    fixed, matched = (float(np.mean([row[column] for row in there])) for column in ("nmi", "nmi_matched"))
    lacks = f" ({len(there)} sets)" if len(there) < len(names) else ""
    return f"{fixed:.3f} / {matched:.3f}{lacks}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("linear", "base", "demo", "peers", "table"))
    parser.add_argument("--sets", nargs="+", default=[*CHOOSING, *REPORTED])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--peers", nargs="+", default=["cellcharter", "banksy"])
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    os.environ.setdefault("MPLBACKEND", "Agg")
    if options.what == "table":
        table()
    else:
        run(options.sets, options.what, options.seeds, options.cache, options.peers)
