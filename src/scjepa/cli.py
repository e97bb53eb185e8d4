"""The command line: ``scjepa demo``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scjepa import __version__
from scjepa._config import PRESETS

_DEMO_EXAMPLES = """examples:
  scjepa demo
  scjepa demo --data my_section.h5ad --label region --out results
  scjepa demo --data my_section.h5ad --niches 12 --steps 1500
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="scjepa", description="Joint-embedding predictive models for spatial transcriptomics."
    )
    parser.add_argument("--version", action="version", version=f"scjepa {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="simulate tissue (or read a file), train ST-JEPA, find niches, draw figures and a table with controls",
        epilog=_DEMO_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--data", type=Path, help="h5ad with raw counts in X and obsm['spatial']; default: simulated")
    demo.add_argument("--label", help="obs column of known regions to score against; default: 'region' if there")
    demo.add_argument("--section", help="obs column of sections; default: 'section' if there")
    demo.add_argument("--out", type=Path, default=Path("demo_out"), help="folder to write to (default: demo_out)")
    demo.add_argument("--preset", default="demo", choices=list(PRESETS), help="model size (default: demo)")
    demo.add_argument("--steps", type=int, help="optimizer steps; default: the preset's")
    demo.add_argument("--niches", type=int, help="number of niches; default: as many as there are labels")
    demo.add_argument("--seed", type=int, default=0)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 for what the user can mend."""
    options = build_parser().parse_args(arguments)
    from scjepa._demo import DemoOptions, run_demo

    try:
        run_demo(
            DemoOptions(
                data=options.data,
                label=options.label,
                section=options.section,
                out=options.out,
                preset=options.preset,
                max_steps=options.steps,
                n_niches=options.niches,
                seed=options.seed,
            )
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"scjepa: {message}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
