"""Train the checkpoint ``mouse-brain-small`` on all mouse-brain sections, or prove it on a set that is left out.

    export OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 SCJEPA_DATA=...
    python -m benchmarks.checkpoints.mouse_brain_small --steps 1800                   # the checkpoint in the wheel
    python -m benchmarks.checkpoints.mouse_brain_small --steps 1800 --leave-out osmFISH --score    # without one set
    python -m benchmarks.checkpoints.mouse_brain_small linear     # the linear method, each set left out: seconds

Training data are the sections of all sets together, with the union of their panels as vocabulary and a metatoken for
each technology. With ``--leave-out NAME --score`` the left-out set, which the model has never seen, is embedded
zero-shot by the trained model and by an untrained one of the same configuration and vocabulary, both through
``STJEPA.load_query_data``; NMI and ARI of Leiden clusters with its labelled regions go to
``results/leave_one_out.csv`` (appended; a row is not made twice). The checkpoint's card takes its scores from there.

``linear`` fits the linear method in the same way: on the other sets, then applied to the one left out. It reads
the union of the panels, 0 where a gene was not measured, or only the genes that the set that is left out has, which a
fit for one panel can. No prediction was written.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from benchmarks.records import append, done, fill, keys

import scjepa
from scjepa._core.squidpy import spatial_graph
from scjepa.metrics import clustering_scores
from scjepa.models import store as _store
from scjepa.stjepa.config import PRESETS, STJEPAConfig, resolve
from scjepa.tl import NicheReadout, PredictiveComponents, aggregate, standardize

NAME = "mouse-brain-small"
HERE = Path(__file__).parent
RESULTS = HERE / "results" / "leave_one_out.csv"
LINEAR = RESULTS.with_name("leave_one_out_linear.csv")
SHIPPED = HERE.parents[1] / "src" / "scjepa" / "checkpoints" / NAME

SETS: dict[str, tuple[str, str]] = {
    "V1": ("starmap_visual_cortex", "Wang et al. 2018, visual cortex BY3_1k"),
    "osmFISH": ("osmfish_somatosensory_cortex", "Codeluppi et al. 2018, somatosensory cortex"),
    "mPFC": ("starmap_mpfc_3sections", "Wang et al. 2018, medial prefrontal cortex, three mice"),
    "molcart": ("molcart_mouse_cortex_3sections", "Molecular Cartography, cortex"),
    "hypothalamus": (
        "merfish_hypothalamus_4sections_unlabelled",
        "Moffitt et al. 2018, hypothalamus, two mice",
    ),
}
"""Short name -> file and source."""

WIDTH = 64
"""Of the embedding of `base`, and so components of the linear method that is read out in the same way."""

LABELLED = ("V1", "osmFISH", "mPFC")
"""Sets with regions (``obs["region"]``) to score on."""

KEYS = {"technology_key": "technology", "library_key": "section", "panel_key": "panel"}


def hops(cells: np.ndarray, adata: AnnData) -> np.ndarray:
    """Return cells, z-scored in each section, 20 components, beside their means over rings 1 to 3."""
    return aggregate(
        standardize(cells, groups=adata.obs["section"], n_comps=20),
        connectivities=adata.obsp["spatial_connectivities"],
        n_hops=3,
    )


def niche(cells: np.ndarray, adata: AnnData, **beside: Any) -> np.ndarray:
    """Return predictive components of cells and of their rings, as :func:`scjepa.tl.niche_readout` writes them."""
    sources = {**beside, "cell embedding": cells}
    return NicheReadout().fit_transform(sources, adata.obsp["spatial_connectivities"], adata.obs["section"])


READOUTS: dict[str, tuple[str, Callable[[np.ndarray, AnnData], np.ndarray]]] = {
    "plain": ("neighborhood", lambda embedding, adata: embedding),
    "z30": ("neighborhood", lambda embedding, adata: standardize(embedding, groups=adata.obs["section"], n_comps=30)),
    "hops": ("cell", hops),
    "niche": ("cell", niche),
    "niche+X": ("cell", lambda cells, adata: niche(cells, adata, X=adata.X)),
}
"""Read-outs by name: the scale they start from and what they make of it, as in ``benchmarks/quality/readouts.py``."""

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def load(name: str) -> AnnData:
    """Return a set by its short name, with a graph of 10 nearest neighbors within sections."""
    adata = scjepa.datasets.load(SETS[name][0])
    spatial_graph(adata, n_neighs=10, library_key="section")
    return adata


def make(names: list[str], config: STJEPAConfig, seed: int) -> scjepa.STJEPA:
    """Return an untrained model of the sets together."""
    adata = scjepa.concat({name: load(name) for name in names})
    scjepa.STJEPA.setup_anndata(adata, **KEYS)
    return scjepa.STJEPA(adata, config, seed=seed)


def card(model: scjepa.STJEPA, names: list[str], license_: str) -> scjepa.pretrained.Card:
    """Return the card: what it was trained on, how it scored left out, and what it is not good for."""
    data = []
    for name in names:
        adata = scjepa.datasets.load(SETS[name][0])
        technology = ", ".join(sorted(adata.obs["technology"].astype(str).unique()))
        sections = int(adata.obs["section"].nunique())
        size = {"sections": sections, "cells": adata.n_obs, "genes": adata.n_vars}
        data.append({"name": name, "technology": technology, **size, "source": SETS[name][1]})
    return scjepa.pretrained.Card(
        NAME,
        description="ST-JEPA for mouse brain measured in situ: cortex and hypothalamus by four technologies.",
        data=data,
        scores=summary(model.config.training.max_steps),
        license=license_,
        limitations=(
            "Small targeted panels of mouse brain alone: genes it has not seen begin with random vectors, other "
            "tissue and other species are out of its reach. Compare with an untrained encoder and with a PCA of "
            "neighborhood means on your own data."
        ),
        authors="The scjepa developers",
    )


def summary(steps: int | None) -> list[dict]:
    """Return the mean leave-one-out scores of as many steps, one row for each set, method and read-out."""
    if not RESULTS.is_file():
        return []
    table = pd.read_csv(RESULTS)
    table = table[table["steps"] == steps]
    by = ["left_out", "method", "readout", "preset", "steps"]
    wide = table.groupby([*by, "matched"])[["nmi", "ari"]].mean().unstack("matched")
    rows = []
    for key, row in wide.iterrows():
        scores = {
            f"{s}{' matched' if m else ''}": round(float(row[(s, m)]), 3) for s in ("nmi", "ari") for m in (False, True)
        }
        rows.append({**dict(zip(by, key, strict=True)), **scores})
    return rows


def score(model: scjepa.STJEPA, method: str, key: dict, n_seeds: int, out: Path) -> pd.DataFrame:
    """Embed the left-out set zero-shot and append its scores."""
    adata = load(key["left_out"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This model is not trained")
        query = scjepa.STJEPA.load_query_data(adata, model, accelerator="cpu")
        embeddings = {scale: query.get_latent_representation(scale=scale) for scale in ("neighborhood", "cell")}
        if method == "trained":
            print(query.coverage())
    tables = [
        clustering_scores(shape(embeddings[scale], adata), adata.obs["region"], seeds=range(n_seeds)).assign(
            readout=name
        )
        for name, (scale, shape) in READOUTS.items()
    ]
    rows = pd.concat(tables).rename(columns={"seed": "leiden_seed"}).assign(method=method, **key)
    append(out, rows)
    return rows


def linear(left_out: str, seed: int) -> pd.DataFrame:
    """Return the scores of the linear method, fitted on the other sets, with all their genes and with those known."""
    known, other = scjepa.concat({name: load(name) for name in SETS if name != left_out}), load(left_out)
    shared = [gene for gene in known.var_names if gene in set(other.var_names)]
    tables = []
    for method, genes in (("linear, union of genes", list(known.var_names)), ("linear, genes in common", shared)):
        first, second = known[:, genes].X, on(other, genes)
        for readout, found in fitted(first, second, known, other):
            own = clustering_scores(found, other.obs["region"], seeds=range(3))
            tables.append(own.assign(readout=readout, method=method, n_genes=len(shared)))
    return pd.concat(tables).rename(columns={"seed": "leiden_seed"})


def on(adata: AnnData, genes: list[str]) -> sp.csr_matrix:
    """Return counts in the order of ``genes``, 0 where one was not measured."""
    place = {gene: number for number, gene in enumerate(genes)}
    here = [number for number, gene in enumerate(adata.var_names) if gene in place]
    move = sp.csr_matrix(
        (np.ones(len(here)), (here, [place[adata.var_names[number]] for number in here])), (adata.n_vars, len(genes))
    )
    return (adata.X @ move).tocsr()


def fitted(first: Any, second: Any, known: AnnData, other: AnnData) -> Iterator[tuple[str, np.ndarray]]:
    """Yield read-outs of the other cells by a fit on those known.

    Either all is fitted there (by the rule, and plain rings), or the components are, as many as the network's embedding
    is wide, and the read-out is fitted on the other cells, as that of the network is.
    """
    graphs = [one.obsp["spatial_connectivities"] for one in (known, other)]
    sections = [one.obs["section"] for one in (known, other)]
    readout = NicheReadout().fit({"X": first}, graphs[0], sections[0])
    yield "niche, fitted there", readout.transform({"X": second}, graphs[1], sections[1])
    components = PredictiveComponents(target_sum=1e4).fit(first, graphs[0], sections[0])
    found = components.transform(second, sections[1])
    yield "hops, fitted there", aggregate(found, connectivities=graphs[1], n_hops=3)
    components = PredictiveComponents(WIDTH, n_pcs=WIDTH, target_sum=1e4).fit(first, graphs[0], sections[0])
    found = components.transform(second, sections[1])
    yield "niche", niche(found, other)
    yield "hops", hops(found, other)


def main() -> None:
    """Read the command line; train, save, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("network", "linear"), default="network")
    parser.add_argument("--leave-out", choices=list(SETS), help="train without this set")
    parser.add_argument("--score", action="store_true", help="embed the left-out set zero-shot and score it")
    parser.add_argument("--preset", default="base", choices=list(PRESETS))
    parser.add_argument("--steps", type=int, help="optimizer steps (default: the preset's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--leiden-seeds", type=int, default=3)
    parser.add_argument("--weights", type=Path, help="folder of a trained checkpoint: write it again with today's card")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16"])
    parser.add_argument("--license", default="BSD-3-Clause", help="license of the weights")
    parser.add_argument("--out", type=Path, help="folder to save to (default without --leave-out: the package's)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.what == "linear":
        fill(LINEAR, keys(left_out=LABELLED, seed=[options.seed]), linear)
        return
    if options.score and options.leave_out not in LABELLED:
        parser.error(f"--score needs --leave-out with a labelled set: {', '.join(LABELLED)}")

    training = {} if options.steps is None else {"max_steps": options.steps, "max_epochs": None}
    config = resolve(options.preset, training=training)
    names = [name for name in SETS if name != options.leave_out]
    steps = config.training.max_steps
    key = {"left_out": options.leave_out, "preset": options.preset, "steps": steps, "seed": options.seed}
    if options.score and done(options.results, {**key, "method": "trained"}):
        print(f"{key} is in {options.results}")
        return
    model = make(names, config, options.seed)
    print(model.panels.describe(model.vocabulary))
    if options.score and not done(options.results, {**key, "method": "untrained"}):
        score(model, "untrained", key, options.leiden_seeds, options.results)
    if options.weights is None:
        start = time.perf_counter()
        model.train(accelerator="cpu", progress_bar=False)
        print(f"{model}\ntrained in {time.perf_counter() - start:.0f} s\n{model.diagnose()}", flush=True)
    else:
        facts, weights = _store.read_model(options.weights, "STJEPA")
        if facts["vocabulary"] != list(model.vocabulary.names):
            parser.error(f"{options.weights} was trained on other genes than those of {', '.join(names)}.")
        model._load_weights(_store.with_both_encoders(weights), str(options.weights))
        model._restore(facts)
    if options.score:
        score(model, "trained", key, options.leiden_seeds, options.results)
        table = pd.read_csv(options.results)
        own = table[(table[list(key)].astype(str) == pd.Series(key).astype(str)).all(axis=1)]
        print(own.groupby(["readout", "matched", "method"])[["nmi", "ari"]].mean().round(3))
    out = options.out or (None if options.leave_out else SHIPPED)
    if out is not None:
        model.save_pretrained(out, card(model, names, options.license), dtype=options.dtype, overwrite=True)
        size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
        print(f"{out}: {size:.2f} MB")


if __name__ == "__main__":
    main()
