"""``scjepa benchmark-cells``: labelled cells, and cells to pretrain on, in; a table and figures out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from scjepa.celljepa.config import CELL_PRESETS, CellJEPAConfig
from scjepa.cli import comparison
from scjepa.cli.options import (
    Command,
    Progress,
    UsageError,
    add_accelerator,
    add_table,
    changes_of,
    positive,
    stopped_with,
)

OWN = "own"
"""Value of an option that leaves a model as it is."""

TASKS = ("auto", "zero_shot", "dropout", "batches", "finetune")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``scjepa benchmark-cells``."""
    parser.add_argument(
        "--target",
        type=Path,
        required=True,
        metavar="FILE",
        help="the cells that are scored, with raw counts: .h5ad, .zarr (AnnData) or a SpatialData store",
    )
    parser.add_argument("--label", required=True, metavar="COLUMN", help="obs column of the target's cell types")
    parser.add_argument(
        "--pretrain",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="cells to pretrain on, joined by gene name; their labels are not read (default: those of the target, "
        "without labels)",
    )
    comparison.add_out(parser)
    parser.add_argument(
        "--models",
        type=Path,
        metavar="FOLDER",
        help="folder of pretrained models, which several targets may share (default: models in --out)",
    )
    group = parser.add_argument_group("where things are in the files")
    group.add_argument("--batch", metavar="COLUMN", help="obs column of the target's batches, for the task batches")
    group.add_argument(
        "--no-label",
        nargs="+",
        default=["unlabelled"],
        metavar="NAME",
        help="labels that name no type, whose cells are left out (default: unlabelled)",
    )
    group.add_argument("--layer", help="layer of raw counts, in every file (default: X)")
    add_table(group)
    group = parser.add_argument_group("what is compared")
    comparison.add_methods(group, "models, fitted", "scjepa.benchmark.CELL_METHODS")
    comparison.add_tasks(
        group,
        TASKS,
        "zero_shot: AvgBIO of the embedding; dropout: the same cells with fewer molecules; batches: the suite of "
        "scib-metrics; finetune: labels of cells that fine-tuning has not seen; auto: all, batches where --batch is "
        "given",
    )
    comparison.add_seeds(group)
    group.add_argument(
        "--preset",
        default="demo",
        choices=[name for name, config in CELL_PRESETS.items() if config.tokens.unit == "gene"],
        help="preset of Cell-JEPA, of reconstruction only and of the untrained encoder (default: demo)",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PART.OPTION=VALUE",
        help="change an option of that preset, such as objective.target_norm=batch; may be given several times. "
        "Parts: tokens, encoder, masking, objective, training",
    )
    comparison.add_method_options(group, "scvi.max_epochs=50 or modules.modules=hallmark.gmt")
    group.add_argument(
        "--max-steps", type=positive, metavar="N", help="steps of pretraining of every model (default: its preset's)"
    )
    group.add_argument(
        "--finetune-epochs", type=positive, metavar="N", help="passes of fine-tuning (default: the preset's, 30)"
    )
    add_accelerator(group)
    _add_scoring(parser)


def _positive_or_own(text: str) -> int | None:
    return None if text == OWN else positive(text)


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how results are scored")
    group.add_argument(
        "--readouts",
        nargs="+",
        default=["cls", "genes"],
        choices=("cls", "genes"),
        help="of Cell-JEPA's models: the vector of <cls>, the mean of the genes' vectors (default: both)",
    )
    group.add_argument(
        "--resolutions",
        nargs="+",
        type=float,
        metavar="R",
        help="resolutions of Leiden, of which the best by NMI counts (default: 0.1, 0.2 to 2)",
    )
    group.add_argument(
        "--fractions",
        nargs="+",
        type=float,
        default=[0.5, 0.25, 0.1],
        metavar="F",
        help="shares of the molecules that are kept (default: 0.5 0.25 0.1)",
    )
    group.add_argument(
        "--n-tokens",
        type=_positive_or_own,
        default=3000,
        metavar="N",
        help="expressed genes of a cell that Cell-JEPA embeds at most; own: as its preset says (default: 3000)",
    )
    group.add_argument(
        "--kept",
        default="spread",
        choices=("spread", "top", OWN),
        help="which: as if drawn once for all cells, those of most counts, or as its preset says (default: spread)",
    )
    comparison.add_no_figures(group)


def run(options: argparse.Namespace) -> None:
    """Compare, and write the table and figures."""
    from scjepa.cli.io import data_files

    progress = Progress(options)
    changes = _changes(options.set)
    chosen = comparison.method_options(options.option)
    (target,) = data_files([options.target], options.table)
    corpus = data_files(options.pretrain, options.table) if options.pretrain else []

    from scjepa.benchmark import CellScoring, CellTraining, run_cells

    data = {file.name: comparison.read(file, file.name, progress) for file in corpus}
    given: dict[str, Any] = {} if options.resolutions is None else {"resolutions": tuple(options.resolutions)}
    given.update(readouts=tuple(options.readouts), fractions=tuple(options.fractions))
    training = CellTraining(
        options.preset, changes, options.max_steps, options.finetune_epochs, options.accelerator, options.models
    )
    with stopped_with(comparison.STOPPED):
        results = run_cells(
            {target.name: comparison.read(target, target.name, progress)},
            label=options.label,
            pretrain=data or None,
            batch=options.batch,
            layer=options.layer,
            no_label=options.no_label,
            methods=options.methods,
            tasks=options.tasks,
            seeds=options.seeds,
            training=training,
            options=chosen,
            scoring=CellScoring(n_tokens=options.n_tokens, kept=None if options.kept == OWN else options.kept, **given),
            out=options.out,
            say=progress.step,
        )
    comparison.write(results, options, progress, "table.md")


def _changes(texts: list[str]) -> dict[str, dict[str, Any]]:
    """Return changes of the preset by part; stages of training that come later are changed in Python alone."""
    later = [text for text in texts if text.split(".")[0].strip() in ("finetuning", "perturbation")]
    if later:
        raise UsageError(f"--set {later[0]}: parts are tokens, encoder, masking, objective, training.")
    return changes_of(texts, CellJEPAConfig)


COMMAND = Command(
    name="benchmark-cells",
    summary="compare Cell-JEPA with its controls, PCA and scVI on labelled cells",
    description=(
        "Embed labelled cells by Cell-JEPA pretrained on other cells, by the same without the JEPA term, with gene\n"
        "modules as tokens, untrained, by HVG-PCA and by scVI, and score all alike. Every finished run is kept: the\n"
        "same command goes on where a killed one stopped. Tidy results, a table with paired differences and figures\n"
        "are written; their paths are printed on stdout."
    ),
    examples=(
        "scjepa benchmark-cells --pretrain a.h5ad b.h5ad --target c.h5ad --label cell_type --out results",
        "scjepa benchmark-cells --pretrain a.h5ad --target c.h5ad --label cell_type --methods celljepa hvg_pca "
        "--tasks zero_shot --max-steps 20 --seeds 1 --out quick",
        "scjepa benchmark-cells --target c.h5ad --label cell_type --batch batch --tasks batches --out batches",
    ),
    add_options=add_options,
    run=run,
)
