"""Read-outs of the benchmark, from a method's embeddings at two scales to what is clustered."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from anndata import AnnData

from scjepa.benchmark import READOUTS as OF_BENCHMARK
from scjepa.benchmark import MethodResult
from scjepa.benchmark.suites.tissue import WITHIN, Task

Embeddings = Mapping[str, np.ndarray]
"""``"neighborhood"``, and ``"cell"`` where the method has one, each ``(n_cells, n_dims)``."""

READOUTS = ("plain", "z30", "hops", "niche", "niche+X")
"""Read-outs by name, as in :data:`scjepa.benchmark.READOUTS`."""

ACROSS_TECHNOLOGIES = {"plain": "plain", "z30": "z30", "hops": "hops", "niche": "niche", "aligned": "aligned_hops"}
"""Those that read embeddings alone, and one more for sections of different technologies, by names in the results."""


def read_out(name: str, embeddings: Embeddings, adata: AnnData) -> np.ndarray | None:
    """Return what is clustered; ``None`` where a method has no embedding at the scale."""
    near, cells = (embeddings.get(scale) for scale in ("neighborhood", "cell"))
    task = Task(WITHIN, "set", adata, np.full(adata.n_obs, None, dtype=object))
    return OF_BENCHMARK[name](MethodResult("method", "own", 0, near, cell_embedding=cells), task)
