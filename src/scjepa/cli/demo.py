"""``scjepa demo``: simulate tissue (or read a file), train, find niches, draw figures and a table with controls.

Go the whole way: data, graph, training, niches, figures, and a table of scores with controls.

    scjepa demo
    scjepa demo --data my_section.h5ad --label region --out results
    scjepa demo --data my_section.h5ad --n-niches 12 --steps 1500
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from scjepa._core import keys as _keys
from scjepa.cli import io
from scjepa.cli import options as shared
from scjepa.cli.options import Column, Folder, Positive

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData


@dataclass(frozen=True)
class Demo:
    """Demonstration.

    Parameters
    ----------
    data
        h5ad with raw counts in X and obsm['spatial']. Default: simulated.
    label
        obs column of known regions to score against. Default: region if there.
    library_key
        obs column of sections. Default: section if there.
    out
        Folder to write to.
    preset
        Model size.
    steps
        Optimizer steps. Default: the preset's.
    n_niches
        Number of niches. Default: as many as there are labels.
    seed
        Seed of data, weights and niches.
    """

    data: Annotated[Path, "FILE"] | None = None
    label: Column | None = None
    library_key: Column | None = None
    out: Folder = Path("demo_out")
    preset: str = field(default="demo", metadata={"choices": list(shared.PRESETS)})
    steps: Positive | None = None
    n_niches: Positive | None = None
    seed: int = 0


def run(options: argparse.Namespace) -> None:
    """Run the demonstration; its report goes to stdout."""
    with shared.stopped_with("nothing of this model was saved"):
        run_demo(options, say=(lambda _: None) if options.quiet else print)


_CHOSEN = "chosen"
"""Column of the table: what the read-out chose from the data, where a row is read by it."""


def run_demo(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Run the whole job and write its figures and tables to ``options.out``; ``say`` is called with each line."""
    import time
    import warnings

    import pandas as pd

    import scjepa
    from scjepa._core.anndata import groups_of, labels_of, record_of
    from scjepa._core.squidpy import spatial_graph

    start = time.perf_counter()

    def step(text: str) -> None:
        say(f"[{time.perf_counter() - start:5.0f} s] {text}")

    adata = _load(options)
    section = _column(adata, options.library_key, _keys.SECTION, "--library-key")
    label = _column(adata, options.label, _keys.REGION, "--label")
    technology = _column(adata, None, _keys.TECHNOLOGY)
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
    model.train(max_steps=options.steps)
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
    if label is not None:
        table = _score(adata, untrained, label, section)
        table.to_csv(options.out / "scores.csv", float_format="%.4f")
        say(f"\nAgreement of Leiden niches with {label!r} (mean over resolutions 0.6-1.4, and at {known} niches):")
        say(table.drop(columns=_CHOSEN).round(3).to_string())
    step(f"done: {options.out}/ holds " + ", ".join(sorted(path.name for path in options.out.iterdir())))
    say(f"The figure to look at first: {(options.out / 'niches.png').resolve()}")


def _load(options: argparse.Namespace) -> AnnData:
    if options.data is None:
        from scjepa.datasets import simulated_tissue

        return simulated_tissue(3000, difficulty="medium", seed=options.seed)

    return io.read_anndata(*io.data_files([options.data]))


def _column(adata: AnnData, wanted: str | None, default: str, option: str = "") -> str | None:
    """Return the column the user named with an option, else the default where it exists."""
    from scjepa._core.anndata import column_of

    if wanted is not None:
        column_of(adata, wanted, f"Name one of these with {option}.")
    return wanted or (default if default in adata.obs else None)


def _score(adata: AnnData, untrained: np.ndarray, label: str, section: str | None) -> pd.DataFrame:
    """Score ST-JEPA and its controls.

    The trained and the untrained encoder are read by the same rule, with expression and alone; the linear method is
    expression alone by that rule. What chooses nothing: components of neighborhood means, and rings of z-scored
    components of ST-JEPA.
    """
    import numpy as np
    import pandas as pd

    from scjepa._core.anndata import groups_of, record_of
    from scjepa.benchmark import neighborhood_pca, score_table, section_zscored_pca
    from scjepa.tl import NicheReadout, aggregate, standardize

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
    embeddings["neighborhood PCA"] = neighborhood_pca(adata)
    if section is not None and adata.obs[section].nunique() > 1:
        embeddings["neighborhood PCA, z-scored in sections"] = section_zscored_pca(adata, library_key=section)
    cells = standardize(trained, groups=sections, n_comps=20)
    embeddings["ST-JEPA, former read-out"] = aggregate(cells, connectivities=graph, n_hops=3)
    return score_table(embeddings, adata.obs[label]).assign(**{_CHOSEN: pd.Series(chosen)})


COMMAND = shared.Command.of(__doc__, run, Demo)
