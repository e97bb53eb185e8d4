"""Harmony after every method's read-out, on the pairs of technologies that `run.sh pairs` has kept.

Its own script, because those runs were kept before `scjepa benchmark --readouts hops+harmony` was there, and training
them again takes a night. It tells mixing within regions as well.

    python -m benchmarks.paper.harmony

Of ST-JEPA's preset `base` the runs of `run.sh table1` are taken. Read-outs of kept runs are corrected for the
technology by Harmony (harmonypy, its defaults, seed 0) and scored as `scjepa benchmark` scores them; rows go to
results/harmony.csv, those that are there are not made again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from benchmarks.paper.kept import KEPT, task_of

from scjepa.benchmark import MethodResult
from scjepa.benchmark.controls import harmony
from scjepa.benchmark.score import ALL, Scoring, score
from scjepa.benchmark.store import RunKey, Store
from scjepa.benchmark.suites.tissue import Task
from scjepa.metrics import ilisi

TABLE = Path(__file__).parent / "results" / "harmony.csv"

PAIRS = {
    "V1xosmFISH": {"V1": "starmap_visual_cortex", "osmFISH": "osmfish_somatosensory_cortex"},
    "V1xmPFC": {"V1": "starmap_visual_cortex", "mPFC": "starmap_mpfc_3sections"},
}
READOUTS = ("z30", "hops", "aligned30", "aligned_hops")
BASE = "stjepa base"
LEFT_OUT = ("harmony_pca", "banksy_harmony")
"""Methods that have been through Harmony."""


def scores(task: Task, values: np.ndarray) -> dict[str, float]:
    """Return agreement weighted by labeled cells, mixing, and labels carried over, of one read-out."""
    result = MethodResult("", "", 0, embedding=values)
    rows = pd.DataFrame(score(task, result, Scoring(readouts=("plain",))).rows)
    found = {}
    for metric in ("nmi", "nmi_matched"):
        own = rows[(rows["metric"] == metric) & (rows["group"] != ALL)].groupby("group")[["value", "n_cells"]].mean()
        found[metric] = float(np.average(own["value"], weights=own["n_cells"]))
    found["ilisi"] = rows.loc[rows["metric"] == "ilisi_technology", "value"].item()
    labels = np.where(task.labelled, task.labels, "unlabelled")
    found["ilisi_in_regions"] = ilisi(values, task.technologies, labels=labels)
    carried = rows[rows["metric"] == "transfer_accuracy"]
    return found | dict(zip(carried["group"], carried["value"], strict=True))


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
        for after, given in ((False, values), (True, harmony(values, task.technologies))):
            rows.append({**named, "harmony": after, **scores(task, given)})
        print(name, {k: round(v, 3) for k, v in rows[-1].items() if isinstance(v, float)}, flush=True)
    return rows


if __name__ == "__main__":
    table = pd.read_csv(TABLE) if TABLE.is_file() else pd.DataFrame()
    columns = ["pair", "method", "settings", "seed", "readout"]
    there = set(table[columns].itertuples(index=False, name=None)) if len(table) else set()
    for pair in PAIRS:
        task = task_of(PAIRS[pair], "region_harmonised", "technologies")
        for run in kept_of(pair):
            table = pd.concat([table, pd.DataFrame(rows_of(pair, task, *run, there))], ignore_index=True)
            table.to_csv(TABLE, index=False, float_format="%.4f")
