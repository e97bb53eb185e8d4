"""The demonstration: data, graph, training, niches, figures and a table with the controls."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad

from scjepa._core import keys as _keys
from scjepa._core.anndata import groups_of, labels_of, record_of
from scjepa._core.squidpy import spatial_graph
from scjepa.tl import NicheReadout, aggregate, standardize


@dataclass(frozen=True)
class DemoOptions:
    """What the demonstration works on.

    Attributes
    ----------
    data
        An ``.h5ad`` file with raw counts in ``X`` and coordinates in ``obsm["spatial"]``; ``None``: simulated tissue.
    label
        ``obs`` column of known regions to score against; ``None``: ``region`` where there is such a column.
    section
        ``obs`` column of sections; ``None``: ``section`` where there is such a column.
    out
        Folder for figures and tables.
    preset, max_steps, n_niches, seed
        As in :class:`scjepa.STJEPA`, its ``train`` and ``niches``; ``n_niches=None``: as many as there are labels, else
        Leiden's resolution 1.
    """

    data: Path | None = None
    label: str | None = None
    section: str | None = None
    out: Path = Path("demo_out")
    preset: str = "demo"
    max_steps: int | None = None
    n_niches: int | None = None
    seed: int = 0


_CHOSEN = "chosen"
"""Column of the table: what the read-out chose from the data, where a row is read by it."""


def _column(adata: AnnData, wanted: str | None, default: str, what: str) -> str | None:
    """Return the column the user named, else the default where it exists."""
    if wanted is not None and wanted not in adata.obs:
        raise KeyError(f"There is no column {wanted!r} for the {what}; columns: {', '.join(adata.obs.columns)}.")
    return wanted or (default if default in adata.obs else None)


def _load(options: DemoOptions) -> AnnData:
    if options.data is None:
        from scjepa.datasets import simulated_tissue

        return simulated_tissue(3000, difficulty="medium", seed=options.seed)
    if not options.data.is_file():
        raise FileNotFoundError(f"There is no file {options.data}.")
    return read_h5ad(options.data)


def run_demo(options: DemoOptions, say: Callable[[str], None] = print) -> pd.DataFrame | None:
    """Run the whole job and write its figures and tables to ``options.out``.

    Parameters
    ----------
    options
        What to work on.
    say
        Called with a line of progress at each step.

    Returns
    -------
    pandas.DataFrame or None
        Scores of ST-JEPA and the controls, and what the read-out chose for each, where there are labels.
    """
    import matplotlib

    matplotlib.use("Agg", force=False)
    import scjepa

    start = time.perf_counter()

    def step(text: str) -> None:
        say(f"[{time.perf_counter() - start:5.0f} s] {text}")

    adata = _load(options)
    section = _column(adata, options.section, _keys.SECTION, "sections")
    label = _column(adata, options.label, _keys.REGION, "labels")
    technology = _column(adata, None, _keys.TECHNOLOGY, "technologies")
    if section is not None:  # squidpy takes categories alone
        adata.obs[section] = pd.Categorical(groups_of(adata, section))
    step(f"data: {adata.n_obs:,} cells, {adata.n_vars:,} genes" + ("" if options.data else " (simulated tissue)"))
    options.out.mkdir(parents=True, exist_ok=True)

    spatial_graph(adata, n_neighs=10, library_key=section)
    scjepa.STJEPA.setup_anndata(adata, technology_key=technology, library_key=section)
    model = scjepa.STJEPA(adata, preset=options.preset, seed=options.seed)
    say(repr(model))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This model is not trained")
        untrained = model.get_latent_representation(scale="cell")
    step("training")
    model.train(max_steps=options.max_steps)
    say(str(model.diagnose()))

    step("embeddings and niches")
    known = None if label is None else len(set(labels_of(adata.obs[label])) - {None})
    model.niches(n_niches=options.n_niches or known, random_state=options.seed)
    chosen = record_of(adata, _keys.EMBEDDING_NICHE)[_CHOSEN]
    say(f"read-out: {chosen}")

    step("figures")
    scjepa.pl.niches(adata, reference=label, library_key=section, save=options.out / "niches.png")
    scjepa.pl.training(model, save=options.out / "training.png")
    colors = [name for name in (_keys.NICHE, label, section) if name is not None]
    scjepa.pl.embedding(adata, color=colors, save=options.out / "embedding.png")
    model.save(options.out / "model", overwrite=True)
    adata.obs[[_keys.NICHE]].to_csv(options.out / "niches.csv")
    (options.out / "readout.txt").write_text(f"{chosen}\n")
    table = None
    if label is not None:
        table = _score(adata, untrained, label, section)
        table.to_csv(options.out / "scores.csv", float_format="%.4f")
        say(f"\nAgreement of Leiden niches with {label!r} (mean over resolutions 0.6-1.4, and at {known} niches):")
        say(table.drop(columns=_CHOSEN).round(3).to_string())
    step(f"done: {options.out}/ holds " + ", ".join(sorted(path.name for path in options.out.iterdir())))
    return table


def _score(adata: AnnData, untrained: np.ndarray, label: str, section: str | None) -> pd.DataFrame:
    """Score ST-JEPA and its controls.

    The trained and the untrained encoder are read by the same rule, beside expression and alone; the linear method is
    expression alone by that rule.
    """
    from scjepa.benchmark import score_table

    graph, sections = adata.obsp[f"{_keys.SPATIAL}_connectivities"], groups_of(adata, section)
    counts, trained = adata, adata.obsm[_keys.EMBEDDING_CELL]
    embeddings = {"ST-JEPA": np.asarray(adata.obsm[_keys.EMBEDDING_NICHE])}
    chosen = {"ST-JEPA": record_of(adata, _keys.EMBEDDING_NICHE)[_CHOSEN]}
    for name, sources in {
        "ST-JEPA, embedding alone": {_keys.EMBEDDING_CELL: trained},
        "linear method": {_keys.EXPRESSION: counts},
        "untrained encoder": {_keys.EXPRESSION: counts, "untrained embedding": untrained},
        "untrained encoder, embedding alone": {"untrained embedding": untrained},
    }.items():
        rule = NicheReadout()
        embeddings[name] = rule.fit_transform(sources, graph, sections)
        chosen[name] = rule.describe()
    embeddings |= _simpler(adata, trained, section)
    return score_table(embeddings, adata.obs[label]).assign(**{_CHOSEN: pd.Series(chosen)})


def _simpler(adata: AnnData, trained: np.ndarray, section: str | None) -> dict[str, np.ndarray]:
    """Return what chooses nothing: components of neighborhood means, and rings of z-scored components of ST-JEPA."""
    from scjepa.benchmark import neighborhood_pca, section_zscored_pca

    sections = groups_of(adata, section)
    found = {"neighborhood PCA": neighborhood_pca(adata)}
    if section is not None and adata.obs[section].nunique() > 1:
        found["neighborhood PCA, z-scored in sections"] = section_zscored_pca(adata, library_key=section)
    cells = standardize(trained, groups=sections, n_comps=20)
    graph = adata.obsp[f"{_keys.SPATIAL}_connectivities"]
    return {**found, "ST-JEPA, former read-out": aggregate(cells, connectivities=graph, n_hops=3)}
