"""Niches of methods on V1, beside the labels, of the runs that `run.sh table1 V1` has kept: docs/_static/niches_V1.png.

    python -m benchmarks.paper.maps

Seed 0, as many niches as there are labels, each method at the read-out and settings that are best for it by NMI.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from benchmarks.paper.kept import KEPT, task_of
from PIL import Image

from scjepa.benchmark.figures import Found, found_of, niche_maps
from scjepa.benchmark.store import Store
from scjepa.benchmark.suites.tissue import Task
from scjepa.metrics import nmi

FIGURE = Path(__file__).parents[2] / "docs" / "_static" / "niches_V1.png"

METHODS = {
    "stjepa": "ST-JEPA, base",
    "squidpy_spatialleiden": "squidpy spatialleiden",
    "scvi_mean": "scVI, neighborhood means",
    "cellcharter": "CellCharter",
    "untrained": "untrained encoder",
    "pooled_input": "pooled input",
    "banksy": "Banksy",
    "squidpy_utag": "squidpy utag",
    "neighborhood_pca": "neighborhood PCA",
    "graphst": "GraphST",
    "novae": "Novae, from nothing",
}


def best(task: Task, store: Store, method: str) -> Found:
    """Return what a method found at the settings that are best for it."""
    runs = [
        key for key in store.keys if key.method == method and key.seed == 0 and "technologies" not in key.configuration
    ]
    found = [one for key in runs for one in found_of(task, store, {METHODS[method]: key})]
    return max(found, key=lambda one: nmi(task.labels[task.labelled], one.clusters[task.labelled], ignore=()))


if __name__ == "__main__":
    task, store = task_of({"V1": "starmap_visual_cortex"}, "region", "within"), Store(KEPT / "table1-V1")
    figure = niche_maps(task, [best(task, store, method) for method in METHODS])
    for ax in figure.axes:  # the page shows it at half its size
        ax.title.set_fontsize(14)
        if legend := ax.get_legend():
            for text in legend.get_texts():
                text.set_fontsize(14)
    drawn = BytesIO()
    figure.savefig(drawn, dpi=100, bbox_inches="tight")
    # 64 colors are enough for dots and letters, and a quarter of the size.
    Image.open(drawn).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(FIGURE, optimize=True)
    print(f"{FIGURE}: {FIGURE.stat().st_size // 1024} kB")
