"""``scjepa perturb``: predict what perturbations that were not measured do to expression, from a screen.

Predict mean profiles of conditions by closed-form models (scjepa.perturbation.PerturbationStack), weighed by
cross-validation over the conditions of the screen: seconds, no network. Conditions are written as GEARS does: ctrl, A
(or A+ctrl), A+B. The result is a file of conditions x genes: predicted expression in X, log(1 + count / size times the
median size); that of control in layers["control"]; and in layers["error"] the usual error on conditions that were left
out. A .csv or .parquet holds the predicted expression alone. What cross-validation found of each model is told on
stderr; the path written is printed on stdout.

    scjepa perturb screen.h5ad --conditions KLF1 KLF1+MAP2K6 --out predicted.h5ad
    scjepa perturb screen.h5ad --conditions KLF1 --gene-sets hallmark.gmt reactome.gmt --out predicted.h5ad
    scjepa perturb screen.zarr --conditions KLF1 --condition-key guides --size-key n_counts --out predicted.csv
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from scjepa.cli import io
from scjepa.cli import options as shared
from scjepa.cli.options import Column

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from scjepa.perturbation import ConditionProfiles, PerturbationStack


SUFFIXES = (*io.ANNDATA, ".csv", ".parquet")


@dataclass(frozen=True)
class Screen:
    """Arguments.

    Parameters
    ----------
    screen
        Cells of measured conditions and of control: .h5ad or .zarr (AnnData), raw counts.
    """

    screen: Path


@dataclass(frozen=True)
class Wanted:
    """Conditions.

    Parameters
    ----------
    conditions
        Conditions to predict; genes need not have been perturbed. One that is named twice is predicted once.
    condition_key
        obs column of conditions in the screen.
    gene_sets
        Files of gene sets (.gmt), such as Reactome's and MSigDB's hallmarks: perturbed genes of the same sets then
        share what they do.
    layer
        Layer of raw counts, or X for the matrix. Default: X.
    size_key
        obs column of each cell's size, for panels of chosen genes. Default: the sum of its counts.
    out
        File to write: .h5ad, .zarr, .csv or .parquet.
    overwrite
        Replace a file that is there.
    """

    conditions: Annotated[list[str], "CONDITION"] | None = None
    condition_key: Column = "condition"
    gene_sets: shared.Paths | None = None
    layer: str | None = None
    size_key: Column | None = None
    out: Path | None = None
    overwrite: bool = False


def run(options: argparse.Namespace) -> None:
    """Fit on the screen, and write predictions."""
    import pandas as pd

    import scjepa.perturbation as pt
    from scjepa.cli.cells import X, read_parts
    from scjepa.datasets import read_gmt
    from scjepa.perturbation.conditions import canonical

    if not options.conditions:
        raise shared.UsageError("Name what to predict with --conditions, such as KLF1 KLF1+MAP2K6.")
    if options.out is None or options.out.suffix not in SUFFIXES:
        raise shared.UsageError(f"Name the file to write with --out; it ends in {', '.join(SUFFIXES)}.")
    io.refuse_existing(options.out, options.overwrite)
    progress = shared.Progress(options)
    (file,) = io.data_files([options.screen])
    sets = {f"{path.stem}/{name}": genes for path in options.gene_sets or () for name, genes in read_gmt(path).items()}
    layer = None if options.layer == X else options.layer
    cells = read_parts(file, layer, [])
    known = pt.condition_profiles(cells, options.condition_key, size_key=options.size_key)
    progress.step(f"{file.path}: {len(known.means):,} conditions of {cells.n_obs:,} cells")
    stack = pt.PerturbationStack().fit(known.means, known.control, known.noise, vectors=_vectors(known, sets, options))
    scores = stack.scores_.groupby("column", sort=False)["pearson_delta"].mean()
    if len(scores):
        found = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
        progress.step(f"correlation of changes on conditions left out: {found}")
    wanted: dict[str, str] = {}
    for name in options.conditions:
        wanted.setdefault(canonical(name), name)
    predicted, error = stack.predict(list(wanted.values()), return_std=True)
    control = pd.DataFrame([known.control] * len(predicted), predicted.index, predicted.columns)
    _write(stack, {"X": predicted, "control": control, "error": error}, options.out)
    shared.written(options.out)


def _vectors(
    known: ConditionProfiles, sets: Mapping[str, tuple[str, ...]], options: argparse.Namespace
) -> pd.DataFrame | None:
    """Return vectors of perturbed genes, measured and wanted, by the gene sets; ``None`` where there are none."""
    from scjepa.perturbation import gene_set_vectors, parse_condition

    if not sets:
        return None
    genes = {gene for name in (*known.means.index, *options.conditions) for gene in parse_condition(name)}
    return gene_set_vectors(sets, sorted(genes))


def _write(stack: PerturbationStack, found: Mapping[str, pd.DataFrame], target: Path) -> None:
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    from scjepa._core.files import whole

    predicted = found["X"]
    if target.suffix not in io.ANNDATA:
        return io.write_table(predicted, target, "condition")
    obs = pd.DataFrame({"kind": [stack.kind_of(name) for name in predicted.index]}, index=predicted.index)
    of_screen = AnnData(predicted.to_numpy(np.float32), obs=obs, var=pd.DataFrame(index=predicted.columns))
    of_screen.layers["control"] = found["control"].to_numpy(np.float32)
    of_screen.layers["error"] = found["error"].to_numpy(np.float32)
    with whole(target) as draft:
        (of_screen.write_h5ad if target.suffix == ".h5ad" else of_screen.write_zarr)(draft)


COMMAND = shared.Command.of(__doc__, run, Screen, Wanted)
