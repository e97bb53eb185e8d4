"""``scjepa annotate``: label the cells of files by labelled cells, with a saved Cell-JEPA model.

Label cells by the labelled cells that are nearest in the embedding of a Cell-JEPA model: those that the model keeps
(one that scjepa fit --finetune made), or those of --reference. Each file gets an obs column of labels, and one of
confidence: the share of its neighbors that have the label, which is no probability of being right. A cell of a type
that no labelled cell has gets a label too, unless --min-confidence leaves it out; cells without counts get none. The
paths written are printed on stdout.

    scjepa annotate annotator new.h5ad --out labelled.h5ad
    scjepa annotate annotator *.h5ad --out labelled/ --min-confidence 0.6
    scjepa annotate annotator *.h5ad --out labels/ --format csv --resume
    scjepa annotate model new.h5ad --reference atlas.h5ad --labels-key cell_type --out labelled.h5ad
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scjepa.cli import options as shared
from scjepa.cli.options import Column, Paths, Positive

if TYPE_CHECKING:
    import pandas as pd

    from scjepa.celljepa.model import CellJEPA
    from scjepa.cli.cells import SavedModel
    from scjepa.cli.io import DataFile

TABLES = (".csv", ".parquet")
CONFIDENCE = "_confidence"
"""What is put behind the ``obs`` column of labels for that of confidence."""


@dataclass(frozen=True)
class Labels:
    """Labels.

    Parameters
    ----------
    reference
        Files of labelled cells, where the model keeps none.
    labels_key
        Their obs column of labels; cells without one, or unlabelled, have no say.
    n_neighbors
        Nearest labelled cells, whose commonest label it is.
    min_confidence
        Share of these cells that must have the label, 0 to 1; below, a cell gets none.
    """

    reference: Paths | None = None
    labels_key: Column | None = None
    n_neighbors: Positive = 15
    min_confidence: float = 0.0


@dataclass(frozen=True)
class Results:
    """Results.

    Parameters
    ----------
    out
        File to write (.h5ad, .zarr, .csv, .parquet), or a folder for one file each, named as the inputs; without it,
        labels are added to the input files, which takes --overwrite.
    format
        Of the files in a folder. Default: that of the inputs.
    overwrite
        Replace files that are there, and labels in them.
    resume
        Leave out the inputs whose result is in the folder --out already.
    key_added
        obs column of labels; that of confidence is COLUMN_confidence.
    """

    out: Path | None = None
    format: Literal["h5ad", "zarr", "csv", "parquet"] | None = None
    overwrite: bool = False
    resume: bool = False
    key_added: Column = "predicted_label"


def run(options: argparse.Namespace) -> None:
    """Label the cells of each file."""
    from scjepa.cli.cells import SavedModel
    from scjepa.cli.io import data_files, plan, refuse_written

    if (options.reference is None) != (options.labels_key is None):
        raise shared.UsageError("--reference and --labels-key go together: labelled cells, and the column of labels.")
    if not 0 <= options.min_confidence <= 1:
        raise shared.UsageError(f"--min-confidence is a share, from 0 to 1; found {options.min_confidence}.")
    if options.resume and options.out is None:
        raise shared.UsageError("--resume goes with --out, the folder that holds the results.")
    progress = shared.Progress(options)
    files = data_files(options.files, options.table)
    suffix = None if options.format is None else f".{options.format}"
    targets = plan(files, options.out, options.overwrite or options.resume, suffix, TABLES)
    for file, target in zip(files, targets, strict=True):
        if target.suffix not in TABLES:
            refuse_written(file, "obs", _columns(options), options.overwrite)
    saved = SavedModel(options.model)
    _check_labels(saved, options)
    model = None if options.reference is None else _with_reference(saved, options, progress)
    for file, target in zip(files, targets, strict=True):
        if options.resume and not options.overwrite and target.exists():
            progress.step(f"{target} is there")
        else:
            _annotate(saved, model, file, target, options, progress)
        shared.written(target)


def _check_labels(saved: SavedModel, options: argparse.Namespace) -> None:
    """Raise unless there are labelled cells, and one set of them."""
    if saved.kind.model != "CellJEPA":
        raise ValueError(
            f"{saved.name} is a {saved.kind.model} model, and labels are carried by CellJEPA models: scjepa fit "
            "--model celljepa. Groups of cells in tissue, the same in several files: scjepa niches."
        )
    keeps = "labels" in saved.facts
    finetune = f"scjepa fit FILE --from {saved.name} --labels-key COLUMN --finetune --out NEW"
    if not keeps and options.reference is None:
        raise ValueError(
            f"{saved.name} keeps no labelled cells. Name some: --reference FILE --labels-key COLUMN. Or fine-tune it "
            f"on them: {finetune}."
        )
    if keeps and options.reference is not None:
        raise ValueError(
            f"{saved.name} keeps labelled cells of its own, which would vote instead: leave --reference out. Or "
            f"fine-tune it on others: {finetune}."
        )


def _columns(options: argparse.Namespace) -> tuple[str, str]:
    return options.key_added, f"{options.key_added}{CONFIDENCE}"


def _with_reference(saved: SavedModel, options: argparse.Namespace, progress: shared.Progress) -> CellJEPA:
    """Return the model on the labelled cells; genes that it does not know are left out."""
    import scjepa
    from scjepa.cli.cells import Names, join, read_cells
    from scjepa.cli.io import data_files

    where = shared.Where(layer=options.layer or saved.keys.layer or None, labels_key=options.labels_key)
    names = Names.of(saved.kind, where)
    files = data_files(options.reference)
    adata, keys = join(files, [read_cells(file, where, names) for file in files], names)
    known = adata.var_names.isin(saved.facts["vocabulary"])
    adata = adata[:, known].copy() if known.any() else adata  # of which the model says what is wrong
    progress.step(f"{adata.n_obs:,} cells for reference, {known.sum():,} of {len(known):,} genes known")
    scjepa.CellJEPA.setup_anndata(adata, **keys.to_dict())
    return scjepa.CellJEPA.from_pretrained(saved.path, adata, accelerator=options.accelerator)


def _annotate(
    saved: SavedModel,
    model: CellJEPA | None,
    file: DataFile,
    target: Path,
    options: argparse.Namespace,
    progress: shared.Progress,
) -> None:
    from scjepa.cli.io import Additions, add, write_table

    cells = saved.cells_of(file, options)
    progress.step(f"{file.path}: labels of {cells.n_obs:,} cells")
    if model is None:
        found = saved.load(cells, options.accelerator).predict_labels(n_neighbors=options.n_neighbors)
    else:
        found = model.predict_labels(cells, n_neighbors=options.n_neighbors)
    found.loc[found["confidence"] < options.min_confidence, "label"] = None
    label, confidence = _columns(options)
    progress.step(f"{_shares(found['label'])}; wrote {target}")
    if target.suffix in TABLES:
        return write_table(found.rename(columns={"label": label, "confidence": confidence}), target)
    how = {"model": str(saved.name), "n_neighbors": options.n_neighbors, "min_confidence": options.min_confidence}
    notes = {key: {"slot": "obs", **how} for key in (label, confidence)}
    add(file, Additions(obs={label: found["label"], confidence: found["confidence"]}, notes=notes), target)


def _shares(labels: pd.Series) -> str:
    """Return how many cells got the commonest labels, and how many none."""
    sizes = labels.value_counts()
    said = [f"{name} {size:,}" for name, size in sizes.iloc[:6].items() if size]
    said += [f"{(sizes > 0).sum() - 6} others"] if (sizes > 0).sum() > 6 else []
    return ", ".join([*said, f"none {labels.isna().sum():,}"] if labels.isna().any() else said)


COMMAND = shared.Command.of(
    __doc__, run, shared.ModelAndFiles, Labels, Results, shared.Device, (shared.Where, ("layer", "table"))
)
