"""Tell information from geometry: what a linear probe finds in the embeddings whose clusters ``run.py`` scored.

    python -m benchmarks.quality.probes

A multinomial probe of the region, and one of the cell type, is cross-validated over compact blocks of tissue
(:func:`scjepa.metrics.block_probe`), on each read-out of the embeddings in ``--cache``. NMI and ARI of its predictions
with the labels tell what clusters could reach at most if their shape were right: a ceiling that has seen labels. Writes
``results/probes.csv``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks.quality.readouts import READOUTS, read_out
from benchmarks.quality.run import CACHE, RESULTS, cache_file
from benchmarks.quality.sets import REAL, SETS, load_set

from scjepa.metrics import ari, block_probe, nmi

LABELS = ("region", "cell_type")


def main() -> None:
    """Probe every kept embedding of a recipe and of the controls that know no recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="base")
    parser.add_argument("--sets", nargs="+", default=list(REAL), choices=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    columns = ["set", "method", "recipe", "seed", "config"]
    runs = pd.read_csv(options.out / "scores.csv", dtype={"config": str})[columns].drop_duplicates()
    runs = runs[runs["recipe"].isin([options.recipe, "-"]) & (runs["seed"] < options.seeds)]
    rows = []
    for name in options.sets:
        adata = load_set(name)
        for run in runs[runs["set"] == name].to_dict("records"):
            with np.load(cache_file(options.cache, run)) as file:
                embeddings = {scale: file[scale] for scale in ("neighborhood", "cell") if scale in file}
            for readout_name in READOUTS:
                values = read_out(readout_name, embeddings, adata)
                for label in LABELS if values is not None else ():
                    known = adata.obs[label].astype(str)
                    found = block_probe(values, known, adata.obsm["spatial"], adata.obs["section"])
                    kept = np.array([x is not None for x in found.predicted])
                    rows.append(
                        {
                            **{key: run[key] for key in columns[:4]},
                            "readout": readout_name,
                            "label": label,
                            "accuracy": found.accuracy,
                            "macro_f1": found.macro_f1,
                            "majority_rate": found.majority_rate,
                            "nmi": nmi(known[kept], found.predicted[kept]),
                            "ari": ari(known[kept], found.predicted[kept]),
                        }
                    )
            print(name, run["method"], run["seed"], flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(options.out / "probes.csv", index=False, float_format="%.4f")
    keys = ["label", "set", "readout", "method"]
    print(table.groupby(keys)[["accuracy", "macro_f1", "nmi"]].mean().round(3).to_string())


if __name__ == "__main__":
    main()
