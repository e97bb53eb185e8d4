"""Harmony after every method's read-out, on the pairs of technologies that `run.sh pairs` has kept.

    python benchmarks/paper/harmony.py

Of ST-JEPA's preset `base` the runs of `run.sh table1` are taken. Read-outs of kept runs are corrected for the
technology by Harmony (harmonypy, its defaults, seed 0) and scored as `scjepa benchmark` scores them; rows go to
results/harmony.csv, those that are there are not made again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from harmonypy import run_harmony

from scjepa.benchmark._store import RunKey, Store
from scjepa.benchmark._tasks import Task, make_tasks
from scjepa.benchmark._units import Columns, read_units
from scjepa.metrics import ilisi, label_transfer, nmi
from scjepa.tl._graph import MIN_SHARE, EmbeddingGraph

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
KEPT = Path(os.environ.get("SCJEPA_PAPER_OUT", CACHE / "scjepa" / "paper"))
TABLE = Path(__file__).parent / "results" / "harmony.csv"

PAIRS = {
    "V1xosmFISH": {"V1": "starmap_visual_cortex", "osmFISH": "osmfish_somatosensory_cortex"},
    "V1xmPFC": {"V1": "starmap_visual_cortex", "mPFC": "starmap_mpfc_3sections"},
}
READOUTS = ("z30", "hops", "aligned30", "aligned_hops")
RESOLUTIONS = (0.6, 0.8, 1.0, 1.2, 1.4)
BASE = "stjepa base"
LEFT_OUT = ("harmony_pca", "banksy_harmony")
"""Methods that have been through Harmony."""


def corrected(values: np.ndarray, task: Task) -> np.ndarray:
    """Return a read-out without what tells technologies apart, by Harmony."""
    of = pd.DataFrame({"technology": task.technologies.astype(str)})
    # Versions before 2 return components × cells.
    found = np.asarray(run_harmony(values.astype(np.float64), of, ["technology"], random_state=0).Z_corr)
    return (found if found.shape == values.shape else found.T).astype(np.float32)


def weighted_nmi(task: Task, clusters: np.ndarray) -> float:
    """Return NMI in each technology, weighted by its labeled cells."""
    rows = [task.labelled & (task.technologies == name) for name in np.unique(task.technologies)]
    scores = [nmi(task.labels[own], clusters[own], ignore=()) for own in rows]
    return float(np.average(scores, weights=[own.sum() for own in rows]))


def scores(task: Task, values: np.ndarray) -> dict[str, float]:
    """Return agreement, mixing and labels carried over of one read-out."""
    graph, named = EmbeddingGraph(values, 15), task.labelled
    over = [weighted_nmi(task, graph.leiden(r, seed).labels) for seed in range(3) for r in RESOLUTIONS]
    matched = [weighted_nmi(task, graph.match(task.n_labels, seed, MIN_SHARE).labels) for seed in range(3)]
    found = {"nmi": float(np.mean(over)), "nmi_matched": float(np.mean(matched))}
    found["ilisi"] = ilisi(values, task.technologies)
    found["ilisi_in_regions"] = ilisi(values, task.technologies, labels=np.where(named, task.labels, "unlabelled"))
    names = list(np.unique(task.technologies))
    for source, target in (names, names[::-1]):
        a, b = (named & (task.technologies == name) for name in (source, target))
        carried = label_transfer(values[a], task.labels[a], values[b], task.labels[b])
        found[f"{source} to {target}"] = carried.accuracy
    return found


def task_of(pair: str) -> Task:
    """Return the pair as `scjepa benchmark` takes it."""
    folder = Path(os.environ["SCJEPA_DATA"]) / "spatial"
    files = {name: folder / f"{file}.h5ad" for name, file in PAIRS[pair].items()}
    units = read_units(files, Columns("region_harmonised", None, None, None), [], [])
    return make_tasks(units, "technologies", [], [])[0]


def kept_of(pair: str) -> Iterator[tuple[str, Store, RunKey]]:
    """Yield the name of every method, and its runs."""
    store, base = Store(KEPT / f"pairs-{pair}"), Store(KEPT / f"table1-{pair}")
    yield from ((key.method, store, key) for key in store.keys if key.method not in LEFT_OUT)
    yield from ((BASE, base, key) for key in base.keys if (key.method, key.configuration) == ("stjepa", "base"))


def rows_of(pair: str, task: Task, method: str, store: Store, key: RunKey, there: set[tuple]) -> list[dict]:
    """Return a row for each read-out of a run, as it is and after Harmony."""
    arrays, rows = store.arrays(key), []
    for readout in READOUTS:
        name = (pair, method, key.settings, key.seed, readout)
        values = arrays.get(f"embedding_{readout}")
        if values is None or name in there:
            continue
        named = dict(zip(("pair", "method", "settings", "seed", "readout"), name, strict=True))
        for after, given in ((False, values), (True, corrected(values, task))):
            rows.append({**named, "harmony": after, **scores(task, given)})
        print(name, {k: round(v, 3) for k, v in rows[-1].items() if isinstance(v, float)}, flush=True)
    return rows


if __name__ == "__main__":
    table = pd.read_csv(TABLE) if TABLE.is_file() else pd.DataFrame()
    columns = ["pair", "method", "settings", "seed", "readout"]
    there = set(table[columns].itertuples(index=False, name=None)) if len(table) else set()
    for pair in PAIRS:
        task = task_of(pair)
        for run in kept_of(pair):
            table = pd.concat([table, pd.DataFrame(rows_of(pair, task, *run, there))], ignore_index=True)
            table.to_csv(TABLE, index=False, float_format="%.4f")
