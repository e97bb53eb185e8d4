"""``scjepa info``: what a model or a file of cells is."""

from __future__ import annotations

import argparse
from pathlib import Path

from scjepa._core.instruments import raw_output
from scjepa.cli._command import Command, UsageError
from scjepa.cli._files import SUFFIXES
from scjepa.cli._options import add_accelerator, add_where
from scjepa.cli._report import lines
from scjepa.stjepa.config import PRESETS


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``scjepa info``."""
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="files of cells, saved models and names of checkpoints"
    )
    group = parser.add_argument_group("what else to tell of files of cells")
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--model",
        metavar="MODEL",
        help="how well a saved model or checkpoint covers their genes, and what embedding them would take",
    )
    either.add_argument(
        "--preset", choices=list(PRESETS), help="what training that preset on them would take in memory and time"
    )
    add_accelerator(parser)
    add_where(parser)


def run(options: argparse.Namespace) -> None:
    """Print a report of each path on stdout."""
    for number, path in enumerate(options.paths):
        if number:
            print()
        print(_report(path, options), flush=True)


def _report(path: Path, options: argparse.Namespace) -> str:
    if not path.exists() and path.suffix in SUFFIXES:
        raise FileNotFoundError(f"There is no file {path}.")
    if (path / "model.json").is_file() or not path.exists():  # or the name of a checkpoint
        if options.model or options.preset:
            raise UsageError(f"{path} is a model; --model and --preset are for files of cells.")
        from scjepa.cli._about_model import about_model

        return about_model(path)
    from scjepa.cli._about_file import about_file
    from scjepa.cli._files import ForeignFileError

    try:
        return about_file(path, options)
    except ForeignFileError:
        found = raw_output(path)
        if found is None or options.model or options.preset:
            raise
        return lines(f"{path}: {found.what}, not a file of cells", {"mind": found.as_file})


COMMAND = Command(
    name="info",
    summary="tell what a model or a file of cells is, and what a model would make of it",
    description=(
        "Tell what is in a file of cells (genes, counts, coordinates, sections, graph, embeddings, niches) and what\n"
        "to mind before training on it; how the output of an instrument becomes such a file; or what a saved model is\n"
        "(genes, technologies, size, training, diagnosis)."
    ),
    examples=(
        "scjepa info section.h5ad",
        "scjepa info section.h5ad --preset base",
        "scjepa info section.h5ad --model model",
        "scjepa info model",
    ),
    add_options=add_options,
    run=run,
)
