"""``scjepa benchmark``: files with labels in, tables and figures of a comparison out."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

from scjepa._core.options import unknown_name
from scjepa.cli import comparison
from scjepa.cli.options import (
    ACCELERATORS,
    Command,
    Progress,
    UsageError,
    add_table,
    positive,
    stopped_with,
    value_of,
)
from scjepa.stjepa.config import PRESETS, STJEPAConfig

TASKS = ("auto", "within", "sections", "technologies")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``scjepa benchmark``."""
    parser.add_argument(
        "--data",
        nargs="+",
        type=Path,
        required=True,
        metavar="FILE",
        help="cells with raw counts and coordinates: .h5ad, .zarr (AnnData) or a SpatialData store",
    )
    comparison.add_out(parser)
    group = parser.add_argument_group("where things are in the files")
    group.add_argument(
        "--label",
        metavar="COLUMN",
        help="obs column of known regions to score against; without it only mixing and continuity are measured",
    )
    for option, what in (("--technology", "technologies"), ("--section", "sections")):
        group.add_argument(
            option,
            metavar="COLUMN",
            help=f"obs column of {what} (default: {option[2:]!r} where a file has it; else each file is one)",
        )
    group.add_argument("--layer", help="layer of raw counts (default: X)")
    add_table(group)
    group = parser.add_argument_group("what is compared")
    comparison.add_methods(group, "controls, peers", "scjepa.benchmark.METHODS")
    comparison.add_tasks(
        group,
        TASKS,
        "within: each section by itself; sections: those of a technology together; technologies: all together, "
        "trained on full panels and embedded by shared genes; auto: each technology by itself, and all together where "
        "there are several",
    )
    comparison.add_seeds(group)
    group.add_argument(
        "--preset", default="base", choices=list(PRESETS), help="preset of ST-JEPA and its controls (default: base)"
    )
    comparison.add_method_options(
        group, "novae_zero_shot.weights=FOLDER, novae.settings=tutorial or stjepa.training.max_steps=200"
    )
    group.add_argument("--accelerator", default="auto", choices=ACCELERATORS, help="device of ST-JEPA (default: auto)")
    group.add_argument("--timeout", type=float, metavar="S", help="seconds after which a peer is ended (default: none)")
    group = parser.add_argument_group("ablation of ST-JEPA")
    group.add_argument(
        "--ablate",
        action="append",
        default=[],
        metavar="PART.OPTION=V1,V2",
        help="an axis and its values, such as tokens.n_tokens=16,32,64, one axis changed at a time; may be repeated",
    )
    group.add_argument(
        "--grid",
        action="append",
        nargs="+",
        default=[],
        metavar="PART.OPTION=V1,V2",
        help="axes of which every combination is run; may be repeated",
    )
    _add_scoring(parser)


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how results are scored")
    group.add_argument(
        "--resolutions",
        nargs="+",
        type=float,
        default=[0.6, 0.8, 1.0, 1.2, 1.4],
        metavar="R",
        help="resolutions of Leiden (default: 0.6 0.8 1 1.2 1.4)",
    )
    group.add_argument("--leiden-seeds", type=positive, default=3, metavar="N", help="seeds of Leiden (default: 3)")
    group.add_argument(
        "--readouts",
        nargs="+",
        default=["plain", "z30", "hops", "niche", "niche+X"],
        metavar="NAME",
        help="plain: the embedding as it is; z30: z-scored per section, 30 components; hops: that of the cells, "
        "z-scored per section, beside its means over rings; niche: predictive components of that of the cells, rings "
        "and weights chosen from the data; niche+X: the same beside expression; aligned30, aligned_hops, "
        "aligned_niche, aligned_niche+X: with one covariance in all sections; any of them followed by Harmony: "
        "hops+harmony (default: plain z30 hops niche niche+X)",
    )
    comparison.add_no_figures(group)


def run(options: argparse.Namespace) -> None:
    """Compare, and write tables and figures."""
    from scjepa.cli.io import data_files

    progress = Progress(options)
    axes = axes_of(options.ablate, options.grid)
    chosen = comparison.method_options(options.option)
    files = data_files(options.data, options.table)

    from scjepa.benchmark import Scoring
    from scjepa.benchmark import run as compare

    if axes or "stjepa" in _named(options.methods):
        chosen.setdefault("stjepa", {})["accelerator"] = options.accelerator
    data = {(name := _name(file)): comparison.read(file, name, progress) for file in files}
    with stopped_with(comparison.STOPPED):
        results = compare(
            data,
            label=options.label,
            technology=options.technology,
            section=options.section,
            layer=options.layer,
            methods=options.methods,
            tasks=options.tasks,
            seeds=options.seeds,
            preset=options.preset,
            options=chosen,
            axes=axes,
            scoring=Scoring(tuple(options.resolutions), options.leiden_seeds, tuple(options.readouts)),
            out=options.out,
            timeout=options.timeout,
            say=progress.step,
        )
    comparison.write(results, options, progress, "table1.md")


def _named(methods: Sequence[str]) -> set[str]:
    from scjepa.benchmark._plan import GROUPS

    return {name for method in methods for name in GROUPS.get(method, (method,))}


def _name(file: Any) -> str:
    """Return the name of a file of cells."""
    return str(file.name)


def axes_of(ablate: Sequence[str], grids: Sequence[Sequence[str]]) -> dict[Any, list[Any]]:
    """Return axes by option, such as ``"tokens.n_tokens=16,32"``; grids by their options together.

    Raises
    ------
    UsageError
        If one is written otherwise, or an option or value is none there is.
    """
    axes: dict[Any, list[Any]] = dict(_axis(text, "--ablate") for text in ablate)
    for grid in grids:
        each = [_axis(text, "--grid") for text in grid]
        if len(each) < 2:
            raise UsageError(f"--grid takes two axes or more, found {grid[0]!r}. For one: --ablate {grid[0]}.")
        axes[tuple(name for name, _ in each)] = list(product(*(values for _, values in each)))
    return axes


def _axis(text: str, option: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    part, dot, own = name.strip().partition(".")
    if not (equals and dot and values):
        raise UsageError(f"{option} takes PART.OPTION=V1,V2, such as tokens.n_tokens=16,32; found {text!r}.")
    parts = typing.get_type_hints(STJEPAConfig)
    if part not in parts:
        raise UsageError(f"{option} {text}: {unknown_name('part', part, parts)}")
    known = {f.name for f in fields(parts[part])}
    if own not in known:
        raise UsageError(f"{option} {text}: {unknown_name(f'option of {part!r}', own, known)}")
    hint = typing.get_type_hints(parts[part])[own]
    try:
        return f"{part}.{own}", [value_of(value.strip(), hint) for value in values.split(",")]
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}") from error


COMMAND = Command(
    name="benchmark",
    summary="compare ST-JEPA with controls and other methods on your own sections",
    description=(
        "Run methods on the same data, and score all by the same read-outs, clusterings and metrics. Methods never\n"
        "see the label. A method that is not installed, or fails, leaves a row with the reason. Every finished run is\n"
        "kept: the same command goes on where a killed one stopped. Tidy results, Table 1 (methods), Table 2\n"
        "(ablation) and figures are written; their paths are printed on stdout."
    ),
    examples=(
        "scjepa benchmark --data a.h5ad b.h5ad --label region --technology technology --methods all --out results",
        "scjepa benchmark --data a.h5ad --label region --methods stjepa controls --preset demo --seeds 1 --out quick",
        "scjepa benchmark --data a.h5ad --label region --methods stjepa --out axes --ablate tokens.n_tokens=16,32,64 "
        "--ablate masking.ratio=0.3,0.6,0.9",
    ),
    add_options=add_options,
    run=run,
)
