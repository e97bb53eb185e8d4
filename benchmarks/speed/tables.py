"""Time and memory of the token table and the neighbor table on random data.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.tables --cells 1000000

Counts are Poisson-like, uniform over genes; neighbors are those of a k-nearest-neighbor graph of uniform points. Peak
memory is the growth of the process's resident set over what it was with the input made, sampled ten times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.speed.machine import describe_machine
from scipy import sparse
from scipy.spatial import cKDTree

from scjepa.tokens import TokenConfig, build_neighbor_table, build_token_table


def resident_bytes() -> int:
    """Return the bytes of memory this process holds (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return the result of ``call``, its seconds, and the GiB by which memory grew at most."""
    before, peak, done = resident_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            peak[0] = max(peak[0], resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, cpu = time.perf_counter(), time.process_time()
    result = call()
    figures = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    done.set()
    watcher.join()
    figures["peak_gib_beyond_input"] = max(0, peak[0] - before) / 2**30
    return result, {name: round(value, 2) for name, value in figures.items()}


def random_counts(n_cells: int, n_genes: int, per_cell: int, rng: np.random.Generator) -> sparse.csr_matrix:
    """Return int32 counts with about ``per_cell`` genes in each cell."""
    parts = []
    for start in range(0, n_cells, 50_000):
        shape = (min(50_000, n_cells - start), n_genes)
        cells, genes = np.nonzero(rng.random(shape, dtype=np.float32) < per_cell / n_genes)
        data = rng.geometric(0.5, size=len(cells)).astype(np.int32)
        parts.append(sparse.csr_matrix((data, (cells, genes)), shape=shape))
    return sparse.vstack(parts, format="csr")


def neighbor_graph(coordinates: np.ndarray, k: int) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Return connectivities and distances as squidpy writes them for k nearest neighbors."""
    distance, neighbor = cKDTree(coordinates).query(coordinates, k + 1)
    n_cells = len(coordinates)
    cells, neighbor = np.repeat(np.arange(n_cells), k), neighbor[:, 1:].ravel()
    distances = sparse.csr_matrix((distance[:, 1:].ravel(), (cells, neighbor)), shape=(n_cells, n_cells))
    connectivities = distances.astype(np.float32)
    connectivities.data[:] = 1
    return connectivities, distances


def tokens(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the token table with each kind of ranking."""
    rng = np.random.default_rng(0)
    counts = random_counts(arguments.cells, arguments.genes, arguments.per_cell, rng)
    ids = rng.permutation(arguments.genes)
    figures: dict[str, Any] = {"nonzero_per_cell": round(counts.nnz / counts.shape[0], 1)}
    for ranks, ties in (("counts", "order"), ("counts", "shared"), ("nonzero_mean", "order"), ("shifted_log", "order")):
        config = TokenConfig(n_tokens=arguments.tokens, ranks=ranks, ties=ties)
        table, measured = measure(lambda config=config: build_token_table(counts, ids, arguments.genes, config))
        figures[f"ranks={ranks}, ties={ties}"] = measured | {"table_gib": round(table.nbytes / 2**30, 3)}
        del table
    return figures


def neighbors(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the neighbor table on rows of one length, and on rows of many."""
    coordinates = np.random.default_rng(0).random((arguments.cells, 2))
    connectivities, distances = neighbor_graph(coordinates, arguments.neighbors)
    figures = {}

    def build() -> Any:
        return build_neighbor_table(connectivities, distances, coordinates, arguments.neighbors)

    figures["rows of one length"] = measure(build)[1]
    connectivities, distances = (sparse.csr_matrix(m.maximum(m.T)) for m in (connectivities, distances))
    figures["rows of many lengths (symmetric graph)"] = measure(build)[1]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--per-cell", type=int, default=60, help="non-zero genes of a cell, about")
    parser.add_argument("--tokens", type=int, default=64, help="genes kept per cell, L")
    parser.add_argument("--neighbors", type=int, default=10, help="neighbors per cell, k")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "tables.json")
    arguments = parser.parse_args()
    settings = {name: value for name, value in vars(arguments).items() if name != "out"}
    report = {
        "settings": settings,
        "machine": describe_machine("numpy", "scipy"),
        "tokens": tokens(arguments),
        "neighbors": neighbors(arguments),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
