"""False alarms of an atlas in pieces of familiar sections, by the least size of those that have fine crowding.

    export SCJEPA_DATA=... OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.atlas.cut_outs mPFC DLPFC      # results/cut_outs.csv, means and maxima printed

Each section in turn (of DLPFC 151673) is predicted by an atlas of the others that lacks nothing: whole, in halves and
quarters along both axes, by single layers, and in discs of some cells around five drawn ones. ``rule``: as in the
package; ``all sizes``: fine crowding from 100 cells on; ``without``: no fine crowding. All unknown cells are false
alarms. The package's least size was set by these rows: fine crowding is left out where a piece is smaller than whole
sections of mPFC.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.atlas.leave_out import N_NICHES, RESULTS, SPOTS, atlas_of, labels_of, load_set
from benchmarks.records import fill, keys

from scjepa._core.squidpy import spatial_graph
from scjepa.atlas import _cells

FEWEST = {"rule": None, "all sizes": 100, "without": 10**9}
DISCS, DRAWN = (150, 300, 600), 5


def pieces(section: AnnData, layers: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield kinds of pieces, and which cells are in each."""
    places = section.obsm["spatial"]
    yield "whole", np.ones(len(places), dtype=bool)
    for along in places.T:
        for kind, number in (("half", 2), ("quarter", 4)):
            ranks = along.argsort().argsort() * number // len(along)
            yield from ((kind, ranks == part) for part in range(number))
    yield from (("layer", layers == layer) for layer in np.unique(layers))
    for center in places[np.random.default_rng(0).integers(0, len(places), DRAWN)]:
        ranks = ((places - center) ** 2).sum(axis=1).argsort().argsort()
        yield from ((f"disc of {number}", ranks < number) for number in DISCS)


def made(name: str, section: str, rule: str) -> list[dict]:
    """Return the share of each piece of a section that is unknown."""
    adata = load_set(name)
    own, coarse_and_fine = adata.obs["section"].astype(str).to_numpy() == section, _cells.CROWDED
    fewest = FEWEST[rule] or coarse_and_fine[1].fewest
    whole, rows = adata[own].copy(), []
    with patch.object(_cells, "CROWDED", (coarse_and_fine[0], coarse_and_fine[1]._replace(fewest=fewest))):
        atlas = atlas_of(adata[~own].copy(), N_NICHES[name])
        for kind, cells in pieces(whole, labels_of(whole)):
            if cells.sum() < coarse_and_fine[0].fewest:
                continue
            piece = whole[cells].copy()
            spatial_graph(piece, n_neighs=6 if name in SPOTS else 10, library_key="section")
            atlas.predict(piece)
            rows.append({"piece": kind, "n_cells": piece.n_obs, "unknown": (piece.obs["niche"] == "unknown").mean()})
    return rows


def main(names: list[str]) -> None:
    """Make the rows that are not there, and print means and maxima."""
    sections = {"mPFC": ("BZ5", "BZ9", "BZ14"), "DLPFC": ("151673",)}
    for name in names:
        fill(RESULTS / "cut_outs.csv", keys(set=[name], section=sections[name], rule=FEWEST), made)
    rows = pd.read_csv(RESULTS / "cut_outs.csv").groupby(["set", "piece", "rule"])["unknown"].agg(["mean", "max"])
    print(rows.round(2).unstack().to_string())


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(sys.argv[1:])
