"""What the commands that compare methods share: options, reading, writing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from scjepa.cli.options import Progress, UsageError, positive, written

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scjepa.cli.io import DataFile


STOPPED = "runs that had ended are kept, and the same command goes on with the others"
"""What becomes of a comparison that is interrupted."""


class Results(Protocol):
    """What a comparison gives."""

    @property
    def runs(self) -> pd.DataFrame:
        """A row for each run, with the reason if it failed."""

    def write(self, folder: str | Path) -> list[Path]:
        """Write tables."""

    def write_figures(self, folder: str | Path) -> list[Path]:
        """Write figures."""


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add the folder of results."""
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder to write to; the same command goes on there"
    )


def add_methods(group: argparse._ActionsContainer, groups: str, place: str) -> None:
    """Add the methods, with the names of their groups and where single ones are listed."""
    group.add_argument(
        "--methods",
        nargs="+",
        default=["all"],
        metavar="NAME",
        help=f"all, {groups}, or names of {place} (default: all)",
    )


def add_tasks(group: argparse._ActionsContainer, tasks: Sequence[str], what: str) -> None:
    """Add the tasks."""
    group.add_argument("--tasks", nargs="+", default=["auto"], choices=tasks, help=f"{what} (default: auto)")


def add_seeds(group: argparse._ActionsContainer) -> None:
    """Add the number of seeds."""
    group.add_argument("--seeds", type=positive, default=3, metavar="N", help="seeds of each method (default: 3)")


def add_method_options(group: argparse._ActionsContainer, examples: str) -> None:
    """Add the options of methods."""
    group.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="METHOD.OPTION=VALUE",
        help=f"an option of a method, such as {examples}; may be repeated",
    )


def add_no_figures(group: argparse._ActionsContainer) -> None:
    """Add the wish for tables alone."""
    group.add_argument("--no-figures", action="store_true", help="write tables only")


def method_options(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return options of methods, ``METHOD.PART.OPTION`` in a mapping of the part; numbers are numbers, else text.

    Raises
    ------
    UsageError
        If one is written otherwise.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        method, dot, option = name.partition(".")
        if not (equals and dot):
            raise UsageError(f"--option takes METHOD.OPTION=VALUE, such as cellcharter.max_epochs=50; found {text!r}.")
        part, inner, own = option.partition(".")
        where = found.setdefault(method, {})
        if inner:
            where, option = where.setdefault(part, {}), own
        where[option] = _number_or_text(value)
    return found


def _number_or_text(value: str) -> Any:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def read(file: DataFile, name: str, progress: Progress) -> AnnData:
    """Read a file whole, and tell its size."""
    adata = _read(file)
    progress.step(f"{name}: {adata.n_obs:,} cells, {adata.n_vars:,} genes")
    return adata


def _read(file: DataFile) -> AnnData:
    import anndata as ad

    from scjepa.cli.io import H5AD, SPATIALDATA

    if file.kind == H5AD:
        return ad.read_h5ad(file.path)
    if file.kind != SPATIALDATA:
        return ad.read_zarr(file.path)
    import spatialdata

    from scjepa.datasets import table_of

    return table_of(spatialdata.read_zarr(file.path), file.table)


def write(results: Results, options: argparse.Namespace, progress: Progress, table: str) -> None:
    """Write tables, and figures if they are wanted; tell their paths, and how many runs failed.

    Parameters
    ----------
    results
        Of the comparison.
    options
        ``out`` and ``no_figures`` are read.
    progress
        Told what is done.
    table
        File in which the reasons stand.
    """
    paths = results.write(options.out)
    if not options.no_figures:
        progress.step("figures")
        paths += results.write_figures(options.out / "figures")
    for path in paths:
        written(path)
    failed = results.runs["reason"].notna().sum()
    progress.step(f"done; {failed} of {len(results.runs)} runs failed" + (f", see {table}" if failed else ""))
