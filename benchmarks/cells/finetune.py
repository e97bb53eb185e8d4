"""Fine-tune on nine tenths of ``pbmc4k_half`` and tell the labels of the tenth that no step has seen.

    python benchmarks/cells/finetune.py --seeds 3

The split is drawn by seed 42, within labels; test cells are in no AnnData that a model is fitted or fine-tuned on, and
their labels are read by the scores alone. Labels are voted by the nearest training cells: after fine-tuning, before it,
and in HVG-PCA fitted on the training cells. Rows go to ``results/finetune.csv``; what is there is not run again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from baselines import pca_on_hvg
from methods import PRETRAINED, embedder, pretrained
from rows import RESULTS, append, commit, done
from sets import corpus, target
from sklearn.model_selection import train_test_split

import scjepa
from scjepa.metrics import average_bio, label_transfer

SPLIT_SEED = 42


def split() -> tuple[AnnData, AnnData]:
    """Return training and test cells."""
    cells = target()
    labels = cells.obs["cell_type"]
    train, test = train_test_split(np.arange(cells.n_obs), test_size=0.1, random_state=SPLIT_SEED, stratify=labels)
    return cells[np.sort(train)].copy(), cells[np.sort(test)].copy()


def on_training_cells(method: str, seed: int, train: AnnData, max_steps: int | None) -> scjepa.CellJEPA:
    """Return the pretrained model with the training cells, and their labels, as its data."""
    with tempfile.TemporaryDirectory() as folder:
        pretrained(method, corpus(), seed, max_steps).save(Path(folder) / "model")
        return scjepa.CellJEPA.load(Path(folder) / "model", train, accelerator="cpu")


def scores(embed: Callable[[AnnData], np.ndarray], train: AnnData, test: AnnData) -> dict[str, float]:
    """Return accuracy and macro F1 of voted labels, and AvgBIO, of the test cells."""
    there, labels = embed(test), test.obs["cell_type"]
    voted = label_transfer(embed(train), train.obs["cell_type"], there, labels)
    bio = average_bio(there, labels)
    row = {name: getattr(voted, name) for name in ("accuracy", "macro_f1", "majority_rate", "n_cells")}
    return {**row, **{name: getattr(bio, name) for name in ("avg_bio", "nmi", "ari", "asw")}}


def run(method: str, seed: int, options: argparse.Namespace) -> None:
    """Score one method before and after fine-tuning, if its rows are missing."""
    key = {"method": method, "seed": seed, "max_steps": options.max_steps or "preset", "max_epochs": options.max_epochs}
    if done(options.out, key):
        return
    train, test = split()
    rows = []
    if method == "HVG-PCA":
        rows.append({**key, "stage": "fitted on training cells", **scores(pca_on_hvg(train, seed), train, test)})
    else:
        model = on_training_cells(method, seed, train, options.max_steps)
        rows.append({**key, "stage": "pretrained", **scores(embedder(model), train, test)})
        model.finetune(options.max_epochs, validation_size=0, accelerator="cpu", progress_bar=False)
        rows.append({**key, "stage": "fine-tuned", **scores(embedder(model), train, test)})
    for row in rows:
        print(row, flush=True)
    append(options.out, pd.DataFrame(rows).assign(commit=commit()))


def main() -> None:
    """Read the command line and run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    methods = ("HVG-PCA", *PRETRAINED)
    parser.add_argument("--methods", nargs="+", default=list(methods), choices=methods)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--max-steps", type=int, help="of pretraining; default: the preset's")
    parser.add_argument("--max-epochs", type=int, default=30, help="of fine-tuning; the paper's 30")
    parser.add_argument("--out", type=Path, default=RESULTS / "finetune.csv")
    options = parser.parse_args()
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for method in options.methods:
            run(method, seed, options)


if __name__ == "__main__":
    main()
