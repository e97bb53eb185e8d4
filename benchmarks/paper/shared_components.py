"""Technologies aligned in closed form: components of each technology's own genes, matched by what they share.

    export SCJEPA_DATA=...
    python -m benchmarks.paper.shared_components              # every pair, minutes each
    python -m benchmarks.paper.shared_components V1xosmFISH   # one of them
    python -m benchmarks.paper.shared_components table        # the table of what is there

Two technologies of one tissue, of whose panels few genes agree. The linear read-out of the shared genes (covariances
aligned) is poor where these are few; here it only says which neighborhoods correspond:

1. Predictive components of each technology by itself, of all its genes.
2. Anchors: neighborhoods of one technology and the other that are among each other's 20 nearest (at first in the
   read-out of the shared genes).
3. Canonical correlation of the components around the anchors (means over ring 1) gives directions that the two
   technologies have in common; a component is scaled by its correlation.
4. The read-out of these components is where the next anchors are looked for: 2 and 3 again.

No prediction was written: a trial came before this script. The steps were chosen on V1 × osmFISH; what they gave on
V1 × mPFC and V1 × smFISH was seen and changed nothing. Rows go to results/shared_components.csv, losing ones too;
those that are there are not made again. Other methods on the first two pairs are in results/harmony.md.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks.paper.harmony import scores
from benchmarks.paper.kept import task_of
from sklearn.neighbors import NearestNeighbors

from scjepa.benchmark.suites.tissue import Task
from scjepa.tl import NicheReadout, PredictiveComponents, aggregate

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "shared_components.csv"
PAIRS = {
    "V1xosmFISH": {"V1": "starmap_visual_cortex", "osmFISH": "osmfish_somatosensory_cortex"},
    "V1xmPFC": {"V1": "starmap_visual_cortex", "mPFC": "starmap_mpfc_3sections"},
    "V1xsmFISH": {"V1": "starmap_visual_cortex", "smFISH": "smfish_mouse_visp_layers"},
}
N_COMPONENTS, N_ANCHORS, N_ITERATIONS = 20, 20, 5
RIDGES = (0.01, 0.1)
"""Ridge of the canonical correlation over the mean variance."""


def inverse_root(covariance: np.ndarray, ridge: float) -> np.ndarray:
    """Return (C + ridge · mean variance · I)^-1/2."""
    variances, axes = np.linalg.eigh(
        covariance + ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    )
    return (axes * variances**-0.5) @ axes.T


def anchors_of(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of pairs that are among each other's nearest."""
    there = NearestNeighbors(n_neighbors=N_ANCHORS).fit(second).kneighbors_graph(first)
    back = NearestNeighbors(n_neighbors=N_ANCHORS).fit(first).kneighbors_graph(second)
    return there.multiply(back.T).nonzero()


def in_common(own: list[np.ndarray], around: list[np.ndarray], anchors: tuple, ridge: float) -> list[np.ndarray]:
    """Return the components of the cells of each technology in the directions that anchors have in common."""
    given = [values[rows] for values, rows in zip(around, anchors, strict=True)]
    given = [values - values.mean(axis=0) for values in given]
    roots = [inverse_root(values.T @ values / len(values), ridge) for values in given]
    left, correlations, right = np.linalg.svd(roots[0] @ (given[0].T @ given[1] / len(given[0])) @ roots[1])
    maps = [roots[0] @ left * correlations, roots[1] @ right.T * correlations]
    return [(values - values.mean(axis=0)) @ mapped for values, mapped in zip(own, maps, strict=True)]


def readouts(task: Task) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of each read-out of a pair, and the read-out."""
    adata, sections, graph = task.adata, task.sections, task.adata.obsp["spatial_connectivities"]
    of = [task.technologies == name for name in dict.fromkeys(task.technologies)]
    for align in ("scale", "covariance"):
        shared = NicheReadout(align=align).fit_transform({"X": task.narrow.X}, graph, sections)
        yield f"shared genes, {align}", shared
    own = []
    for cells in of:
        part = adata[cells]
        part = part[:, np.asarray((part.X > 0).sum(axis=0)).ravel() > 0]
        components = PredictiveComponents(N_COMPONENTS, align="scale", target_sum=1e4)
        own.append(components.fit_transform(part.X, part.obsp["spatial_connectivities"], sections[cells]))
    together = np.zeros((adata.n_obs, N_COMPONENTS), dtype=np.float32)
    for cells, values in zip(of, own, strict=True):
        together[cells] = values
    around = aggregate(together, connectivities=graph, n_hops=1, concatenate=True)[:, N_COMPONENTS:]
    for ridge in RIDGES:
        space = shared
        for number in range(1, N_ITERATIONS + 1):
            found = in_common(own, [around[cells] for cells in of], anchors_of(*(space[cells] for cells in of)), ridge)
            joint = np.zeros_like(together)
            for cells, values in zip(of, found, strict=True):
                joint[cells] = values
            space = NicheReadout(align="covariance").fit_transform({"joint": joint}, graph, sections)
            if number in (1, 3, N_ITERATIONS):
                yield f"in common, ridge {ridge:g}, {number} times", space


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


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    asked = sys.argv[1:] or [*PAIRS, "table"]
    for one in asked:
        write_table() if one == "table" else run(one)
