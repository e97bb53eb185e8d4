"""Technologies aligned in closed form: ``scjepa.tl.SharedComponents``, what was tried around it, and peers beside it.

    export SCJEPA_DATA=...
    python -m benchmarks.paper.shared_components              # every pair, some twenty minutes each on a quiet core
    python -m benchmarks.paper.shared_components V1xosmFISH   # one of them
    python -m benchmarks.paper.shared_components table        # the table and the figure of what is there

Two technologies of one tissue, of whose panels few genes agree. Rows are scored as those of results/harmony.md, whose
methods stand beside them in the figure: agreement of joint niches with the layers against mixing (iLISI).

- *shared genes*: the read-out of the genes in common alone, features scaled or covariances aligned; and plain rings.
- *in common*: SharedComponents, then the read-out with covariances aligned; by ridge and number of iterations.
- *anchors*: other numbers of nearest neighborhoods, three iterations.
- *plain rings*: rings 0 to 3 side by side in place of the read-out; also scaled within technologies.
- *Harmony*, *mutual neighbors*: the read-out corrected afterwards, by Harmony or by the differences of mutual
  nearest neighbors (Haghverdi et al. 2018), halfway from either side.

No prediction was written: a trial came before this script. Three iterations and the ridge were chosen on V1 × osmFISH;
what they gave on V1 × mPFC and V1 × smFISH was seen and changed nothing. Rows go to results/shared_components.csv,
losing ones too; those that are there are not made again.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks.paper.harmony import scores
from benchmarks.paper.kept import task_of
from sklearn.neighbors import NearestNeighbors

from scjepa.benchmark.controls import harmony
from scjepa.benchmark.suites.tissue import Task
from scjepa.tl import NicheReadout, PredictiveComponents, SharedComponents, aggregate

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "shared_components.csv"
FIGURE = Path(__file__).parents[2] / "docs" / "_static" / "technologies.png"
PAIRS = {
    "V1xosmFISH": {"V1": "starmap_visual_cortex", "osmFISH": "osmfish_somatosensory_cortex"},
    "V1xmPFC": {"V1": "starmap_visual_cortex", "mPFC": "starmap_mpfc_3sections"},
    "V1xsmFISH": {"V1": "starmap_visual_cortex", "smFISH": "smfish_mouse_visp_layers"},
}
OURS = "in common, ridge 0.1, 3 times"
N_ANCHORS, N_NEAREST = (5, 50), 100


def joint(task: Task, make: Callable[..., SharedComponents] = SharedComponents, **options: object) -> np.ndarray:
    """Return the components in common of the cells of a pair."""
    names = list(dict.fromkeys(task.technologies))
    cells = {name: task.technologies == name for name in names}
    data, graphs, groups = {}, {}, {}
    for name in names:
        part = task.adata[cells[name]]
        data[name] = part[:, np.asarray((part.X > 0).sum(axis=0)).ravel() > 0].copy()
        graphs[name], groups[name] = part.obsp["spatial_connectivities"], task.sections[cells[name]]
    found = make(**options).fit_transform(data, graphs, groups)
    values = np.zeros((task.adata.n_obs, found[names[0]].shape[1]), dtype=np.float32)
    for name in names:
        values[cells[name]] = found[name]
    return values


def corrected(values: np.ndarray, technologies: np.ndarray) -> np.ndarray:
    """Return the cells of two technologies, moved halfway to their mutual nearest neighbors, smoothed."""
    first, second = (np.flatnonzero(technologies == name) for name in dict.fromkeys(technologies))
    there = NearestNeighbors(n_neighbors=20).fit(values[second]).kneighbors_graph(values[first])
    back = NearestNeighbors(n_neighbors=20).fit(values[first]).kneighbors_graph(values[second])
    rows, columns = there.multiply(back.T).nonzero()
    anchors, found = (first[rows], second[columns]), values.copy()
    for cells, own, other in ((first, *anchors), (second, *anchors[::-1])):
        search = NearestNeighbors(n_neighbors=min(N_NEAREST, len(own))).fit(values[own])
        distances, nearest = search.kneighbors(values[cells])
        weights = np.exp(-((distances / np.median(distances)) ** 2))[..., None]
        moves = (values[other] - values[own])[nearest]
        found[cells] += 0.5 * (weights * moves).sum(axis=1) / weights.sum(axis=1)
    return found


def scaled_within(values: np.ndarray, technologies: np.ndarray) -> np.ndarray:
    """Return the values with the means and variances of all cells in each technology."""
    found, spread = values.copy(), values.std(axis=0)
    for name in dict.fromkeys(technologies):
        own = values[technologies == name]
        found[technologies == name] = (own - own.mean(axis=0)) / own.std(axis=0) * spread
    return found


def readouts(task: Task) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of each read-out of a pair, and the read-out."""
    sections, graph = task.sections, task.adata.obsp["spatial_connectivities"]

    def niches(values: np.ndarray) -> np.ndarray:
        return NicheReadout(align="covariance").fit_transform({"joint": values}, graph, sections)

    for align in ("scale", "covariance"):
        yield f"shared genes, {align}", NicheReadout(align=align).fit_transform({"X": task.narrow.X}, graph, sections)
        cells = PredictiveComponents(align=align, target_sum=1e4).fit_transform(task.narrow.X, graph, sections)
        yield f"shared genes, {align}, plain rings", aggregate(cells, connectivities=graph, n_hops=3)
    for ridge in (0.01, 0.1):
        for number in (1, 3, 5):
            together = joint(task, ridge=ridge, n_iterations=number)
            name, space = f"in common, ridge {ridge:g}, {number} times", niches(together)
            yield name, space
            if name == OURS:
                yield "Harmony after", harmony(space, task.technologies)
                yield "mutual neighbors after", corrected(space, task.technologies)
                rings = aggregate(together, connectivities=graph, n_hops=3)
                yield "plain rings", rings
                yield "plain rings, scaled within technologies", scaled_within(rings, task.technologies)
    for number in N_ANCHORS:
        yield f"anchors {number}", niches(joint(task, n_anchors=number))


def run(pair: str) -> None:
    """Score every read-out of a pair, and keep the rows."""
    task = task_of(PAIRS[pair], "region_harmonised", "technologies")
    table = pd.read_csv(TABLE) if TABLE.is_file() else pd.DataFrame(columns=["pair", "readout"])
    there = set(zip(table["pair"], table["readout"], strict=True))
    for name, values in readouts(task):
        if (pair, name) in there:
            continue
        found = scores(task, values)
        carried = [key for key in found if " to " in key]
        found |= {new: found.pop(old) for new, old in zip(("first to second", "second to first"), carried, strict=True)}
        print(pair, name, {key: round(value, 3) for key, value in found.items()}, flush=True)
        table = pd.concat([table, pd.DataFrame([{"pair": pair, "readout": name, **found}])])
        table.round(4).to_csv(TABLE, index=False)


def write_table() -> None:
    """Write the rows as Markdown, three digits."""
    table = pd.read_csv(TABLE)
    header = [*table.columns]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    lines += [
        "| " + " | ".join(v if isinstance(v, str) else f"{v:.3f}" for v in row) + " |" for row in table.to_numpy()
    ]
    TABLE.with_suffix(".md").write_text("\n".join(lines) + "\n")


NAMES = {
    "stjepa": "ST-JEPA, technologies",
    "stjepa base": "ST-JEPA, base",
    "cellcharter": "CellCharter",
    "scvi_mean": "scVI, neighborhood means",
    "banksy": "Banksy",
    "graphst": "GraphST",
    "novae": "Novae, trained from nothing",
    "section_zscored_pca": "PCA, z-scored",
}
"""Methods of the figure."""


def peers(pair: str) -> pd.DataFrame:
    """Return methods of results/harmony.csv, as they are and after Harmony, each where it agrees best."""
    rows = pd.read_csv(RESULTS / "harmony.csv", keep_default_na=False, na_values={"nmi": ""}).query("pair == @pair")
    means = rows.groupby(["method", "settings", "readout", "harmony"], as_index=False)[["nmi", "ilisi"]].mean()
    return means.loc[means.groupby(["method", "harmony"])["nmi"].idxmax()]


def draw() -> None:
    """Draw agreement against mixing: every read-out of ours, and peers as they are and after Harmony."""
    import matplotlib.pyplot as plt

    ours, pairs = pd.read_csv(TABLE), ("V1xosmFISH", "V1xmPFC")
    colors = dict(zip(NAMES, plt.get_cmap("tab10").colors, strict=False))
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for axis, pair in zip(axes, pairs, strict=True):
        there = peers(pair)
        for method, name in NAMES.items():
            rows = there[there["method"] == method].sort_values("harmony")
            axis.plot(rows["ilisi"], rows["nmi"], "-", color=colors[method], lw=0.8)
            axis.plot(rows["ilisi"], rows["nmi"], "o", color=colors[method], ms=5, label=name)
        own = ours[ours["pair"] == pair]
        shared = own["readout"].str.startswith("shared genes")
        axis.plot(own[shared]["ilisi"], own[shared]["nmi"], "kx", label="linear, shared genes alone")
        axis.plot(own[~shared]["ilisi"], own[~shared]["nmi"], "k*", ms=9, label="components in common: no training")
        axis.set(title=pair.replace("x", " × "), xlabel="mixing of technologies (iLISI)")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("agreement with layers (NMI)")
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(FIGURE, dpi=130)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for one in sys.argv[1:] or [*PAIRS, "table"]:
        if one == "table":
            write_table()
            draw()
        else:
            run(one)
