"""Options that several subcommands share, and values that argparse does not know."""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scjepa._core import keys as _keys
from scjepa._core.options import Config, unknown_name
from scjepa.cli._command import UsageError
from scjepa.stjepa.config import STJEPAConfig, resolve

ACCELERATORS = ("auto", "cpu", "cuda", "mps")


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, found {text!r}")
    return number


def add_files(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the files of cells."""
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help=f"{what}: .h5ad, .zarr (AnnData) or a SpatialData store"
    )


def add_where(parser: argparse.ArgumentParser, of_model: bool = False) -> None:
    """Add the options that say where in a file things are; defaults are the model's own where there is one."""
    own = "as the model was fitted" if of_model else None
    group = parser.add_argument_group("where things are in the files")
    group.add_argument("--layer", help=f"layer of raw counts, or X for the matrix (default: {own or 'X'})")
    group.add_argument(
        "--library-key",
        metavar="COLUMN",
        help="obs column of sections (default: "
        + ("the model's, else " if of_model else "")
        + "'section' where a file has it; else each file is a section)",
    )
    group.add_argument(
        "--technology-key",
        metavar="COLUMN",
        help="obs column of technologies (default: "
        + ("the model's, else " if of_model else "")
        + "'technology' where a file has it; else each file is one of its own)",
    )
    group.add_argument(
        "--spatial-key", metavar="KEY", help=f"obsm key of coordinates (default: {own or _keys.SPATIAL})"
    )
    group.add_argument(
        "--neighbors-key",
        metavar="KEY",
        help=f"squidpy's key_added of a spatial graph that is in the files (default: {own or _keys.SPATIAL})",
    )
    group.add_argument("--rebuild-graph", action="store_true", help="build the spatial graph anew where a file has one")
    add_table(group)


def add_table(parser: Any) -> None:
    """Add the name of the table in SpatialData stores."""
    parser.add_argument("--table", metavar="NAME", help="table of SpatialData stores that have several")


def add_accelerator(parser: argparse._ActionsContainer) -> None:
    """Add the device."""
    parser.add_argument(
        "--accelerator", default="auto", choices=ACCELERATORS, help="device (default: auto, the best there is)"
    )


def configuration(preset: str, changes: Sequence[str]) -> STJEPAConfig:
    """Return a preset with changes such as ``"encoder.n_layers=3"``.

    Raises
    ------
    UsageError
        If a part or option is not known, or a value is none it can have.
    """
    try:
        return resolve(preset, **changes_of(changes))
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"--set: {error}") from error


def changes_of(changes: Sequence[str], config: type[Config] = STJEPAConfig) -> dict[str, dict[str, Any]]:
    """Return changes such as ``"encoder.n_layers=3"`` by part and option.

    Parameters
    ----------
    config
        The configuration whose parts and options there are.

    Raises
    ------
    UsageError
        If a part or option is not known, or a value is not of its type.
    """
    parts: dict[str, dict[str, Any]] = {}
    types_of_parts = config.option_types()
    for change in changes:
        name, equals, text = change.partition("=")
        part, dot, option = name.strip().partition(".")
        if not (equals and dot):
            raise UsageError(f"--set takes PART.OPTION=VALUE, such as encoder.n_layers=3; found {change!r}.")
        if part not in types_of_parts:
            raise UsageError(f"--set {change}: {unknown_name('part', part, types_of_parts)}")
        known = types_of_parts[part].option_types()
        if option not in known:
            raise UsageError(f"--set {change}: {unknown_name(f'option of {part!r}', option, known)}")
        hint = known[option]
        try:
            parts.setdefault(part, {})[option] = value_of(text.strip(), hint)
        except ValueError as error:
            raise UsageError(f"--set {change}: {error}") from error
    return parts


def value_of(text: str, hint: Any) -> Any:
    """Return ``text`` as a value of the type ``hint``.

    Raises
    ------
    ValueError
        If it is none.
    """
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        alternatives = typing.get_args(hint)
        if text.lower() in ("none", "null") and type(None) in alternatives:
            return None
        return value_of(text, next(a for a in alternatives if a is not type(None)))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        words = text.strip("()[] ").split(",")
        if len(words) != len(inner):
            raise ValueError(f"{len(inner)} values are needed, separated by commas")
        return tuple(value_of(word.strip(), own) for word, own in zip(words, inner, strict=True))
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("the value must be true or false")
        return text.lower() == "true"
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise ValueError(f"the value must be {'a whole number' if hint is int else 'a number'}") from None
    return text
