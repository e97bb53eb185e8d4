"""Ways to tell that an atlas lacks a region: distances, how far they are averaged over the tissue, and thresholds.

    export SCJEPA_DATA=... OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1
    python -m benchmarks.atlas.candidates distances mPFC DLPFC     # results/unknown_candidates.csv
    python -m benchmarks.atlas.candidates ceiling mPFC DLPFC       # results/unknown_ceiling.csv

Regions are left out as by ``leave_out unknown``. Distances, as logarithms: ``plain``, of the surroundings as they
are; ``white S``, whitened within niches, the covariance shrunken by S; ``gaussian``, of Mahalanobis to the nearest
niche; ``segment``, to the nearest line between two niches, on which borders lie; ``plain + white 0.5``, their sum.
``steps`` on the spatial graph over which they are averaged. Thresholds by the held-out sections at an error of 0.1: of
all ``pooled``, or of the ``worst``. Chosen on mPFC, by the least share of a region that is found at false alarms of 0.1
in the mean: plain + white 0.5, 16 steps, worst. DLPFC took no part.

``unknown_votes.csv``, of a script that is not kept: whether votes are divided (their entropy, averaged over 16 steps),
as where a missing layer lies between two that are known: alone, joined with the distance, or the larger of the two. It
tells L3 to L5 of DLPFC better (AUC 0.84 to 0.86; L4 0.62 by the distance) and L2/3 and L6 of mPFC much worse, and finds
less of both.

``unknown_crowding.csv``, of a script that is not kept: how much nearer the cells of the own section are (none within
four steps) than those of the atlas, on mPFC and DLPFC 151673 (no L1), means over sections. ``atlas axes``: principal
components of the atlas; ``joint axes``: of atlas and section; the share of cells that counts as near; steps over which
it is averaged. ``niche``: less the median of held-out cells of the niche, over their spread. With the distance: the
least p-value of both, their sum (``dist+2``), or ``either`` beyond its threshold at half the error, which was chosen.
Predicted before: on DLPFC L3 and L5 0.4 to 0.6 of the cells, L4 0.3 to 0.6, 7 to 8 of all 11 regions; joint axes for
little.

``unknown_ceiling.csv``: what is found by those who are given the labels, which no rule without them can exceed:
shrunken discriminant analysis of all labels, the posterior of the region as log-odds averaged over ``steps``, the
threshold at false alarms of 0.1 (``found``) and 0.05 (``found_5``) of the very section. ``trained``: on the ``others``,
the region in them, or on ``half`` of the section itself (some 32 spatial blocks, every other one, and the reverse).
``space``: coordinates of the atlas that lacks the region (``readout``, ``surroundings``, the section ``moved`` as a
whole), or the features of which it makes surroundings, of the ``cell``, with ``one ring``, with ``two rings``, or
``all three``.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from benchmarks.atlas.leave_out import N_NICHES, UNLABELLED, atlas_of, labels_of, load_set
from benchmarks.records import fill, keys
from scipy.sparse import csr_matrix, diags, identity
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from scjepa._core.graph import spatial_graph_of
from scjepa._core.neighbors import spatial_blocks
from scjepa.atlas import NicheAtlas, _calibration, _cells, _sections
from scjepa.atlas._cells import NicheDistance

RESULTS = Path(__file__).parent / "results"
LEFT_OUT = {"DLPFC": ("151674", "151673")}
"""Sections that are predicted, where not all."""
STEPS, ERROR, NOWHERE = (0, 4, 8, 16), 0.1, -100.0
DISTANCES = ("plain", "white 0.5", "white 0.1", "gaussian", "segment", "plain + white 0.5", "plain + white 0.1")


def whitened(kept: np.ndarray, codes: np.ndarray, shrinkage: float) -> np.ndarray:
    """Return axes along which kept cells vary alike within niches."""
    rest = np.concatenate([kept[codes == code] - kept[codes == code].mean(axis=0) for code in np.unique(codes)])
    lengths, axes = np.linalg.eigh(np.cov(rest.T.astype(float)))
    return (axes / np.sqrt((1 - shrinkage) * lengths + shrinkage * lengths.mean())).astype(np.float32)


def distances(kept: np.ndarray, codes: np.ndarray, new: np.ndarray, names: np.ndarray) -> dict[str, np.ndarray]:
    """Return each distance of new cells, as logarithm."""
    found = {"plain": np.log(NicheDistance(kept, codes).of(new, names))}
    for shrinkage in (0.5, 0.1):
        axes = whitened(kept, codes, shrinkage)
        measure = NicheDistance(kept @ axes, codes)
        found[f"white {shrinkage}"] = np.log(measure.of(new @ axes, names))
        found[f"plain + white {shrinkage}"] = found["plain"] + found[f"white {shrinkage}"]
    moved = measure._moved(new @ axes, names).astype(float)
    centers = np.stack([own.mean(axis=0) for own in measure._niches])
    found["gaussian"] = np.log(((moved[:, None] - centers) ** 2).sum(axis=2).min(axis=1)) / 2
    found["segment"] = np.log(to_segments(measure, moved)) / 2
    return found


def to_segments(measure: NicheDistance, cells: np.ndarray) -> np.ndarray:
    """Return squared distances to the nearest line between what is nearest of two niches."""
    near = measure._to_niches(cells.astype(np.float32))[1]
    means = [own[rows].mean(axis=1).astype(float) for own, rows in zip(measure._niches, near, strict=True)]
    found = np.full(len(cells), np.inf)
    for one in range(len(means)):
        for other in range(one):
            along = means[other] - means[one]
            share = ((cells - means[one]) * along).sum(axis=1) / np.maximum((along**2).sum(axis=1), 1e-12)
            apart = cells - means[one] - np.clip(share, 0, 1)[:, None] * along
            found = np.minimum(found, (apart**2).sum(axis=1))
    return np.maximum(found, 1e-12)


def averaged(values: np.ndarray, edges: csr_matrix, n_steps: int) -> np.ndarray:
    """Return means over the graph, taken so many times."""
    around = edges + identity(edges.shape[0], format="csr")
    around = diags(1 / np.asarray(around.sum(axis=1)).ravel()) @ around
    for _ in range(n_steps):
        values = around @ values
    return values


def rows_of(held_out: list[tuple], new: tuple, is_left: np.ndarray) -> list[dict[str, Any]]:
    """Return a row for each distance, number of steps and threshold; a part is its distances and its graph."""
    rows = []
    for name in DISTANCES:
        for n_steps in STEPS:
            known = [averaged(found[name], edges, n_steps) for found, edges in held_out]
            here = averaged(new[0][name], new[1], n_steps)
            limits = {"pooled": np.quantile(np.concatenate(known), 1 - ERROR)}
            limits["worst"] = max(np.quantile(one, 1 - ERROR) for one in known)
            for threshold, limit in limits.items():
                row = {"distance": name, "steps": n_steps, "threshold": threshold}
                row["false_alarms"] = (here[~is_left] > limit).mean()
                if is_left.any():
                    row |= {"auc": roc_auc_score(is_left, here), "found": (here[is_left] > limit).mean()}
                rows.append(row)
    return rows


def wanted(name: str, sections: np.ndarray, labels: np.ndarray) -> list[dict[str, str]]:
    """Return the regions that are left out of each section predicted, and none."""
    regions = ["none", *sorted(set(labels) - set(UNLABELLED))]
    found = [{"set": name, **one} for one in keys(region=regions, section=LEFT_OUT.get(name, np.unique(sections)))]
    return [{name: one[name] for name in ("set", "section", "region")} for one in found]


def left_out(adata: AnnData, name: str, section: str, region: str) -> list[tuple]:
    """Return the parts that an atlas without a section and a region holds out, and the section as the last of them.

    A part: kept cells, where its cells are, their sections, graph, and which have a niche.
    """
    sections, labels = adata.obs["section"].astype(str).to_numpy(), labels_of(adata)
    own, parts, by_section = sections == section, [], _calibration._by_section

    def kept_of(*given):
        for part in by_section(*given):
            parts.append(part)
            yield part

    _calibration._by_section = kept_of
    atlas = atlas_of(adata[~own & (labels != region)].copy(), N_NICHES[name] - (region != "none"))
    _calibration._by_section = by_section
    new = adata[own].copy()
    graph = spatial_graph_of(new, "spatial", "section")
    read = _sections.read(new, atlas._coordinates, None, graph, sections[own])
    return [*parts, (atlas._kept, read.places, read.sections.astype(str), graph, np.ones(new.n_obs, dtype=bool))]


def compare_distances(name: str) -> None:
    """Append the rows of a set."""
    adata = load_set(name)
    sections, labels = adata.obs["section"].astype(str).to_numpy(), labels_of(adata)

    def made(_: str, section: str, region: str) -> list[dict]:
        found = [
            (distances(kept.places.surroundings, kept.codes, new.surroundings, names), edges)
            for kept, new, names, edges, _ in left_out(adata, name, section, region)
        ]
        return rows_of(found[:-1], found[-1], labels[sections == section] == region)

    fill(RESULTS / "unknown_candidates.csv", wanted(name, sections, labels), made)


def spaces_of(atlas: NicheAtlas, adata: AnnData, edges: csr_matrix, sections: np.ndarray) -> dict[str, np.ndarray]:
    """Return where all cells are in each space, every section taken for a new one."""
    names = np.array([f"{one}, new" for one in sections], dtype=object)
    sources = _sections.sources_of(adata, atlas.readout, None)
    places = atlas._coordinates.of(sources, edges, names)
    moved = NicheDistance(atlas._kept.places.surroundings, atlas._kept.codes)._moved(places.surroundings, sections)
    (components,) = atlas.readout.components_
    cells = _cells._features(components).transform(sources["X"], names)
    rings = averaged(cells, edges, 1)
    found = {"readout": places.readout, "surroundings": places.surroundings, "moved": moved, "cell": cells}
    found |= {"one ring": rings, "two rings": places.means.astype(np.float32)}
    return found | {"all three": np.hstack([cells, rings, found["two rings"]])}


def log_odds(values: np.ndarray, labels: np.ndarray, region: str, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return the log-odds of the region in cells, by discriminant analysis of others whose labels are given.

    Those of nowhere, where none of the others is of the region.
    """
    if region not in labels[train]:
        return np.full(test.sum() if test.dtype == bool else len(test), NOWHERE)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(values[train], labels[train])
    chance = model.predict_log_proba(values[test])
    at = np.flatnonzero(model.classes_ == region)[0]
    return chance[:, at] - np.logaddexp.reduce(np.delete(chance, at, axis=1), axis=1)


def ceiling(name: str) -> None:
    """Append what is found by those who are given the labels."""
    adata = load_set(name)
    sections, labels = adata.obs["section"].astype(str).to_numpy(), labels_of(adata)
    edges = spatial_graph_of(adata, "spatial", "section")

    def made(_: str, section: str, region: str) -> list[dict]:
        own, known = sections == section, ~np.isin(labels, UNLABELLED)
        atlas = atlas_of(adata[~own & (labels != region)].copy(), N_NICHES[name] - 1)
        here, graph, rows = np.flatnonzero(own), edges[own][:, own], []
        is_left = labels[own] == region
        half = spatial_blocks(adata.obsm["spatial"][own], None, -(-own.sum() // 20)) % 2 == 1
        for space, values in spaces_of(atlas, adata, edges, sections).items():
            odds = {"others": log_odds(values, labels, region, ~own & known, own), "half": np.empty(own.sum())}
            for out in (half, ~half):
                train = here[~out & known[own]]
                odds["half"][out] = log_odds(values, labels, region, train, here[out])
            for trained, found in odds.items():
                for n_steps in (0, 1, *STEPS[1:]):
                    around = averaged(found, graph, n_steps)
                    row = {"trained": trained, "space": space, "steps": n_steps, "n_cells": int(is_left.sum())}
                    row["auc"] = roc_auc_score(is_left, around)
                    for column, error in (("found", ERROR), ("found_5", ERROR / 2)):
                        row[column] = (around[is_left] > np.quantile(around[~is_left], 1 - error)).mean()
                    rows.append(row)
        return rows

    fill(
        RESULTS / "unknown_ceiling.csv",
        [one for one in wanted(name, sections, labels) if one["region"] != "none"],
        made,
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    for each in sys.argv[2:]:
        {"distances": compare_distances, "ceiling": ceiling}[sys.argv[1]](each)
