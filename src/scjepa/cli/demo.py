"""``scjepa demo``: the whole way on simulated tissue, or on a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from scjepa.cli._command import Command
from scjepa.cli._options import positive
from scjepa.cli._progress import stopped_with
from scjepa.stjepa.config import PRESETS


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``scjepa demo``."""
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="h5ad with raw counts in X and obsm['spatial']; default: simulated"
    )
    parser.add_argument(
        "--label", metavar="COLUMN", help="obs column of known regions to score against; default: 'region' if there"
    )
    parser.add_argument("--section", metavar="COLUMN", help="obs column of sections; default: 'section' if there")
    parser.add_argument(
        "--out", type=Path, default=Path("demo_out"), metavar="FOLDER", help="folder to write to (default: demo_out)"
    )
    parser.add_argument("--preset", default="demo", choices=list(PRESETS), help="model size (default: demo)")
    parser.add_argument("--steps", type=positive, metavar="N", help="optimizer steps; default: the preset's")
    parser.add_argument(
        "--niches", type=positive, metavar="N", help="number of niches; default: as many as there are labels"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of data, weights and niches (default: 0)"
    )


def run(options: argparse.Namespace) -> None:
    """Run the demonstration; its report goes to stdout."""
    from scjepa._demo import DemoOptions, run_demo

    demo = DemoOptions(
        data=options.data,
        label=options.label,
        section=options.section,
        out=options.out,
        preset=options.preset,
        max_steps=options.steps,
        n_niches=options.niches,
        seed=options.seed,
    )
    with stopped_with("nothing of this model was saved"):
        run_demo(demo, say=(lambda _: None) if options.quiet else print)


COMMAND = Command(
    name="demo",
    summary="simulate tissue (or read a file), train, find niches, draw figures and a table with controls",
    description="Go the whole way: data, graph, training, niches, figures, and a table of scores with controls.",
    examples=(
        "scjepa demo",
        "scjepa demo --data my_section.h5ad --label region --out results",
        "scjepa demo --data my_section.h5ad --niches 12 --steps 1500",
    ),
    add_options=add_options,
    run=run,
)
