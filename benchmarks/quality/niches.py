"""Niches of every labelled set: the linear method, the network beside it and alone, controls, and peers.

    export SCJEPA_DATA=... OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.quality.niches linear                       # seconds a set: the guide's table and the rule
    python -m benchmarks.quality.niches base --seeds 3               # trains `base`: minutes a set and seed
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
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.quality.sets import load_labelled
from benchmarks.records import append, commit, done

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


def scores(embedding: np.ndarray, adata: AnnData) -> dict[str, float]:
    """Return agreement with ``obs["region"]``, over the resolutions and at the number of labels."""
    labels = adata.obs["region"].astype(str)
    known = (adata.obs["region"].notna() & (labels != "unlabelled")).to_numpy()
    labels = labels[known].to_numpy()
    graph = EmbeddingGraph(np.asarray(embedding, dtype=np.float32))
    fixed = [graph.leiden(resolution, seed) for seed in range(LEIDEN_SEEDS) for resolution in RESOLUTIONS]
    matched = [graph.match(len(set(labels)), seed, MIN_SHARE) for seed in range(LEIDEN_SEEDS)]
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


def network(adata: AnnData, embeddings: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray, str]]:
    """Yield the default flow, the embedding forced on alone, the encoder untrained, and the read-out of before."""
    for name, cells in (("base", embeddings["cell"]), ("untrained", embeddings["untrained"])):
        yield f"{name} and expression", *by_rule({"X": adata.X, "X_stjepa_cell": cells}, adata)
        yield f"{name} alone", *by_rule({"X_stjepa_cell": cells}, adata)
        yield f"{name} alone, read-out of before", by_rings(cells, adata), ""


def embeddings_of(name: str, adata: AnnData, seed: int, cache: Path) -> dict[str, np.ndarray]:
    """Return the cell embeddings of `base`, trained and untrained, from the cache where they are there."""
    path = cache / f"{name}-base-{seed}.npz"
    if not path.is_file():
        scjepa.STJEPA.setup_anndata(adata, library_key="section")
        model = scjepa.STJEPA(adata, "base", seed=seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This model is not trained")
            untrained = model.get_latent_representation(scale="cell")
        model.train(progress_bar=False)
        cells = model.get_latent_representation(scale="cell")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, cell=cells, untrained=untrained)
        model.deregister_manager(adata)
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
    for name in names:
        adata = None
        for seed in range(seeds):
            key = {"set": name, "part": "-".join([what, *(peer if what == "peers" else ())]), "seed": seed}
            if done(RESULTS, key):
                continue
            adata = load_labelled(name) if adata is None else adata
            if what == "linear":
                found = linear(adata)
            elif what == "base":
                found = network(adata, embeddings_of(name.removesuffix("-second"), adata, seed, cache))
            else:
                found = peers(adata, seed, peer)
            rows = [
                {**key, "method": method, **scores(embedding, adata), "chosen": chosen, "commit": commit()}
                for method, embedding, chosen in found
            ]
            for row in rows:
                print(f"{name} {seed} {row['method']}: {row['nmi']:.3f} / {row['nmi_matched']:.3f} {row['chosen']}")
            append(RESULTS, pd.DataFrame(rows))


def table() -> None:
    """Write the means over seeds, a row a set and a column a method, and the mean over the sets that did not choose."""
    rows = pd.read_csv(RESULTS)
    found = rows.groupby(["set", "method"])[["nmi", "nmi_matched"]].mean()
    sets = [name for name in (*CHOOSING, *REPORTED) if name in found.index.get_level_values("set")]
    lines = ["| set | " + " | ".join(SHOWN.values()) + " |", "|---" * (len(SHOWN) + 1) + "|"]
    for name in sets:
        chose = " (chose)" if name in CHOOSING else ""
        lines.append(f"| {name}{chose} | " + " | ".join(_pair(found, [name], method) for method in SHOWN) + " |")
    own = [name for name in sets if name in REPORTED]
    means = " | ".join(_pair(found, own, method) for method in SHOWN)
    lines.append(f"| **mean of those that did not choose** | {means} |")
    RESULTS.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


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
    parser.add_argument("what", choices=("linear", "base", "peers", "table"))
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
