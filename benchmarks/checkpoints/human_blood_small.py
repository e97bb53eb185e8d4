"""Train the checkpoint ``human-blood-small`` on blood cells, or prove it on a study that is left out.

    export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 SCJEPA_DATA=...
    python -m benchmarks.checkpoints.human_blood_small                                  # the checkpoint in the wheel
    python -m benchmarks.checkpoints.human_blood_small --leave-out kang --out models/kang     # without one study
    python -m benchmarks.checkpoints.human_blood_small --leave-out kang --out models/kang --score
    python -m benchmarks.checkpoints.human_blood_small --genes 30000 --leave-out kang --out models/all     # all genes
    python -m benchmarks.checkpoints.human_blood_small --card     # its card again, with all scores

Labels are not used. A training that was stopped goes on where it was. With ``--score`` the labelled set of the study
that was left out, which the model has never seen, is embedded zero-shot by the model and by an untrained one, and by
HVG-PCA, which is fitted on those very cells. AvgBIO goes to ``results/human_blood.csv`` (appended; a row is not made
twice). The checkpoint's card takes its scores from there.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from benchmarks.cells.sets import highly_variable, target
from benchmarks.records import append, commit, done
from safetensors.torch import load_file

import scjepa
from scjepa.benchmark.controls import pca_on_hvg
from scjepa.celljepa.config import CELL_PRESETS, CellJEPAConfig, resolve_cells
from scjepa.metrics import average_bio
from scjepa.models.store import write_model
from scjepa.pretrained import README_FILE, WEIGHTS_FILE

NAME = "human-blood-small"
HERE = Path(__file__).parent
RESULTS = HERE / "results" / "human_blood.csv"
SHIPPED = HERE.parents[1] / "src" / "scjepa" / "checkpoints" / NAME

SETS: dict[str, tuple[str, str]] = {
    "pbmc3k": ("pbmc3k", "10x Genomics, 3k PBMC of a healthy donor (CC BY 4.0)"),
    "pbmc4k_half": ("pbmc4k", "10x Genomics, half of 4k PBMC of a healthy donor (CC BY 4.0)"),
    "pbmc_donorA_unlabelled": ("zheng", "10x Genomics, frozen PBMC of donor A, Zheng et al. 2017 (CC BY 4.0)"),
    "pbmc_kang_muscat": (
        "kang",
        "Kang et al. 2018, GSE96583 (public, no license stated), two donors, control and IFN-beta",
    ),
    "pbmc_kang_harmony2k": ("kang", "Kang et al. 2018, GSE96583 (public, no license stated), control and IFN-beta"),
}
"""Set -> study, and source. ``pbmc_2batch`` repeats cells of two of them and is left out."""

NO_LICENSE = ("kang",)
"""Studies that state no license: models that are scored may learn from them, the one that ships does not."""

SCORED = {"pbmc3k": "pbmc3k", "pbmc4k": "pbmc4k_half", "kang": "pbmc_kang_muscat", "zheng": "pbmc68k_reduced"}
"""Study that is left out -> labelled set. Donor A of Zheng et al. gave the 68k cells too, so both are one study."""

USUAL = 2000
"""Genes that the checkpoint in the wheel knows."""

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def shipped() -> list[str]:
    """Return the sets that the shipped model may learn from."""
    return [name for name, (study, _) in SETS.items() if study not in NO_LICENSE]


def corpus(names: list[str], n_genes: int) -> AnnData:
    """Return the cells of sets with the genes that vary most within them, without labels."""
    parts = {name: scjepa.datasets.load(name) for name in names}
    joined = ad.concat(parts, join="outer", label="batch", fill_value=0, index_unique="-")
    joined.X = joined.X.tocsr().astype(np.int32)
    joined.obs = joined.obs[["batch"]]
    return highly_variable(joined, n_genes)


def make(adata: AnnData, config: CellJEPAConfig, seed: int) -> scjepa.CellJEPA:
    """Return an untrained model of the cells."""
    scjepa.CellJEPA.setup_anndata(adata, batch_key="batch")
    return scjepa.CellJEPA(adata, config, seed=seed)


def untrained(model: scjepa.CellJEPA, known: AnnData, seed: int) -> scjepa.CellJEPA:
    """Return a model of the same options and genes with its initial weights."""
    known = known.copy()
    scjepa.CellJEPA.setup_anndata(known)
    return scjepa.CellJEPA(known, model.config, seed=seed)


def score(embedding: np.ndarray, cells: AnnData, key: dict, n_seeds: int, out: Path) -> None:
    """Append AvgBIO of an embedding, a row for each seed of Leiden."""
    rows = [
        {**key, "leiden_seed": seed, **asdict(average_bio(embedding, cells.obs["cell_type"], seed=seed))}
        for seed in range(n_seeds)
    ]
    append(out, pd.DataFrame(rows).assign(commit=commit()))
    print(key, round(float(np.mean([row["avg_bio"] for row in rows])), 4), flush=True)


def summary(config: dict) -> list[dict]:
    """Return mean leave-one-study-out scores of runs with these options, one row for each set and method."""
    if not RESULTS.is_file():
        return []
    table = pd.read_csv(RESULTS)
    table = table[np.all([table[name] == value for name, value in config.items()], axis=0)]
    means = table.groupby(["left_out", "method"])[["avg_bio", "nmi", "ari", "asw"]].mean().round(3)
    return [
        {"set": SCORED[study], "study": "left out", "method": method, **row}
        for (study, method), row in means.to_dict("index").items()
    ]


def card(names: list[str], config: dict, license_: str) -> scjepa.pretrained.Card:
    """Return the card: what it was trained on, how it scored left out, and what it is not good for."""
    data = []
    for name in names:
        adata = scjepa.datasets.load(name)
        data.append({"name": name, "cells": adata.n_obs, "genes": adata.n_vars, "source": SETS[name][1]})
    return scjepa.pretrained.Card(
        NAME,
        description="Cell-JEPA for human blood: peripheral mononuclear cells by 10x Chromium, without labels.",
        data=data,
        scores=summary(config),
        license=license_,
        limitations=(
            "Peripheral blood mononuclear cells of a few donors, by 10x Chromium 3'; genes that it does not know "
            "are left out. Other tissues, diseases and species are out of its reach. The scores are of models "
            "trained without the study that is scored, one seed. They learned from the other studies, those of "
            "Kang et al. 2018 among them, which state no license and of which this model has seen no cell. HVG-"
            "PCA is fitted on the very cells that are scored, and is ahead where cells were stimulated "
            "(pbmc_kang_muscat). NMI and ARI are those of the best resolution by the labels. For labels, a linear"
            " classifier on principal components is the first thing to try: scjepa.tl.annotate."
        ),
        citation="Zheng et al. 2017, doi:10.1038/ncomms14049",
        authors="The scjepa developers",
    )


def main() -> None:
    """Read the command line; train, save, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leave-out", choices=list(SCORED), help="train without this study, or score on it")
    parser.add_argument("--score", action="store_true", help="score the model in --out on the set that was left out")
    parser.add_argument("--preset", default="demo", choices=list(CELL_PRESETS))
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps")
    parser.add_argument("--genes", type=int, default=USUAL, help="genes that vary most within sets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--leiden-seeds", type=int, default=3)
    parser.add_argument("--license", default="CC-BY-4.0", help="license of the weights")
    parser.add_argument("--out", type=Path, help="folder to save to (default without --leave-out: the package's)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--card", action="store_true", help="write the card of the model in --out again, with all scores"
    )
    options = parser.parse_args()
    if options.leave_out and options.out is None:
        parser.error("--leave-out needs --out, a folder for the model: the package's is for the one of all studies.")
    if options.score and options.leave_out is None:
        parser.error("--score needs --leave-out: a model is scored on cells that it has not seen.")
    about = {"preset": options.preset, "steps": options.steps, "genes": options.genes}
    out = options.out or SHIPPED
    # Genes that are left out, and models that are not trained, are meant here.
    warnings.filterwarnings("ignore", category=UserWarning)
    if options.card:
        write_card(out, card(shipped(), about, options.license))
    elif options.score:
        evaluate(out, about, options)
    else:
        train(out, about, options)


def train(out: Path, about: dict, options: argparse.Namespace) -> None:
    """Train on the studies that are not left out, and save."""
    names = [name for name in SETS if SETS[name][0] != options.leave_out] if options.leave_out else shipped()
    config = resolve_cells(options.preset, training={"max_steps": options.steps, "max_epochs": None})
    model = make(corpus(names, options.genes), config, options.seed)
    start, state = time.process_time(), out.with_name(f"{out.name}.state")
    how = {"checkpoint_dir": state, "checkpoint_every": 25, "ckpt_path": "last"}
    model.train(accelerator="cpu", progress_bar=False, **how)
    print(f"{model}\ntrained in {time.process_time() - start:.0f} CPU s\n{model.diagnose()}", flush=True)
    model.save_pretrained(out, card(names, about, options.license), overwrite=True)
    shutil.rmtree(state, ignore_errors=True)
    print(f"{out}: {sum(file.stat().st_size for file in out.iterdir()) / 1e6:.2f} MB")


def write_card(out: Path, new: scjepa.pretrained.Card) -> None:
    """Replace the card of a saved model; what it says of the model itself stays."""
    before, facts = scjepa.pretrained.read_card(out)
    new = replace(new, created=before.created)
    lines = (out / README_FILE).read_text().partition("## Model\n")[2].partition("\n## ")[0].splitlines()
    table = [line.strip("| ").split(" | ", 1) for line in lines if " | " in line.strip("| ") and "---" not in line]
    readme = new.to_markdown(facts["model"], dict(table))
    weights = load_file(out / WEIGHTS_FILE)
    write_model(out, facts | {"card": new.to_dict()}, weights, overwrite=True, texts={README_FILE: readme})


def evaluate(out: Path, about: dict, options: argparse.Namespace) -> None:
    """Score the model of a folder, an untrained one and HVG-PCA on the set of the study that was left out."""
    cells = target(SCORED[options.leave_out])
    known = cells[:, cells.var_names.isin(scjepa.pretrained.vocabulary(out).names)].copy()
    model = scjepa.CellJEPA.from_pretrained(out, known, accelerator="cpu")
    methods: dict[str, Callable[[], np.ndarray]] = {
        "HVG-PCA": lambda: pca_on_hvg(cells)(cells),
        "untrained": lambda: untrained(model, known, options.seed).get_latent_representation(),
        "trained": model.get_latent_representation,
    }
    if options.genes > USUAL:  # the same model, read by the genes that one of 2,000 genes would have
        names = [name for name in SETS if SETS[name][0] != options.leave_out]
        variable = known.var_names.intersection(corpus(names, USUAL).var_names)
        methods["trained, variable genes read"] = lambda: model.get_latent_representation(genes=list(variable))
    for method, embed in methods.items():
        key = {"left_out": options.leave_out, **about, "seed": options.seed, "method": method}
        if not done(options.results, key):
            score(embed(), cells, key, options.leiden_seeds, options.results)


if __name__ == "__main__":
    main()
