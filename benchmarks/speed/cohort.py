"""Time and memory of a cohort of many files: prepared, read out, clustered and written back, each stage a process.

    python -m benchmarks.speed.cohort --cells 100000 1000000 5000000 --folder scratch/cohort

Simulated sections with planted niches, 500 genes of three panels, 60 to 100 of them in a cell, in compressed h5ad files
or zarr stores. What is finished is not done again: files that are there, and stages whose figures are. Of each stage
the wall time is kept, the processor time of all its processes, and the most memory that they held together; and of all
runs the exponent of the times in the number of cells.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.records import commit
from benchmarks.speed.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "cohort.json"

N_GENES, N_PANEL, N_PANELS, N_TYPES, N_NICHES = 640, 500, 3, 12, 8

MOLECULES = 115
"""Molecules of a cell, on average."""

METHOD = "kmeans"
"""How niches are found, the same for every number of cells."""

PAUSE = 0.05
"""Seconds between looks at the memory of a stage."""

STAGES = ("prepare", "open", "readout", "niches", "write_back", "train", "embed")

PRESET, STEPS = "base", 600
"""What is trained, and for how many steps, whatever the number of cells."""


# -- the cohort -------------------------------------------------------------------------------------------------------


def rates() -> tuple[np.ndarray, np.ndarray]:
    """Return the expression of each type, ``(N_TYPES, N_GENES)``, and the types of each niche, rows that sum to 1."""
    rng = np.random.default_rng(0)
    expression = rng.gamma(0.7, 1.0, N_GENES) * np.exp(1.0 * rng.standard_normal((N_TYPES, N_GENES)))
    types = rng.dirichlet(np.full(N_TYPES, 0.5), N_NICHES)
    return expression / expression.sum(axis=1, keepdims=True), types


def section(number: int, n_cells: int) -> Any:
    """Return a section with counts, coordinates and planted niches."""
    import anndata as ad
    import pandas as pd
    from scipy import sparse

    rng = np.random.default_rng([1, number])
    expression, types = rates()
    genes = np.sort(np.random.default_rng([2, number % N_PANELS]).permutation(N_GENES)[:N_PANEL])
    side = np.sqrt(n_cells) * 10.0
    places = rng.random((n_cells, 2)) * side
    waves = sum(np.sin(places @ rng.standard_normal(2) * 2.5 * k / side + rng.random() * 6) for k in (1, 2, 3))
    niche = np.digitize(waves, np.quantile(waves, np.arange(1, N_NICHES) / N_NICHES))
    kind = np.array([np.searchsorted(np.cumsum(row), 1 - 1e-9) for row in types])[niche]
    draws = rng.random(n_cells)
    for code in range(N_NICHES):
        own = niche == code
        kind[own] = np.minimum(np.searchsorted(np.cumsum(types[code]), draws[own]), N_TYPES - 1)
    molecules = rng.poisson(MOLECULES * rng.gamma(4, 0.25, n_cells)) + 5
    cell = np.repeat(np.arange(n_cells), molecules)
    gene = np.empty(len(cell), dtype=np.int64)
    uniform = rng.random(len(cell))
    for code in range(N_TYPES):
        own = np.repeat(kind == code, molecules)
        share = np.cumsum(expression[code, genes])
        gene[own] = np.searchsorted(share / share[-1], uniform[own])
    gene = np.minimum(gene, N_PANEL - 1)
    counts = sparse.csr_matrix((np.ones(len(cell), np.float32), (cell, gene)), shape=(n_cells, N_PANEL))
    obs = pd.DataFrame(
        {"region": pd.Categorical(niche.astype(str)), "cell_type": pd.Categorical(kind.astype(str))},
        index=[f"s{number:04d}-{i}" for i in range(n_cells)],
    )
    return ad.AnnData(
        counts, obs=obs, var=pd.DataFrame(index=[f"Gene{gene:03d}" for gene in genes]), obsm={"spatial": places}
    )


def simulate(folder: Path, n_cells: int, n_files: int, form: str) -> None:
    """Write the files that are not there yet."""
    from scjepa._core.files import whole

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n_files):
        path = folder / f"s{number:04d}.{form}"
        size = n_cells // n_files + (number < n_cells % n_files)
        if not path.exists():
            with whole(path) as draft:
                if form == "h5ad":
                    section(number, size).write_h5ad(draft, compression="gzip")
                else:
                    section(number, size).write_zarr(draft)


# -- the stages -------------------------------------------------------------------------------------------------------


def prepare(files: Path, place: Path, jobs: int) -> dict[str, Any]:
    """Prepare all files."""
    import scjepa

    report = scjepa.Collection(files, folder=place / "prepared").prepare(n_jobs=jobs)
    return {"made": len(report.made), "kept": len(report.kept)}


def open_(files: Path, place: Path, jobs: int) -> dict[str, Any]:
    """Open the collection and map a shard."""
    from scjepa import Collection  # before the clock runs

    start = time.perf_counter()
    found = Collection.open(place / "prepared")
    found[0].shard()
    return {"open_seconds": round(time.perf_counter() - start, 3), "sections": len(found), "n_cells": found.n_cells}


def readout(files: Path, place: Path, jobs: int) -> dict[str, Any]:
    """Compute the read-out."""
    import scjepa

    return {"shape": list(scjepa.Collection.open(place / "prepared").readout(n_jobs=jobs).shape)}


def niches(files: Path, place: Path, jobs: int) -> dict[str, Any]:
    """Cluster, and compare with the planted niches."""
    import scjepa

    found = scjepa.Collection.open(place / "prepared")
    found.niches(n_niches=N_NICHES, method=METHOD, n_jobs=jobs)
    return {"method": METHOD}


def write_back(files: Path, place: Path, jobs: int) -> dict[str, Any]:
    """Write copies of all files."""
    import scjepa

    found = scjepa.Collection.open(place / "prepared")
    return {"written": len(found.write_back(place / "out", overwrite=True, n_jobs=jobs))}


def train(files: Path, place: Path, jobs: int) -> dict[str, Any]:
    """Train a model of all sections, the making of tables included, and save it."""
    import scjepa

    start = time.perf_counter()
    model = scjepa.STJEPA(scjepa.Collection.open(place / "prepared"), PRESET)
    made = time.perf_counter()
    model.estimate()  # makes the tables
    tables = time.perf_counter()
    state = {"checkpoint_dir": place / "state", "ckpt_path": "last"}
    model.train(max_steps=STEPS, accelerator="cpu", progress_bar=False, **state)
    seconds = {"make": made - start, "tables": tables - made, "steps": time.perf_counter() - tables}
    model.save(place / "model", overwrite=True)
    loss = model.history_["validation_loss"].iloc[[0, -1], 0].round(4).tolist()
    return {"steps": STEPS, "preset": PRESET, "validation_loss": loss, "seconds": _rounded(seconds)}


def embed(files: Path, place: Path, jobs: int) -> dict[str, Any]:
    """Embed all cells to a file, which is resumed where it was stopped."""
    import scjepa

    start = time.perf_counter()
    model = scjepa.STJEPA.load(place / "model", scjepa.Collection.open(place / "prepared"), accelerator="cpu")
    loaded = time.perf_counter()
    shape = model.get_latent_representation(scale="cell", out=place / "latent.npy").shape
    seconds = {"load": loaded - start, "embed": time.perf_counter() - loaded}
    return {"shape": list(shape), "seconds": _rounded(seconds)}


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in seconds.items()}


FUNCTIONS: dict[str, Callable[[Path, Path, int], dict[str, Any]]] = {
    "prepare": prepare,
    "open": open_,
    "readout": readout,
    "niches": niches,
    "write_back": write_back,
    "train": train,
    "embed": embed,
}


def agreement(place: Path) -> float:
    """Return the adjusted Rand index of niches and planted ones, in the first ten sections."""
    from anndata.io import read_elem
    from sklearn.metrics import adjusted_rand_score

    import scjepa
    from scjepa._core.stored import opened

    found = scjepa.Collection.open(place / "prepared")
    truth = []
    for one in found.sections[:10]:
        with opened(Path(one.facts.path)) as group:
            truth.append(read_elem(group["obs/region"]).astype(str))
    truth = np.concatenate(truth)
    return round(float(adjusted_rand_score(truth, found.labels()[: len(truth)])), 3)


# -- measured ---------------------------------------------------------------------------------------------------------


def tree_bytes(root: int) -> int:
    """Return the resident memory of a process and all below it; pages that they share count for each."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry))
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    return total


def measured(stage: str, files: Path, place: Path, jobs: int) -> dict[str, Any]:
    """Run a stage in a process of its own, and return its figures."""
    own = ["--stage", stage, "--files", str(files), "--place", str(place), "--jobs", str(jobs)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.speed.cohort", *own], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, tree_bytes(process.pid))
        time.sleep(PAUSE)
    if process.returncode:
        raise SystemExit(f"The stage {stage} failed.")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    said = json.loads((process.stdout.read() if process.stdout else "{}").strip().splitlines()[-1])
    seconds = {"wall_seconds": round(time.perf_counter() - start, 1), "cpu_seconds": round(cpu, 1)}
    return {**seconds, "peak_gib": round(peak / 2**30, 2), **said}


def exponents(runs: dict[str, Any]) -> dict[str, float]:
    """Return the slope of the logarithm of processor time over that of cells, of each stage."""
    found = {}
    for stage in STAGES:
        there = [(run["cells"], run["stages"][stage]["cpu_seconds"]) for run in runs.values() if stage in run["stages"]]
        if len(there) > 1 and stage != "open":
            cells, seconds = np.log(np.array(there).T)
            found[stage] = round(float(np.polyfit(cells, seconds, 1)[0]), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[100_000])
    parser.add_argument("--cells-per-file", type=int, default=50_000)
    parser.add_argument("--format", choices=["h5ad", "zarr"], default="h5ad")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("cohort_benchmark"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--keep", action="store_true", help="keep prepared folders and results")
    parser.add_argument("--stages", choices=STAGES, nargs="+", default=STAGES, help="run these; others another time")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        print(json.dumps(FUNCTIONS[arguments.stage](arguments.files, arguments.place, arguments.jobs)))
        return
    kept = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {"runs": {}}
    for n_cells in arguments.cells:
        name = f"{n_cells} {arguments.format}"
        run = kept["runs"].setdefault(name, {"cells": n_cells, "format": arguments.format, "stages": {}})
        files = arguments.folder / f"files_{n_cells}_{arguments.format}"
        place = arguments.folder / f"run_{n_cells}_{arguments.format}"
        if set(run["stages"]) >= set(arguments.stages):
            continue
        run["files"] = max(2, n_cells // arguments.cells_per_file)
        simulate(files, n_cells, run["files"], arguments.format)
        run["bytes_of_files"] = sum(path.stat().st_size for path in files.rglob("*") if path.is_file())
        for stage in arguments.stages:
            if stage in run["stages"]:
                continue
            run["stages"][stage] = found = measured(stage, files, place, arguments.jobs)
            if stage == "niches":
                found["agreement"] = agreement(place)
            found["cells_per_second"] = round(n_cells / found["wall_seconds"])
            found["cells_per_cpu_second"] = round(n_cells / found["cpu_seconds"])
            print(name, stage, found, flush=True)
            kept |= {"machine": describe_machine("numpy", "scipy", "anndata", "h5py", "zarr"), "commit": commit()}
            kept |= {"jobs": arguments.jobs, "exponents": exponents(kept["runs"])}
            arguments.out.write_text(json.dumps(kept, indent=1) + "\n")
        if not arguments.keep and set(run["stages"]) >= set(STAGES):
            shutil.rmtree(place)
    print(kept.get("exponents"))


if __name__ == "__main__":
    main()
